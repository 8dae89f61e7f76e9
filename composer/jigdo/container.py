"""The container of a jigdo set: frames, their index, the trailer.

docs/format/jigdo.md sections 2 and 3 are the norm.  Rule kept here: no frame is
decompressed past its declared size or with more memory than it declares, and
its digest is compared before its bytes are used.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from io import BytesIO
from itertools import accumulate, pairwise
from typing import IO, BinaryIO, Protocol, cast

import zstandard

from composer.checksum import ContentDigest
from composer.errors import BoundExceeded, ChecksumMismatch, FormatError
from composer.jigdo.encoding import Cursor, uvarint, uvarints

MAGIC = b"JIGDOSET"
END_MAGIC = b"JIGDOEND"
VERSION = 1
_START = struct.Struct("<8sII")
_TRAILER = struct.Struct("<QQQ32sQ8s8s")
TRAILER_SIZE = _TRAILER.size

MAX_FRAMES = 1 << 20
MAX_WINDOW = 27
MAX_TREE_FRAME = 1 << 27
MAX_METADATA_FRAME = 1 << 24
MAX_DATA_FRAME = 1 << 23
MAX_PATCH_FRAME = 1 << 25
MAX_BASES = 64
MAX_HEAD = 1 << 22
MAX_TREE = 1 << 28
MAX_MAPS = 1 << 25
MAX_INDEX = 1 << 26
_LEVEL = 19
_MOST_OVERHEAD = 1 << 16  # what a codec may add to data that it cannot make smaller


class Kind(IntEnum):
    """What a frame holds."""

    HEAD = 1
    COMMIT = 2
    DIRMETA = 3
    TREE = 4
    HEADERS = 5
    MAP = 6
    CONTENTS = 7
    DATA = 8
    PATCH = 9
    DELTAS = 10


DESCRIPTION = (
    Kind.HEAD, Kind.COMMIT, Kind.DIRMETA, Kind.TREE, Kind.HEADERS, Kind.MAP, Kind.CONTENTS,
)  # fmt: skip
"""The kinds whose frames, with the index, say everything about a set but its content."""

_BOUNDS = {
    Kind.DATA: MAX_DATA_FRAME,
    Kind.PATCH: MAX_PATCH_FRAME,
    Kind.TREE: MAX_TREE_FRAME,
    Kind.HEAD: MAX_HEAD,
}
# What is held parsed, all of it: without a bound on the sum, many frames of nothing but
# zeros, a few bytes each, would take any memory.
_TOTALS = {Kind.TREE: MAX_TREE, Kind.MAP: MAX_MAPS}
_ONCE = (Kind.HEAD, Kind.COMMIT, Kind.DIRMETA, Kind.HEADERS, Kind.CONTENTS)


class Codec(IntEnum):
    """How a frame is compressed."""

    STORED = 0
    ZSTD = 1
    XZ = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as the index describes it; sizes and offset in bytes."""

    number: int
    kind: Kind
    codec: Codec
    window: int
    offset: int
    size: int
    uncompressed: int
    digest: ContentDigest

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class IndexPlace:
    """Where a set's index is, from the start of the file, and what it must be."""

    offset: int
    size: int
    uncompressed: int
    digest: ContentDigest


class Index:
    """All frames of a set.  Columns, because a set can have very many frames."""

    __slots__ = ("_codecs", "_digests", "_ends", "_kinds", "_uncompressed", "_windows")

    def __init__(
        self,
        kinds: bytes,
        codecs: bytes,
        windows: bytes,
        sizes: Iterable[int],
        uncompressed: Sequence[int],
        digests: bytes,
    ) -> None:
        self._kinds, self._codecs, self._windows = kinds, codecs, windows
        self._ends = array("q", accumulate(sizes, initial=_START.size))
        self._uncompressed, self._digests = array("q", uncompressed), digests

    @classmethod
    def parse(cls, data: bytes, *, index_offset: int) -> Index:
        """Parse and check an uncompressed index whose frames end at ``index_offset``."""
        cursor = Cursor(data, "index")
        count = cursor.count(least=37)
        if count > MAX_FRAMES:
            raise cursor.fail(f"has {count} frames; at most {MAX_FRAMES} are allowed")
        kinds, codecs, windows = cursor.take(count), cursor.take(count), cursor.take(count)
        sizes, uncompressed = cursor.uvarints(count), cursor.uvarints(count)
        digests = cursor.take(32 * count)
        cursor.end()
        if index_offset >= 1 << 62:
            raise cursor.fail("its frames are too large")
        if sum(sizes) != index_offset - _START.size or min(sizes, default=0) < 1:
            raise cursor.fail("its frames do not fill the file up to the index")
        _check_kinds(kinds, cursor)
        columns = (kinds, codecs, windows, sizes, uncompressed)
        for kind, codec, window, size, whole in zip(*columns, strict=True):
            _check_bounds(kind, codec, window, size, whole, cursor)
        for kind, most in _TOTALS.items():
            if (
                sum(whole for own, whole in zip(kinds, uncompressed, strict=True) if own == kind)
                > most
            ):
                raise cursor.fail(f"its {kind.name.lower()} frames claim more than {most} bytes")
        return cls(kinds, codecs, windows, sizes, uncompressed, digests)

    def dump(self) -> bytes:
        """Serialise."""
        sizes = [later - earlier for earlier, later in pairwise(self._ends)]
        fixed = self._kinds + self._codecs + self._windows
        columns = uvarints(sizes) + uvarints(self._uncompressed)
        return uvarint(len(self)) + fixed + columns + self._digests

    def bare(self, head: bytes) -> bytes:
        """Serialise without patches and deltas, and as if the head were ``head``, stored."""
        count = len(self) - sum(len(self.numbers(kind)) for kind in (Kind.PATCH, Kind.DELTAS))
        sizes = [later - earlier for earlier, later in pairwise(self._ends[: count + 1])]
        return Index(
            self._kinds[:count],
            bytes([Codec.STORED]) + self._codecs[1:count],
            bytes([0]) + self._windows[1:count],
            [len(head), *sizes[1:]],
            [len(head), *self._uncompressed[1:count]],
            ContentDigest.of(head) + self._digests[32 : 32 * count],
        ).dump()

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, number: int) -> Frame:
        return Frame(
            number,
            Kind(self._kinds[number]),
            Codec(self._codecs[number]),
            self._windows[number],
            self._ends[number],
            self._ends[number + 1] - self._ends[number],
            self._uncompressed[number],
            ContentDigest(self._digests[32 * number : 32 * number + 32]),
        )

    @property
    def end(self) -> int:
        """The offset where frames end and the index begins."""
        return self._ends[-1]

    def numbers(self, kind: Kind) -> range:
        """The numbers of all frames of ``kind``: they stand together."""
        first = self._kinds.find(bytes([kind]))
        return range(first, first + self._kinds.count(bytes([kind]))) if first >= 0 else range(0)

    def of(self, kind: Kind) -> Iterator[Frame]:
        """All frames of ``kind``, in order."""
        return (self[number] for number in self.numbers(kind))

    def one(self, kind: Kind) -> Frame:
        """The only frame of a kind that every set has once."""
        return self[self.numbers(kind)[0]]


def _check_kinds(kinds: bytes, cursor: Cursor) -> None:
    if any(later < earlier for earlier, later in pairwise(kinds)):
        raise cursor.fail("its frames are not in the order of their kinds")
    if set(kinds) - set(Kind):
        raise cursor.fail("it has a frame of an unknown kind; is this program too old?")
    for kind in _ONCE:
        if kinds.count(bytes([kind])) != 1:
            raise cursor.fail(f"it has {kinds.count(bytes([kind]))} {kind.name.lower()} frames")
    if kinds.count(bytes([Kind.DELTAS])) > MAX_BASES:
        raise cursor.fail(f"it has deltas from more than {MAX_BASES} commits")
    if bytes([Kind.TREE]) not in kinds:
        raise cursor.fail("it has no tree frame")


def _check_bounds(
    kind: int, codec: int, window: int, size: int, uncompressed: int, cursor: Cursor
) -> None:
    if codec not in (Codec.STORED, Codec.ZSTD, Codec.XZ):
        raise cursor.fail(f"unknown codec {codec}; is this program too old?")
    if window > MAX_WINDOW or (codec == Codec.STORED) != (window == 0):
        raise cursor.fail(f"a frame asks for a window of 2^{window} bytes")
    if uncompressed > _BOUNDS.get(Kind(kind), MAX_METADATA_FRAME):
        raise cursor.fail(f"a frame claims {uncompressed} bytes, more than its kind may have")
    if size > uncompressed + _MOST_OVERHEAD:
        raise cursor.fail(f"a frame takes {size} bytes for {uncompressed}")


# Compression


def compress(data: bytes) -> tuple[bytes, Codec, int]:
    """Compress a frame as ``(bytes, codec, window)``; stored when nothing is gained."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=len(data),
        write_checksum=False,
        write_content_size=True,
        write_dict_id=False,
    )
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(data)
    if len(packed) >= len(data) and data:
        return data, Codec.STORED, 0
    window = zstandard.get_frame_parameters(packed).window_size
    return packed, Codec.ZSTD, max(10, (max(window, 1) - 1).bit_length())


def decompressed(pieces: Iterable[bytes], frame: Frame) -> Iterator[bytes]:
    """Decompress a frame's bytes in pieces, with its declared size and memory as bounds.

    The digest is compared at the end: only for content that is proven in another
    way too.  Raises BoundExceeded, ChecksumMismatch, FormatError.
    """
    what = f"frame {frame.number} ({frame.kind.name.lower()})"
    state, left = hashlib.sha256(), frame.uncompressed
    for piece in unpacked(pieces, frame.codec, frame.window, what):
        left -= len(piece)
        if left < 0:
            raise BoundExceeded(what=what, bound=frame.uncompressed)
        state.update(piece)
        yield piece
    if left:
        raise FormatError(f"{what}: {left} bytes less than declared")
    if state.digest() != frame.digest:
        actual = state.hexdigest()
        raise ChecksumMismatch(what=what, expected=str(frame.digest), actual=actual)


def decompress(data: bytes, frame: Frame) -> bytes:
    """Decompress and prove a whole frame."""
    whole = BytesIO()  # which gives its bytes without a copy, as joining pieces does not
    for piece in decompressed((data,), frame):
        whole.write(piece)
    return whole.getvalue()


def unpacked(pieces: Iterable[bytes], codec: Codec, window: int, what: str) -> Iterator[bytes]:
    """Decompress in pieces of a bounded size; whoever reads stops at its own bound."""
    try:
        if codec == Codec.STORED:
            yield from pieces
        elif codec == Codec.ZSTD:
            yield from _unzstd(pieces, window, what)
        else:
            yield from _unxz(pieces, window, what)
    except (zstandard.ZstdError, lzma.LZMAError, MemoryError) as error:
        raise FormatError(f"{what}: cannot be decompressed: {error}") from None


def _unzstd(pieces: Iterable[bytes], window: int, what: str) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=1 << window)
    # stream_reader gives pieces of a bounded size, whatever the ratio.
    source = cast("IO[bytes]", _Pieces(pieces))
    with decoder.stream_reader(source, read_size=1 << 16) as reader:
        while piece := reader.read(1 << 18):
            yield piece


def _unxz(pieces: Iterable[bytes], window: int, what: str) -> Iterator[bytes]:
    # liblzma counts its own tables too: 65,592 bytes for one LZMA2 decoder.
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=(1 << window) + (1 << 17))
    for piece in pieces:
        data = piece
        if decoder.eof and piece:
            raise FormatError(f"{what}: not exactly one xz stream")
        while not decoder.eof:
            out = decoder.decompress(data, max_length=1 << 18)
            data = b""
            yield out
            if decoder.needs_input:
                break
    if not decoder.eof or decoder.unused_data:
        raise FormatError(f"{what}: not exactly one xz stream")


class _Pieces:
    """An iterable of bytes as a readable stream."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, length: int = -1) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        piece = self._rest if length < 0 else self._rest[:length]
        self._rest = self._rest[len(piece) :]
        return piece


# Writing and opening


class Writer:
    """Writes a set: frames in the order of their kinds, then :meth:`finish`."""

    def __init__(self, stream: BinaryIO, *, keep: bool = False) -> None:
        """Write to ``stream``; with ``keep``, frames of the description are kept in ``kept``."""
        self._stream = stream
        self._keep = keep
        self.kept: dict[int, bytes] = {}
        self._kinds, self._codecs, self._windows = bytearray(), bytearray(), bytearray()
        self._sizes, self._uncompressed = array("q"), array("q")
        self._digests = bytearray()
        stream.write(_START.pack(MAGIC, VERSION, 0))

    def add(self, kind: Kind, data: bytes) -> int:
        """Compress and write one frame; returns its number."""
        return self.add_packed(kind, compress(data), data)

    def add_packed(self, kind: Kind, packed: tuple[bytes, Codec, int], whole: bytes) -> int:
        """Write a frame that was compressed elsewhere; returns its number."""
        data, codec, window = packed
        if self._keep and kind in DESCRIPTION:
            self.kept[self.next_number] = whole
        self._stream.write(data)
        self._kinds.append(kind)
        self._codecs.append(codec)
        self._windows.append(window)
        self._sizes.append(len(data))
        self._uncompressed.append(len(whole))
        self._digests += ContentDigest.of(whole)
        return len(self._kinds) - 1

    @property
    def next_number(self) -> int:
        """The number that the next frame gets."""
        return len(self._kinds)

    def index(self) -> Index:
        """Return the index of what was written so far."""
        return Index(
            bytes(self._kinds),
            bytes(self._codecs),
            bytes(self._windows),
            self._sizes,
            self._uncompressed,
            bytes(self._digests),
        )

    def finish(self, updates: Iterable[bytes] = ()) -> IndexPlace:
        """Write index, updates (as they are) and trailer; returns the index's place."""
        index = self.index()
        data = index.dump()
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
        place = IndexPlace(index.end, len(packed), len(data), ContentDigest.of(data))
        self._stream.write(packed)
        behind = 0
        for update in updates:
            self._stream.write(update)
            behind += len(update)
        fields = (place.offset, place.size, place.uncompressed, place.digest, behind)
        self._stream.write(_TRAILER.pack(*fields, bytes(8), END_MAGIC))
        return place


Check = Callable[[bytes], object]
"""Raises VerificationFailed for bytes that are not the right ones."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes to read, and what proves them; ``unpacked`` is how many ``check`` makes and keeps."""

    first: int
    length: int
    check: Check
    unpacked: int


class RangeReader(Protocol):
    """Gives byte ranges of a .jigdo file, wherever it is."""

    def read(self, first: int, length: int, check: Check) -> bytes:
        """Return exactly ``length`` bytes from offset ``first`` that pass ``check``, or raise.

        A reader that has several places to ask asks the next when ``check`` raises.
        """
        ...

    def read_each(self, ranges: Sequence[Range]) -> Iterator[None]:
        """Read each for its ``check``, and yield after each; may read the next one ahead.

        What unpacks to much is checked no earlier than it is asked for.
        """
        for one in ranges:
            self.read(one.first, one.length, one.check)
            yield


def parse_trailer(trailer: bytes, *, file_size: int) -> IndexPlace:
    """Find the index from a file's last :data:`TRAILER_SIZE` bytes; raises FormatError."""
    if len(trailer) != TRAILER_SIZE or trailer[-8:] != END_MAGIC:
        raise FormatError(
            "not a .jigdo file, or one that was cut: its trailer is missing",
            hint="fetch or build it again",
        )
    offset, size, uncompressed, digest, updates, reserved, _ = _TRAILER.unpack(trailer)
    end = offset + size + updates + TRAILER_SIZE
    if any(reserved) or offset < _START.size or end != file_size:
        raise FormatError("the .jigdo file's trailer does not fit its size")
    return IndexPlace(offset, size, uncompressed, ContentDigest(digest))


def check_start(start: bytes) -> None:
    """Check a file's first 16 bytes; raises FormatError."""
    if len(start) != _START.size or start[:8] != MAGIC:
        raise FormatError("not a .jigdo file: it does not begin with JIGDOSET")
    _, version, reserved = _START.unpack(start)
    if version != VERSION or reserved:
        raise FormatError(
            f"a .jigdo file of version {version}; this program reads version {VERSION}",
            hint="update jigdo-composer",
        )


def read_index(reader: RangeReader, place: IndexPlace) -> Index:
    """Read and prove the index at ``place``; raises FormatError and its kin."""
    if place.uncompressed > MAX_INDEX or place.size > MAX_INDEX:
        raise FormatError(f"the index claims {place.uncompressed} bytes; too large")
    packed = reader.read(place.offset, place.size, lambda packed: _unpack_index(packed, place))
    return Index.parse(_unpack_index(packed, place), index_offset=place.offset)


def _unpack_index(packed: bytes, place: IndexPlace) -> bytes:
    data = bytearray()
    for piece in unpacked((packed,), Codec.ZSTD, MAX_WINDOW, "index"):
        data += piece
        if len(data) > place.uncompressed:
            raise BoundExceeded(what="index", bound=place.uncompressed)
    digest = ContentDigest.of(data)
    if digest != place.digest:
        raise ChecksumMismatch(what="index", expected=str(place.digest), actual=str(digest))
    return bytes(data)
