"""RPM files on this machine: directories of them, caches of dnf.

Names say nothing here: a file is taken for a package when its size is the package's
and its SHA-256 is the pkgid.  Only files of a right size are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import UsageError
from composer.rpm.package import PackageRef

MAX_ENTRIES = 200_000
"""So many entries are looked at in one directory and all below it; the rest is left alone."""

_Identity = tuple[int, int, int, int]


class RpmCache:
    """What the directories have of the packages that are asked for."""

    def __init__(self, directories: Sequence[Path]) -> None:
        """Take directories; raises UsageError for one that is none."""
        for directory in directories:
            if not directory.is_dir():
                raise UsageError(
                    f"{directory}: not a directory",
                    hint="--rpm-cache takes a directory with RPM files, dnf's cache for one",
                )
        self._directories = directories
        self._found: dict[ContentDigest, tuple[Path, _Identity]] = {}

    def find(self, packages: Sequence[PackageRef]) -> Mapping[ContentDigest, Path]:
        """Return the proven files of ``packages`` that are here, by pkgid."""
        wanted: dict[int, list[PackageRef]] = {}
        for package in packages:
            wanted.setdefault(package.size, []).append(package)
        candidates = self._candidates(wanted)
        for size, paths in sorted(candidates.items()):
            pending = {package.pkgid for package in wanted[size]} - self._found.keys()
            names = {os.path.basename(package.location) for package in wanted[size]}
            for path in sorted(paths, key=lambda path: (path.name not in names, path)):
                if not pending:
                    break
                found = _hash(path, size)
                if found is not None and found[0] in pending:
                    self._found[found[0]] = path, found[1]
                    pending.remove(found[0])
        asked = {package.pkgid for package in packages}
        return {pkgid: path for pkgid, (path, _) in self._found.items() if pkgid in asked}

    def get(self, package: PackageRef) -> Path | None:
        """Return the file that :meth:`find` found, unless it changed since."""
        path, identity = self._found.get(package.pkgid, (None, None))
        if path is None:
            return None
        try:
            return path if _identity(os.lstat(path)) == identity else None
        except OSError:
            return None

    def _candidates(self, wanted: Mapping[int, object]) -> dict[int, list[Path]]:
        found: dict[int, list[Path]] = {}
        for directory in self._directories if wanted else ():
            for entry in _entries(directory):
                if not entry.name.endswith(".rpm"):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISREG(status.st_mode) and status.st_size in wanted:
                    found.setdefault(status.st_size, []).append(Path(entry.path))
        return found


def _entries(root: Path) -> Iterator[os.DirEntry[str]]:
    """Yield what is below ``root`` and can be read, never through a symlink."""
    pending, left = [str(root)], MAX_ENTRIES
    while pending:
        try:
            with os.scandir(pending.pop()) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if not left:
                return
            left -= 1
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            else:
                yield entry


def _hash(path: Path, size: int) -> tuple[ContentDigest, _Identity] | None:
    try:
        # Not a symlink, and not a pipe that came in its place and would block.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                return None
            return ContentDigest.of_stream(stream), _identity(status)
    except OSError:
        return None


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
