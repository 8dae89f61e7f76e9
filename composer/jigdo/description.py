"""The description of a set: all that a client reads before it plans, as one run of bytes.

docs/format/jigdo.md section 9 is the norm.  A client keeps the description of what it
has, so that the next one comes as a patch to it.  Rule kept here: a description is only
what the index binds, so what was made of a patch is proven as if it had been fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, FormatError
from composer.jigdo.container import DESCRIPTION, Frame, Index, IndexPlace, Kind
from composer.jigdo.encoding import Cursor, uvarint

MAX_DESCRIPTION = 1 << 29


@dataclass(frozen=True, slots=True)
class Update:
    """The way from one description to another, decompressed and taken apart.

    ``base`` is the digest of the description it starts from; it makes ``size`` bytes of
    description and ``deltas`` bytes of deltas frame behind them.
    """

    base: ContentDigest
    size: int
    deltas: int
    codec: int
    patch: bytes


def dump_update(update: Update) -> bytes:
    """Serialise."""
    numbers = uvarint(update.size) + uvarint(update.deltas) + bytes([update.codec])
    return update.base + numbers + update.patch


def parse_update(data: bytes) -> Update:
    """Parse a decompressed update; raises FormatError."""
    cursor = Cursor(data, "update")
    base = ContentDigest(cursor.take(32))
    size, deltas = cursor.uvarint(), cursor.uvarint()
    if size + deltas > MAX_DESCRIPTION:
        raise cursor.fail(f"it claims to make {size + deltas} bytes")
    codec = cursor.take(1)[0]
    return Update(base, size, deltas, codec, cursor.rest())


def join_description(index: Index, frame: Callable[[Frame], bytes | None]) -> bytes | None:
    """Join an index and its frames' uncompressed bytes; None when ``frame`` gives None for one."""
    # An index has one form, so writing it again gives the bytes that it was read from.
    pieces = [index.dump()]
    for kind in DESCRIPTION:
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
