"""The place where a compose works: below the cache directory, and gone when it ends.

A compose that was killed leaves its directory; the next one removes it.  A lock that
the kernel drops with the process tells which ones are in use.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composer.system.files import remove_tree


@contextmanager
def workspace(cachedir: Path) -> Iterator[Path]:
    """Make an empty directory on the file system of ``cachedir``, removed at the end."""
    work = cachedir / "composing"
    work.mkdir(parents=True, exist_ok=True)
    _remove_stale(work)
    path = Path(tempfile.mkdtemp(prefix="compose-", dir=work))
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    finally:
        remove_tree(path)
        os.close(lock)


def _remove_stale(work: Path) -> None:
    for path in sorted(work.glob("compose-*")):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
