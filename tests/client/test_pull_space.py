"""A full disk: status 4, nothing broken, and the rest once there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.published import BASE, MINIMAL, Published, copy_of
from tests.client.pulling import Client, rpm_requests
from tests.commands import ostree
from tests.net.lying_mirror import LyingMirror


class SmallDisk:
    """A tmpfs at ``path``, with a client on it."""

    def __init__(self, path: Path, published: Published) -> None:
        self.path = path
        copy_of(published.root / "config", path / "client/config")
        ostree(path / "client/repo", "init", "--mode=bare-user")
        self.client = Client(path / "client", published)

    def resize(self, *, size: str = "400m", inodes: int = 20000) -> None:
        """Let it hold this much."""
        options = f"remount,size={size},nr_inodes={inodes}"
        subprocess.run(["mount", "-o", options, self.path], check=True)

    @property
    def inodes(self) -> int:
        """How many are in use."""
        status = os.statvfs(self.path)
        return status.f_files - status.f_ffree


@pytest.fixture
def disk(published: Published, tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=400m,nr_inodes=20000", "tmpfs", str(path)]
    if subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield SmallDisk(path, published)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_too_small_a_disk_is_told_before_anything_large_moved(
    disk: SmallDisk, mirror: LyingMirror
) -> None:
    disk.resize(size="40m")
    disk.client.add_remote(mirror.url)
    disk.client.refused(str(disk.client.repo), "bytes are needed", status=4, ref=BASE)
    assert not rpm_requests(mirror.log)
    disk.resize()
    disk.client.completes(BASE)


def test_space_that_ostree_keeps_free_counts_as_used(disk: SmallDisk, mirror: LyingMirror) -> None:
    ostree(disk.client.repo, "config", "set", "core.min-free-space-size", "415MB")
    disk.client.add_remote(mirror.url)
    disk.client.refused(str(disk.client.repo), "bytes are needed", status=4)
    assert not rpm_requests(mirror.log)
    ostree(disk.client.repo, "config", "set", "core.min-free-space-size", "1MB")
    disk.client.completes()


@pytest.mark.parametrize("more", [1, 4, 12, 40, 100, 220])
def test_disk_that_fills_up_on_the_way_is_told(
    more: int, disk: SmallDisk, mirror: LyingMirror
) -> None:
    """Files run out, which nobody looks at in advance: an ENOSPC at some later moment."""
    disk.client.add_remote(mirror.url)
    disk.resize(inodes=disk.inodes + more)
    disk.client.refused("no space left", str(disk.path), status=4)
    disk.resize()
    disk.client.completes()


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program takes the space after it was looked at."""
    monkeypatch.setattr("composer.client.pull.check_space", lambda *args, **options: None)


@pytest.mark.usefixtures("unforeseen")
@pytest.mark.parametrize("size", ["1m", "3m", "6m", "8m"])
def test_bytes_that_run_out_on_the_way_are_told(
    size: str, disk: SmallDisk, mirror: LyingMirror
) -> None:
    disk.client.add_remote(mirror.url)
    disk.resize(size=size)
    disk.client.refused("no space left", status=4)
    disk.resize()
    assert disk.client.completes()["updated"]


@pytest.mark.usefixtures("unforeseen")
def test_what_arrived_before_the_disk_was_full_is_not_fetched_again(
    published: Published, disk: SmallDisk, mirror: LyingMirror
) -> None:
    disk.client.add_remote(mirror.url)
    disk.resize(size="7m")
    disk.client.refused("no space left", status=4)
    seen = len(mirror.log)
    arrived = published.set_rpm(MINIMAL, 2).arrived(disk.client.repo)
    assert arrived
    disk.resize()
    disk.client.completes()
    assert not arrived & {one.path for one in rpm_requests(mirror.log[seen:])}
