"""Few bytes that claim much: what a set may make a reader hold is bounded before it is made."""

from __future__ import annotations

import lzma
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import FormatError
from composer.jigdo.container import MAX_MAPS, MAX_METADATA_FRAME, MAX_TREE_FRAME, Index, Kind
from composer.jigdo.delta.frames import split_patches
from composer.jigdo.delta.table import MAX_CONTENTS, MAX_PIECES, parse_table
from composer.jigdo.description import parse_update
from composer.jigdo.encoding import prefixed, uvarint, uvarints
from composer.jigdo.manifest import parse_contents
from composer.jigdo.reader import MAX_DIRTREES
from composer.jigdo.repack import opened
from composer.jigdo.tree import MAX_PATH, walk
from composer.ostree.objects import dump_dirtree
from tests.jigdo.sets import SetOnDisk, open_bytes, rewritten
from tests.jigdo.systems import crafted_set

MIB = 1 << 20


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Require that no more than ``limit`` bytes are taken meanwhile."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= limit
    finally:
        tracemalloc.stop()


def _index(kinds: bytes, uncompressed: list[int]) -> bytes:
    count = len(kinds)
    columns = kinds + b"\1" * count + b"\x14" * count + uvarints([1] * count)
    return uvarint(count) + columns + uvarints(uncompressed) + bytes(32 * count)


@pytest.mark.parametrize(
    ("kind", "number", "size"),
    [
        (Kind.TREE, 3, MAX_TREE_FRAME),
        (Kind.TREE, 5000, 1 << 20),
        (Kind.MAP, MAX_MAPS // MAX_METADATA_FRAME + 1, MAX_METADATA_FRAME),
        (Kind.MAP, 100_000, 1 << 10),
    ],
)
def test_many_frames_that_unpack_to_much_are_refused_by_the_index(
    kind: Kind, number: int, size: int
) -> None:
    tree, maps = (number, 1) if kind is Kind.TREE else (1, number)
    kinds = b"\1\2\3" + b"\4" * tree + b"\5" + b"\6" * maps + b"\7"
    sizes = [size if own == kind else 10 for own in kinds]
    with pytest.raises(FormatError, match=f"{kind.name.lower()} frames claim more"):
        Index.parse(_index(kinds, sizes), index_offset=16 + len(kinds))


def test_more_contents_than_objects_are_refused() -> None:
    data = uvarint(200_000) + bytes(200_000) + uvarint(0)
    with at_most(MIB), pytest.raises(FormatError, match="200000 contents of 10 objects"):
        parse_contents(data, objects=10, headers=(), stream=0)


def _table(counts: Callable[[], bytes]) -> bytes:
    return bytes(32) + uvarint(0) + counts()


def _many_contents() -> bytes:
    count = MAX_CONTENTS + 1
    return uvarint(count) + bytes(4 * count) + uvarint(0) + uvarint(0)


def _many_pieces() -> bytes:
    count = MAX_PIECES + 1
    held = uvarint(1) + uvarint(9) + uvarint(count)
    return uvarint(1) + b"\0\0\1" + uvarint(count) + bytes(2 * count) + held + uvarint(0)


@pytest.mark.parametrize("make", [_many_contents, _many_pieces])
def test_table_of_too_much_is_refused_before_it_is_made(make: Callable[[], bytes]) -> None:
    data = _table(make)
    with at_most(8 * MIB), pytest.raises(FormatError, match="are allowed"):
        parse_table(data, objects=10, headers=(), frames=range(10))


def test_frame_of_very_many_empty_patches_is_refused_before_they_are_made() -> None:
    data = uvarint(1_000_000) + bytes(5_000_001)
    with at_most(MIB), pytest.raises(FormatError, match="1000000 patches instead of 1"):
        split_patches(data, [1])


def test_update_of_very_many_pieces_is_refused_before_they_are_made() -> None:
    codecs = bytes(1_000_000)
    data = bytes(32) + uvarint(0) + uvarint(0) + prefixed(codecs) + bytes(1_000_000)
    with at_most(2 * MIB), pytest.raises(FormatError, match="1000000 pieces"):
        parse_update(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SetOnDisk:
    return crafted_set(tmp_path_factory.mktemp("set"))


def test_frame_of_very_many_empty_dirtrees_is_refused(made: SetOnDisk) -> None:
    number = made.open().index.numbers(Kind.TREE)[0]
    jigdo = open_bytes(rewritten(made.data, replace={number: bytes(MAX_DIRTREES + 1)}))
    with pytest.raises(FormatError, match="more than 1048576 directories"):
        for _ in jigdo.dirtrees(jigdo.index.of(Kind.TREE)):
            pass


META = ObjectChecksum(bytes(32))


def _tree_of(name: str, width: int) -> tuple[ObjectChecksum, dict[ObjectChecksum, bytes]]:
    """Return a directory of a long name with very many directories in it."""
    known: dict[ObjectChecksum, bytes] = {}

    def add(directories: dict[str, ObjectChecksum]) -> ObjectChecksum:
        data = dump_dirtree({}, {name: (tree, META) for name, tree in directories.items()})
        checksum = ObjectChecksum(ContentDigest.of(data))
        known[checksum] = data
        return checksum

    leaf = add({})
    wide = add({f"{number:06}": leaf for number in range(width)})
    return add({name: wide}), known


def test_long_name_is_not_held_once_for_every_directory_below() -> None:
    root, known = _tree_of("n" * (MAX_PATH - 10), 20_000)
    with at_most(24 * MIB):
        assert sum(1 for _ in walk(root, known.__getitem__)) == 3


def test_path_longer_than_any_system_takes_is_refused() -> None:
    root, known = _tree_of("n" * MAX_PATH, 1)
    with pytest.raises(FormatError, match="a path of 4097 characters"):
        list(walk(root, known.__getitem__))


def test_base_that_asks_for_much_memory_stays_closed() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 28}]
    data = lzma.compress(bytes(range(256)) * 8, lzma.FORMAT_XZ, filters=filters)
    assert opened(data) is not None
    assert opened(data, window_limit=100 * MIB) is None
