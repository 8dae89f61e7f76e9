"""Files of the tree that are still as librpm unpacked them, so that nobody has to read them.

librpm compares each file that it unpacks with the digest in the package's header, and the
package is proven whole.  Who could write to a file afterwards moves its ctime, which only
the kernel sets.  So the process that runs librpm notes inode and ctime of each file, and
whoever finds the same two later knows the bytes (:class:`composer.compose.rpm_child.Untouched`
says when that is sure).

Rule kept here: what is noted is told by a process in which a package's lua runs, and is not
trusted further than that package: all that it can bring about is that a file counts as one
that its package has.  Which digest that is, is read here, from the package itself.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from composer.checksum import ContentDigest
from composer.compose.packages import ComposedPackage
from composer.rpm.package import opened

_SHA256 = 8  # RPM_HASH_SHA256
_GHOST = 1 << 6  # RPMFILE_GHOST
# Names under which librpm keeps what was there before, and what it may not replace.
_SET_ASIDE = (".rpmorig", ".rpmsave", ".rpmnew")
# File systems on which every write moves ctime, also one through a mapping of the file.
_EXT, _BTRFS, _XFS = 0xEF53, 0x9123683E, 0x58465342
# ctime with nothing below this comes from a file system that keeps no finer time.
_FINE = 1_000_000


class Untouched:
    """What was noted of the files of ``packages``, which are in the order of the transaction."""

    def __init__(self, packages: Sequence[ComposedPackage]) -> None:
        self._packages = packages
        self._digests: dict[int, list[ContentDigest | None]] = {}
        self._noted: dict[int, tuple[int, ContentDigest | None]] = {}

    def note(self, files: Sequence[Sequence[int]]) -> None:
        """Take (package, index of the file in it, inode, ctime in nanoseconds) of each.

        Raises ValueError for what cannot have been noted.
        """
        for package, index, inode, changed in files:
            digest = self._digest(package, index)
            # Two packages' files cannot be one: then it is not known which of them it is.
            if inode in self._noted and self._noted[inode] != (changed, digest):
                digest = None
            self._noted[inode] = changed, digest

    def digest(self, status: os.stat_result) -> ContentDigest | None:
        """Return the digest of a file of the tree's file system, or None if it is not known."""
        changed, digest = self._noted.get(status.st_ino, (0, None))
        if changed != status.st_ctime_ns or not changed % _FINE or status.st_nlink != 1:
            return None
        # An empty file's digest is one that librpm does not compare.
        return digest if stat.S_ISREG(status.st_mode) and status.st_size else None

    def _digest(self, package: int, index: int) -> ContentDigest | None:
        if package not in self._digests:
            if not 0 <= package < len(self._packages):
                raise ValueError(f"no package has the number {package}")
            self._digests[package] = _digests(self._packages[package].path)
        digests = self._digests[package]
        return digests[index] if 0 <= index < len(digests) else None


def can_tell(root: Path) -> bool:
    """Whether the file system of ``root`` says by ctime that a file was written to."""
    return _file_system(root) in (_EXT, _BTRFS, _XFS)


def _file_system(path: Path) -> int:
    # struct statfs begins with its type, a long, and has far less than this.
    found = (ctypes.c_long * 64)()
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), found):
        return 0
    return int(found[0]) & 0xFFFFFFFF


def _digests(rpm: Path) -> list[ContentDigest | None]:
    """Return the digest of each file that librpm compares with its content, by index."""
    with opened(rpm) as (header, _):
        if header["filedigestalgo"] != _SHA256:
            return []
        names, inodes = header["filenames"] or [], header["fileinodes"] or []
        rows = zip(names, header["filedigests"], header["fileflags"], inodes, strict=True)
        # Of several names of one file librpm compares the last one's digest only.
        links = Counter(inodes)
        return [_comparable(links, *row) for row in rows]


def _comparable(
    links: Counter[int], name: str, digest: Any, flags: int, inode: int
) -> ContentDigest | None:
    if not digest or flags & _GHOST or links[inode] != 1 or name.endswith(_SET_ASIDE):
        return None
    return ContentDigest.parse(digest)
