"""What differs between two commits' trees (composer/ostree/difference.py)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from composer.checksum import ObjectChecksum
from composer.errors import ComposerError, NotFound
from composer.ostree.difference import FileChange, differences
from composer.ostree.objects import Header
from composer.ostree.repo import Repository
from composer.ostree.writing import TreeBuilder

REGULAR, LINK, DIRECTORY = 0o100644, 0o120777, 0o040755
Tree = dict[str, tuple[Header, bytes | None]]


def file(
    content: str = "", mode: int = REGULAR, uid: int = 0, **xattrs: str
) -> tuple[Header, bytes]:
    pairs = tuple((f"user.{key}".encode(), value.encode()) for key, value in xattrs.items())
    return Header(uid, 0, mode, pairs), content.encode()


def directory(mode: int = DIRECTORY) -> tuple[Header, None]:
    return Header(0, 0, mode), None


@pytest.fixture(params=["bare-user", "archive"])
def repo(tmp_path: Path, request: pytest.FixtureRequest) -> Repository:
    made = Repository.create(tmp_path / "repo", mode=request.param)
    made.disable_fsync()
    return made


def commit(repo: Repository, tree: Tree) -> ObjectChecksum:
    with repo.transaction():
        builder = TreeBuilder(repo)
        for path, (header, content) in tree.items():
            if content is None:
                builder.add_directory(path, header)
            else:
                builder.add_file(path, repo.writer(header).write(content, None))
        roots = builder.write()
    with repo.transaction():
        return repo.write_commit(*roots, subject="", metadata={}, timestamp=0)


def changes(repo: Repository, before: Tree, after: Tree) -> list[FileChange]:
    return list(differences(repo, commit(repo, before), commit(repo, after)))


def noted(
    function: Callable[[ObjectChecksum], object], calls: list[ObjectChecksum]
) -> Callable[[ObjectChecksum], object]:
    def call(checksum: ObjectChecksum) -> object:
        calls.append(checksum)
        return function(checksum)

    return call


def brief(found: list[FileChange]) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(change.path, change.kind, change.what) for change in found]


def test_equal_trees_have_no_difference(repo: Repository) -> None:
    tree: Tree = {"/usr/a": file("a"), "/usr/b": file("b", LINK)}
    assert changes(repo, tree, tree) == []


def test_respects_are_told_apart(repo: Repository) -> None:
    before: Tree = {
        "/content": file("one"),
        "/label": file("same", label="a"),
        "/mode": file("same"),
        "/owner": file("same"),
        "/several": file("one"),
        "/target": file("one", LINK),
        "/type": file("one"),
        "/dir": directory(),
    }
    after: Tree = {
        "/content": file("two"),
        "/label": file("same", label="b"),
        "/mode": file("same", 0o104755),
        "/owner": file("same", uid=7),
        "/several": file("other size", 0o100600, uid=7, label="b"),
        "/target": file("two", LINK),
        "/type": file("one", LINK),
        "/dir": directory(0o041777),
    }
    assert brief(changes(repo, before, after)) == [
        ("/content", "changed", ("content",)),
        ("/dir", "changed", ("mode",)),
        ("/label", "changed", ("xattrs",)),
        ("/mode", "changed", ("mode",)),
        ("/owner", "changed", ("owner",)),
        ("/several", "changed", ("content", "mode", "owner", "xattrs")),
        ("/target", "changed", ("content",)),
        ("/type", "changed", ("type",)),
    ]


def test_added_and_removed_directories_are_listed_whole(repo: Repository) -> None:
    before: Tree = {"/old/deep/a": file(), "/same/x": file()}
    after: Tree = {"/new/b": file("12345"), "/same/x": file()}
    found = changes(repo, before, after)
    assert brief(found) == [
        ("/new", "added", ()),
        ("/new/b", "added", ()),
        ("/old", "removed", ()),
        ("/old/deep", "removed", ()),
        ("/old/deep/a", "removed", ()),
    ]
    entry = found[1].after
    assert entry is not None
    assert (entry.type, entry.size, entry.mode) == ("file", 5, 0o644)


def test_file_that_becomes_a_directory_is_one_change_and_what_is_below(repo: Repository) -> None:
    found = changes(repo, {"/a": file("x", LINK)}, {"/a/b": file()})
    assert brief(found) == [("/a", "changed", ("type",)), ("/a/b", "added", ())]
    found = changes(repo, {"/a/b": file()}, {"/a": file("x", LINK)})
    assert brief(found) == [("/a", "changed", ("type",)), ("/a/b", "removed", ())]


def test_same_bytes_in_large_files_under_another_header_are_no_other_content(
    repo: Repository,
) -> None:
    data = os.urandom(3 << 20).hex()
    before: Tree = {"/big": file(data)}
    found = changes(repo, before, {"/big": file(data, 0o100755)})
    assert brief(found) == [("/big", "changed", ("mode",))]
    found = changes(repo, before, {"/big": file(data[:-1] + "!", 0o100755)})
    assert brief(found) == [("/big", "changed", ("content", "mode"))]


def test_equal_subtrees_are_not_read(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    same: Tree = {f"/same/{n}/{m}": file(f"{n}{m}") for n in range(5) for m in range(5)}
    old, new = commit(repo, {**same, "/x": file("1")}), commit(repo, {**same, "/x": file("2")})
    read: list[ObjectChecksum] = []
    monkeypatch.setattr(repo, "dirtree", noted(repo.dirtree, read))
    assert len(list(differences(repo, old, new))) == 1
    assert read == [repo.commit(old).tree, repo.commit(new).tree]


def test_first_change_comes_before_the_rest_is_read(
    repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = commit(repo, {})
    new = commit(repo, {f"/d{n}/{m}": file(f"{n}{m}") for n in range(20) for m in range(20)})
    read: list[ObjectChecksum] = []
    monkeypatch.setattr(repo, "content", noted(repo.content, read))
    found = differences(repo, old, new)
    assert [next(found).path, next(found).path] == ["/d0", "/d0/0"]
    assert len(read) == 1
    assert len(list(found)) == 20 + 400 - 2


def test_commit_of_which_a_part_is_missing_is_told(repo: Repository) -> None:
    old, new = commit(repo, {}), commit(repo, {"/a": file()})
    (repo.path / "state").mkdir(exist_ok=True)
    marker = repo.path / "state" / f"{new}.commitpartial"
    marker.touch()
    with pytest.raises(NotFound, match="only a part"):
        differences(repo, old, new)
    marker.unlink()
    (path,) = (repo.path / "objects").rglob("*.file*")
    path.unlink()
    with pytest.raises(ComposerError):
        list(differences(repo, old, new))
