"""Tree order, ordinals and cuts: docs/format/jigdo.md section 5."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import FormatError
from composer.jigdo.encoding import Cursor
from composer.jigdo.tree import MAX_DEPTH, Cutter, Ordinals, Visit, tree_frames, walk
from composer.ostree.objects import DirTree, parse_dirtree
from composer.ostree.repo import Repository
from tests.jigdo.sets import write_tree
from tests.ostree.dirtrees import dump_dirtree

META = ObjectChecksum(b"\7" * 32)
EMPTY = DirTree((), ())


def _sha(text: str) -> ObjectChecksum:
    return ObjectChecksum(hashlib.sha256(text.encode()).digest())


class Store(dict[ObjectChecksum, bytes]):
    """Dirtrees in memory."""

    def add(self, files: dict[str, str], directories: dict[str, ObjectChecksum]) -> ObjectChecksum:
        data = dump_dirtree(
            {name: _sha(content) for name, content in files.items()},
            {name: (tree, META) for name, tree in directories.items()},
        )
        checksum = ObjectChecksum(hashlib.sha256(data).digest())
        self[checksum] = data
        return checksum


def test_tree_order_is_depth_first_and_each_dirtree_comes_once() -> None:
    store = Store()
    same = store.add({"x": "x"}, {})
    deep = store.add({}, {"same": same})
    top = store.add({"z": "z"}, {"a": deep, "b": same, "c": store.add({}, {"a": deep})})
    assert [(visit.path, visit.checksum) for visit in walk(top, store.__getitem__)] == [
        ("/", top),
        ("/a", deep),
        ("/a/same", same),
        ("/c", store.add({}, {"a": deep})),
    ]


def test_dirtree_is_loaded_once() -> None:
    store, loaded = Store(), []
    same = store.add({}, {})
    top = store.add({}, dict.fromkeys("abc", same))

    def load(checksum: ObjectChecksum) -> bytes:
        loaded.append(checksum)
        return store[checksum]

    list(walk(top, load))
    assert loaded == [top, same]


def test_tree_that_doubles_at_every_level_is_walked_once() -> None:
    store = Store()
    tree = store.add({"f": "f"}, {})
    for _ in range(200):
        tree = store.add({}, {"a": tree, "b": tree})
    assert sum(1 for _ in walk(tree, store.__getitem__)) == 201


def _nested(store: Store, depth: int) -> ObjectChecksum:
    tree = store.add({}, {})
    for level in range(depth):
        tree = store.add({"level": str(level)}, {"d": tree})
    return tree


def test_tree_nested_too_deep_is_refused() -> None:
    store = Store()
    assert sum(1 for _ in walk(_nested(store, MAX_DEPTH), store.__getitem__)) == MAX_DEPTH + 1
    with pytest.raises(FormatError, match="nested too deep"):
        list(walk(_nested(store, MAX_DEPTH + 1), store.__getitem__))


def test_malformed_dirtree_is_refused() -> None:
    with pytest.raises(FormatError):
        list(walk(META, lambda checksum: b"nonsense"))


def test_ordinals_count_objects_as_they_first_appear() -> None:
    store = Store()
    below = store.add({"1": "new", "2": "twice", "3": "later"}, {})
    top = store.add({"b": "twice", "c": "first", "d": "twice"}, {"a": below})
    ordinals = Ordinals()
    for visit in walk(top, store.__getitem__):
        ordinals.add(visit.tree)
    assert ordinals.checksums == [_sha(name) for name in ("twice", "first", "new", "later")]
    assert [ordinals[checksum] for checksum in ordinals.checksums] == [0, 1, 2, 3]
    assert len(ordinals) == 4


# --- cuts


def _visit(path: str, size: int) -> Visit:
    return Visit(path, META, b"x" * size, EMPTY)


# The first byte of SHA-256 of these paths is below 64, or not.
CUT, NO_CUT = "/usr/bin", "/usr"


def test_paths_of_the_tests_are_what_they_claim() -> None:
    assert hashlib.sha256(CUT.encode()).digest()[0] < 64
    assert hashlib.sha256(NO_CUT.encode()).digest()[0] >= 64


@pytest.mark.parametrize(
    ("before", "path", "cuts"),
    [
        (16_384, CUT, True),
        (16_383, CUT, False),
        (16_384, NO_CUT, False),
        (131_071, NO_CUT, False),
        (131_072, NO_CUT, True),
    ],
)
def test_frame_is_cut_by_size_and_path(before: int, path: str, cuts: bool) -> None:
    cutter = Cutter()
    length = before - (2 if before < 16_386 else 3)  # what stands before it is its length
    assert cutter.add(_visit("/", length)) is None
    done = cutter.add(_visit(path, 10))
    assert (done is not None) == cuts
    if done is not None:
        assert len(done) == before
        assert cutter.finish() == b"\x0a" + b"x" * 10


@given(st.lists(st.tuples(st.text("abc/", max_size=3), st.integers(0, 40_000)), max_size=30))
def test_cut_frames_hold_every_dirtree_in_order(trees: list[tuple[str, int]]) -> None:
    cutter, frames = Cutter(), []
    for path, size in trees:
        frame = cutter.add(_visit(f"/{path}", size))
        if frame is not None:
            frames.append(frame)
    frames.append(cutter.finish())
    cursor = Cursor(b"".join(frames), "test")
    assert [len(cursor.prefixed()) for _ in trees] == [size for _, size in trees]
    assert cursor.at_end
    assert all(frames[:-1])


def test_client_makes_the_frames_of_what_it_has(tmp_path: Path) -> None:
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    lines = [
        f"/usr/d{directory}/file-{number:04}-{'n' * 60} 0100644 0:0 {directory}"
        for directory in range(30)
        for number in range(20)
    ]
    commit = write_tree(repo, "\n".join(lines))
    root = repo.commit(commit).tree
    assert len(list(tree_frames(root, _load(repo)))) > 1
    # A change deep in one directory leaves most frames as they were.
    lines[-1] += "changed"
    other = write_tree(repo, "\n".join(lines))
    first = set(tree_frames(root, _load(repo)))
    second = set(tree_frames(repo.commit(other).tree, _load(repo)))
    assert 0 < len(second - first) < len(second)
    assert len(second & first) >= 1


def _load(repo: Repository) -> LoadDirtree:
    return LoadDirtree(repo)


class LoadDirtree:
    """Loads dirtrees of a repository."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo

    def __call__(self, checksum: ObjectChecksum) -> bytes:
        data = self._repo.metadata("dirtree", checksum)
        assert ContentDigest.of(data) == bytes(checksum)
        return data


def _names(tree: DirTree) -> Iterator[str]:
    yield from (entry.name for entry in tree.files)
    yield from (entry.name for entry in tree.directories)


def test_dirtrees_of_these_tests_are_what_libostree_writes(tmp_path: Path) -> None:
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    commit = write_tree(repo, "/b/c 0100644 0:0 1\n/a 0120777 0:0 b")
    root = repo.metadata("dirtree", repo.commit(commit).tree)
    tree = parse_dirtree(root)
    assert list(_names(tree)) == ["a", "b"]
    assert root == dump_dirtree(
        {entry.name: entry.checksum for entry in tree.files},
        {entry.name: (entry.tree, entry.meta) for entry in tree.directories},
    )
