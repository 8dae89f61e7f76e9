"""A mirror of a mirror: what chosen versions need, verified before it is seen.

Rules kept here: new files come first, then what replaces others, rpm-md, and statements,
each by a rename, so that after a kill at any moment clients find the old state or the new;
what an RPM replaced stays in ``retained/``, for clients of the state before; what is there
is not fetched again; what has come is kept, and a partial RPM is continued.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import NoSpace
from composer.jigdo.lost import LostPackage, PackagesLost
from composer.mirror.elsewhere import OtherPlaces
from composer.mirror.looking import digest_of
from composer.mirror.needs import Place
from composer.mirror.origin import Origin, read_origin, stage_records
from composer.mirror.placing import clone
from composer.mirror.renewing import alone
from composer.mirror.sync_plan import SyncOptions, SyncPlan, plan_sync
from composer.mirror.sync_state import STATE, SyncState
from composer.net.fetch import Fetcher
from composer.net.network import Network
from composer.net.packages import fetch_packages
from composer.progress import Report, Step, silent
from composer.rpm.package import PackageRef, retained_location
from composer.rpm.rpmmd import REPOMD
from composer.system.files import explained, sync_directory, write_bytes

_SPARE = 16 << 20


@dataclass(frozen=True, slots=True)
class Synced:
    """What was done: RPMs that came, how many of them as links, and bytes that moved."""

    plan: SyncPlan
    changed: bool
    linked: int
    moved: int


def sync(
    source: Place,
    directory: Path,
    options: SyncOptions,
    *,
    dry_run: bool = False,
    announce: Callable[[SyncPlan], object] = lambda plan: None,
    report: Report = silent,
) -> Synced:
    """Bring ``directory`` to what ``source`` has of the chosen versions.

    ``announce`` gets what it takes before anything large moves.  Raises PackagesLost when
    RPMs are nowhere to be had, NoSpace, VerificationFailed and NotFound (and kin); what
    clients see is then as it was.
    """
    network = Network.by(options.way)
    if not dry_run:
        (directory / STATE).mkdir(parents=True, exist_ok=True)
    turn = nullcontext() if dry_run else alone(directory)
    with turn, closing(Fetcher(source.mirrors, network=network)) as fetcher:
        report(Step("look", item=source.url))
        trust = None if dry_run else directory / STATE / "trust"
        origin = read_origin(fetcher, source, root=options.root, trust=trust, network=network)
        state = SyncState.read(directory)
        plan = plan_sync(fetcher, origin, directory, state, options, report)
        announce(plan)
        if dry_run:
            return Synced(plan, changed=False, linked=0, moved=network.traffic.bytes())
        work = _Work(plan, directory, state, options, network, report)
        work.check_space()
        changed = work.run(fetcher)
    return Synced(plan, changed, work.linked, network.traffic.bytes())


class _Work:
    def __init__(
        self,
        plan: SyncPlan,
        directory: Path,
        state: SyncState,
        options: SyncOptions,
        network: Network,
        report: Report,
    ) -> None:
        self._plan, self._directory, self._state = plan, directory, state
        self._options, self._network, self._report = options, network, report
        self._staging = directory / STATE / "staging"
        self._touched: set[Path] = set()
        self.linked = 0

    def check_space(self) -> None:
        """Raise NoSpace unless all has room, where it is not shared with the origin's files."""
        come = 0
        for package in self._plan.fetch.values():
            part = self._staged(package).with_name(f"{package.pkgid}.file.part")
            come += part.stat().st_size if part.is_file() else 0
        needed = self._plan.fetch_bytes - come + self._plan.origin.metadata_bytes + _SPARE
        free = shutil.disk_usage(self._directory).free
        if needed > free and self._plan.origin.place.directory is None:
            raise NoSpace(
                f"{self._directory}: {needed} bytes are needed, {free} are free",
                hint="free some space there, or take fewer versions: --newest 1",
            )

    def run(self, fetcher: Fetcher) -> bool:
        """Do it; returns whether anything changed."""
        self._staging.mkdir(exist_ok=True)
        origin = self._plan.origin
        records = stage_records(fetcher, origin, self._directory, self._staging)
        replacing = self._fetch()
        # From here on nothing is waited for.
        for location, package in sorted(replacing.items()):
            self._keep_old(location)
            self._place(self._staged(package), location, package.pkgid)
        for location in records:
            self._rename(self._staging / location, location)
        for directory in sorted(self._touched):
            sync_directory(directory)
        small = {**origin.signatures, REPOMD: origin.listing.data}
        small |= origin.signed.files if origin.signed else {}
        changed = bool(self._plan.fetch or records)
        for location, data in small.items():
            changed |= self._write(location, data)
        self._forget(origin)
        shutil.rmtree(self._staging)
        self._state.write(self._directory)
        return changed

    def _staged(self, package: PackageRef) -> Path:
        # Not .rpm: createrepo_c would list what a run that failed has left.
        return self._staging / f"{package.pkgid}.file"

    def _fetch(self) -> Mapping[str, PackageRef]:
        """Fetch RPMs, and put those in their place that replace nothing; returns the others."""
        others = OtherPlaces(
            self._plan.origin.place, self._options.repositories, self._network, self._staged
        )
        by_pkgid: dict[ContentDigest, list[str]] = {}
        for location, package in self._plan.fetch.items():
            by_pkgid.setdefault(package.pkgid, []).append(location)
            self._share(others.place_of(package), package)
        lost: list[LostPackage] = []
        wanted = {package.pkgid: package for package in self._plan.fetch.values()}
        arriving = fetch_packages(
            [others.wanted(package) for package in wanted.values()],
            network=self._network,
            elsewhere=others.all,
            lost=lambda package, errors: lost.append(LostPackage(package, errors)),
            report=self._report,
        )
        replacing: dict[str, PackageRef] = {}
        with closing(arriving):
            for item in arriving:
                for location in by_pkgid[item.ref.pkgid]:
                    if (self._directory / location).exists():
                        replacing[location] = item.ref
                    else:
                        self._place(item.destination, location, item.ref.pkgid)
        self._state.write(self._directory)
        if lost:
            raise PackagesLost(lost)
        return replacing

    def _share(self, place: Place, package: PackageRef) -> None:
        """Link or clone an RPM of this machine into staging, where it is verified next."""
        staged = self._staged(package)
        if place.directory is None or staged.exists():
            return
        source = place.directory / package.location
        with suppress(OSError):
            if not source.is_file() or source.stat().st_size != package.size:
                return
            try:
                os.link(source, staged)
                self.linked += 1
            except OSError:
                with source.open("rb") as stream:
                    self.linked += clone(stream, staged)

    def _place(self, staged: Path, location: str, pkgid: ContentDigest) -> None:
        """Make a verified RPM visible; several locations may want it."""
        path = self._directory / location
        if staged.stat().st_nlink == 1:
            _flush(staged)
        self._make_directory(path.parent)
        link = staged.with_name(f"{staged.name}.link")
        link.unlink(missing_ok=True)
        os.link(staged, link)
        link.replace(path)
        self._touched.add(path.parent)
        self._state.remember(self._directory, location, pkgid)

    def _keep_old(self, location: str) -> None:
        """Link what will be replaced to where clients that need it look next."""
        path = self._directory / location
        pkgid = self._state.pkgid(self._directory, location) or digest_of(path)
        old = PackageRef(self._plan.fetch[location].nevra, pkgid, path.stat().st_size, "", location)
        kept = self._directory / retained_location(old)
        if not kept.exists():
            self._make_directory(kept.parent)
            os.link(path, kept)
            self._touched.add(kept.parent)

    def _rename(self, staged: Path, location: str) -> None:
        path = self._directory / location
        self._make_directory(path.parent)
        staged.chmod(0o644)
        staged.replace(path)
        self._touched.add(path.parent)

    def _make_directory(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(error, path) from error

    def _write(self, location: str, data: bytes) -> bool:
        path = self._directory / location
        if path.is_file() and path.read_bytes() == data:
            return False
        write_bytes(path, data)
        return True

    def _forget(self, origin: Origin) -> None:
        """Remove metadata that neither this state nor the one before names."""
        current = {record.location for record in origin.listing.repomd.records}
        current |= set(origin.signed.files) if origin.signed else set()
        if current != set(self._state.metadata):
            for location in set(self._state.before) - current - set(self._state.metadata):
                (self._directory / location).unlink(missing_ok=True)
            self._state.before, self._state.metadata = self._state.metadata, sorted(current)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o644)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
