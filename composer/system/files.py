"""Files that appear whole or not at all, and the only place that says how.

Rule kept here: write beside the destination, flush to disk, rename.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from composer.errors import ComposerError, NoSpace

_AT_FDCWD, _EXCHANGE = -100, 2  # linux/fs.h

DISK_HINT = (
    "see the kernel's log (dmesg); once it works, run the same command again, and prove what is "
    "there: `repo fsck`"
)
"""What to do about a disk that fails."""


@contextmanager
def writing(destination: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file that becomes ``destination`` only when the block ends well.

    Raises NoSpace when the file system is full; the destination is then as it was.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{destination.name}.", dir=destination.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            if durable:
                os.fsync(stream.fileno())
        os.replace(name, destination)
    except OSError as error:
        _discard(name)
        raise explained(error, destination) from error
    except BaseException:
        _discard(name)
        raise
    if durable:
        sync_directory(destination.parent)


def write_bytes(destination: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write ``data`` to ``destination`` atomically."""
    with writing(destination, mode=mode, durable=durable) as stream:
        stream.write(data)


def sync_directory(directory: Path) -> None:
    """Make renames within ``directory`` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Let two files or directories of one file system change places, at once.

    Returns False where the file system cannot do that; raises OSError.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if not renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV, errno.EBUSY):
        return False
    raise OSError(number, os.strerror(number), str(second))


def explained(error: OSError, path: Path) -> Exception:
    """Return NoSpace for a full disk or quota, an error for a broken one, else what was given."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(
            f"{path}: no space left on its file system",
            hint="free some space there and run the same command again",
        )
    if error.errno == errno.EIO:
        return ComposerError(f"{path}: its disk failed: {error.strerror}", hint=DISK_HINT)
    return error


def remove_tree(root: Path) -> None:
    """Remove ``root`` and all below it, also where directories lack write permission.

    Never follows a symlink and never leaves ``root``.  Missing is fine.
    """
    import shutil

    tried: set[str] = set()

    def make_writable(function: Any, path: str, error: Any) -> None:
        if path in tried:
            raise error[1]
        tried.add(path)
        if path != str(root):
            os.chmod(os.path.dirname(path), stat.S_IRWXU)
        if function in (os.rmdir, os.unlink):
            function(path)
        else:
            os.chmod(path, stat.S_IRWXU)
            shutil.rmtree(path, onerror=make_writable)

    if root.is_symlink() or not root.exists():
        return
    shutil.rmtree(root, onerror=make_writable)


@contextmanager
def removing(paths: Iterable[str]) -> Iterator[None]:
    """Remove files in other processes while the block runs: it is the kernel's work, and slow.

    What cannot be removed is left, without a word.
    """
    with tempfile.TemporaryFile() as names:
        names.writelines(os.fsencode(path) + b"\0" for path in paths)
        names.seek(0)
        rm = ["xargs", "-0", "-r", "-n", "1000", "-P", "4", "rm", "-f", "--"]
        with subprocess.Popen(rm, stdin=names, stderr=subprocess.DEVNULL):
            yield


def _discard(name: str) -> None:
    try:
        os.unlink(name)
    except FileNotFoundError:
        return
