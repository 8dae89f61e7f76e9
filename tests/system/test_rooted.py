"""Names below a root lead nowhere else, and nothing but regular files is opened."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from composer.system.rooted import Rooted


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/a").write_bytes(b"inside")
    (tree / "lib").symlink_to("/usr/lib")
    (tree / "out").symlink_to("../../../../../../etc")
    (tmp_path / "secret").write_bytes(b"secret")
    return tree


def _read(root: Path, name: str, size: int | None = None) -> bytes:
    with Rooted(root) as tree, tree.file(name, size=size) as stream:
        return stream.read()


@pytest.mark.parametrize("name", ["usr/lib/a", "/lib/a", "../../usr/lib/a", "/lib/../lib/a"])
def test_links_and_dots_stay_below_the_root(root: Path, name: str) -> None:
    assert _read(root, name) == b"inside"


@pytest.mark.parametrize(
    "name", ["../secret", "out/passwd", "usr", "usr/lib/a/b", "none", "", "a\0b", "lib"]
)
def test_what_is_not_below_the_root_is_not_there(root: Path, name: str) -> None:
    with pytest.raises(OSError):
        _read(root, name)


def test_a_link_in_a_files_place_is_not_followed(root: Path, tmp_path: Path) -> None:
    (root / "b").symlink_to(tmp_path / "secret")
    (root / "c").symlink_to("/usr/lib/a")
    with Rooted(root) as tree:
        assert tree.link("b") == os.fsencode(tmp_path / "secret")
        with pytest.raises(OSError):
            tree.link("usr/lib/a")
    for name in ("b", "c"):
        with pytest.raises(OSError):
            _read(root, name)


def test_another_size_a_pipe_or_a_device_is_not_opened(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(OSError):
        _read(root, "pipe")  # to open it would block
    with pytest.raises(OSError):
        _read(root, "usr/lib/a", size=7)
    assert _read(root, "usr/lib/a", size=6) == b"inside"
    if os.geteuid() == 0:
        os.mknod(root / "zero", 0o020644, os.makedev(1, 5))
        with pytest.raises(OSError):
            _read(root, "zero")


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("usr/lib/a", "none", "usr"):
        with contextlib.suppress(OSError):
            _read(root, name)
    assert len(os.listdir("/proc/self/fd")) == before
