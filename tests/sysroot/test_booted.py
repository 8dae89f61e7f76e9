"""A machine that runs from its sysroot, with /sysroot read-only, as Fedora's are.

What libostree knows a booted system by is made in namespaces: its root is the deployment's own
directory, and /run/ostree-booted is there.  The programs are this machine's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import jigdo, ostree

CHECKOUT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
    reason="needs root and loop devices",
)

_BOOT = """\
set -e
mount --bind "$D" "$D"
cd "$D"
mount --bind /usr usr
mount -t proc proc proc
mount --bind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
: >run/ostree-booted
mkdir -p "./$CHECKOUT"
mount --bind "$CHECKOUT" "./$CHECKOUT"
mount --bind "$S" sysroot
mount --bind "$S/boot" boot
mount -o remount,bind,ro sysroot
exec chroot . /bin/sh -euc 'cd /; ! touch /sysroot/x 2>/dev/null || exit 99
"$0" -m composer "$@"; ! touch /sysroot/x 2>/dev/null || exit 98' "$PYTHON" "$@"
"""


@contextmanager
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own: it is remounted."""
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as stream:
        stream.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def commit(root: Path, scratch: Path, version: int) -> str:
    """Commit a tree into which this machine's /usr can be mounted."""
    tree = scratch / f"tree-{version}"
    kernel = tree / "usr/lib/modules/1.0"
    kernel.mkdir(parents=True)
    for name in ("vmlinuz", "initramfs.img"):
        (kernel / name).write_text(f"{name} {version}")
    (tree / "usr/lib/os-release").write_text("ID=small\n")
    (tree / "usr/etc").mkdir()
    for name in ("boot", "dev", "proc", "run", "sysroot", "tmp", "var"):
        (tree / name).mkdir()
    for name in ("bin", "lib", "lib64", "sbin"):
        (tree / name).symlink_to(f"usr/{name}")
    (tree / "ostree").symlink_to("sysroot/ostree")
    words = ["--branch=os", f"--tree=dir={tree}", "--owner-uid=0", "--owner-gid=0"]
    return ostree(root / "ostree/repo", "commit", *words, f"--timestamp=@{version * 100}")


def booted(root: Path, running: str, *words: str) -> list[str]:
    """Run a command in the machine that runs ``running``; returns what is deployed then."""
    directory = root / f"ostree/deploy/small/deploy/{running}.0"
    variables = {"D": directory, "S": root, "CHECKOUT": CHECKOUT, "PYTHON": sys.executable}
    # Its own process 1, whose namespace libostree compares with that of the command.
    argv = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", _BOOT, "boot"]
    env = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    env |= {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*argv, *words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    rows = jigdo("status", "--sysroot", root, "--json").document["deployments"]
    return [row["commit"] for row in rows]


def test_read_only_sysroot_is_changed_and_stays_read_only_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTREE_SYSROOT_DEBUG", "mutable-deployments")
    with disk(tmp_path) as root:
        jigdo("os-init", "small", "--sysroot", root)
        first = commit(root, tmp_path, 1)
        jigdo("deploy", "os", "--sysroot", root)
        second = commit(root, tmp_path, 2)
        assert booted(root, first, "deploy") == [second, first]
        assert booted(root, first, "rollback") == [first, second]
        assert booted(root, first, "undeploy", "1") == [first]
