"""The description of a set: all that a client reads before it plans, as one run of bytes.

docs/format/jigdo.md section 9 is the norm.  A client keeps the *bare* description of what
it has, which depends on no deltas, so that the next description comes as a patch to it,
whichever of a commit's sets was pulled.  Rule kept here: a description is only what the
index binds, so what was made of a patch is proven as if it had been fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from composer.checksum import ContentDigest
from composer.errors import BoundExceeded, ChecksumMismatch, FormatError
from composer.jigdo.container import DESCRIPTION, Frame, Index, IndexPlace, Kind
from composer.jigdo.delta.codecs import apply
from composer.jigdo.delta.frames import compress_update, join_patches, split_patches
from composer.jigdo.delta.making import Pair, best_patches
from composer.jigdo.delta.table import MAX_PIECE
from composer.jigdo.encoding import Cursor, uvarints
from composer.jigdo.manifest import Head, dump_head

MAX_DESCRIPTION = 1 << 29
# A piece makes up to MAX_PIECE bytes, so a few are all that there can be.
_MAX_PIECES = 64


@dataclass(frozen=True, slots=True)
class Update:
    """The way from a bare description to another one, decompressed and taken apart.

    ``base`` is the digest of the description it starts from; it makes ``size`` bytes of
    description and ``deltas`` bytes of deltas frame behind them.
    """

    base: ContentDigest
    size: int
    deltas: int
    pieces: tuple[tuple[int, int, bytes], ...]  # codec, bytes that it makes, patch


def make_update(base: bytes, description: bytes, deltas: bytes) -> tuple[bytes, int, ContentDigest]:
    """Make the update from the bare description ``base`` to another description.

    ``deltas`` is the deltas frame for clients of the base, or empty.  Returns the compressed
    update, and the size and digest of what is compressed.
    """
    pair = Pair("description", base, description + deltas)
    [patch] = best_patches([pair], workers=1)
    numbers = (len(description), len(deltas), len(patch.parts))
    data = b"".join(
        (
            ContentDigest.of(base),
            uvarints(numbers),
            bytes([patch.codec]) * len(patch.parts),
            uvarints(part.length for part in patch.parts),
            join_patches([(patch.codec, part.data) for part in patch.parts]),
        )
    )
    return compress_update(data), len(data), ContentDigest.of(data)


def parse_update(data: bytes) -> Update:
    """Parse a decompressed update; raises FormatError."""
    cursor = Cursor(data, "update")
    base = ContentDigest(cursor.take(32))
    size, deltas = cursor.uvarints(2)
    codecs = cursor.take(cursor.count())
    if len(codecs) > _MAX_PIECES:
        raise cursor.fail(f"it has {len(codecs)} pieces")
    targets = cursor.uvarints(len(codecs))
    if size + deltas > MAX_DESCRIPTION or sum(targets) != size + deltas:
        raise cursor.fail(f"it claims to make {size + deltas} bytes")
    if max(targets, default=0) > MAX_PIECE:
        raise cursor.fail(f"a piece makes more than {MAX_PIECE} bytes")
    patches = split_patches(cursor.rest(), codecs)
    return Update(base, size, deltas, tuple(zip(codecs, targets, patches, strict=True)))


def apply_update(update: Update, base: bytes, *, max_memory: int) -> tuple[bytes, bytes]:
    """Return the description and the deltas frame that an update makes of ``base``.

    Neither is proven: see :func:`split_description` and :func:`require_deltas`.  Raises
    ChecksumMismatch when ``base`` is another one, and BoundExceeded when it would make more
    than ``max_memory`` bytes: a few bytes can claim that, before anything is proven.
    """
    if update.size + update.deltas > max_memory:
        raise BoundExceeded(what="what an update makes", bound=max_memory)
    _require(base, update.base, "the description that is here")
    made = b"".join(
        piece
        for codec, target, patch in update.pieces
        for piece in apply(codec, base, patch, size=target, max_memory=max_memory)
    )
    return made[: update.size], made[update.size :]


def join_description(index: Index, frame: Callable[[Frame], bytes | None]) -> bytes | None:
    """Join an index and its frames' uncompressed bytes; None when ``frame`` gives None for one."""
    # An index has one form, so writing it again gives the bytes that it was read from.
    return _joined([index.dump()], index, DESCRIPTION, frame)


def join_bare(index: Index, head: Head, frame: Callable[[Frame], bytes | None]) -> bytes | None:
    """Join the bare description, as if the set had no deltas; see :func:`join_description`."""
    bare = dump_head(replace(head, bases=()))
    rest = DESCRIPTION[1:]
    return _joined([index.bare(bare), bare], index, rest, frame)


def _joined(
    pieces: list[bytes],
    index: Index,
    kinds: Iterable[Kind],
    frame: Callable[[Frame], bytes | None],
) -> bytes | None:
    for kind in kinds:
        for number in index.numbers(kind):
            piece = frame(index[number])
            if piece is None:
                return None
            pieces.append(piece)
    return b"".join(pieces)


def split_description(data: bytes, place: IndexPlace) -> tuple[Index, Mapping[int, bytes]]:
    """Take a description apart: the index, and frames by number.

    Every one is proven against ``place`` or the index.  Raises FormatError, ChecksumMismatch.
    """
    raw = data[: place.uncompressed]
    _require(raw, place.digest, "index")
    index = Index.parse(raw, index_offset=place.offset)
    frames, at = {}, place.uncompressed
    for kind in DESCRIPTION:
        for frame in index.of(kind):
            piece = data[at : at + frame.uncompressed]
            _require(piece, frame.digest, f"frame {frame.number} ({kind.name.lower()})")
            frames[frame.number] = piece
            at += frame.uncompressed
    if at != len(data):
        raise FormatError(f"the description has {len(data) - at} bytes too many")
    return index, frames


def require_deltas(data: bytes, index: Index, number: int) -> None:
    """Prove the bytes of the deltas frame ``number`` that came with an update."""
    frame = index[number]
    if frame.kind is not Kind.DELTAS:
        raise FormatError(f"frame {number} is no deltas frame")
    _require(data, frame.digest, f"frame {number} (deltas)")


def _require(data: bytes, digest: ContentDigest, what: str) -> None:
    actual = ContentDigest.of(data)
    if actual != digest:
        raise ChecksumMismatch(what=what, expected=str(digest), actual=str(actual))
