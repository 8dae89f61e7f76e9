"""Commits laid over the tree."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from composer.compose.layers import LayerConflict, lay, resolve_layers
from composer.compose.tree import Tree
from composer.errors import NotFound
from composer.ostree.repo import Repository

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files owners")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    found = Tree(tmp_path / "tree")
    found.root.mkdir()
    found.directory("usr/lib")
    found.link("lib", "usr/lib")
    return found


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repo", mode="bare-user")


def commit(repository: Repository, ref: str, root: Path) -> None:
    command = ["ostree", f"--repo={repository.path}", "commit", "--branch", ref, str(root)]
    subprocess.run(command, check=True, capture_output=True)


def test_layers_bring_files_and_overrides_replace(
    tree: Tree, repository: Repository, tmp_path: Path
) -> None:
    layer = Tree(tmp_path / "layer")
    layer.write("lib/new", "new")
    layer.write("usr/lib/same", "same")
    layer.link("usr/lib/link", "same")
    layer.write("etc/conf", "conf")
    layer.directory("var/lib/state", mode=0o700)
    os.chown(layer.path("lib/new"), 33, 44)
    layer.path("lib/new").chmod(0o4755)
    os.chown(layer.path("var/lib/state"), 33, 44)
    os.setxattr(layer.path("usr/lib/same"), "user.x", b"x")
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(layer.path("lib/new"), "security.capability", value)
    commit(repository, "layer", layer.root)
    over = Tree(tmp_path / "over")
    over.write("usr/lib/same", "changed")
    commit(repository, "over", over.root)
    tree.write("usr/lib/same", "same")
    lay(tree, repository, resolve_layers(repository, ["layer"], ["over"], {}))
    status = tree.path("usr/lib/new").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (33, 44, 0o4755)
    assert os.getxattr(tree.path("usr/lib/new"), "security.capability") == value
    assert tree.read("usr/lib/same") == "changed"
    assert os.listxattr(tree.path("usr/lib/same")) == []
    assert str(tree.path("usr/lib/link").readlink()) == "same"
    assert tree.read("usr/etc/conf") == "conf"
    state = tree.path("var/lib/state").stat()
    assert (state.st_uid, stat.S_IMODE(state.st_mode)) == (33, 0o700)


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("usr/lib/file", False),
        ("usr/lib/link", False),
        ("usr/lib/directory", False),
        ("usr/lib/directory", True),
        ("usr/lib/file/below", True),
    ],
)
def test_conflicts_are_told(
    tree: Tree, repository: Repository, tmp_path: Path, name: str, override: bool
) -> None:
    layer = Tree(tmp_path / "layer")
    layer.write(name, "other")
    commit(repository, "layer", layer.root)
    tree.write("usr/lib/file", "x")
    tree.link("usr/lib/link", "file")
    tree.directory("usr/lib/directory")
    refs = (["layer"], []) if not override else ([], ["layer"])
    with pytest.raises(LayerConflict, match="layer layer: /usr/lib/"):
        lay(tree, repository, resolve_layers(repository, *refs, {}))


def test_nothing_is_written_through_links_of_the_tree(
    tree: Tree, repository: Repository, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    layer = Tree(tmp_path / "layer")
    layer.write("usr/lib/out/a", "x")
    layer.write("usr/lib/file", "x")
    commit(repository, "layer", layer.root)
    tree.link("usr/lib/out", str(outside))
    tree.directory(str(outside))
    tree.link("usr/lib/file", str(outside / "b"))
    lay(tree, repository, resolve_layers(repository, [], ["layer"], {}))
    assert list(outside.iterdir()) == []
    assert tree.read(f"{outside}/a") == "x"
    assert not tree.path("usr/lib/file").is_symlink()


def test_missing_ref_is_told(repository: Repository) -> None:
    for where in (repository, None):
        with pytest.raises(NotFound, match="ostree-override-layers: the repository has no ref x"):
            resolve_layers(where, [], ["x"], {})
