"""Which contents can be made from an older commit's, and where the patches are.

docs/format/jigdo.md section 8 is the norm.  Pure: bytes in, frozen columns out, and
back.  What a patch and a recipe say is not looked at here.
"""

from __future__ import annotations

from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from composer.checksum import ObjectChecksum
from composer.errors import FormatError
from composer.jigdo.encoding import (
    Cursor,
    differences,
    prefixed,
    steps,
    sums,
    svarints,
    unstepped,
    uvarint,
    uvarints,
)
from composer.ostree.objects import Header

COPY, PATCH, REPACK = 0, 1, 2
"""Methods; from :data:`REPACK` on they name a recipe."""

MAX_PIECE = 1 << 27
"""Bytes that one piece may make; a reader holds its patch, not what it makes."""

MAX_RECIPE = 1 << 16

MAX_CONTENTS = MAX_PIECES = 1 << 19
"""Of one table, so that what a reader holds of it stays below 200 MB."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One patch, which makes the next ``target`` bytes: number ``place`` in a patch frame."""

    codec: int
    target: int
    frame: int
    place: int


@dataclass(frozen=True, slots=True)
class DeltaContent:
    """A content and how it is made; ``base`` is an ordinal in the base's tree."""

    base: int
    size: int
    method: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class DeltaTable:
    """All that can be made for clients that have the commit ``base``.

    ``ordinals``, ``numbers`` (of contents) and ``headers`` are per object, sorted by
    ordinal.  Contents are in the order of their pieces' patches.
    """

    base: ObjectChecksum
    recipes: tuple[bytes, ...]
    contents: tuple[DeltaContent, ...]
    ordinals: array[int]
    numbers: array[int]
    headers: array[int]


def make_table(
    base: ObjectChecksum,
    recipes: Sequence[bytes],
    contents: Sequence[DeltaContent],
    objects: Iterable[tuple[int, int, int]],
) -> DeltaTable:
    """Make a table of contents and (ordinal, content number, header id) objects."""
    rows = sorted(objects)
    columns = [array("q", column) for column in zip(*rows, strict=True)]
    columns = columns or [array("q") for _ in range(3)]
    return DeltaTable(base, tuple(recipes), tuple(contents), *columns)


def dump_table(table: DeltaTable) -> bytes:
    """Serialise a table; raises FormatError when it is larger than a reader takes."""
    contents = table.contents
    if len(contents) > MAX_CONTENTS:
        raise FormatError(
            f"deltas of {len(contents)} contents from {table.base}; {MAX_CONTENTS} are allowed",
            hint="ship fewer: --rpm-deltas auto or none, or another --from",
        )
    pieces = [piece for content in contents for piece in content.pieces]
    held: dict[int, int] = {}
    for piece in pieces:
        held[piece.frame] = held.get(piece.frame, 0) + 1
    return b"".join(
        (
            table.base,
            uvarint(len(table.recipes)),
            *(prefixed(recipe) for recipe in table.recipes),
            uvarint(len(contents)),
            svarints(steps([content.base for content in contents])),
            uvarints(content.size for content in contents),
            uvarints(content.method for content in contents),
            uvarints(len(content.pieces) for content in contents),
            bytes(piece.codec for piece in pieces),
            uvarints(piece.target for piece in pieces),
            uvarint(len(held)),
            uvarints(differences(list(held))),
            uvarints(held.values()),
            uvarint(len(table.ordinals)),
            uvarints(differences(table.ordinals)),
            svarints(steps(table.numbers)),
            uvarints(table.headers),
        )
    )


def parse_table(
    data: bytes, *, objects: int, headers: Sequence[Header], frames: Container[int]
) -> DeltaTable:
    """Parse a deltas frame; ``frames`` are the numbers of patch frames.

    Raises FormatError for a table that names what is not there.
    """
    cursor = Cursor(data, "deltas")
    base = ObjectChecksum(cursor.take(32))
    recipes = tuple(cursor.prefixed() for _ in range(cursor.count()))
    if any(len(recipe) > MAX_RECIPE for recipe in recipes):
        raise cursor.fail("a recipe is too large")
    contents = tuple(_parse_contents(cursor, len(recipes), frames))
    count = cursor.count(least=3)
    ordinals = sums(cursor.uvarints(count))
    numbers = unstepped(cursor.svarints(count))
    header_ids = cursor.uvarints(count)
    cursor.end()
    cursor.require_below(ordinals, objects, "object")
    cursor.require_below(numbers, len(contents), "content")
    cursor.require_below(header_ids, len(headers), "header")
    if any(later <= earlier for earlier, later in pairwise(zip(ordinals, numbers, strict=True))):
        raise cursor.fail("its objects are not in order")
    return DeltaTable(base, recipes, contents, ordinals, numbers, header_ids)


def _parse_contents(cursor: Cursor, recipes: int, frames: Container[int]) -> Iterator[DeltaContent]:
    count = cursor.count(least=4)
    if count > MAX_CONTENTS:
        raise cursor.fail(f"has {count} contents; at most {MAX_CONTENTS} are allowed")
    bases = unstepped(cursor.svarints(count))
    sizes, methods, counts = (cursor.uvarints(count) for _ in range(3))
    cursor.require_below(bases, 1 << 31, "base")
    cursor.require_below(methods, REPACK + recipes, "recipe")
    pieces = iter(_parse_pieces(cursor, sum(counts), frames))
    for base, size, method, number in zip(bases, sizes, methods, counts, strict=True):
        own = tuple(next(pieces) for _ in range(number))
        if method == COPY and own:
            raise cursor.fail("a copied content has patches")
        if method == PATCH and sum(piece.target for piece in own) != size:
            raise cursor.fail("a content's pieces have not its size")
        yield DeltaContent(base, size, method, own)


def _parse_pieces(cursor: Cursor, count: int, frames: Container[int]) -> list[Piece]:
    if count > MAX_PIECES:
        raise cursor.fail(f"has {count} patches; at most {MAX_PIECES} are allowed")
    codecs, targets = cursor.take(count), cursor.uvarints(count)
    if max(targets, default=0) > MAX_PIECE:
        raise cursor.fail(f"a piece makes more than {MAX_PIECE} bytes")
    found = []
    rows = iter(zip(codecs, targets, strict=True))
    for frame, held in _parse_frames(cursor, count):
        if frame not in frames:
            raise cursor.fail(f"it names frame {frame}, which has no patches")
        found += [Piece(*next(rows), frame, place) for place in range(held)]
    return found


def _parse_frames(cursor: Cursor, pieces: int) -> list[tuple[int, int]]:
    count = cursor.count(least=2)
    numbers, held = sums(cursor.uvarints(count)), cursor.uvarints(count)
    if sum(held) != pieces or min(held, default=1) < 1:
        raise cursor.fail("its frames do not hold its patches")
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise cursor.fail("its frames are not in order")
    return list(zip(numbers, held, strict=True))
