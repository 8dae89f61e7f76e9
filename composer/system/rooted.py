"""Files below a directory that nobody vouches for, opened without leaving it.

The kernel resolves names (openat2) with the directory as the root: ".." and absolute
symlinks stay in it.  Nothing but regular files of the expected size is opened for reading: what a
name leads to is looked at first, through a descriptor that opens nothing, so a device or a
pipe in a file's place is left alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Self

from composer.errors import MissingRequirement

_OPENAT2 = 437  # the same on every architecture: linux/uapi/asm-generic/unistd.h
_NO_MAGICLINKS, _IN_ROOT = 0x02, 0x10  # linux/openat2.h
_TRIES = 16


class _How(ctypes.Structure):
    """``struct open_how`` of linux/openat2.h."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


@lru_cache(maxsize=1)
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


class Rooted:
    """A directory taken as a root.  Names are relative to it or begin with a slash."""

    def __init__(self, path: Path) -> None:
        """Open the directory; raises OSError."""
        self.path = path
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the directory back."""
        os.close(self._root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _place(self, name: str) -> Iterator[int]:
        """Open what ``name`` is, a symlink itself, as a descriptor that only names it."""
        how = _How(os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGICLINKS)
        raw = os.fsencode(name)
        if b"\0" in raw:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        for _ in range(_TRIES):
            size = ctypes.c_size_t(ctypes.sizeof(how))
            found = _libc().syscall(_OPENAT2, self._root, raw, ctypes.byref(how), size)
            # EAGAIN: something was renamed while the kernel looked.
            if found >= 0 or ctypes.get_errno() != errno.EAGAIN:
                break
        if found < 0:
            number = ctypes.get_errno()
            if number == errno.ENOSYS:
                raise MissingRequirement(
                    "this kernel cannot open files below a root (openat2)",
                    hint="Linux 5.6 or newer can",
                )
            raise OSError(number, os.strerror(number), name)
        try:
            yield found
        finally:
            os.close(found)

    def link(self, name: str) -> bytes:
        """Return the target of the symlink ``name``; raises OSError when it is none."""
        with self._place(name) as place:
            return os.readlink(b"", dir_fd=place)

    @contextmanager
    def file(self, name: str, *, size: int | None = None) -> Iterator[BinaryIO]:
        """Open the regular file ``name`` (of ``size`` bytes) for reading; raises OSError."""
        with self._place(name) as place:
            status = os.fstat(place)
            if not stat.S_ISREG(status.st_mode) or size not in (None, status.st_size):
                raise OSError(errno.EINVAL, "not such a file", name)
            # The very file that was looked at, whatever its name leads to by now.
            stream = open(f"/proc/self/fd/{place}", "rb", buffering=0)  # noqa: SIM115
        with stream:
            yield stream
