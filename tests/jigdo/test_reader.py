"""Reading a set through byte ranges: few requests, neighbours together, nothing unproven."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, ComposerError, FormatError
from composer.jigdo.container import Check, Frame, Index, IndexPlace, Kind, Writer
from composer.jigdo.reader import FileRanges, JigdoSet, open_file
from composer.ostree.repo import Repository
from tests.jigdo.sets import MemoryRanges, SetOnDisk, build, place_of, write_tree

NOISE = random.Random(5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SetOnDisk:
    """Return a set with large frames of data that no codec makes smaller."""
    where = tmp_path_factory.mktemp("reader")
    repo = Repository.create(where / "repo", mode="bare-user")
    lines = [f"/f{n} 0100644 0:0 {NOISE.randbytes(450_000).hex()}" for n in range(4)]
    return build(repo, write_tree(repo, "\n".join(lines)), [], where)


def _opened(made: SetOnDisk) -> tuple[JigdoSet, MemoryRanges]:
    ranges = MemoryRanges(made.data)
    opened = JigdoSet(ranges, place_of(made.data))
    ranges.requests.clear()
    return opened, ranges


def test_opening_reads_the_index_and_the_head(made: SetOnDisk) -> None:
    ranges = MemoryRanges(made.data)
    place = place_of(made.data)
    opened = JigdoSet(ranges, place)
    head = opened.index.one(Kind.HEAD)
    assert ranges.requests == [(place.offset, place.size), (head.offset, head.size)]


def test_neighbours_are_read_with_one_request(made: SetOnDisk) -> None:
    opened, ranges = _opened(made)
    data = list(opened.index.of(Kind.DATA))
    assert len(data) == 4
    read = list(opened.frames([data[1], data[0], data[2]]))
    assert [frame for frame, _ in read] == data[:3]
    assert ranges.requests == [(data[0].offset, data[2].end - data[0].offset)]


def test_frames_far_apart_are_read_on_their_own(made: SetOnDisk) -> None:
    opened, ranges = _opened(made)
    data = list(opened.index.of(Kind.DATA))
    contents = [content for _, content in opened.frames([data[0], data[2]])]
    assert [ContentDigest.of(c) for c in contents] == [data[0].digest, data[2].digest]
    assert ranges.requests == [(f.offset, f.size) for f in (data[0], data[2])]


def test_small_gap_is_read_over(made: SetOnDisk) -> None:
    opened, ranges = _opened(made)
    index = opened.index
    commit, tree = index.one(Kind.COMMIT), next(index.of(Kind.TREE))
    assert len(list(opened.frames([tree, commit]))) == 2
    assert ranges.requests == [(commit.offset, tree.end - commit.offset)]


def test_frame_that_was_read_for_the_description_is_not_read_again(made: SetOnDisk) -> None:
    opened, ranges = _opened(made)
    assert len(list(opened.frames([opened.index.one(Kind.HEAD)]))) == 1
    assert ranges.requests == []


def test_no_frame_needs_no_request(made: SetOnDisk) -> None:
    opened, ranges = _opened(made)
    assert list(opened.frames([])) == []
    assert ranges.requests == []


class Lying(MemoryRanges):
    """Ranges that give less or more than was asked for."""

    def __init__(self, data: bytes, *, more: bool) -> None:
        super().__init__(data)
        self.more = more

    def read(self, first: int, length: int, check: Check = lambda data: None) -> bytes:
        data = super().read(first, length, lambda data: None)
        data = data + b"x" if self.more else data[:-1]
        check(data)
        return data


@pytest.mark.parametrize("more", [False, True])
def test_source_that_gives_less_or_more_is_refused(made: SetOnDisk, more: bool) -> None:
    opened, _ = _opened(made)
    opened._reader = Lying(made.data, more=more)
    with pytest.raises(ComposerError):
        list(opened.frames(opened.index.of(Kind.DATA)))


def test_frame_that_is_damaged_is_named(made: SetOnDisk) -> None:
    opened, ranges = _opened(made)
    frame = list(opened.index.of(Kind.DATA))[1]
    changed = bytearray(made.data)
    changed[frame.offset + 1000] ^= 1
    ranges.data = bytes(changed)
    with pytest.raises(ComposerError, match=rf"frame {frame.number} \(data\)"):
        list(opened.frames([frame]))


def test_set_in_a_larger_file_is_opened_at_its_place(made: SetOnDisk, tmp_path: Path) -> None:
    path = tmp_path / "set.rpm"
    path.write_bytes(b"before" * 99 + made.data + b"behind")
    opened = open_file(path, start=594, length=len(made.data))
    assert opened.head == made.open().head
    assert opened.read_commit() == made.open().read_commit()
    with pytest.raises(FormatError):
        open_file(path, start=593, length=len(made.data))
    with pytest.raises(FormatError):
        open_file(path, start=594, length=len(made.data) + 1)


def test_file_ranges_end_where_the_file_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    ranges = FileRanges(tmp_path / "file", start=2)
    assert ranges.read(1, 4) == b"3456"
    assert ranges.read(8, 0) == b""
    with pytest.raises(FormatError, match="it was cut"):
        ranges.read(1, 8)


def test_head_and_index_must_agree_on_maps(made: SetOnDisk) -> None:
    out = io.BytesIO()
    writer = Writer(out)
    opened, _ = _opened(made)
    for number in range(len(opened.index)):
        frame = opened.index[number]
        if frame.kind == Kind.CONTENTS:
            writer.add(Kind.MAP, b"\0" * 33)
        ((_, data),) = opened.frames([frame])
        writer.add(frame.kind, data)
    writer.finish()
    with pytest.raises(FormatError, match="map frames differ"):
        JigdoSet(MemoryRanges(out.getvalue()), place_of(out.getvalue()))


@pytest.mark.parametrize("change", [-1, 1])
def test_place_of_another_index_is_refused(made: SetOnDisk, change: int) -> None:
    place = place_of(made.data)
    for wrong in (
        IndexPlace(place.offset + change, place.size, place.uncompressed, place.digest),
        IndexPlace(place.offset, place.size + change, place.uncompressed, place.digest),
    ):
        with pytest.raises(ComposerError):
            JigdoSet(MemoryRanges(made.data), wrong)
    less = IndexPlace(place.offset, place.size, place.uncompressed - 1, place.digest)
    with pytest.raises(ComposerError):
        JigdoSet(MemoryRanges(made.data), less)


def test_head_frame_is_proven(made: SetOnDisk) -> None:
    place = place_of(made.data)
    data = bytearray(made.data)
    data[40] ^= 1
    with pytest.raises((FormatError, ChecksumMismatch)):
        JigdoSet(MemoryRanges(bytes(data)), place)


def test_frame_larger_than_its_content_is_refused() -> None:
    # Nothing compresses to more than it is plus a little: a frame that does is there to
    # fill memory, which is bounded by what frames declare.
    kinds, sizes = bytes(range(1, 9)), [1] * 7 + [1 << 30]
    index = Index(kinds, bytes(8), bytes(8), sizes, [1] * 8, bytes(32 * 8))
    with pytest.raises(FormatError):
        Index.parse(index.dump(), index_offset=16 + sum(sizes))
    assert isinstance(index[7], Frame)
