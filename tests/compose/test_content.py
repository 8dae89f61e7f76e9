"""Files added to the tree, taken out of it, and changed everywhere in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from composer.compose.content import (
    DeviceInTree,
    FileNotAdded,
    add_file,
    protect_executables,
    settle_devices,
)
from composer.compose.os_release import mutate_os_release
from composer.compose.removal import remove_from_packages
from composer.compose.tree import BadTree, Tree
from composer.compose.values import RemoveFrom
from tests.compose.rpms import File, Spec, build, composed

WHERE = "os.yaml: add-files[0] (line 3)"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    found = Tree(tmp_path / "tree")
    found.root.mkdir()
    for name in ("usr/lib", "usr/etc", "usr/bin", "var"):
        found.directory(name)
    found.link("lib", "usr/lib")
    found.link("usr/local", "../var/usrlocal")
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "motd"
    path.write_text("hello")
    return path


def test_added_file_has_one_of_two_modes(tree: Tree, source: Path) -> None:
    source.chmod(0o664)
    add_file(tree, source, "/etc/new/motd", WHERE)
    source.chmod(0o700)
    add_file(tree, source, "lib/tool", WHERE)
    for name, mode in (("usr/etc/new/motd", 0o644), ("usr/lib/tool", 0o755)):
        assert tree.read(name) == "hello"
        assert stat.S_IMODE(tree.path(name).stat().st_mode) == mode
    assert stat.S_IMODE(tree.path("usr/etc/new").stat().st_mode) == 0o755


def test_added_file_replaces_a_link_and_not_what_it_leads_to(tree: Tree, source: Path) -> None:
    tree.write("usr/lib/keep", "kept")
    tree.link("usr/lib/name", "keep")
    add_file(tree, source, "usr/lib/name", WHERE)
    assert (tree.read("usr/lib/keep"), tree.read("usr/lib/name")) == ("kept", "hello")


@pytest.mark.parametrize(
    "target",
    [
        "/usr/lib/../../../out",
        "../out",
        "/",
        "",
        "/usr",
        "/var/lib/x",
        "/opt/x",
        "/usr/local/x",
        "/boot/x",
        "/usr/out/x",
        "/usr/state/deep/x",
        "/usr/machine/x",
        "/usr/loop/x",
        "/usr/lib",
        "/usr/lib/file/x",
    ],
)
def test_added_file_stays_where_a_commit_has_files(
    tree: Tree, source: Path, tmp_path: Path, target: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree.link("usr/out", str(outside))
    tree.link("usr/state", "../var/lib")
    tree.link("usr/machine", "/usr/local/share")
    tree.link("usr/loop", "loop")
    tree.write("usr/lib/file", "")
    with pytest.raises(FileNotAdded, match=r"os\.yaml: add-files\[0\] \(line 3\)"):
        add_file(tree, source, target, WHERE)
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_link_to_configuration_leads_to_where_it_is(tree: Tree, source: Path) -> None:
    tree.link("usr/lib/conf", "/etc/app")
    add_file(tree, source, "/usr/lib/conf/a", WHERE)
    assert tree.read("usr/etc/app/a") == "hello"
    assert not tree.exists("etc")


def test_only_regular_files_are_added(tree: Tree, tmp_path: Path) -> None:
    with pytest.raises(FileNotAdded, match="is not there"):
        add_file(tree, tmp_path / "gone", "/usr/lib/x", WHERE)
    with pytest.raises(FileNotAdded, match="not a regular file"):
        add_file(tree, tmp_path, "/usr/lib/x", WHERE)


def test_executables_can_lose_the_permission_to_write(tree: Tree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o755)
    tree.write("usr/bin/a", "", mode=0o4755)
    tree.write("usr/lib/b", "", mode=0o664)
    tree.link("usr/bin/c", str(outside))
    protect_executables(tree)
    modes = {n: stat.S_IMODE(tree.path(n).stat().st_mode) for n in ("usr/bin/a", "usr/lib/b")}
    assert modes == {"usr/bin/a": 0o4555, "usr/lib/b": 0o664}
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make device files")
def test_devices_are_left_out_or_refused(tree: Tree) -> None:
    os.mknod(tree.path("usr/lib/white"), stat.S_IFCHR | 0o600, os.makedev(0, 0))
    settle_devices(tree, ignore=False)
    assert tree.read("usr/lib/.ostree-wh.white") == ""
    assert stat.S_IMODE(tree.path("usr/lib/.ostree-wh.white").stat().st_mode) == 0o600
    os.mknod(tree.path("usr/lib/null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(DeviceInTree, match="/usr/lib/null"):
        settle_devices(tree, ignore=False)
    settle_devices(tree, ignore=True)
    assert not tree.exists("usr/lib/null")
    assert not tree.exists("usr/lib/white")


OS_RELEASE = 'NAME=Test\n\nVERSION="42 (Base)"\nVERSION_ID=42\nPRETTY_NAME="Test 42"\n'


@pytest.mark.parametrize("link", ["../usr/lib/os-release", "/usr/lib/os-release"])
def test_os_release_says_the_version(tree: Tree, link: str) -> None:
    tree.write("usr/lib/os-release", OS_RELEASE)
    tree.link("usr/etc/os-release", link)
    mutate_os_release(tree, "42", "42.7")
    assert (tree.read("usr/lib/os-release") or "").splitlines() == [
        "NAME=Test",
        'VERSION="42.7 (Base)"',
        "VERSION_ID=42",
        'PRETTY_NAME="Test 42.7"',
        "OSTREE_VERSION='42.7'",
    ]
    assert tree.path("usr/etc/os-release").is_symlink()


def test_os_release_needs_a_version_and_a_file(tree: Tree) -> None:
    mutate_os_release(tree, "42", "")
    with pytest.raises(BadTree, match="mutate-os-release"):
        mutate_os_release(tree, "42", "42.1")
    tree.write("usr/etc/os-release", "VERSION=42\n")
    mutate_os_release(tree, "42", "it's")
    assert tree.read("usr/etc/os-release") == "VERSION=it's\nOSTREE_VERSION='it'\\''s'\n"


def test_files_of_a_package_are_removed_by_pattern(tree: Tree, tmp_path: Path) -> None:
    files = ("/etc/app.conf", "/usr/share/app/a.txt", "/usr/share/app/b/c", "/usr/share/both")
    app = build(Spec("app", files={name: File() for name in files}), tmp_path)
    other = build(Spec("other", files={"/usr/share/both": File(), "/etc/o": File()}), tmp_path)
    for name in (*files, "/etc/o"):
        tree.write(name, "")
    tree.write("usr/share/app/made", "by a scriptlet")
    packages = [composed(app), composed(other)]
    removals = [
        RemoveFrom("app", ("^/usr/share/(app$|bo.h)", "^/usr/etc/.*")),
        RemoveFrom("gone", (".*",)),
    ]
    remove_from_packages(tree, packages, removals)
    left = [name for name in (*files, "/etc/o") if tree.exists(name)]
    assert left == ["/usr/share/both", "/etc/o"]
    assert not tree.exists("usr/share/app/b")
    assert tree.exists("usr/share/app/made")


def test_hostile_pattern_ends_soon(tree: Tree, tmp_path: Path) -> None:
    name = f"/usr/share/{'a' * 60}b"
    app = build(Spec("app", files={name: File()}), tmp_path)
    tree.write(name, "")
    remove_from_packages(tree, [composed(app)], [RemoveFrom("app", ("/(a+)+$",))])
    assert tree.exists(name)
