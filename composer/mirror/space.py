"""What published versions take on a mirror: each alone, and what they share.

:func:`weigh` is pure; :func:`read_needs` opens the sets of a repository on this machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import ComposerError, FormatError
from composer.jigdo.pointer import PointerEntry
from composer.mirror.needs import Place
from composer.net.fetch import Fetcher
from composer.net.location import safe_location
from composer.net.sets import open_published
from composer.rpm.package import PackageRef, retained_location


@dataclass(frozen=True, slots=True)
class Needs:
    """A version and the RPMs that its commit is made of; ``error`` says why its set is no set."""

    entry: PointerEntry
    packages: tuple[PackageRef, ...] = ()
    error: ComposerError | None = None


@dataclass(frozen=True, slots=True)
class VersionSpace:
    """What a version takes, in bytes of RPMs, its set's among them.

    ``own`` would be free without it, ``shared`` are needed by others too.  ``adds`` is what
    neither newer versions of its ref nor other refs need: what it costs to keep one more.
    """

    entry: PointerEntry
    own: int
    shared: int
    adds: int

    @property
    def bytes(self) -> int:
        """All that it needs."""
        return self.own + self.shared


@dataclass(frozen=True, slots=True)
class Space:
    """Versions as they were given; ``bytes`` has each RPM once."""

    versions: tuple[VersionSpace, ...]
    bytes: int

    def of(self, entry: PointerEntry) -> VersionSpace:
        """Return that of one version."""
        return next(one for one in self.versions if one.entry == entry)


def weigh(versions: Sequence[Needs], here: Container[ContentDigest] | None = None) -> Space:
    """Say what versions take; of RPMs that are not ``here``, nothing is counted (None: all are).

    A version is newer than another of its ref by its time, then by its commit.
    """
    files = [_files(version, here) for version in versions]
    users = Counter(pkgid for own in files for pkgid in own)
    found: dict[int, VersionSpace] = {}
    older: dict[str, Counter[ContentDigest]] = {}
    for number in sorted(range(len(versions)), key=lambda one: _age(versions[one])):
        entry, own = versions[number].entry, files[number]
        seen = older.setdefault(entry.ref, Counter())
        seen.update(own.keys())
        alone = sum(size for pkgid, size in own.items() if users[pkgid] == 1)
        adds = sum(size for pkgid, size in own.items() if users[pkgid] == seen[pkgid])
        found[number] = VersionSpace(entry, alone, sum(own.values()) - alone, adds)
    together: dict[ContentDigest, int] = {}
    for own in files:
        together |= own
    return Space(tuple(found[number] for number in range(len(found))), sum(together.values()))


def _files(version: Needs, here: Container[ContentDigest] | None) -> dict[ContentDigest, int]:
    own = {one.pkgid: one.size for one in version.packages if here is None or one.pkgid in here}
    return own | {version.entry.pkgid: version.entry.size}


def _age(version: Needs) -> tuple[int, bytes]:
    return version.entry.timestamp, version.entry.commit


def read_needs(repository: Path, entries: Iterable[PointerEntry]) -> list[Needs]:
    """Open the sets of ``entries``, and say what each needs; an error is told in its place."""
    return read_needs_of(Place.of(str(repository)).url, entries)


def read_needs_of(url: str, entries: Iterable[PointerEntry]) -> list[Needs]:
    """The same of the repository at a URL."""
    known: dict[PackageRef, PackageRef] = {}
    found = []
    with closing(Fetcher(Place.of(url).mirrors)) as fetcher:
        for entry in entries:
            try:
                packages = open_published(fetcher, entry).head.packages
                refs = tuple(known.setdefault(one.ref, one.ref) for one in packages)
                for ref in refs:
                    safe_location(ref.location)
                found.append(Needs(entry, refs))
            except ComposerError as error:
                found.append(Needs(entry, error=error))
    return found


def packages_here(repository: Path, versions: Iterable[Needs]) -> set[ContentDigest]:
    """Return which RPMs of ``versions`` lie where they say, or are retained; by size."""
    packages = {one.pkgid: one for version in versions for one in version.packages}
    return {
        pkgid
        for pkgid, one in packages.items()
        if any(
            _has(repository / place, one.size) for place in (one.location, retained_location(one))
        )
    }


def _has(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}") from error
