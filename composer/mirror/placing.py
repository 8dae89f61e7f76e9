"""RPMs put into a repository: shared with their source where that can be, always proven.

Rules kept here: what is visible under a name is whole, verified, and on disk; a name that is
taken is never given to another content.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, ComposerError, VerificationFailed
from composer.mirror.known import STATE, KnownFiles
from composer.system.files import explained, sync_directory

# linux/fs.h: the destination shares the source's bytes until one of them changes.
_FICLONE = 0x40049409
_CHUNK = 1 << 20
_READABLE = 0o444


class NameTaken(ComposerError):
    """Another content has the name already."""


@dataclass(slots=True)
class Placed:
    """How many RPMs came, and in which way; ``bytes`` are those that were copied."""

    linked: int = 0
    cloned: int = 0
    copied: int = 0
    bytes: int = 0
    here: int = 0

    @property
    def count(self) -> int:
        """How many are new."""
        return self.linked + self.cloned + self.copied


class Placer:
    """Puts RPMs into ``repository``, of which the caller has the lock."""

    def __init__(self, repository: Path, known: KnownFiles) -> None:
        self._repository, self._known = repository, known
        self._staging = repository / STATE / "staging"
        self._touched: set[Path] = set()
        self.placed = Placed()

    def begin(self) -> None:
        """Make room for what comes, without what a run that was killed has left."""
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)

    def end(self) -> None:
        """Make what came survive a power cut."""
        for directory in sorted(self._touched):
            sync_directory(directory)
        shutil.rmtree(self._staging, ignore_errors=True)

    def has(self, location: str, pkgid: ContentDigest) -> bool:
        """Tell whether the RPM is there; raises NameTaken where another is."""
        if not os.path.lexists(self._repository / location):
            return False
        if (here := self._known.pkgid(location)) == pkgid:
            return True
        raise NameTaken(
            f"{location}: another RPM of this name is published already",
            details=[f"its SHA-256 is {here}, that of the new one {pkgid}"],
            hint="clients may be reading it, and sets name it by its content: give the new one "
            "another release",
        )

    def place(
        self,
        rpm: Path,
        location: str,
        pkgid: ContentDigest,
        *,
        time: int | None = None,
        ours: bool = False,
    ) -> None:
        """Put an RPM to ``location``, unless it is there.

        Its time is ``rpm``'s, or ``time``, in seconds; a file that is ``ours`` may get that
        itself.  Raises ChecksumMismatch where it is not
        the one that was promised, VerificationFailed where it changes meanwhile, NameTaken.
        """
        if self.has(location, pkgid):
            self.placed.here += 1
            return
        path = self._repository / location
        staged = self._staging / f"{pkgid}.rpm"
        try:
            self._stage(rpm, staged, pkgid, time, ours)
            self._make_directory(path.parent)
            os.replace(staged, path)
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise explained(error, path) from error
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        self._touched.add(path.parent)
        self._known.remember(location, pkgid)

    @staticmethod
    def copy(rpm: Path, destination: Path, pkgid: ContentDigest) -> None:
        """Copy an RPM that is to be changed, and require it to be what was promised."""
        with rpm.open("rb") as source:
            _require(rpm, _copy(source, destination), pkgid)

    def _stage(
        self, rpm: Path, staged: Path, pkgid: ContentDigest, time: int | None, ours: bool
    ) -> None:
        with rpm.open("rb") as source:
            before = os.fstat(source.fileno())
            if clone(source, staged):
                self.placed.cloned += 1
                actual = _digest(staged)
            elif (ours or time in (None, before.st_mtime)) and _link(rpm, staged, before):
                self.placed.linked += 1
                actual = ContentDigest.of_stream(source)
            else:
                actual = _copy(source, staged)
                self.placed.copied += 1
                self.placed.bytes += before.st_size
            _require_unchanged(rpm, before)
        _require(rpm, actual, pkgid)
        nanoseconds = before.st_mtime_ns if time is None else time * 1_000_000_000
        _finish(staged, nanoseconds, own=ours or staged.stat().st_nlink == 1)

    def _make_directory(self, path: Path) -> None:
        missing = []
        while not path.exists():
            missing.append(path)
            path = path.parent
        for one in reversed(missing):
            one.mkdir()
            self._touched.add(one.parent)


def _require(rpm: Path, actual: ContentDigest, pkgid: ContentDigest) -> None:
    if actual != pkgid:
        raise ChecksumMismatch(
            what=str(rpm),
            expected=str(pkgid),
            actual=str(actual),
            hint="it is damaged, or rpm-md is older than it: get it again, or run "
            "`createrepo_c --update` there",
        )


def _require_unchanged(rpm: Path, before: os.stat_result) -> None:
    after = rpm.stat()
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (
        after.st_size,
        after.st_mtime_ns,
        after.st_ino,
    ):
        raise VerificationFailed(
            f"{rpm}: changed while it was read",
            hint="wait until whatever writes it is done, and run this again",
        )


def clone(source: BinaryIO, destination: Path) -> bool:
    """Make a file that shares its bytes with another, where the file system can."""
    try:
        with destination.open("xb") as new:
            fcntl.ioctl(new.fileno(), _FICLONE, source.fileno())
    except OSError as error:
        destination.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS):
            raise
        return False
    return True


def _link(rpm: Path, destination: Path, status: os.stat_result) -> bool:
    """Make a hard link, where the file can be read by all as it is; its mode is its own."""
    if status.st_mode & _READABLE != _READABLE:
        return False
    try:
        os.link(os.path.realpath(rpm), destination)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        return False
    return destination.stat().st_ino == status.st_ino


def _copy(source: BinaryIO, destination: Path) -> ContentDigest:
    state = hashlib.sha256()
    with destination.open("wb") as new:
        while piece := source.read(_CHUNK):
            state.update(piece)
            new.write(piece)
    return ContentDigest(state.digest())


def _finish(path: Path, time: int, *, own: bool) -> None:
    """Flush a file; one that is our own gets its mode and time first."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if own:
            os.fchmod(descriptor, 0o644)
            os.utime(descriptor, ns=(time, time))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> ContentDigest:
    with path.open("rb") as stream:
        return ContentDigest.of_stream(stream)
