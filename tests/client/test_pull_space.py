"""A full disk: status 4, nothing broken, and the rest once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.published import BASE, MINIMAL, Published, fsck
from tests.client.pulling import Client, check_message, rpm_requests, run_here
from tests.commands import ostree
from tests.fixtures_os.repos import FixtureRepos
from tests.net.lying_mirror import LyingMirror


class SmallDisk:
    """A tmpfs at ``path``, with a client on it."""

    def __init__(self, path: Path, published: Published) -> None:
        self.path = path
        self._published = published
        self.client = self.fresh_client()

    def fresh_client(self) -> Client:
        """A client with an empty repository, instead of the one before."""
        self.resize()
        shutil.rmtree(self.path / "client", ignore_errors=True)
        self.client = Client.create(self.path / "client", self._published)
        return self.client

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


def test_disk_that_fills_up_at_any_moment_is_told(disk: SmallDisk, mirror: LyingMirror) -> None:
    """Files run out, which nobody looks at in advance: from the first to the last one."""
    steps = [1, 4, 12, 40, 100, *range(170, 600, 11)]
    for more in steps:
        client = disk.fresh_client()
        client.add_remote(mirror.url)
        disk.resize(inodes=disk.inodes + more)
        done = client.run()
        if done.status == 0:
            break
        assert done.status == 4, done.err
        check_message(done.err, "no space left", str(disk.path))
        disk.resize()
        client.require_unchanged("")
        if more in steps[:5]:
            client.completes()
    assert steps[5] < more < steps[-1]
    client.require_unchanged(client.published.commit(MINIMAL, 2))


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program takes the space after it was looked at."""
    monkeypatch.setattr("composer.client.carrying.check_space", lambda *args, **options: None)


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


def test_import_that_fills_the_disk_at_any_moment_is_told(
    disk: SmallDisk, fixture_repos: FixtureRepos
) -> None:
    (rpm,) = fixture_repos.gen1.rglob("vcs-*.rpm")
    for more in range(2, 200, 3):
        repo = disk.fresh_client().repo
        disk.resize(inodes=disk.inodes + more)
        done = run_here("repo", "import", rpm, "--repo", repo)
        fsck(repo)
        if done.status == 0:
            break
        assert done.status == 4, done.err
        check_message(done.err, "no space left", str(disk.path))
        assert ostree(repo, "refs") == ""
        disk.resize()
    assert 20 < more < 199
    assert ostree(repo, "refs") == "jigdo/pkg/vcs/2.47.0-1.fx.x86_64"
