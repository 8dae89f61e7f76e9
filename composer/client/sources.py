"""Where a pull has RPMs from: files of this machine, mirrors, and, once they dropped one, others.

Those are asked in this order: archives; what the set's own repository retains; the
package lists of the mirrors, the set's repository and archives, which may have the RPM
under another name, or one of the same name that was signed or compressed anew.  The
last is another file: it is taken within a declared size, and its contents are proven.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from composer.checksum import ContentDigest
from composer.client.remote import Remote
from composer.client.rpm_cache import RpmCache
from composer.errors import BoundExceeded, ComposerError, FormatError, NotFound, VerificationFailed
from composer.jigdo.examine import Wanted as WantedObjects
from composer.jigdo.lost import LostPackage, PackagesLost
from composer.jigdo.reader import JigdoSet
from composer.jigdo.reassemble import Arriving
from composer.net.archive import Archive
from composer.net.fetch import Fetcher
from composer.net.job import FetchFailed
from composer.net.location import Mirrors, safe_location
from composer.net.network import Network
from composer.net.packages import Wanted, fetch_packages
from composer.net.repository import locate_packages
from composer.ostree.repo import Repository
from composer.progress import Report, silent
from composer.rpm.beginnings import NO_BEGINNINGS, Beginning
from composer.rpm.package import PackageRef, retained_location

# So many files of one name are tried for one package.
_MOST_TRIED = 4


@dataclass(frozen=True, slots=True)
class Sources:
    """What the user says of sources, beside the remote.

    ``rpm_caches`` are directories, ``seeds`` root directories of trees, ``archives`` URLs or
    templates that follow the remote's; ``strict_pkgid`` refuses RPMs that were made anew.
    """

    rpm_caches: Sequence[Path] = ()
    archives: Sequence[str] = ()
    strict_pkgid: bool = False
    seeds: Sequence[Path] = ()


DEFAULT_SOURCES = Sources()


@dataclass(frozen=True, slots=True)
class Replaced:
    """A package that an RPM of its name, made anew, serves for: its pkgid, size, and where."""

    package: PackageRef
    pkgid: ContentDigest
    size: int
    url: str


def replaced(item: Wanted) -> Replaced:
    """Describe what was, or would be, fetched in a package's stead."""
    return Replaced(item.package, item.ref.pkgid, item.ref.size, _url(item))


def most_anew(size: int, held: int) -> int:
    """Return how large an RPM may be that is taken for one of ``size`` bytes.

    ``held`` are the bytes of the contents that the set takes from it: an RPM may be
    compressed worse than the original was, but no worse than not at all.
    """
    return max(size + size // 4, held) + (64 << 10)


def bytes_held(jigdo: JigdoSet, wanted: WantedObjects) -> Holds:
    """Say of packages whose maps were read how many bytes of contents the set takes from them."""
    numbers = {package.ref.pkgid: n for n, package in enumerate(jigdo.head.packages)}

    def holds(package: PackageRef) -> int:
        mapping = wanted.maps[numbers[package.pkgid]]
        return sum(dict(zip(mapping.files, mapping.sizes, strict=True)).values())

    return holds


Holds = Callable[[PackageRef], int]


def package_directory(repo: Repository) -> Path:
    """Return where RPMs lie until they are imported: ``PKGID.rpm``, incomplete ``.rpm.part``."""
    return repo.path / "tmp" / "jigdo-packages"


class RemotePackages:
    """RPMs of this machine, others from wherever a remote has them.

    What was fetched is kept in ``directory`` until it is imported.
    """

    def __init__(
        self,
        remote: Remote,
        directory: Path,
        cache: RpmCache,
        network: Network,
        sources: Sources,
        holds: Holds,
        report: Report = silent,
    ) -> None:
        self._holds = holds
        self._remote, self._cache, self._network = remote, cache, network
        self._directory, self._strict, self._report = directory, sources.strict_pkgid, report
        texts = dict.fromkeys([*remote.archives, *sources.archives])
        self._archives = [Archive.parse(text) for text in texts]
        self._archive_bases = {(archive.base,) for archive in self._archives}
        self._given: dict[ContentDigest, Wanted] = {}
        self._refused: dict[ContentDigest, dict[ContentDigest, ComposerError]] = {}
        self._notes: dict[ContentDigest, list[ComposerError]] = {}
        self._lists: dict[tuple[str, ...], _Listed] = {}
        self._replaced: list[Wanted] = []
        self._whole: set[ContentDigest] = set()

    def replaced(self) -> tuple[Replaced, ...]:
        """List the packages that were imported from RPMs of their name, made anew."""
        items = sorted(self._replaced, key=lambda item: str(item.package.nevra))
        return tuple(replaced(item) for item in items)

    def fetch(
        self,
        packages: Sequence[PackageRef],
        beginnings: Mapping[ContentDigest, Beginning] = NO_BEGINNINGS,
    ) -> Arriving:
        """Yield packages as they arrive, each complete and of its pkgid, or of its name.

        Of those in ``beginnings`` only so much is fetched, and proven, until it is refused.
        """
        here = [(package, path) for package in packages if (path := self._cache.get(package))]
        yield from here
        found = {package.pkgid for package, _ in here}
        lost: list[LostPackage] = []
        rest = [package for package in packages if package.pkgid not in found]
        arriving = self._arriving(rest, lost, beginnings)
        with closing(arriving):
            for item in arriving:
                self._given[item.package.pkgid] = item
                yield item.package, item.destination
        if lost:
            raise PackagesLost(lost)

    def probe(self, packages: Iterable[PackageRef]) -> tuple[list[Wanted], list[LostPackage]]:
        """Ask for one byte of each: returns what would be fetched, and what is lost."""
        lost: list[LostPackage] = []
        wanted = [package for package in packages if not self._cache.get(package)]
        return [*self._arriving(wanted, lost, probe=True)], lost

    def refuse(self, package: PackageRef, error: VerificationFailed) -> bool:
        """Take note that what was given has other contents; the RPM of its pkgid cannot have."""
        given = self._given.pop(package.pkgid, None)
        if given is not None and given.beginning is not None:
            # It does not suffice for this librpm: the rest is fetched, and the whole proven.
            self._whole.add(package.pkgid)
            path = self._path(package)
            given.destination.rename(path.with_name(path.name + ".part"))
            return True
        if given is None or given.serves is None:
            return False
        given.destination.unlink(missing_ok=True)
        error.details += (f"in the RPM of that name, {_url(given)}, pkgid {given.ref.pkgid}",)
        self._refused.setdefault(package.pkgid, {})[given.ref.pkgid] = error
        return True

    def done(self, package: PackageRef) -> None:
        """Remove the file of ``package`` that was fetched."""
        given = self._given.pop(package.pkgid, None)
        if given is not None:
            given.destination.unlink(missing_ok=True)
            if given.serves is not None:
                self._replaced.append(given)

    def _arriving(
        self,
        packages: Iterable[PackageRef],
        lost: list[LostPackage],
        beginnings: Mapping[ContentDigest, Beginning] = NO_BEGINNINGS,
        *,
        probe: bool = False,
    ) -> Generator[Wanted, None, None]:
        wanted = []
        for package in packages:
            if item := self._first(package, beginnings.get(package.pkgid)):
                wanted.append(item)
            else:
                lost.append(self._lost(package, ()))
        return fetch_packages(
            wanted,
            network=self._network,
            elsewhere=[self._by_name, *(partial(self._listed, place) for place in self._places())],
            lost=lambda package, errors: lost.append(self._lost(package, errors)),
            report=self._report,
            kind="probe" if probe else "rpm",
            probe=probe,
        )

    def _first(self, package: PackageRef, beginning: Beginning | None) -> Wanted | None:
        """Return what to fetch first: the RPM itself, or the next of its name after a refusal."""
        refused = self._refused.get(package.pkgid)
        if refused is None:
            mirrors = self._remote.mirrors(package.repository)
            if beginning is None or package.pkgid in self._whole:
                return Wanted(package, self._path(package), mirrors)
            # Named by its own digest: a whole RPM, or another beginning, is no part of it.
            path = self._directory / f"{beginning.digest}.rpm"
            return Wanted(package, path, mirrors, beginning=beginning)
        if len(refused) >= _MOST_TRIED:
            return None
        offers = (item for place in self._places() for item in self._listed(place, [package]))
        return next(offers, None)

    def _lost(self, package: PackageRef, errors: Sequence[ComposerError]) -> LostPackage:
        refused = self._refused.get(package.pkgid, {}).values()
        return LostPackage(package, (*errors, *refused, *self._notes.get(package.pkgid, ())))

    def _path(self, package: PackageRef) -> Path:
        return self._directory / f"{package.pkgid}.rpm"

    def _by_name(self, packages: Sequence[PackageRef]) -> Iterator[Wanted]:
        """Say where archives have the packages, and the repository of the set, if they do."""
        own = Mirrors.parse(*self._remote.urls)
        for package in packages:
            for archive in self._archives:
                for location in archive.locations(package):
                    yield self._moved(package, location, archive.mirrors)
            yield self._moved(package, retained_location(package), own)

    def _moved(self, package: PackageRef, location: str, mirrors: Mirrors) -> Wanted:
        return Wanted(replace(package, location=location), self._path(package), mirrors)

    def _places(self) -> Iterator[_Place]:
        """Say whose package lists are read: for each package base URLs, or none."""
        yield lambda package: self._remote.mirrors_for(package.repository)
        yield self._set_urls
        for archive in self._archives:
            if not archive.template:
                yield lambda package, base=archive.base: (base,)  # type: ignore[misc]

    def _set_urls(self, package: PackageRef) -> tuple[str, ...]:
        urls = self._remote.urls
        return () if urls == self._remote.mirrors_for(package.repository) else urls

    def _listed(self, place: _Place, packages: Sequence[PackageRef]) -> Iterator[Wanted]:
        """Say what the package lists at ``place`` have of the packages, themselves or anew."""
        grouped: dict[tuple[str, ...], list[PackageRef]] = {}
        for package in packages:
            if bases := place(package):
                grouped.setdefault(bases, []).append(package)
        for bases, own in sorted(grouped.items(), key=lambda pair: pair[0]):
            listed = self._lists.setdefault(bases, _Listed())
            listed.read(bases, own, self._network, self._directory)
            for package in own:
                if listed.error is not None:
                    if bases not in self._archive_bases:  # which need not be repositories
                        self._note(package, listed.error)
                elif package.nevra not in {ref.nevra for ref in listed.packages}:
                    message = f"{package.nevra}: not in the package list of {bases[0]}"
                    self._note(package, NotFound(message))
                yield from self._offers(package, listed.packages, Mirrors.parse(*bases))

    def _offers(
        self, package: PackageRef, listed: Sequence[PackageRef], mirrors: Mirrors
    ) -> Iterator[Wanted]:
        for ref in listed:
            if ref.pkgid == package.pkgid:
                yield self._moved(package, ref.location, mirrors)
        refused = self._refused.get(package.pkgid, {})
        for ref in listed:
            if ref.nevra != package.nevra or ref.pkgid in refused or ref.pkgid == package.pkgid:
                continue
            what = f"{ref.nevra}: the RPM of that name at {mirrors.bases[0]}{ref.location}"
            if self._strict:
                message = f"{what} was made anew, which --strict-pkgid refuses"
                details = [f"expected pkgid {package.pkgid}, got {ref.pkgid}"]
                self._note(package, VerificationFailed(message, details=details))
            elif ref.size > (most := most_anew(package.size, self._holds(package))):
                self._note(package, BoundExceeded(what=f"{what} ({ref.size} bytes)", bound=most))
            else:
                instead = replace(ref, repository=package.repository)
                yield Wanted(instead, self._path(instead), mirrors, serves=package)

    def _note(self, package: PackageRef, error: ComposerError) -> None:
        notes = self._notes.setdefault(package.pkgid, [])
        if error.message not in {note.message for note in notes}:
            notes.append(error)


_Place = Callable[[PackageRef], tuple[str, ...]]


class _Listed:
    """What one repository's package list has of what was asked for, each asked once."""

    def __init__(self) -> None:
        self.packages: list[PackageRef] = []
        self.error: ComposerError | None = None
        self._asked: set[ContentDigest] = set()

    def read(
        self, bases: tuple[str, ...], packages: Sequence[PackageRef], network: Network, spool: Path
    ) -> None:
        """Look for ``packages``; a list that cannot be read is not asked again."""
        wanted = [package for package in packages if package.pkgid not in self._asked]
        if not wanted or self.error is not None:
            return
        self._asked |= {package.pkgid for package in wanted}
        with closing(Fetcher(Mirrors.parse(*bases), kind="rpm-md", network=network)) as fetcher:
            try:
                found = locate_packages(fetcher, wanted, spool=spool if spool.is_dir() else None)
            except (NotFound, FetchFailed, VerificationFailed) as error:
                self.error = error
                return
        usable = (ref for ref in found if _is_safe(ref.location))
        self.packages = [*dict.fromkeys([*self.packages, *usable])]


def _is_safe(location: str) -> bool:
    try:
        return bool(safe_location(location))
    except FormatError:
        return False


def _url(item: Wanted) -> str:
    return item.mirrors.bases[0] + item.ref.location
