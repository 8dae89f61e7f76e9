"""Compressed streams, opened: one at a time, in pieces, within a declared memory."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from composer.errors import FormatError
from composer.jigdo.delta.columns import Base
from composer.jigdo.encoding import Cursor
from composer.jigdo.repack.recipe import XZ_FILTERS, Kind

PIECE = 1 << 18


def chunks_of(data: Base, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, PIECE):
        yield bytes(data[at : min(at + PIECE, end)])


def window_of(kind: Kind, head: bytes) -> int | None:
    """Return the memory that a stream's own header asks its decoder to have."""
    if kind == Kind.GZIP:
        return 1 << 15
    if kind == Kind.BZIP2:
        return 4 << 20
    if kind == Kind.XZ:
        filters = xz_filters(head)
        return filters[1] if filters else None
    import zstandard

    try:
        return max(1 << 10, int(zstandard.get_frame_parameters(head).window_size))
    except zstandard.ZstdError:
        return None


def xz_filters(head: bytes) -> tuple[int, int, int] | None:
    """Read filters of an xz stream's first block: BCJ filter or 0, dictionary, lc/lp/pb byte."""
    cursor = Cursor(head[12:], "xz")
    try:
        length = (cursor.take(1)[0] + 1) * 4
        flags = cursor.take(1)[0]
        if length == 4 or flags & 0x3C:
            return None
        for present in (0x40, 0x80):
            if flags & present:
                cursor.uvarint()
        bcj = 0
        for _ in range((flags & 3) + 1):
            number = cursor.uvarint()
            properties = cursor.prefixed()
            if number == lzma.FILTER_LZMA2 and len(properties) == 1 and properties[0] < 40:
                dictionary = (2 | properties[0] & 1) << (properties[0] // 2 + 11)
                first = head[12 + length : 12 + length + 6]
                known = len(first) == 6 and first[0] >= 0xC0
                return bcj, dictionary, first[5] if known else 93
            if bcj or number not in XZ_FILTERS or properties:
                return None
            bcj = number
    except FormatError:
        return None
    return None


class Decoder:
    """Opens one stream, bounded; ``used`` counts the bytes that it took."""

    def __init__(self, kind: Kind, chunks: Iterator[bytes], window: int) -> None:
        self._kind, self._chunks, self._window = kind, chunks, window
        self.used = 0

    def pieces(self) -> Iterator[bytes]:
        """Yield what is inside, at most PIECE bytes at a time; raises FormatError."""
        import zstandard

        try:
            if self._kind == Kind.ZSTD:
                yield from self._zstd()
            elif self._kind == Kind.GZIP:
                yield from self._gzip()
            else:
                yield from self._simple()
        except (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError) as error:
            raise FormatError(f"compressed stream: {error}") from None
        except MemoryError:
            raise FormatError("compressed stream: more memory than declared") from None

    def _gzip(self) -> Iterator[bytes]:
        decoder = zlib.decompressobj(31)
        for chunk in self._chunks:
            self.used += len(chunk)
            while chunk and not decoder.eof:
                if piece := decoder.decompress(chunk, PIECE):
                    yield piece
                chunk = decoder.unconsumed_tail
            if decoder.eof:
                self.used -= len(decoder.unused_data)
                return
        while piece := decoder.decompress(decoder.unconsumed_tail, PIECE):
            yield piece
        if not decoder.eof:
            raise EOFError("ends too early")

    def _simple(self) -> Iterator[bytes]:
        decoder: Any
        if self._kind == Kind.XZ:
            # liblzma counts its own tables too, and those of a BCJ filter.
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=self._window + (1 << 18))
        else:
            decoder = bz2.BZ2Decompressor()
        for chunk in self._chunks:
            self.used += len(chunk)
            piece = decoder.decompress(chunk, PIECE)
            while True:
                if piece:
                    yield piece
                if decoder.eof or decoder.needs_input:
                    break
                piece = decoder.decompress(b"", PIECE)
            if decoder.eof:
                self.used -= len(decoder.unused_data)
                return
        raise EOFError("ends too early")

    def _zstd(self) -> Iterator[bytes]:
        import zstandard

        source = _ZstdFrame(self._chunks)
        decoder = zstandard.ZstdDecompressor(max_window_size=max(1 << 10, self._window))
        with decoder.stream_reader(cast("BinaryIO", source), read_across_frames=False) as reader:
            while piece := reader.read(PIECE):
                yield piece
        if not source.finished:
            raise EOFError("ends too early")
        self.used = source.used


class _ZstdFrame:
    """Gives a decoder exactly one frame to read, by the sizes of its blocks (RFC 8878).

    libzstd's Python binding does not tell how much of its input a frame was.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._pending = bytearray()
        self._plan = self._walk()
        self._left = 0
        self.used = 0
        self.finished = False

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of the frame, empty at its end."""
        if self._left == 0:
            self._left = next(self._plan, 0)
        length = min(size if size > 0 else PIECE, self._left)
        piece = self._take(length)
        self._left -= length
        self.used += length
        return piece

    def _peek(self, offset: int, length: int) -> bytes:
        while len(self._pending) < offset + length:
            chunk = next(self._chunks, b"")
            if not chunk:
                raise EOFError("ends too early")
            self._pending += chunk
        return bytes(self._pending[offset : offset + length])

    def _take(self, length: int) -> bytes:
        piece = self._peek(0, length)
        del self._pending[:length]
        return piece

    def _walk(self) -> Iterator[int]:
        """Yield the lengths of header, blocks and checksum; each is read before the next."""
        descriptor = self._peek(4, 1)[0]
        single = descriptor >> 5 & 1
        size_bytes = (single, 2, 4, 8)[descriptor >> 6]
        yield 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + size_bytes
        while True:
            block = int.from_bytes(self._peek(0, 3), "little")
            length = 1 if block >> 1 & 3 == 1 else block >> 3
            yield 3 + length
            if block & 1:
                break
        if descriptor & 4:
            yield 4
        self.finished = True
