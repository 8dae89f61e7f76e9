"""Whole disks: images in a directory, and a loop device as the disk of a machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from composer.errors import EXIT_BUSY, UsageError
from composer.ostree.locking import changing, removing, using
from composer.sysroot.disk import DiskInUse, require_unused
from composer.sysroot.grub import find_grub
from tests.commands import Done, jigdo
from tests.sysroot.conftest import REF, Scene

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(),
    reason="needs root and loop devices",
)
SIZE = "256M"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    # On the image deployments are immutable, as on any disk; it goes as one file.
    monkeypatch.delenv("OSTREE_SYSROOT_DEBUG", raising=False)
    return {"JIGDO_COMPOSER_CONFIG": str(tmp_path / "config"), "TMPDIR": str(tmp_path)}


def install(scene: Scene, disk: Path, env: dict[str, str], *words: object, status: int = 0) -> Done:
    """Install what the scene has committed, from its repository."""
    repo = scene.sysroot.repo.path
    return jigdo("install", REF, "--disk", disk, "--repo", repo, *words, env=env, status=status)


def used_loops(path: Path) -> str:
    """Loop devices over a file."""
    argv = ["losetup", "--noheadings", "--associated", str(path)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def require_clean(path: Path) -> None:
    """Require that nothing is left mounted, and no loop device."""
    # The kernel lets go of a loop device a moment after its last user.
    for _ in range(50):
        if not used_loops(path):
            break
        time.sleep(0.1)
    assert used_loops(path) == ""
    assert "jigdo-disk." not in Path("/proc/self/mounts").read_text()


@contextmanager
def mounted(image: Path, offset: int, place: Path) -> Iterator[Path]:
    place.mkdir()
    options = f"loop,offset={offset},ro,noload"
    subprocess.run(["mount", "-t", "ext4", "-o", options, image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def table(image: Path) -> Any:
    argv = ["sfdisk", "--json", str(image)]
    return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)[
        "partitiontable"
    ]


def test_image_has_a_partition_a_file_system_and_the_commit(
    scene: Scene, tmp_path: Path, env: dict[str, str]
) -> None:
    commit = scene.commit("1")
    image, boot = tmp_path / "disk.img", tmp_path / "boot"
    words = ("--size", SIZE, "--boot-files", boot, "--karg", "console=ttyS0", "--json")
    done = install(scene, image, env, *words).document
    assert image.stat().st_size == 256 << 20
    assert image.stat().st_blocks * 512 < 64 << 20
    assert table(image)["label"] == "gpt"
    assert len(table(image)["partitions"]) == 2
    assert done["deployment"]["commit"] == str(commit)
    assert done["deployment"]["os"] == "small"
    assert (boot / "vmlinuz").read_text() == "kernel"
    assert (boot / "initramfs.img").read_text() == "initramfs"
    line = (boot / "cmdline").read_text().strip()
    assert line == done["arguments"]
    assert line.startswith(f"root=UUID={done['uuid']} rw console=ttyS0 ostree=/ostree/boot.")
    require_clean(image)
    # Nothing has to be recovered: it was unmounted.
    check = ["e2fsck", "-fn", f"{image}?offset={done['offset']}"]
    assert subprocess.run(check, check=False, capture_output=True).returncode == 0
    with mounted(image, done["offset"], tmp_path / "mnt") as root:
        link = line.partition("ostree=/")[2].split()[0]
        assert (root / link / "usr/lib/os-release").read_text().startswith("ID=small")
        assert (root / link / "etc/settings").read_text() == "default\n"
        assert "no errors found" in jigdo_fsck(root)


def jigdo_fsck(root: Path) -> str:
    argv = ["ostree", f"--repo={root}/ostree/repo", "fsck"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_image_that_is_there_needs_wipe(scene: Scene, tmp_path: Path, env: dict[str, str]) -> None:
    scene.commit("1")
    image = tmp_path / "disk.img"
    image.write_text("precious")
    said = install(scene, image, env, "--size", SIZE, status=1).err
    assert "--wipe" in said
    assert image.read_text() == "precious"
    install(scene, image, env, "--size", SIZE, "--wipe")
    assert table(image)["label"] == "gpt"


def test_what_does_not_fit_leaves_no_image_and_no_mount(
    scene: Scene, tmp_path: Path, env: dict[str, str]
) -> None:
    tree = scene.scratch / "large/usr/share"
    tree.mkdir(parents=True)
    (tree / "large").write_bytes(os.urandom(300 << 20))
    scene.commit("1", words=(f"--tree=dir={tree.parents[1]}",))
    image = tmp_path / "disk.img"
    said = install(scene, image, env, "--size", SIZE, status=4).err
    assert "--size" in said
    assert not image.exists()
    require_clean(image)


def test_commit_that_cannot_boot_leaves_no_image(
    scene: Scene, tmp_path: Path, env: dict[str, str]
) -> None:
    scene.commit("1", {"usr/lib/modules/1.0/vmlinuz": None})
    image = tmp_path / "disk.img"
    assert "no kernel" in install(scene, image, env, "--size", SIZE, status=1).err
    assert not image.exists()
    require_clean(image)


def test_killed_install_keeps_others_off_and_leaves_no_mount_and_no_loop_device(
    scene: Scene, tmp_path: Path, env: dict[str, str]
) -> None:
    tree = scene.scratch / "large/usr/share"
    tree.mkdir(parents=True)
    (tree / "large").write_bytes(os.urandom(100 << 20))
    scene.commit("1", words=(f"--tree=dir={tree.parents[1]}",))
    image = tmp_path / "disk.img"
    words = ["install", REF, "--disk", image, "--repo", scene.sysroot.repo.path, "--size", SIZE]
    process = subprocess.Popen(
        [sys.executable, "-m", "composer", *map(str, words)], env={**os.environ, **env}
    )
    for _ in range(600):
        if used_loops(image) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    assert process.poll() is None
    said = install(scene, image, env, "--size", SIZE, "--wipe", status=EXIT_BUSY).err
    assert "another process is at work on it" in said
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    require_clean(image)


def test_nothing_is_removed_from_where_it_is_copied_from(
    scene: Scene, tmp_path: Path, env: dict[str, str]
) -> None:
    commit = scene.commit("1")
    words = ("--size", SIZE)
    with removing(scene.sysroot.repo):
        said = install(scene, tmp_path / "disk.img", env, *words, status=EXIT_BUSY).err
        assert "another process is at work in it" in said
        assert not (tmp_path / "disk.img").exists()
    with using(scene.sysroot.repo), changing(scene.sysroot.repo):  # set build, pull
        done = install(scene, tmp_path / "disk.img", env, *words, "--json").document
    assert done["deployment"]["commit"] == str(commit)


def test_image_needs_a_size_that_a_system_fits_into(
    scene: Scene, tmp_path: Path, env: dict[str, str]
) -> None:
    scene.commit("1")
    image = tmp_path / "disk.img"
    assert "--size" in install(scene, image, env, status=2).err
    assert "no system fits" in install(scene, image, env, "--size", "1M", status=2).err
    assert "not a size" in install(scene, image, env, "--size", "much", status=2).err
    assert not image.exists()


@contextmanager
def loop_device(image: Path) -> Iterator[Path]:
    """A block device, as a machine's disk would be one."""
    argv = ["losetup", "--find", "--show", "--partscan", str(image)]
    device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_device_is_installed_to(scene: Scene, tmp_path: Path, env: dict[str, str]) -> None:
    scene.commit("1")
    image = tmp_path / "disk"
    image.touch()
    os.truncate(image, 300 << 20)
    with loop_device(image) as device:
        assert "leave out --size" in install(scene, device, env, "--size", SIZE, status=2).err
        done = install(scene, device, env, "--json").document
        assert table(device)["label"] == "gpt"
        # It holds something now.
        assert "--wipe" in install(scene, device, env, status=1).err
        install(scene, device, env, "--wipe")
    require_clean(image)
    assert done["boot_loader"] == ("GRUB, for BIOS" if find_grub() else None)


def test_device_with_something_mounted_is_left_alone_even_with_wipe(
    scene: Scene, tmp_path: Path, env: dict[str, str]
) -> None:
    scene.commit("1")
    image, place = tmp_path / "disk", tmp_path / "mnt"
    image.touch()
    place.mkdir()
    os.truncate(image, 64 << 20)
    with loop_device(image) as device:
        subprocess.run(["mkfs.ext4", "-q", device], check=True)
        subprocess.run(["mount", device, place], check=True)
        try:
            (place / "precious").write_text("data")
            said = install(scene, device, env, "--wipe", status=1).err
            assert f"is mounted on {place}" in said
            assert (place / "precious").read_text() == "data"
        finally:
            subprocess.run(["umount", place], check=True)


def test_image_behind_a_loop_device_is_in_use(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.touch()
    os.truncate(image, 1 << 20)
    with loop_device(image), pytest.raises(DiskInUse, match="loop"):
        require_unused(image, wipe=True)


def test_directory_is_no_disk(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither"):
        require_unused(tmp_path, wipe=True)
