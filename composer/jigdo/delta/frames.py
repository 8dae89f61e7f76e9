"""Patch frames: many patches laid together, compressed with xz.

docs/format/jigdo.md section 8 and docs/format/delta.md are the norm.  xz, because the
patches of a system take 7% less with it than with zstd, its rpmdb 12%, and are read once.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence

from composer.errors import BoundExceeded
from composer.jigdo.container import Codec, unpacked
from composer.jigdo.delta.codecs import CodecNumber
from composer.jigdo.delta.columns import Streams
from composer.jigdo.delta.moving import join_linked, split_linked
from composer.jigdo.delta.pools import Pool, pool
from composer.jigdo.encoding import Cursor, uvarint

FRAME = 12 << 20
"""Patches are gathered to about this many bytes: more share no more, and cost a reader memory."""

_LEAST_WINDOW, _MOST_WINDOW = 12, 25
# Codecs whose patches are no columns: they lie in the pool as what is new.
_WHOLE = (CodecNumber.FULL, CodecNumber.ZSTD)


def join_patches(patches: Sequence[tuple[int, bytes]]) -> bytes:
    """Lay (codec, patch) pairs together into the bytes of one frame."""
    laid, moved = [], []
    numbers: dict[bytes, int] = {}
    for codec, patch in patches:
        moves = b""
        if codec in _WHOLE:
            patch = Streams(b"", b"", b"", patch).join()
        elif codec == CodecNumber.LINKED:
            shared, moves, patch = split_linked(patch)
            moves = uvarint(numbers.setdefault(shared, len(numbers))) + moves
        laid.append(patch)
        moved.append(moves)
    return pool(laid, moved, list(numbers))


class FramePatches:
    """The patches of a frame, each cut out of it when it is asked for."""

    def __init__(self, data: bytes, codecs: Sequence[int]) -> None:
        """Take a frame that holds patches of ``codecs``; raises FormatError when it does not."""
        self._pool, self._codecs = Pool(data, len(codecs)), codecs

    def __len__(self) -> int:
        return len(self._pool)

    def __getitem__(self, place: int) -> bytes:
        """Return the patch at ``place``; raises FormatError for one that its codec has not."""
        moves = Cursor(self._pool.moves(place), "delta")
        if self._codecs[place] == CodecNumber.LINKED:
            shared = self._pool.shared(moves.uvarint())
            return join_linked(shared, moves.rest(), self._pool[place])
        moves.end()
        if self._codecs[place] in _WHOLE:
            return self._pool.literals(place)
        return self._pool[place]


def split_patches(data: bytes, codecs: Sequence[int]) -> list[bytes]:
    """Return all patches of a frame that holds those of ``codecs``; raises FormatError."""
    patches = FramePatches(data, codecs)
    return [patches[place] for place in range(len(patches))]


def compress_by_xz(data: bytes) -> tuple[bytes, Codec, int]:
    """Compress a frame as ``(bytes, codec, window)``; stored when nothing is gained."""
    window = _window(data)
    packed = _xz(data, window)
    if len(packed) >= len(data):
        return data, Codec.STORED, 0
    return packed, Codec.XZ, window


def compress_update(data: bytes) -> bytes:
    """Compress an update, which is always one xz stream."""
    return _xz(data, _window(data))


def decompress_update(packed: bytes, *, size: int) -> bytes:
    """Undo :func:`compress_update`, up to ``size`` bytes; raises BoundExceeded, FormatError."""
    data = bytearray()
    for piece in unpacked((packed,), Codec.XZ, _MOST_WINDOW, "update"):
        data += piece
        if len(data) > size:
            raise BoundExceeded(what="update", bound=size)
    return bytes(data)


def _window(data: bytes) -> int:
    return max(_LEAST_WINDOW, min(max(len(data) - 1, 1).bit_length(), _MOST_WINDOW))


def _xz(data: bytes, window: int) -> bytes:
    # "Extreme" takes an eighth longer for half a thousandth.
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << window}
    return lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=[lzma2])
