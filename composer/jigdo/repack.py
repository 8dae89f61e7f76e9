"""Content that is compressed inside: how to open it, and how to close it again bit for bit.

A changed kernel image or manual page differs everywhere once it is compressed,
so its delta is made between what is *inside*: the content with every compressed
stream in it replaced by what it unpacks to, all else kept in place.  A
:class:`Recipe` says where the streams are, and what packs each of them to the
very same bytes; docs/format/delta.md section 4 is the reference.

A recipe with packers is only ever returned after they were run and gave the
content back (:func:`analyse`).  For a base no packer is needed: :func:`opened`.
Recipes and containers come from afar: lengths and memory are declared, and one
byte more ends in an error.  What a packer gives elsewhere may differ, by its
version: then :class:`PacksDifferently` is raised, or the digest is wrong, and the
content has to come from another source.
"""

from __future__ import annotations

import bz2
import lzma
import os
import re
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cache
from typing import Any, BinaryIO, cast

from composer.errors import FormatError, VerificationFailed
from composer.jigdo.delta.columns import Base
from composer.jigdo.encoding import Cursor, prefixed, uvarint

_PIECE = 1 << 18
_VERSION = 1
_MAX_SEGMENTS = 256
_MAX_RECIPE = 1 << 16
_MAX_HEADER = 1 << 10
_MAX_WINDOW = 1 << 31
_MAX_LENGTH = 1 << 40
#: What analyse() opens at most, unless told otherwise.
INNER_LIMIT = 1 << 30
_BASE_MEMORY = 24 << 20


class PacksDifferently(VerificationFailed):
    """The packers of this machine do not give the bytes that they gave where the set was built."""


class Kind(IntEnum):
    """What a segment of a container is."""

    VERBATIM = 0
    GZIP = 1
    XZ = 2
    ZSTD = 3
    BZIP2 = 4


class Packer(IntEnum):
    """What packs a segment; NONE: it can be opened only."""

    NONE = 0
    GNU_GZIP = 1
    ZLIB = 2
    LIBLZMA = 3
    LIBZSTD = 4
    LIBBZ2 = 5
    ZSTD_PROGRAM = 6
    XZ_PROGRAM = 7


_PACKERS = {
    Kind.VERBATIM: {Packer.NONE},
    Kind.GZIP: {Packer.NONE, Packer.GNU_GZIP, Packer.ZLIB},
    Kind.XZ: {Packer.NONE, Packer.LIBLZMA, Packer.XZ_PROGRAM},
    Kind.ZSTD: {Packer.NONE, Packer.LIBZSTD, Packer.ZSTD_PROGRAM},
    Kind.BZIP2: {Packer.NONE, Packer.LIBBZ2},
}

# Seconds of CPU to pack a MiB, measured on a kernel's code (level: seconds).
_COST = {
    Packer.GNU_GZIP: {1: 0.01, 6: 0.025, 9: 0.05},
    Packer.ZLIB: {1: 0.006, 6: 0.015, 9: 0.03},
    Packer.XZ_PROGRAM: {0: 0.025, 2: 0.07, 3: 0.09, 5: 0.15, 9: 0.2},
    Packer.LIBLZMA: {0: 0.025, 2: 0.07, 3: 0.09, 5: 0.15, 9: 0.2},
    Packer.LIBZSTD: {3: 0.002, 9: 0.007, 12: 0.02, 15: 0.06, 22: 0.2},
    Packer.LIBBZ2: {9: 0.035},
    Packer.ZSTD_PROGRAM: {3: 0.002, 9: 0.007, 12: 0.02, 15: 0.06, 22: 0.2},
}
_OPENING_COST = {Kind.GZIP: 0.006, Kind.XZ: 0.01, Kind.ZSTD: 0.002, Kind.BZIP2: 0.02}
_PROCESS_COST = 0.003
_PROGRAMS = {Packer.GNU_GZIP: "gzip", Packer.ZSTD_PROGRAM: "zstd", Packer.XZ_PROGRAM: "xz"}

_EXTREME = 0x80
_XZ_CHECKS = {0: "none", 1: "crc32", 4: "crc64", 10: "sha256"}
_XZ_FILTERS = {4: "x86", 5: "powerpc", 6: "ia64", 7: "arm", 8: "armthumb", 9: "sparc"}
_ZSTD_SIZED, _ZSTD_CHECKED, _ZSTD_THREADED = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Segment:
    """``packed`` bytes of a container, which open to ``inner`` bytes.

    ``window`` is the memory that opening needs.  ``level``, ``options`` and
    ``header`` mean what the packer makes of them; ``version`` is that of its
    library, where its output depends on it.
    """

    kind: Kind
    inner: int
    packed: int
    window: int = 0
    packer: Packer = Packer.NONE
    level: int = 0
    options: tuple[int, ...] = ()
    header: bytes = b""
    version: str = ""

    def dump(self) -> bytes:
        """Encode; docs/format/delta.md section 4."""
        start = bytes((self.kind, self.packer)) + uvarint(self.inner)
        if self.kind == Kind.VERBATIM:
            return start
        start += uvarint(self.packed) + uvarint(self.window)
        if self.packer == Packer.NONE:
            return start
        options = bytes((self.level, len(self.options))) + b"".join(map(uvarint, self.options))
        return start + options + prefixed(self.header) + prefixed(self.version.encode())

    @classmethod
    def parse(cls, cursor: Cursor) -> Segment:
        """Read one segment; raises FormatError."""
        numbers = cursor.take(2)
        try:
            kind, packer = Kind(numbers[0]), Packer(numbers[1])
        except ValueError:
            raise cursor.fail("names a kind or a packer that does not exist") from None
        if packer not in _PACKERS[kind]:
            raise cursor.fail("names a packer of another kind")
        inner = cursor.uvarint()
        if kind == Kind.VERBATIM:
            return cls(kind, inner, inner)
        packed, window = cursor.uvarint(), cursor.uvarint()
        if window > _MAX_WINDOW:
            raise cursor.fail("a window of more than 2 GiB")
        segment = cls(kind, inner, packed, window, packer)
        if packer == Packer.NONE:
            return segment
        level, count = cursor.take(2)
        options = tuple(cursor.uvarints(count))
        header, version = cursor.prefixed(), cursor.prefixed()
        if len(header) > _MAX_HEADER or len(version) > 32 or not version.isascii():
            raise cursor.fail("a header or a version that is too long")
        segment = replace(
            segment, level=level, options=options, header=header, version=version.decode()
        )
        if not _sound(segment):
            raise cursor.fail("parameters that its packer does not have")
        return segment

    @property
    def memory(self) -> int:
        """Bytes of working memory to open and to pack this segment, whichever is more."""
        opening = self.window + (4 << 20)
        if self.packer == Packer.LIBLZMA:
            return opening + _lzma_memory(self.options[1])
        if self.packer == Packer.XZ_PROGRAM:
            # Two threads, each with blocks of three dictionaries in and out.
            return opening + 2 * _lzma_memory(self.options[1]) + 12 * max(self.options[1], 1 << 20)
        if self.packer in (Packer.LIBZSTD, Packer.ZSTD_PROGRAM):
            return opening + _zstd_memory(self)
        return opening + (16 << 20)

    @property
    def cost(self) -> float:
        """CPU seconds to open a base like this and to pack this, about."""
        seconds = _OPENING_COST.get(self.kind, 0.0)
        table = _COST.get(self.packer, {})
        level = self.level & ~_EXTREME
        seconds += next(
            (cost for most, cost in table.items() if level <= most), 0.2 if table else 0
        )
        start = _PROCESS_COST if self.packer in _PROGRAMS else 0.0
        return start + seconds * self.inner / (1 << 20)


def _sound(segment: Segment) -> bool:
    """Tell whether the packer takes such parameters at all."""
    level, options = segment.level, segment.options
    match segment.packer:
        case Packer.GNU_GZIP:
            return 1 <= level <= 9 and not options
        case Packer.ZLIB:
            return 1 <= level <= 9 and len(options) == 1 and 1 <= options[0] <= 9
        case Packer.LIBBZ2:
            return 1 <= level <= 9 and not options
        case Packer.LIBLZMA | Packer.XZ_PROGRAM:
            return (
                level & ~_EXTREME <= 9
                and len(options) == 4
                and options[0] in _XZ_CHECKS
                and 4096 <= options[1] <= 1536 << 20
                and options[2] in (0, *_XZ_FILTERS)
                and options[3] < 225
                and options[3] % 9 + options[3] // 9 % 5 <= 4
            )
        case Packer.LIBZSTD | Packer.ZSTD_PROGRAM:
            return 1 <= level <= 22 and len(options) == 1 and options[0] <= 7
    return False


def _lzma_memory(dictionary: int) -> int:
    # bt4, as levels 4 to 9 have it: 11.5 bytes per byte of dictionary; fewer below that.
    return dictionary * 23 // 2 + (16 << 20)


def _zstd_memory(segment: Segment) -> int:
    parameters = _zstd_parameters(segment, threads=0)  # libzstd gives no estimate with threads
    context = int(parameters.estimated_compression_context_size())
    # Threaded, it also holds jobs of four windows, in and out.
    threaded = segment.options[0] & _ZSTD_THREADED
    return context + (24 << parameters.window_log) + (32 << 20) if threaded else context


@dataclass(frozen=True, slots=True)
class Recipe:
    """A container's segments, front to back."""

    segments: tuple[Segment, ...]
    inner_size: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner_size", sum(part.inner for part in self.segments))
        object.__setattr__(self, "size", sum(part.packed for part in self.segments))

    def dump(self) -> bytes:
        """Encode; a few dozen bytes, nearly the same for like content."""
        body = b"".join(segment.dump() for segment in self.segments)
        return uvarint(_VERSION) + uvarint(len(self.segments)) + body

    @classmethod
    def parse(cls, data: bytes) -> Recipe:
        """Read a recipe; raises FormatError for anything that dump() does not write."""
        cursor = Cursor(data, "recipe")
        if len(data) > _MAX_RECIPE:
            raise cursor.fail("is longer than 64 KiB")
        if cursor.uvarint() != _VERSION:
            raise cursor.fail("is of an unknown version")
        count = cursor.count(least=3)
        if not 1 <= count <= _MAX_SEGMENTS:
            raise cursor.fail(f"has {count} segments")
        recipe = cls(tuple(Segment.parse(cursor) for _ in range(count)))
        cursor.end()
        if recipe.size >= _MAX_LENGTH or recipe.inner_size >= _MAX_LENGTH:
            raise cursor.fail("is of something too large")
        if recipe.dump() != data:
            raise cursor.fail("is not in its shortest form")
        return recipe

    @property
    def memory(self) -> int:
        """Bytes of working memory of unpack() and repack() at most."""
        return _BASE_MEMORY + max(segment.memory for segment in self.segments)

    @property
    def cost(self) -> float:
        """CPU seconds to open a base like this and to pack this, about."""
        return sum(segment.cost for segment in self.segments)

    @property
    def repackable(self) -> bool:
        """Tell whether every compressed segment has a packer."""
        return all(s.packer != Packer.NONE for s in self.segments if s.kind != Kind.VERBATIM)

    def obstacle(self) -> str:
        """Return why this machine's packers would not give the same bytes; empty: they should."""
        for segment in self.segments:
            program = _PROGRAMS.get(segment.packer)
            if program and shutil.which(program) is None:
                return f"the program {program} is not installed"
            here = _version(segment.packer)
            if segment.version != here:
                return f"{segment.packer.name} {segment.version} is needed, here is {here}"
        return ""


def _version(packer: Packer) -> str:
    """Return the version that the packer's output depends on; empty where it does on none."""
    if packer == Packer.ZLIB:
        return zlib.ZLIB_RUNTIME_VERSION
    if packer == Packer.ZSTD_PROGRAM:
        return _zstd_program_version(shutil.which("zstd"))
    if packer == Packer.LIBZSTD:
        import zstandard

        return ".".join(map(str, zstandard.ZSTD_VERSION))
    return ""


@cache
def _zstd_program_version(path: str | None) -> str:
    if path is None:
        return ""
    done = subprocess.run([path, "--version"], capture_output=True, check=False)
    found = re.search(rb"v(\d+\.\d+\.\d+)", done.stdout)
    return found[1].decode() if found else ""


# ---------------------------------------------------------------- finding the streams


def opened(
    data: Base, *, inner_limit: int = INNER_LIMIT, window_limit: int = _MAX_WINDOW
) -> Recipe | None:
    """Return how ``data`` opens, without packers; None when it is no container that is known.

    A stream that is damaged, that would take what is inside past ``inner_limit``, or
    that asks for more memory than ``window_limit``, stays closed.
    """
    return _recipe(_segments(data, inner_limit, window_limit))


def analyse(data: Base, *, inner_limit: int = INNER_LIMIT) -> Recipe | None:
    """Return how ``data`` opens and packs again to the very same bytes, or None.

    Each packer in the recipe was run and its output compared.  A stream that
    none reproduces stays closed; None when all do.  Cheap when ``data`` is no
    container: a few magic numbers are read.
    """
    segments, at = [], 0
    for segment in _segments(data, inner_limit):
        end = at + segment.packed
        segments.append(_with_packer(segment, memoryview(bytes(data[at:end]))))
        at = end
    return _recipe(segments)


def _recipe(segments: Iterable[Segment]) -> Recipe | None:
    """Join verbatim neighbours; None when nothing else is there."""
    joined: list[Segment] = []
    for segment in segments:
        if joined and joined[-1].kind == segment.kind == Kind.VERBATIM:
            length = joined.pop().inner + segment.inner
            segment = Segment(Kind.VERBATIM, length, length)
        joined.append(segment)
    if len(joined) > _MAX_SEGMENTS or all(s.kind == Kind.VERBATIM for s in joined):
        return None
    return Recipe(tuple(joined))


def _verbatim(length: int) -> Segment:
    return Segment(Kind.VERBATIM, length, length)


def _segments(data: Base, inner_limit: int, window_limit: int = _MAX_WINDOW) -> Iterator[Segment]:
    """Walk over streams, cpio archives and padding; what else there is stays as it is."""
    size = len(data)
    at = _kernel_payload(data)
    if at:
        yield _verbatim(at)
    while at < size:
        step = _stream(data, at, inner_limit, window_limit)
        if step is not None:
            inner_limit -= step.inner
        elif length := _plain(data, at):
            step = _verbatim(length)
        else:
            step = _verbatim(size - at)
        yield step
        at += step.packed


def _kernel_payload(data: Base) -> int:
    """Return where the compressed kernel begins in a bzImage or an EFI zboot image, or 0."""
    head = bytes(data[0:0x250])
    if len(head) == 0x250 and head[0x202:0x206] == b"HdrS" and head[0x1FE:0x200] == b"\x55\xaa":
        # Since protocol 2.08 the header says where the payload is.
        (version,) = struct.unpack_from("<H", head, 0x206)
        (offset,) = struct.unpack_from("<I", head, 0x248)
        if version >= 0x208:
            start = ((head[0x1F1] or 4) + 1) * 512 + offset
            return int(start) if start < len(data) else 0
    if head[0:2] == b"MZ" and head[4:8] == b"zimg":
        start = struct.unpack_from("<I", head, 8)[0]
        return int(start) if start < len(data) else 0
    return 0


def _plain(data: Base, at: int) -> int:
    """Return the length of the padding or of the uncompressed cpio archive at ``at``."""
    if bytes(data[at : at + 6]) in (b"070701", b"070702"):
        return _cpio_length(data, at)
    zeros = 0
    while piece := bytes(data[at + zeros : at + zeros + 4096]):
        rest = len(piece.lstrip(b"\0"))
        zeros += len(piece) - rest
        if rest:
            break
    return zeros


def _cpio_length(data: Base, start: int) -> int:
    """Return the length of an archive as the kernel reads it, up to its trailer; 0 if damaged."""
    at = start
    while True:
        header = bytes(data[at : at + 110])
        if len(header) < 110 or header[:6] not in (b"070701", b"070702"):
            return 0
        try:
            size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        except ValueError:
            return 0
        name = bytes(data[at + 110 : at + 110 + min(name_size, 16)])
        at += (110 + name_size + 3 & ~3) + (size + 3 & ~3)
        if at > len(data):
            return 0
        if name == b"TRAILER!!!\0":
            return at - start


_MAGICS = (
    (b"\x1f\x8b\x08", Kind.GZIP),
    (b"\xfd7zXZ\0", Kind.XZ),
    (b"\x28\xb5\x2f\xfd", Kind.ZSTD),
    (b"BZh", Kind.BZIP2),
)


def _stream(data: Base, at: int, inner_limit: int, window_limit: int) -> Segment | None:
    """Open the stream at ``at``; None when there is none, or it is damaged or too large."""
    magic = bytes(data[at : at + 6])
    kind = next((kind for start, kind in _MAGICS if magic.startswith(start)), None)
    if kind is None:
        return None
    window = _window(kind, bytes(data[at : at + 1100]))
    if window is None or window > window_limit:
        return None
    inner = 0
    decoder = _Decoder(kind, _chunks(data, at, len(data)), window)
    try:
        for piece in decoder.pieces():
            inner += len(piece)
            if inner > inner_limit:
                return None
    except FormatError:
        return None
    return Segment(kind, inner, decoder.used, window)


def _chunks(data: Base, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _PIECE):
        yield bytes(data[at : min(at + _PIECE, end)])


def _window(kind: Kind, head: bytes) -> int | None:
    """Return the memory that a stream's own header asks its decoder to have."""
    if kind == Kind.GZIP:
        return 1 << 15
    if kind == Kind.BZIP2:
        return 4 << 20
    if kind == Kind.XZ:
        filters = _xz_filters(head)
        return filters[1] if filters else None
    import zstandard

    try:
        return max(1 << 10, int(zstandard.get_frame_parameters(head).window_size))
    except zstandard.ZstdError:
        return None


def _xz_filters(head: bytes) -> tuple[int, int, int] | None:
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
            if bcj or number not in _XZ_FILTERS or properties:
                return None
            bcj = number
    except FormatError:
        return None
    return None


class _Decoder:
    """Opens one stream, bounded; ``used`` counts the bytes that it took."""

    def __init__(self, kind: Kind, chunks: Iterator[bytes], window: int) -> None:
        self._kind, self._chunks, self._window = kind, chunks, window
        self.used = 0

    def pieces(self) -> Iterator[bytes]:
        """Yield what is inside, at most _PIECE bytes at a time; raises FormatError."""
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
                if piece := decoder.decompress(chunk, _PIECE):
                    yield piece
                chunk = decoder.unconsumed_tail
            if decoder.eof:
                self.used -= len(decoder.unused_data)
                return
        while piece := decoder.decompress(decoder.unconsumed_tail, _PIECE):
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
            piece = decoder.decompress(chunk, _PIECE)
            while True:
                if piece:
                    yield piece
                if decoder.eof or decoder.needs_input:
                    break
                piece = decoder.decompress(b"", _PIECE)
            if decoder.eof:
                self.used -= len(decoder.unused_data)
                return
        raise EOFError("ends too early")

    def _zstd(self) -> Iterator[bytes]:
        import zstandard

        source = _ZstdFrame(self._chunks)
        decoder = zstandard.ZstdDecompressor(max_window_size=max(1 << 10, self._window))
        with decoder.stream_reader(cast("BinaryIO", source), read_across_frames=False) as reader:
            while piece := reader.read(_PIECE):
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
        length = min(size if size > 0 else _PIECE, self._left)
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


# ---------------------------------------------------------------- finding the packer


def _with_packer(segment: Segment, packed: memoryview) -> Segment:
    """Return the segment with what packs it to ``packed``, or as verbatim when nothing does."""
    if segment.kind == Kind.VERBATIM:
        return segment
    inner = b"".join(
        _Decoder(segment.kind, _chunks(packed, 0, len(packed)), segment.window).pieces()
    )
    for candidate in _candidates(segment, bytes(packed[:1100])):
        if _gives(candidate, inner, packed):
            return candidate
    return _verbatim(segment.packed)


def _gives(segment: Segment, inner: bytes, packed: memoryview) -> bool:
    """Tell whether packing gives ``packed``; stops where it first differs."""
    at = 0
    packing = _pack(segment, _chunks(inner, 0, len(inner)))
    try:
        for piece in packing:
            if packed[at : at + len(piece)] != piece:
                return False
            at += len(piece)
    except (PacksDifferently, MemoryError):
        return False
    finally:
        packing.close()
    return at == len(packed)


def _candidates(segment: Segment, head: bytes) -> Iterator[Segment]:
    """Yield packers to try, the likeliest first."""
    match segment.kind:
        case Kind.GZIP:
            yield from _gzip_candidates(segment, head)
        case Kind.XZ:
            yield from _xz_candidates(segment, head)
        case Kind.ZSTD:
            yield from _zstd_candidates(segment, head)
        case Kind.BZIP2:
            yield replace(segment, packer=Packer.LIBBZ2, level=head[3] - ord("0"))


def _gzip_candidates(segment: Segment, head: bytes) -> Iterator[Segment]:
    length = _gzip_header_length(head)
    if not length:
        return
    segment = replace(segment, header=head[:length])
    # The flags byte says 2 for the best level, 4 for the fastest.
    levels = {2: (9, 8, 7), 4: (1, 2, 3)}.get(head[8], (6, 9, 1, 5, 7, 8, 4, 3, 2))
    # GNU gzip's output has not changed since version 1.3; zlib's has, and zlib-ng's differs.
    if shutil.which("gzip") is not None:
        for level in levels:
            yield replace(segment, packer=Packer.GNU_GZIP, level=level)
    for level in (*levels, *(level for level in (9, 6, 1) if level not in levels)):
        for memory_level in (8, 9):
            yield replace(
                segment,
                packer=Packer.ZLIB,
                level=level,
                options=(memory_level,),
                version=_version(Packer.ZLIB),
            )


def _gzip_header_length(head: bytes) -> int:
    """Return how long a gzip member's header is (RFC 1952), 0 when it is not all in ``head``."""
    flags, at = head[3], 10
    try:
        if flags & 4:
            at += 2 + int.from_bytes(head[at : at + 2], "little")
        for present in (8, 16):
            if flags & present:
                at = head.index(b"\0", at) + 1
    except ValueError:
        return 0
    at += 2 if flags & 2 else 0
    return at if at < min(len(head), _MAX_HEADER) else 0


def _xz_candidates(segment: Segment, head: bytes) -> Iterator[Segment]:
    filters = _xz_filters(head)
    if filters is None:
        return
    bcj, dictionary, properties = filters
    # Sizes in a block's header: the program wrote it, with threads.
    packer = Packer.XZ_PROGRAM if head[13] & 0xC0 else Packer.LIBLZMA
    for level in (6, 9 | _EXTREME, 4, 3, 2, 1, 0, 5, 3 | _EXTREME, 5 | _EXTREME, 0 | _EXTREME):
        candidate = replace(
            segment,
            packer=packer,
            level=level,
            options=(head[7], dictionary, bcj, properties),
        )
        if _sound(candidate):
            yield candidate


def _zstd_candidates(segment: Segment, head: bytes) -> Iterator[Segment]:
    import zstandard

    claimed = zstandard.get_frame_parameters(head)
    if claimed.dict_id:
        return
    sized = claimed.content_size == segment.inner and (claimed.content_size or head[4] & 0x20)
    flags = (_ZSTD_SIZED if sized else 0) | (_ZSTD_CHECKED if claimed.has_checksum else 0)
    # One block that differs ends a trial, but with threads a whole job comes at once:
    # those levels only that somebody uses (dracut, kmod, the programs' defaults).
    for packer, threaded, levels in (
        (Packer.LIBZSTD, 0, (19, 3, 15, 22, *range(1, 19))),
        (Packer.ZSTD_PROGRAM, _ZSTD_THREADED, (19, 3, 15, 22)),
        (Packer.LIBZSTD, _ZSTD_THREADED, (19, 3, 15, 22)),
    ):
        version = _version(packer)
        for level in levels:
            candidate = replace(
                segment,
                packer=packer,
                level=level,
                options=(flags | threaded,),
                version=version,
            )
            window = 1 << _zstd_parameters(candidate).window_log
            if version and (sized or window == claimed.window_size):
                yield candidate


# ---------------------------------------------------------------- opening and packing


def unpack(container: Base, recipe: Recipe) -> Iterator[bytes]:
    """Yield what is inside ``container``, ``recipe.inner_size`` bytes, a piece at a time.

    Raises FormatError when the container is not as the recipe says, after at
    most one piece more than declared.
    """
    if len(container) != recipe.size:
        raise FormatError(
            f"recipe: is for {recipe.size} bytes, the content has {len(container)}",
            hint="the set is damaged or not genuine",
        )
    at = 0
    for segment in recipe.segments:
        chunks = _chunks(container, at, at + segment.packed)
        at += segment.packed
        if segment.kind == Kind.VERBATIM:
            yield from chunks
        else:
            yield from _open(segment, chunks)


def _open(segment: Segment, chunks: Iterator[bytes]) -> Iterator[bytes]:
    decoder, made = _Decoder(segment.kind, chunks, segment.window), 0
    for piece in decoder.pieces():
        made += len(piece)
        if made > segment.inner:
            break
        yield piece
    if made != segment.inner or decoder.used != segment.packed:
        raise FormatError(
            "recipe: a compressed stream is not as long as it says",
            hint="the set is damaged or not genuine",
        )


def repack(recipe: Recipe, inner: Iterable[bytes], *, size: int) -> Iterator[bytes]:
    """Yield the container's ``size`` bytes, made of what is inside, a piece at a time.

    Raises FormatError when ``inner`` is not of the recipe's length, and
    PacksDifferently when a packer is missing or gives another number of bytes.
    The caller compares the digest.
    """
    if recipe.size != size or not recipe.repackable:
        raise FormatError(
            f"recipe: does not make {size} bytes", hint="the set is damaged or not genuine"
        )
    feed = _Feed(inner)
    for segment in recipe.segments:
        made = 0
        for piece in _pack(segment, feed.take(segment.inner)):
            made += len(piece)
            if made > segment.packed:
                break
            yield piece
        if made != segment.packed:
            raise PacksDifferently(
                f"{segment.packer.name} packs to another size here",
                hint="fetch this content without its recipe: --prefer cpu",
            )
    feed.end()


class _Feed:
    """Cuts a stream of pieces at given lengths."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def take(self, length: int) -> Iterator[bytes]:
        """Yield the next ``length`` bytes; raises FormatError when there are fewer."""
        while length:
            piece = self._rest or next(self._pieces, None)
            if piece is None:
                raise FormatError("recipe: what is inside is shorter than it says")
            self._rest = piece[length:]
            piece = piece[:length]
            length -= len(piece)
            yield piece

    def end(self) -> None:
        """Require that nothing is left."""
        if self._rest or any(self._pieces):
            raise FormatError("recipe: what is inside is longer than it says")


def _pack(segment: Segment, pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    packers: dict[Packer, Callable[[Segment, Iterator[bytes]], Iterator[bytes]]] = {
        Packer.NONE: lambda _, plain: plain,
        Packer.GNU_GZIP: _pack_gzip,
        Packer.ZLIB: _pack_gzip,
        Packer.LIBLZMA: _pack_xz,
        Packer.LIBZSTD: _pack_zstd,
        Packer.LIBBZ2: _pack_bzip2,
        Packer.ZSTD_PROGRAM: _pack_zstd_program,
        Packer.XZ_PROGRAM: _pack_xz_program,
    }
    yield from packers[segment.packer](segment, pieces)


def _pack_gzip(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pack one member; header as recorded, trailer computed (RFC 1952)."""
    check, length = 0, 0

    def summed() -> Iterator[bytes]:
        nonlocal check, length
        for piece in pieces:
            check, length = zlib.crc32(piece, check), length + len(piece)
            yield piece

    yield segment.header
    deflate = _gnu_gzip if segment.packer == Packer.GNU_GZIP else _zlib
    yield from deflate(segment, summed())
    yield struct.pack("<II", check, length & 0xFFFFFFFF)


def _zlib(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    encoder = zlib.compressobj(segment.level, zlib.DEFLATED, -15, segment.options[0])
    yield from filter(None, map(encoder.compress, pieces))
    yield encoder.flush()


def _gnu_gzip(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the deflate stream of the program gzip: its output without header and trailer."""
    output = _through(["gzip", "-n", "-c", f"-{segment.level}"], pieces)
    skip, held = 10, b""
    for piece in output:
        held += piece
        if skip and len(held) >= skip:
            held, skip = held[skip:], 0
        if not skip and len(held) > 8:
            yield held[:-8]
            held = held[-8:]
    if skip or len(held) != 8:
        raise PacksDifferently("gzip gave no gzip stream")


def _through(argv: list[str], pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Run a program on a stream; a thread writes while this generator reads."""
    # No environment: $GZIP can hold options.
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )
    except OSError as error:
        raise PacksDifferently(
            f"cannot run {argv[0]}: {error.strerror}", hint=f"install {argv[0]}"
        ) from None
    assert process.stdin is not None
    assert process.stdout is not None
    failure: list[BaseException] = []

    def write(pipe: Any = process.stdin) -> None:
        try:
            with pipe:
                for piece in pieces:
                    pipe.write(piece)
        except BrokenPipeError:
            pass  # the reader stopped early, or the program failed: its status tells
        except BaseException as error:
            failure.append(error)

    writer = threading.Thread(target=write, name=argv[0])
    writer.start()
    try:
        while piece := process.stdout.read1(_PIECE):  # type: ignore[attr-defined]
            yield piece
    finally:
        process.stdout.close()
        writer.join()
        status = process.wait()
    if failure:
        raise failure[0]
    if status:
        raise PacksDifferently(f"{argv[0]} failed with status {status}")


def _pack_xz(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    check, dictionary, bcj, properties = segment.options
    preset = segment.level & ~_EXTREME | (lzma.PRESET_EXTREME if segment.level & _EXTREME else 0)
    filters: list[dict[str, int]] = [{"id": bcj}] if bcj else []
    filters.append(
        {
            "id": lzma.FILTER_LZMA2,
            "preset": preset,
            "dict_size": dictionary,
            "lc": properties % 9,
            "lp": properties // 9 % 5,
            "pb": properties // 45,
        }
    )
    try:
        encoder = lzma.LZMACompressor(lzma.FORMAT_XZ, check=check, filters=filters)
        yield from filter(None, map(encoder.compress, pieces))
        yield encoder.flush()
    except (lzma.LZMAError, ValueError) as error:
        raise PacksDifferently(f"liblzma: {error}") from None


def _pack_xz_program(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    check, dictionary, bcj, properties = segment.options
    preset = f"{segment.level & ~_EXTREME}" + ("e" if segment.level & _EXTREME else "")
    argv = ["xz", "-q", "-c", "--format=xz", "-T2", f"--check={_XZ_CHECKS[check]}"]
    if bcj:
        argv.append(f"--{_XZ_FILTERS[bcj]}")
    lc, lp, pb = properties % 9, properties // 9 % 5, properties // 45
    argv.append(f"--lzma2=preset={preset},dict={dictionary},lc={lc},lp={lp},pb={pb}")
    yield from _through(argv, pieces)


def _zstd_parameters(segment: Segment, *, threads: int | None = None) -> Any:
    import zstandard

    (flags,) = segment.options
    sized = bool(flags & _ZSTD_SIZED)
    return zstandard.ZstdCompressionParameters.from_level(
        segment.level,
        source_size=segment.inner if sized else 0,
        write_content_size=int(sized),
        write_checksum=int(bool(flags & _ZSTD_CHECKED)),
        write_dict_id=0,
        threads=flags & _ZSTD_THREADED and 1 if threads is None else threads,
    )


def _pack_zstd(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    sized = segment.options[0] & _ZSTD_SIZED
    try:
        compressor = zstandard.ZstdCompressor(compression_params=_zstd_parameters(segment))
        encoder = compressor.compressobj(size=segment.inner if sized else -1)
        yield from filter(None, map(encoder.compress, pieces))
        yield encoder.flush()
    except zstandard.ZstdError as error:
        raise PacksDifferently(f"libzstd: {error}") from None


def _pack_zstd_program(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    (flags,) = segment.options
    # Two threads give the bytes of any number of threads, but for none.
    argv = ["zstd", "-q", "-c", "--ultra", f"-{segment.level}"]
    argv.append("-T2" if flags & _ZSTD_THREADED else "--single-thread")
    argv.append("--check" if flags & _ZSTD_CHECKED else "--no-check")
    if flags & _ZSTD_SIZED:
        argv.append(f"--stream-size={segment.inner}")
    yield from _through(argv, pieces)


def _pack_bzip2(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    encoder = bz2.BZ2Compressor(segment.level)
    yield from filter(None, map(encoder.compress, pieces))
    yield encoder.flush()
