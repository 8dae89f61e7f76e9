"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from composer.errors import NoSpace
from composer.system.files import explained, remove_tree, write_bytes, writing


class Stop(Exception):
    """Ends a block."""


@pytest.mark.parametrize("durable", [True, False])
def test_file_appears_with_content_and_mode(tmp_path: Path, durable: bool) -> None:
    target = tmp_path / "new" / "directory" / "file"
    with writing(target, mode=0o640, durable=durable) as stream:
        stream.write(b"content")
        assert not target.exists()
    assert target.read_bytes() == b"content"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert list(target.parent.iterdir()) == [target]


def test_mode_does_not_depend_on_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, OSError])
def test_failure_keeps_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "file"
    write_bytes(target, b"old")

    def fail() -> None:
        with writing(target) as stream:
            stream.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_symlink_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"kept")
    (tmp_path / "file").symlink_to("elsewhere")
    write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"
    assert not (tmp_path / "file").is_symlink()


def test_full_file_system_is_no_space_and_keeps_the_old_file(tmp_path: Path) -> None:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)]
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    try:
        write_bytes(mounted / "file", b"old")
        with pytest.raises(NoSpace, match=f"{mounted}/file: no space left") as error:
            write_bytes(mounted / "file", bytes(2 << 20))
        assert error.value.exit_status == 4
        assert (mounted / "file").read_bytes() == b"old"
        assert [path.name for path in mounted.iterdir()] == ["file"]
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_and_quota_are_no_space(code: int) -> None:
    assert isinstance(explained(OSError(code, "full"), Path("/x")), NoSpace)


def test_other_errors_stay_what_they_are() -> None:
    error = OSError(errno.EACCES, "no")
    assert explained(error, Path("/x")) is error


# --- removing


def test_missing_tree_is_fine(tmp_path: Path) -> None:
    remove_tree(tmp_path / "missing")


def test_symlinks_are_removed_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "kept").mkdir(parents=True)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    (tree / "dangling").symlink_to("nowhere")
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").is_dir()
    (tmp_path / "root").symlink_to(outside)
    remove_tree(tmp_path / "root")
    assert (outside / "kept").is_dir()


_AS_NOBODY = """
import os, sys
from pathlib import Path
from composer.system.files import remove_tree
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
top = Path(sys.argv[1])
place = top / "tree" / "a" / "b"
place.mkdir(parents=True)
(place / "file").touch()
for path in (place / "file", place, place.parent):
    path.chmod(int(sys.argv[2], 8))
remove_tree(top / "tree")
assert not (top / "tree").exists()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("mode", ["0555", "0500", "0000"])
def test_tree_without_write_permission_is_removed(mode: str) -> None:
    with _world_writable() as top:
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, str(top), mode],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert not done.returncode, done.stderr
        assert stat.S_IMODE(top.stat().st_mode) == 0o777


class _world_writable:  # noqa: N801 - used as a function
    """A directory that any user may write to; pytest's own are the test user's alone."""

    def __enter__(self) -> Path:
        import tempfile

        self.path = Path(tempfile.mkdtemp())
        self.path.chmod(0o777)
        return self.path

    def __exit__(self, *error: object) -> None:
        subprocess.run(["rm", "-rf", str(self.path)], check=True)
