"""The container: docs/format/jigdo.md sections 2 and 3."""

from __future__ import annotations

import functools
import hashlib
import io
import lzma
import struct
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ContentDigest
from composer.errors import BoundExceeded, ChecksumMismatch, ComposerError, FormatError
from composer.jigdo.container import (
    MAX_DATA_FRAME,
    MAX_HEAD,
    MAX_METADATA_FRAME,
    MAX_TREE_FRAME,
    TRAILER_SIZE,
    Codec,
    Frame,
    Index,
    IndexPlace,
    Kind,
    Writer,
    check_start,
    compress,
    decompress,
    decompressed,
    parse_trailer,
    read_index,
)
from composer.jigdo.encoding import uvarint, uvarints
from composer.jigdo.reader import open_file
from composer.ostree.repo import Repository
from tests.jigdo.sets import MemoryRanges, build, local_packages, open_bytes, place_of, write_tree
from tests.rpm.crafted import RpmFile, rpm_bytes

SMALL_KINDS = [
    *(Kind.HEAD, Kind.COMMIT, Kind.DIRMETA, Kind.TREE, Kind.TREE),
    *(Kind.HEADERS, Kind.MAP, Kind.CONTENTS, Kind.DATA, Kind.DATA),
]


def frame_of(
    data: bytes, packed: bytes, codec: Codec, window: int, *, size: int | None = None
) -> Frame:
    """Describe ``packed`` as a frame of ``data``."""
    declared = len(data) if size is None else size
    digest = ContentDigest.of(data)
    return Frame(0, Kind.DATA, codec, window, 16, len(packed), declared, digest)


# --- known bytes


def test_container_has_the_known_bytes() -> None:
    out = io.BytesIO()
    writer = Writer(out)
    payloads = {kind: b"%d" % kind for kind in SMALL_KINDS}
    for kind in SMALL_KINDS:
        writer.add(kind, payloads[kind])
    place = writer.finish()
    data = out.getvalue()

    frames = b"".join(payloads[kind] for kind in SMALL_KINDS)  # too short for a codec: stored
    index = (
        b"\x0a"  # count
        + bytes.fromhex("01020304040506070808")  # kinds
        + bytes(10)  # codecs: stored
        + bytes(10)  # windows
        + b"\x01" * 10  # compressed
        + b"\x01" * 10  # uncompressed
        + b"".join(hashlib.sha256(payloads[kind]).digest() for kind in SMALL_KINDS)
    )
    packed = data[26:-80]
    assert data[:16] == b"JIGDOSET" + b"\x01\0\0\0" + b"\0\0\0\0"
    assert data[16:26] == frames
    assert zstandard.ZstdDecompressor().decompress(packed) == index
    assert data[-80:] == (
        struct.pack("<QQQ", 26, len(packed), len(index))
        + hashlib.sha256(index).digest()
        + bytes(16)
        + b"JIGDOEND"
    )
    assert place == IndexPlace(26, len(packed), len(index), ContentDigest.of(index))


def test_hand_made_container_is_read() -> None:
    # xz and zstd frames, an index that stands apart from what the writer would choose.
    contents = [b"", b"commit", b"\0", b"tree" * 99, b"\0", b"", b"x" * 500]
    kinds = bytes([1, 2, 3, 4, 5, 7, 8])
    xz = lzma.compress(contents[6], filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}])
    zstd = zstandard.ZstdCompressor().compress(contents[3])
    empty = zstandard.ZstdCompressor().compress(b"")
    packed = [empty, contents[1], contents[2], zstd, contents[4], empty, xz]
    index = (
        bytes([7])
        + kinds
        + bytes([1, 0, 0, 1, 0, 1, 2])
        + bytes([10, 0, 0, 20, 0, 27, 12])
        + uvarints(len(piece) for piece in packed)
        + uvarints(len(content) for content in contents)
        + b"".join(hashlib.sha256(content).digest() for content in contents)
    )
    start = b"JIGDOSET\x01\0\0\0\0\0\0\0" + b"".join(packed)
    stored = zstandard.ZstdCompressor(level=1).compress(index)
    trailer = struct.pack("<QQQ", len(start), len(stored), len(index))
    trailer += hashlib.sha256(index).digest() + bytes(16) + b"JIGDOEND"
    data = start + stored + trailer
    ranges = MemoryRanges(data)
    found = read_index(ranges, place_of(data))
    assert len(found) == 7
    for number, content in enumerate(contents):
        frame = found[number]
        assert decompress(ranges.read(frame.offset, frame.size), frame) == content
    assert found[6].end == found.end == len(start)
    assert found.dump() == index


# --- round trips


@st.composite
def _frames(draw: st.DrawFn) -> list[tuple[Kind, bytes]]:
    content = st.binary(max_size=400) | st.builds(lambda b, n: b * n, st.binary(), st.just(50))
    counts = dict.fromkeys(Kind, 1)
    counts[Kind.TREE] = draw(st.integers(1, 4))
    counts[Kind.MAP] = draw(st.integers(0, 4))
    counts[Kind.DATA] = draw(st.integers(0, 4))
    return [(kind, draw(content)) for kind in Kind for _ in range(counts[kind])]


@given(_frames())
def test_frames_survive(frames: list[tuple[Kind, bytes]]) -> None:
    out = io.BytesIO()
    writer = Writer(out)
    assert [writer.add(kind, content) for kind, content in frames] == list(range(len(frames)))
    place = writer.finish()
    data = out.getvalue()
    ranges = MemoryRanges(data)
    assert place == place_of(data)
    index = read_index(ranges, place)
    read = [index[number] for number in range(len(index))]
    assert [(f.kind, decompress(ranges.read(f.offset, f.size), f)) for f in read] == frames
    assert [frame for kind in Kind for frame in index.of(kind)] == read
    assert index.end == place.offset


@given(st.binary(max_size=3000), st.integers(1, 700))
def test_pieces_decompress_wherever_they_are_cut(data: bytes, step: int) -> None:
    content = data * 3
    packed, codec, window = compress(content)
    frame = frame_of(content, packed, codec, window)
    pieces = (packed[start : start + step] for start in range(0, len(packed), step))
    assert b"".join(decompressed(pieces, frame)) == content


@given(st.binary(min_size=1, max_size=3000), st.integers(1, 700))
def test_xz_pieces_decompress_wherever_they_are_cut(data: bytes, step: int) -> None:
    packed = _xz(data, 4096)
    pieces = (packed[start : start + step] for start in range(0, len(packed), step))
    frame = frame_of(data, packed, Codec.XZ, 12)
    assert b"".join(decompressed(pieces, frame)) == data


# --- bounds of a frame


def _xz(data: bytes, dictionary: int) -> bytes:
    return lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": dictionary}])


def _zstd(data: bytes, window_log: int = 17) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(data) + compressor.flush()


def _stored(data: bytes) -> bytes:
    return data


PACKERS: list[tuple[Codec, int, Callable[[bytes], bytes]]] = [
    (Codec.STORED, 0, _stored),
    (Codec.ZSTD, 17, _zstd),
    (Codec.XZ, 16, lambda data: _xz(data, 1 << 16)),
]
each_codec = pytest.mark.parametrize(("codec", "window", "pack"), PACKERS)


@each_codec
def test_frame_with_a_byte_more_is_refused(
    codec: Codec, window: int, pack: Callable[[bytes], bytes]
) -> None:
    content = bytes(range(256)) * 40
    packed = pack(content)
    with pytest.raises(BoundExceeded, match="more than the declared 10239 bytes"):
        decompress(packed, frame_of(content, packed, codec, window, size=10239))


@each_codec
def test_frame_with_a_byte_less_is_refused(
    codec: Codec, window: int, pack: Callable[[bytes], bytes]
) -> None:
    content = bytes(range(256)) * 40
    packed = pack(content)
    with pytest.raises(FormatError, match="1 bytes less than declared"):
        decompress(packed, frame_of(content, packed, codec, window, size=10241))


@each_codec
def test_frame_of_other_content_is_refused(
    codec: Codec, window: int, pack: Callable[[bytes], bytes]
) -> None:
    packed = pack(b"one thing")
    with pytest.raises(ChecksumMismatch):
        decompress(packed, frame_of(b"an other.", packed, codec, window, size=9))


@each_codec
def test_frame_cut_anywhere_is_refused(
    codec: Codec, window: int, pack: Callable[[bytes], bytes]
) -> None:
    content = b"some content" * 9
    packed = pack(content)
    for length in range(len(packed) - 4 if codec == Codec.XZ else len(packed)):
        with pytest.raises(FormatError):
            decompress(packed[:length], frame_of(content, packed, codec, window))


@each_codec
def test_no_flipped_bit_changes_what_a_frame_gives(
    codec: Codec, window: int, pack: Callable[[bytes], bytes]
) -> None:
    content = b"some content" * 9
    packed = pack(content)
    frame = frame_of(content, packed, codec, window)
    for bit in range(8 * len(packed)):
        changed = bytearray(packed)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            assert decompress(bytes(changed), frame) == content
        except ComposerError:
            continue


@pytest.mark.parametrize("extra", [b"\0", b"more", b"\0\0\0\0"])
@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.XZ])
def test_bytes_behind_the_compressed_stream_are_refused(codec: Codec, extra: bytes) -> None:
    packed = (_zstd(b"content") if codec == Codec.ZSTD else _xz(b"content", 4096)) + extra
    with pytest.raises(FormatError):
        decompress(packed, frame_of(b"content", packed, codec, 17))


def test_bytes_in_a_later_piece_behind_the_stream_are_refused() -> None:
    packed = _xz(b"content", 4096)
    frame = frame_of(b"content", packed, Codec.XZ, 17)
    with pytest.raises(FormatError):
        b"".join(decompressed((packed, b"more"), frame))


@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.XZ])
def test_bomb_costs_no_more_than_it_declares(codec: Codec) -> None:
    zeros = bytes(1 << 27)
    packed = _zstd(zeros) if codec == Codec.ZSTD else lzma.compress(zeros, preset=0)
    del zeros
    frame = Frame(0, Kind.DATA, codec, 19, 16, len(packed), 1 << 20, ContentDigest(bytes(32)))
    tracemalloc.start()
    try:
        with pytest.raises(BoundExceeded):
            for _ in decompressed((packed,), frame):
                pass
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("log", [10, 17, 20])
def test_zstd_window_up_to_the_declared_is_read_and_no_larger(log: int) -> None:
    content = bytes(range(256)) * (3 << (log - 8))
    packed = _zstd(content, log)
    assert zstandard.get_frame_parameters(packed).window_size == 1 << log
    assert decompress(packed, frame_of(content, packed, Codec.ZSTD, log)) == content
    with pytest.raises(FormatError, match="cannot be decompressed"):
        decompress(packed, frame_of(content, packed, Codec.ZSTD, log - 1))


@pytest.mark.parametrize("log", [12, 16, 20, 23, 27])
def test_xz_dictionary_up_to_the_declared_is_read(log: int) -> None:
    # A header alone decides: the dictionary's size need not fit the content.
    packed = _xz(b"content", 1 << log)
    assert decompress(packed, frame_of(b"content", packed, Codec.XZ, log)) == b"content"


@pytest.mark.parametrize("log", [17, 20, 27])
def test_xz_dictionary_larger_than_declared_is_refused(log: int) -> None:
    packed = _xz(b"content", 1 << log)
    with pytest.raises(FormatError, match="cannot be decompressed"):
        decompress(packed, frame_of(b"content", packed, Codec.XZ, log - 1))


@given(st.binary(max_size=5000), st.integers(1, 200))
def test_writer_declares_a_window_that_suffices(data: bytes, times: int) -> None:
    content = data * times
    packed, codec, window = compress(content)
    assert decompress(packed, frame_of(content, packed, codec, window)) == content


def test_large_frame_declares_a_window_that_suffices() -> None:
    content = hashlib.shake_256(b"seed").digest(1 << 20) * 12
    packed, codec, window = compress(content)
    assert (codec, window) == (Codec.ZSTD, 23)
    assert decompress(packed, frame_of(content, packed, codec, window)) == content


# --- the index


def _index(
    kinds: list[int] | None = None,
    codecs: list[int] | None = None,
    windows: list[int] | None = None,
    sizes: list[int] | None = None,
    uncompressed: list[int] | None = None,
) -> bytes:
    kinds = [1, 2, 3, 4, 5, 6, 7, 8] if kinds is None else kinds
    count = len(kinds)
    columns = [*([codecs or [0] * count]), windows or [0] * count]
    return (
        uvarint(count)
        + bytes(kinds)
        + b"".join(bytes(column) for column in columns)
        + uvarints(sizes or [1] * count)
        + uvarints(uncompressed or [1] * count)
        + bytes(32 * count)
    )


def test_least_index_is_read() -> None:
    assert len(Index.parse(_index(), index_offset=24)) == 8
    assert len(Index.parse(_index([1, 2, 3, 4, 5, 7]), index_offset=22)) == 6


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (b"", 16, "middle of a value"),
        (_index() + b"\0", 24, "too many"),
        (_index()[:-1], 24, "more than it can hold|middle"),
        (_index(), 25, "do not fill"),
        (_index(), 23, "do not fill"),
        (_index(sizes=[0, 2, 1, 1, 1, 1, 1, 1]), 24, "do not fill"),
        (_index([1, 2, 3, 4, 5, 6, 7, 12]), 24, "unknown kind"),
        (_index([0, 1, 2, 3, 4, 5, 7, 8]), 24, "unknown kind"),
        (_index([1, 2, 3, 5, 4, 6, 7, 8]), 24, "order of their kinds"),
        (_index([2, 1, 3, 4, 5, 6, 7, 8]), 24, "order of their kinds"),
        (_index([1, 1, 2, 3, 4, 5, 6, 7]), 24, "2 head frames"),
        (_index([1, 3, 4, 5, 6, 7, 8, 8]), 24, "0 commit frames"),
        (_index([1, 2, 3, 5, 6, 7, 8, 8]), 24, "no tree frame"),
        (_index([1, 2, 3, 4, 5, 6, 7, 7]), 24, "2 contents frames"),
        (_index(codecs=[3] + [0] * 7), 24, "unknown codec 3"),
        (_index(windows=[12] + [0] * 7), 24, "window"),
        (_index(codecs=[1] + [0] * 7), 24, "window"),
        (_index(codecs=[1] + [0] * 7, windows=[28] + [0] * 7), 24, "window"),
        (_index(codecs=[2] + [0] * 7, windows=[255] + [0] * 7), 24, "window"),
        (_index(uncompressed=[MAX_METADATA_FRAME + 1] + [1] * 7), 24, "more than its kind may"),
        (_index(uncompressed=[1] * 7 + [MAX_DATA_FRAME + 1]), 24, "more than its kind may"),
        (uvarint(2**40) + bytes(400), 24, "more than it can hold"),
        (uvarint((1 << 20) + 1) + bytes(37 * ((1 << 20) + 1)), 24, "at most 1048576"),
        (_index(sizes=[2**62] * 8), 16 + 2**65, "do not fill|large"),
        (b"\x88\x00" + _index()[1:], 24, "shortest form"),
    ],
)
def test_bad_index_is_refused(data: bytes, offset: int, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        Index.parse(data, index_offset=offset)


def test_largest_allowed_frames_are_in_the_index() -> None:
    sizes = [MAX_METADATA_FRAME] * 7 + [MAX_DATA_FRAME]
    sizes[0], sizes[3] = MAX_HEAD, MAX_TREE_FRAME
    index = Index.parse(_index(uncompressed=sizes), index_offset=24)
    assert index.one(Kind.HEAD).uncompressed == 1 << 22
    assert index.one(Kind.TREE).uncompressed == 1 << 27
    assert index[7].uncompressed == 1 << 23


@given(st.binary(max_size=400), st.integers(0, 2**64))
def test_index_of_any_bytes_is_refused_or_read(data: bytes, offset: int) -> None:
    try:
        Index.parse(data, index_offset=offset)
    except FormatError:
        return


def test_index_bomb_is_stopped() -> None:
    packed = _zstd(bytes(1 << 27))
    place = IndexPlace(0, len(packed), 1000, ContentDigest(bytes(32)))
    tracemalloc.start()
    try:
        with pytest.raises(BoundExceeded):
            read_index(MemoryRanges(packed), place)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("size", "uncompressed"), [(2**63, 1), (1, 2**63), (1 << 27, 1)])
def test_index_that_claims_too_much_is_not_read(size: int, uncompressed: int) -> None:
    ranges = MemoryRanges(b"")
    with pytest.raises(FormatError, match="too large"):
        read_index(ranges, IndexPlace(16, size, uncompressed, ContentDigest(bytes(32))))
    assert not ranges.requests


def test_index_of_another_digest_is_refused() -> None:
    data = _small_set()
    place = place_of(data)
    wrong = IndexPlace(place.offset, place.size, place.uncompressed, ContentDigest(bytes(32)))
    with pytest.raises(ChecksumMismatch, match="index"):
        read_index(MemoryRanges(data), wrong)


# --- start and trailer


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"JIGDOSET",
        b"JIGDOSEX\x01\0\0\0\0\0\0\0",
        b"JIGDOSET\x02\0\0\0\0\0\0\0",
        b"JIGDOSET\0\0\0\0\0\0\0\0",
        b"JIGDOSET\x01\0\0\0\x01\0\0\0",
        b"JIGDOSET\x01\0\0\0\0\0\0\0\0",
    ],
)
def test_other_start_is_refused(start: bytes) -> None:
    with pytest.raises(FormatError):
        check_start(start)


def _trailer(offset: int, size: int, *, reserved: bytes = bytes(16)) -> bytes:
    return struct.pack("<QQQ", offset, size, 1) + bytes(32) + reserved + b"JIGDOEND"


@pytest.mark.parametrize(
    "trailer",
    [
        b"",
        _trailer(16, 4)[:-1],
        _trailer(16, 4)[:-1] + b"E",
        _trailer(16, 5),
        _trailer(15, 5),
        _trailer(2**64 - 1, 21),
        _trailer(20, 2**64 - 20),
        _trailer(16, 4, reserved=bytes(15) + b"\1"),
    ],
)
def test_trailer_that_does_not_fit_is_refused(trailer: bytes) -> None:
    with pytest.raises(FormatError):
        parse_trailer(trailer, file_size=100)
    assert parse_trailer(_trailer(16, 4), file_size=100).offset == 16


# --- a whole small set, damaged in every way


@functools.cache
def _small_set() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        repo = Repository.create(scratch / "repo", mode="bare-user")
        commit = write_tree(repo, "/usr/a 0100644 0:0 in a package\n/usr/b 0100600 1:1 not\n")
        (scratch / "a.rpm").write_bytes(rpm_bytes([RpmFile("/usr/a", b"in a package\n")]))
        return build(repo, commit, local_packages([scratch / "a.rpm"]), scratch).data


def _read_all(data: bytes) -> list[object]:
    """Read everything that a set says, as a client without a pointer does."""
    if len(data) < TRAILER_SIZE + 16:
        raise FormatError("short")
    check_start(data[:16])
    opened = open_bytes(data)
    start, dirmetas, headers, table = opened.read_start()
    trees = list(opened.dirtrees(opened.index.of(Kind.TREE)))
    maps = opened.maps(range(len(opened.head.packages)), objects=2, headers=headers)
    contents = opened.contents(table, objects=2, headers=headers)
    stream = [content for _, content in opened.frames(opened.index.of(Kind.DATA))]
    return [opened.head, start, dirmetas, headers, trees, maps, contents, stream]


def test_small_set_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = _small_set()
    for length in range(len(data)):
        with pytest.raises(FormatError):
            _read_all(data[:length])
    (tmp_path / "cut.jigdo").write_bytes(data[:-300])
    with pytest.raises(FormatError, match=r"not a \.jigdo file, or one that was cut"):
        open_file(tmp_path / "cut.jigdo")
    (tmp_path / "tiny.jigdo").write_bytes(data[:50])
    with pytest.raises(FormatError, match="too short"):
        open_file(tmp_path / "tiny.jigdo")


def test_small_set_with_trailing_bytes_is_refused() -> None:
    with pytest.raises(FormatError):
        _read_all(_small_set() + b"\0")


def _damaged(data: bytes, bits: range) -> None:
    whole = _read_all(data)
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            assert _read_all(bytes(changed)) == whole
        except ComposerError:
            continue


def test_no_flipped_bit_in_index_or_trailer_changes_what_a_set_says() -> None:
    data = _small_set()
    _damaged(data, range(8 * place_of(data).offset, 8 * len(data)))


@pytest.mark.parametrize("bit", range(4))
def test_no_flipped_bit_in_frames_changes_what_a_set_says(bit: int) -> None:
    data = _small_set()
    # A step of 7 takes each position in a byte in turn.
    _damaged(data, range(bit, 8 * place_of(data).offset, 7))


@given(st.data())
def test_set_with_a_piece_replaced_never_says_something_else(draw: st.DataObject) -> None:
    data = _small_set()
    first = draw.draw(st.integers(0, len(data) - 1))
    length = draw.draw(st.integers(0, 60))
    changed = data[:first] + draw.draw(st.binary(max_size=60)) + data[first + length :]
    try:
        assert _read_all(changed) == _read_all(data)
    except ComposerError:
        return
