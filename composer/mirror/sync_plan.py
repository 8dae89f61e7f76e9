"""What mirroring a mirror takes: which RPMs are needed, which of them are here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import NotFound, VerificationFailed
from composer.jigdo.pointer import PointerEntry
from composer.mirror.looking import look
from composer.mirror.needs import Place, chosen, require_place
from composer.mirror.origin import Origin
from composer.mirror.sync_state import SyncState
from composer.net.fetch import Fetcher
from composer.net.job import FetchFailed
from composer.net.network import Way
from composer.net.probing import Probe
from composer.net.repository import read_listing, read_packages_of
from composer.net.sets import open_published
from composer.progress import Report, Step
from composer.rpm.package import Nevra, PackageRef, retained_location
from composer.rpm.rpmmd import REPOMD


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """What to copy, and whom to believe.

    ``refs`` are names as :func:`composer.mirror.needs.chosen` takes them, ``newest`` how many
    versions of each ref, 0 for all; ``all_packages`` takes what no version needs, too.
    """

    refs: Sequence[str] = ()
    newest: int = 0
    all_packages: bool = False
    repositories: Mapping[str, Place] = field(default_factory=dict)
    root: bytes | None = None
    allow_older: bool = False
    way: Way = field(default_factory=Way)


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """What a run takes: RPMs to ``fetch``, by where they will be, and what is ``here``."""

    origin: Origin
    entries: tuple[PointerEntry, ...]
    fetch: Mapping[str, PackageRef]
    here: Mapping[str, PackageRef]

    @property
    def fetch_bytes(self) -> int:
        """Of the RPMs to fetch."""
        return sum(package.size for package in self.fetch.values())

    @property
    def here_bytes(self) -> int:
        """Of those that are here."""
        return sum(package.size for package in self.here.values())

    @property
    def sets(self) -> tuple[PackageRef, ...]:
        """Those to fetch that are sets."""
        pkgids = {entry.pkgid for entry in self.entries}
        return tuple(package for package in self.fetch.values() if package.pkgid in pkgids)


def plan_sync(
    fetcher: Fetcher,
    origin: Origin,
    directory: Path,
    state: SyncState,
    options: SyncOptions,
    report: Report,
) -> SyncPlan:
    """Find out what ``directory`` lacks of the chosen versions; ``state`` learns what it has.

    Raises VerificationFailed where the origin is older than what is here.
    """
    entries = _newest(chosen(origin.entries, options.refs), options.newest)
    if not entries:
        raise NotFound(
            f"{origin.place.url}: the repository carries no jigdo sets",
            hint="is this the right URL?  `set build --output` publishes sets there",
        )
    if not options.allow_older:
        _require_newer({one.ref for one in entries}, origin, directory)
    needed = _Needed()
    for number, entry in enumerate(entries):
        report(Step("sets", number, len(entries), "sets", f"{entry.ref} {entry.version}"))
        needed.add(_of_set(entry))
        for package in open_published(fetcher, entry).head.packages:
            needed.add(package.ref)
    if options.all_packages:
        read_packages_of(fetcher, origin.listing.repomd, needed.add)
    here = _here(needed.packages, directory, state, report)
    fetch = {place: one for place, one in needed.packages.items() if place not in here}
    return SyncPlan(
        origin, tuple(entries), fetch, {place: needed.packages[place] for place in here}
    )


def _newest(entries: Sequence[PointerEntry], count: int) -> list[PointerEntry]:
    ordered = sorted(entries, key=lambda one: (one.ref, -one.timestamp, one.commit))
    return [
        entry
        for _, own in groupby(ordered, key=lambda one: one.ref)
        for entry in (list(own)[:count] if count else own)
    ]


def _of_set(entry: PointerEntry) -> PackageRef:
    """Describe a set's RPM; its name is for messages alone."""
    stem = Path(entry.location).stem
    try:
        nevra = Nevra.parse(stem)
    except ValueError:
        nevra = Nevra(stem, 0, "0", "0", "noarch")
    return PackageRef(nevra, entry.pkgid, entry.size, "", entry.location)


class _Needed:
    """RPMs by where they will be: two that claim one location are both kept."""

    def __init__(self) -> None:
        self.packages: dict[str, PackageRef] = {}

    def add(self, package: PackageRef) -> None:
        """Add an RPM; raises FormatError for a location that leads elsewhere."""
        require_place(package.location, rpm=True)
        other = self.packages.get(package.location)
        if other is None:
            self.packages[package.location] = package
        elif other.pkgid != package.pkgid:
            self.packages[retained_location(package)] = package


def _require_newer(refs: Iterable[str], origin: Origin, directory: Path) -> None:
    """Raise where a ref's newest version here is newer than the origin's."""
    if not (directory / REPOMD).is_file():
        return
    place = Place(directory.resolve().as_uri().rstrip("/") + "/", directory)
    with Fetcher(place.mirrors) as fetcher:
        try:
            here = read_listing(fetcher).pointer
        except (NotFound, FetchFailed, VerificationFailed):
            return  # what is damaged is mended
    for ref in sorted(refs):
        own, theirs = here.get(ref), origin.listing.pointer.get(ref)
        if own is not None and (theirs is None or own.timestamp > theirs.timestamp):
            raise VerificationFailed(
                f"{ref}: the newest that {origin.place.url} has is older than what is here",
                details=[
                    f"there it is {theirs.version if theirs else 'in no pointer'}, "
                    f"here {own.version}, commit {own.commit}"
                ],
                hint="the origin is stale: take another one; --allow-older goes back knowingly",
            )


def _here(
    needed: Mapping[str, PackageRef], directory: Path, state: SyncState, report: Report
) -> set[str]:
    """Tell which RPMs are here: those that were proven before, and those that are proven now."""
    found: set[str] = set()
    unknown: list[Probe] = []
    locations = list(needed)
    for number, location in enumerate(locations):
        package = needed[location]
        known = state.pkgid(directory, location)
        if known == package.pkgid:
            found.add(location)
        elif known is None and (directory / location).is_file():
            unknown.append(Probe(number, location, package.size, package.pkgid))
    for done, (probe, wrong) in enumerate(look(unknown, directory, whole=True)):
        report(Step("compare", done + 1, len(unknown), "files", probe.location))
        if wrong is None:
            found.add(probe.location)
            state.remember(directory, probe.location, ContentDigest(probe.digest))
    return found
