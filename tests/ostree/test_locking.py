"""Locks of a repository: one that changes it, or many that read it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from composer.errors import EXIT_BUSY, ComposerError
from composer.ostree.locking import (
    Busy,
    Holder,
    changing,
    composing,
    reading,
    removing,
    using,
)
from composer.ostree.repo import Repository

_HOLD = """
import sys
from pathlib import Path
from composer.ostree import locking
from composer.ostree.repo import Repository
with getattr(locking, sys.argv[2])(Repository.open(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repo", mode="bare-user")


@contextmanager
def _held(repo: Repository, how: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the repository while the block runs."""
    argv = [sys.executable, "-c", _HOLD, str(repo.path), how]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_who_changes_it_is_named_to_others(repo: Repository) -> None:
    with _held(repo, "changing") as other:
        for lock in (changing, reading):
            with pytest.raises(Busy) as refused, lock(repo):
                pass
            assert refused.value.exit_status == EXIT_BUSY
            assert f"process {other.pid}, since 2" in refused.value.details[0]
            assert str(repo.path) in refused.value.details[0]
            assert "--wait" in refused.value.hint


def test_readers_share_and_keep_out_who_changes(repo: Repository) -> None:
    with _held(repo, "reading"):
        with reading(repo):
            pass
        with pytest.raises(Busy) as refused, changing(repo):
            pass
        assert refused.value.holder == Holder()


def test_a_lock_ends_with_its_process(repo: Repository) -> None:
    with _held(repo, "changing") as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        with reading(repo), pytest.raises(Busy) as refused, changing(repo):
            pass
        assert refused.value.holder == Holder(), "not the one that is dead"
        with changing(repo):
            pass


def test_who_failed_is_not_taken_for_who_is_at_work(repo: Repository) -> None:
    with pytest.raises(RuntimeError), changing(repo):
        raise RuntimeError
    with (repo.path / "extensions/jigdo/lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # of another program
        with pytest.raises(Busy) as refused, changing(repo):
            pass
    assert refused.value.holder == Holder()


def test_waiting_says_for_whom_and_ends_when_it_is_free(repo: Repository) -> None:
    told: list[Holder] = []
    with _held(repo, "changing") as other:

        def tell(holder: Holder) -> None:
            told.append(holder)
            threading.Timer(0.1, other.kill).start()

        with changing(repo, tell):
            assert other.wait(5) == -signal.SIGKILL
    assert [holder.pid for holder in told] == [other.pid]


def test_a_lock_is_not_followed_through_a_link(repo: Repository, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (repo.path / "extensions/jigdo").mkdir(parents=True)
    (repo.path / "extensions/jigdo/lock").symlink_to(victim)
    with pytest.raises((ComposerError, OSError)), changing(repo):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
@pytest.mark.parametrize("how", ["changing", "reading"])
def test_a_repository_of_someone_else_is_told(how: str) -> None:
    """Reading it needs no lock.  Others may not enter the directories that pytest makes."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        _someone_else(Repository.create(Path(place) / "repo", mode="bare-user"), how)


def _someone_else(repo: Repository, how: str) -> None:
    code = f"import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n{_HOLD}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(repo.path), how],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if how == "reading":
        assert done.stdout == "held\n", done.stderr
    else:
        assert "the repository is not yours to change: it belongs to user 0" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_read_only_file_system_is_told(repo: Repository) -> None:
    subprocess.run(["mount", "--bind", repo.path, repo.path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", repo.path], check=True)
        with pytest.raises(ComposerError, match="read-only") as refused, changing(repo):
            pass
        assert refused.value.hint
        with reading(repo):
            pass
    finally:
        subprocess.run(["umount", repo.path], check=True)


def test_who_uses_it_keeps_out_who_removes_and_nobody_else(repo: Repository) -> None:
    with _held(repo, "using"):
        with using(repo), changing(repo):
            pass
        with pytest.raises(Busy) as refused, removing(repo):
            pass
        assert refused.value.exit_status == EXIT_BUSY
    with _held(repo, "removing") as other:
        for lock in (using, changing, removing, reading):
            with pytest.raises(Busy) as refused, lock(repo):
                pass
            assert refused.value.holder.pid == other.pid


def test_who_waits_to_remove_does_not_hold_up_who_changes(repo: Repository) -> None:
    """Someone who uses it may wait for its turn to change it: held both ways, nobody went on."""
    waits = threading.Event()

    def remove() -> None:
        with removing(repo, lambda holder: waits.set()):
            pass

    with using(repo):
        waiter = threading.Thread(target=remove)
        waiter.start()
        assert waits.wait(5)
        with changing(repo):
            pass
    waiter.join(5)
    assert not waiter.is_alive()


def test_one_compose_of_a_ref_at_a_time(repo: Repository) -> None:
    with composing(repo, "one"):
        with pytest.raises(Busy) as refused, composing(repo, "one"):
            pass
        assert refused.value.holder.pid == os.getpid()
        with composing(repo, "other/../../x"), changing(repo):
            pass
    with composing(repo, "one"):
        pass
