"""`repo prune`: what nobody needs goes, the rest stays, and the bytes are told exactly."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from composer.ostree.locking import using
from composer.ostree.repo import Repository
from tests.client.published import MINIMAL, Published, fsck, staged_objects
from tests.client.pulling import Client, await_true, check_message, run_here
from tests.commands import Done, ostree
from tests.net.lying_mirror import LyingMirror


@pytest.fixture
def updated(published: Published, mirror: LyingMirror, updatable: Client) -> Client:
    """A client that has both generations, of files that are its own alone."""
    updatable.add_remote(mirror.url)
    updatable.completes()
    copy = updatable.place / "copy"
    shutil.copytree(updatable.repo, copy, symlinks=True)
    shutil.rmtree(updatable.repo)
    copy.rename(updatable.repo)
    for path in updatable.repo.glob("objects/??/*.file"):  # copytree keeps the attributes
        assert path.stat().st_nlink == 1
    return updatable


def _prune(client: Client, *words: object, status: int = 0) -> Done:
    done = run_here("repo", "prune", "--repo", client.repo, "--json", *words)
    assert done.status == status, done.err
    return done


def _used(repo: Path) -> int:
    """Bytes of the disk of all files."""
    return sum(p.lstat().st_blocks * 512 for p in repo.rglob("*") if not p.is_dir())


def _commits(repo: Path) -> set[str]:
    return {p.parent.name + p.stem for p in repo.glob("objects/??/*.commit")}


def test_nothing_is_removed_under_who_uses_it(updated: Client) -> None:
    before = _commits(updated.repo)
    with using(Repository.open(updated.repo)):  # a compose, or a set that is built
        check_message(_prune(updated, status=75).err, "another process is at work in it", "--wait")
    assert _commits(updated.repo) == before


def test_old_version_goes_and_the_new_one_stays(published: Published, updated: Client) -> None:
    one, two = (published.commit(MINIMAL, number) for number in (1, 2))
    before = _used(updated.repo)
    planned = _prune(updated, "--dry-run").document
    assert _used(updated.repo) == before
    assert _commits(updated.repo) == {one, two}
    done = _prune(updated).document
    assert {**done, "dry_run": True} == planned
    assert done["commits"] == [one]
    assert done["kept"] == [two]
    assert done["bytes"] == before - _used(updated.repo) > 0
    assert _commits(updated.repo) == {two}
    updated.require_unchanged(two)
    assert ostree(updated.repo, "prune", "--refs-only").splitlines()[-1].startswith("No unreach")
    again = _prune(updated).document
    assert (again["objects"], again["bytes"]) == (0, 0)


def test_versions_are_kept_by_number(published: Published, updated: Client) -> None:
    both = {published.commit(MINIMAL, number) for number in (1, 2)}
    for keep in (2, 3):
        assert _prune(updated, "--keep", keep).document["objects"] == 0
        assert _commits(updated.repo) == both
    fsck(updated.repo)


def test_version_before_a_skipped_one_is_kept(published: Published, updated: Client) -> None:
    """The commit says which ref it is for: the history need not be whole."""
    lone = ostree(
        updated.repo,
        "commit",
        f"--branch={MINIMAL}",
        "--parent=none",
        f"--tree=ref={MINIMAL}",
        "--timestamp=@4000000000",
        f"--bind-ref={MINIMAL}",
    )
    kept = _prune(updated, "--keep", 2).document["kept"]
    assert set(kept) == {lone, published.commit(MINIMAL, 2)}


def test_deployed_commits_are_kept(published: Published, updated: Client, tmp_path: Path) -> None:
    one, two = (published.commit(MINIMAL, number) for number in (1, 2))
    system = tmp_path / "system" / "ostree"
    (system / "deploy/fixture/deploy" / f"{one}.0").mkdir(parents=True)
    (system / "deploy/fixture/deploy" / f"{one}.0.origin").touch()
    shutil.copytree(updated.repo, system / "repo", symlinks=True)
    (tmp_path / "link").symlink_to(system / "repo")
    done = run_here("repo", "prune", "--repo", tmp_path / "link", "--json")
    assert done.status == 0, done.err
    assert done.document["deployed"] == {one: f"fixture {one}.0"}
    assert _commits(system / "repo") == {one, two}
    fsck(system / "repo")


def test_what_has_a_name_elsewhere_frees_nothing(updated: Client, tmp_path: Path) -> None:
    before = _prune(updated, "--dry-run").document
    (tmp_path / "checkout").mkdir()
    for path in updated.repo.glob("objects/??/*.file"):
        os.link(path, tmp_path / "checkout" / path.name)
    after = _prune(updated, "--dry-run").document
    assert after["objects"] == before["objects"]
    assert 0 < after["bytes"] < before["bytes"]


def test_what_an_interrupted_pull_left_goes(mirror: LyingMirror, updatable: Client) -> None:
    location = updatable.published.set_rpm(MINIMAL, 2).locations()["kernel-core"]
    mirror.stall(1_000_000, location)
    updatable.add_remote(mirror.url)
    before = len(staged_objects(updatable.repo))
    process = updatable.start()
    await_true(lambda: any(one.sent == 1_000_000 for one in mirror.requests(location)))
    await_true(lambda: len(staged_objects(updatable.repo)) > before)
    refused = run_here("repo", "prune", "--repo", updatable.repo)
    assert refused.status == 75
    check_message(refused.err, f"process {process.pid}")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    here = len(staged_objects(updatable.repo))
    done = _prune(updatable).document
    assert done["leftovers"] >= 2
    assert done["leftover_bytes"] > 1_000_000
    assert len(staged_objects(updatable.repo)) < here
    assert not list(updatable.repo.glob("tmp/jigdo-*"))
    assert not list(updatable.repo.glob("tmp/staging-*"))
    updatable.require_unchanged(updatable.head())
    mirror.honest()
    updatable.completes()


def test_damage_that_hides_what_is_needed_stops_it(published: Published, updated: Client) -> None:
    before = len(staged_objects(updated.repo))
    two = published.commit(MINIMAL, 2)
    root = ostree(updated.repo, "show", "--raw", two)
    assert root
    for path in sorted(updated.repo.glob("objects/??/*.dirtree")):
        path.unlink()
    check_message(_prune(updated, status=3).err, "cannot be known", "repo fsck --repair")
    assert len(staged_objects(updated.repo)) <= before
    assert _commits(updated.repo) == {published.commit(MINIMAL, 1), two}


def test_another_program_at_work_is_told(updated: Client) -> None:
    """libostree's own lock: its transactions keep a prune out."""
    ostree(updated.repo, "config", "set", "core.lock-timeout-secs", "0")
    hold = (
        "import fcntl, sys; lock = open(sys.argv[1], 'w+'); fcntl.lockf(lock, fcntl.LOCK_EX); "
        "print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, updated.repo / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        done = run_here("repo", "prune", "--repo", updated.repo)
        holder.kill()
    assert done.status == 75
    check_message(done.err, "another process is at work in it", str(updated.repo))


def test_less_than_the_refs_own_commit_cannot_be_kept(updated: Client) -> None:
    assert run_here("repo", "prune", "--repo", updated.repo, "--keep", "0").status == 2
