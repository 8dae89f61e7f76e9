"""Who may do what in a repository at one time.

Locks are flock(2) on files in ``extensions/jigdo``, so they end with their process, however that
ends.  Who changes the repository writes into the file who it is, for those that find it locked.

- ``lock``: one that changes it (:func:`changing`), or many that read all of it.
- ``used``: many that need its objects for a long time and leave others to change it meanwhile
  (:func:`using`), or one that removes objects (:func:`removing`).
- ``composing-*``, for each ref: one compose of it.

Nobody waits for one of them while it holds one that is further down in the order ``composing``,
``used``, ``lock``; a sysroot's lock, which is libostree's, comes before all of them.
libostree's own lock of a repository, which its transactions and its prune take, comes last; it
knows nothing of what lies between two transactions.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from composer.errors import EXIT_BUSY, ComposerError
from composer.ostree.repo import Repository
from composer.system.files import explained

_MOST = 4096


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a repository; ``pid`` is 0, and the rest empty, where that is not known."""

    pid: int = 0
    command: str = ""
    since: str = ""

    def __str__(self) -> str:
        """Describe it to a person."""
        return (
            f"process {self.pid}, since {self.since}: {self.command}"
            if self.pid
            else "a process that reads it, or does not say who it is"
        )


class Busy(ComposerError):
    """Another process is at work in the repository."""

    exit_status = EXIT_BUSY

    def __init__(self, path: Path, holder: Holder) -> None:
        super().__init__(
            f"{path}: another process is at work in it",
            details=[str(holder)],
            hint="wait until it has ended (--wait does), or end it",
        )
        self.holder = holder


Wait = Callable[[Holder], object]
"""Called once when there is someone to wait for; then it is waited."""


@contextmanager
def changing(repo: Repository, wait: Wait | None = None) -> Iterator[None]:
    """Keep others that change it out while the block runs; raises Busy at once without ``wait``."""
    with _alone(repo.path, "lock", wait):
        yield


@contextmanager
def removing(repo: Repository, wait: Wait | None = None) -> Iterator[None]:
    """As :func:`changing`, and keep those out too that use its objects."""
    with _alone(repo.path, "used", wait), changing(repo, wait):
        yield


@contextmanager
def composing(repo: Repository, ref: str, wait: Wait | None = None) -> Iterator[None]:
    """Keep other composes of ``ref`` out; raises Busy as :func:`changing` does."""
    name = hashlib.sha256(ref.encode()).hexdigest()[:16]
    with _alone(repo.path, f"composing-{name}", wait):
        yield


@contextmanager
def reading(repo: Repository, wait: Wait | None = None) -> Iterator[None]:
    """Keep those out that change the repository; where it is not ours to lock, hope for the best.

    Raises Busy as :func:`changing` does.
    """
    with _shared(repo.path, "lock", wait):
        yield


@contextmanager
def using(repo: Repository, wait: Wait | None = None) -> Iterator[None]:
    """Keep those out that remove objects; as :func:`reading` in all else."""
    with _shared(repo.path, "used", wait):
        yield


@contextmanager
def alone_with(lock: Path, path: Path, wait: Wait | None = None) -> Iterator[None]:
    """Keep others out that take the same file ``lock``, of ``path``, which messages name.

    Raises Busy as :func:`changing` does.
    """
    handle = _open_file(lock, path)
    try:
        _lock(path, handle, fcntl.LOCK_EX, wait)
        _write(handle, _me())
        try:
            yield
        finally:
            _write(handle, b"")
    finally:
        os.close(handle)


@contextmanager
def _shared(path: Path, name: str, wait: Wait | None) -> Iterator[None]:
    handle = -1
    with suppress(ComposerError, OSError):
        handle = _open_file(_place(path, name), path)
    try:
        if handle >= 0:
            _lock(path, handle, fcntl.LOCK_SH, wait)
            _write(handle, b"")
        yield
    finally:
        if handle >= 0:
            os.close(handle)


@contextmanager
def _alone(path: Path, name: str, wait: Wait | None) -> Iterator[None]:
    with alone_with(_place(path, name), path, wait):
        yield


def _place(path: Path, name: str) -> Path:
    return path / "extensions" / "jigdo" / name


def _open_file(place: Path, path: Path) -> int:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Nobody else may keep its owner out of a repository.
        return os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _told(error, path) from error


def _told(error: OSError, path: Path) -> Exception:
    if error.errno == errno.EROFS:
        return ComposerError(
            f"{path}: its file system is read-only",
            hint="mount it writable: mount -o remount,rw",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ComposerError(
            f"{path}: the repository is not yours to change: it belongs to user "
            f"{path.stat().st_uid}, and you are {os.geteuid()}",
            hint="run as that user or as root, or use a repository of your own",
        )
    return explained(error, path)


def _lock(path: Path, handle: int, kind: int, wait: Wait | None) -> None:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _read(handle)
        if wait is None:
            raise Busy(path, holder) from None
        wait(holder)
        fcntl.flock(handle, kind)


def _me() -> bytes:
    # `python -m composer` has the path of a file as its name.
    words = ["jigdo-composer" if "composer" in sys.argv[0] else sys.argv[0], *sys.argv[1:]]
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    document = {"pid": os.getpid(), "since": since, "command": shlex.join(words)[: _MOST // 2]}
    return json.dumps(document).encode()[:_MOST]


def _write(handle: int, data: bytes) -> None:
    """Say who has it; a disk that is full must not keep anyone from making room."""
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, data, 0)
    except OSError:
        return


def _read(handle: int) -> Holder:
    try:
        found = json.loads(os.pread(handle, _MOST, 0))
        return Holder(int(found["pid"]), str(found["command"]), str(found["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder()
