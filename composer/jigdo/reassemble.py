"""Rebuild a commit from its set and RPMs, in a repository.

:mod:`composer.jigdo.examine` finds out what is missing and what to fetch;
:func:`reassemble` does it: objects straight from RPM payloads, patches and data frames into
libostree, which checks every one against its checksum.  The tree's own objects and the
commit are written after all content, and the ref is set by the same transaction, so a
commit that is in the repository is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import (
    MissingRequirement,
    NoSpace,
    VerificationFailed,
)
from composer.jigdo.batches import Batches
from composer.jigdo.container import Frame
from composer.jigdo.delta.applying import DeltaImporter
from composer.jigdo.examine import Wanted
from composer.jigdo.importer import Importer
from composer.jigdo.lost import LostPackage, PackagesLost
from composer.jigdo.plan import (
    DeltaPlan,
    Plan,
)
from composer.jigdo.reader import CommitFrame, JigdoSet
from composer.jigdo.repack import Packers
from composer.jigdo.seeding import import_seeds
from composer.ostree.objects import Header, parse_dirtree
from composer.ostree.repo import Repository
from composer.progress import Report, Step, silent
from composer.rpm.beginnings import Beginning
from composer.rpm.package import PackageRef

# For metadata, what the file system itself needs, and what is laid out beside by each worker.
_RESERVE = 48 << 20


Arriving = Generator[tuple[PackageRef, Path], None, None]


Replanned = Callable[[Plan, Sequence[LostPackage]], object]
"""Called with a new plan, and the packages that were lost since the last one."""


class PackageSource(Protocol):
    """Gives RPM files, each proven to have its pkgid."""

    def fetch(
        self, packages: Sequence[PackageRef], beginnings: Mapping[ContentDigest, Beginning]
    ) -> Arriving:
        """Yield every package with its file, in any order, as they arrive.

        Of those with a pkgid in ``beginnings``, that much suffices, and may be all that is given.

        A file may be removed by the source once the next item is asked for *and*
        :meth:`done` was called for it.  Raises PackagesLost, when all others were
        given, for packages that cannot be had.
        """
        ...

    def refuse(self, package: PackageRef, error: VerificationFailed) -> bool:
        """Say that what was given as ``package`` has not its contents.

        Returns whether another :meth:`fetch` of it may give something else; False
        means that the file was the very RPM that the set names.
        """
        ...

    def done(self, package: PackageRef) -> None:
        """Say that the file of ``package`` is not needed any more."""
        ...


def check_storable(repo: Repository, headers: Sequence[Header]) -> None:
    """Raise MissingRequirement when the repository's mode cannot keep these headers."""
    if repo.mode == "bare" and os.geteuid() != 0:
        raise MissingRequirement(
            f"{repo.path}: a bare repository keeps owners, which takes root",
            hint="run as root, or use a repository of mode bare-user",
        )
    if repo.mode != "bare-user-only":
        return
    for header in headers:
        odd_mode = not header.is_symlink and header.mode & 0o7777 & ~0o775
        if header.uid or header.gid or header.xattrs or odd_mode:
            raise MissingRequirement(
                f"{repo.path}: a bare-user-only repository cannot keep this commit: it has a file "
                f"with owner {header.uid}:{header.gid}, mode {header.mode & 0o7777:04o}"
                + (", extended attributes" if header.xattrs else ""),
                hint="use a repository of mode bare-user or archive",
            )


def check_space(repo: Repository, plan: Plan, *, staging_bytes: int = 0) -> None:
    """Raise NoSpace when the repository's file system cannot take what the plan writes."""
    if not plan.object_bytes and not staging_bytes:
        return
    objects, staging = repo.path / "objects", repo.path / "tmp"
    needs = {objects: plan.disk_bytes + max(_RESERVE, repo.reserved_bytes())}
    # libostree lets tmp be a link to somewhere else.
    apart = staging.is_dir() and os.stat(staging).st_dev != os.stat(objects).st_dev
    place = staging if apart else objects
    needs[place] = needs.get(place, 0) + staging_bytes
    for path, need in needs.items():
        status = os.statvfs(path)
        free = status.f_bavail * status.f_frsize
        if need > free:
            raise NoSpace(
                f"{path}: {need} bytes are needed, {free} are free",
                hint="free some space there (`repo prune` removes old versions) and run the same "
                "command again",
            )


def reassemble(
    jigdo: JigdoSet,
    wanted: Wanted,
    repo: Repository,
    source: PackageSource,
    *,
    ref: str | None,
    replanned: Replanned = lambda plan, lost: None,
    report: Report = silent,
    workers: int = 2,
    packers: Packers | None = None,
) -> tuple[Plan, ...]:
    """Fetch and write all that ``wanted`` lists, prove the commit whole, then set ``ref``.

    What comes to nothing on the way (a delta that makes something else here, packages that are
    lost, files of seeds that have changed) is planned anew, for as long as there is another
    way; ``replanned`` is told. ``packers`` are the caller's, started early; none: own ones.
    Returns the plans that were carried out. Raises
    VerificationFailed (and its kin) for content that is not what the commit says, PackagesLost
    when there is no other way; the repository then has more objects but the same refs as
    before.
    """
    check_storable(repo, wanted.headers)
    plans = [wanted.plan]
    with ExitStack() as stack:
        batches = stack.enter_context(Batches(repo))
        if packers is None:
            packers = stack.enter_context(Packers(workers if wanted.deltas else 0))
        work = _Work(jigdo, wanted, repo, batches, report, workers, packers)
        changed = work.take_seeds()
        while not (outcome := work.carry_out(plans[-1], source)).is_complete or changed:
            changed = False
            plan = wanted.again(outcome.useless, outcome.lost)
            check_space(repo, plan)
            replanned(plan, outcome.lost)
            plans.append(plan)
        _prove(repo, wanted)
        _write_tree(repo, wanted)
        batches.land()
        _write_commit(repo, jigdo.head.commit, wanted.start)
        if ref:
            repo.set_ref(ref, jigdo.head.commit)
    if repo.is_partial(jigdo.head.commit):  # another program, or a repair, had marked it
        repo.mark_whole(jigdo.head.commit)
    return tuple(plans)


class _Counter:
    """Turns work done into progress: one number of bytes over all sources."""

    def __init__(self, report: Report) -> None:
        self._report, self._done, self._total = report, 0, 0

    def expect(self, *sizes: int) -> None:
        """Count what is to come."""
        self._total = self._done + sum(sizes)

    def seed(self, size: int) -> None:
        self._done += size
        self._report(Step("import", self._done, self._total, "bytes", "seeds"))

    def package(self, name: str, size: int) -> None:
        self._done += size
        self._report(Step("import", self._done, self._total, "bytes", name))

    def made(self, size: int, objects: int) -> None:
        self._done += size * objects
        self._report(Step("import", self._done, self._total, "bytes", "deltas"))

    def new(self, size: int) -> None:
        self._done += size
        self._report(Step("import", self._done, self._total, "bytes", "new content"))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What of a plan came to nothing: contents of the deltas table, packages.

    ``refused`` says that there may be other files of a package than the one that was given.
    """

    useless: frozenset[int]
    lost: tuple[LostPackage, ...]
    refused: bool

    @property
    def is_complete(self) -> bool:
        """Tell whether all was brought."""
        return not (self.useless or self.lost or self.refused)


class _Work:
    """Carries plans out: deltas, packages, the set's own content."""

    def __init__(
        self,
        jigdo: JigdoSet,
        wanted: Wanted,
        repo: Repository,
        batches: Batches,
        report: Report,
        workers: int,
        packers: Packers,
    ) -> None:
        self._jigdo, self._wanted, self._repo = jigdo, wanted, repo
        self._packers = packers
        self._batches, self._workers = batches, workers
        self._importer = Importer(repo, wanted)
        self._counter = _Counter(report)

    def take_seeds(self) -> bool:
        """Bring what other trees have; tells whether some of it has changed there."""
        wanted = self._wanted
        self._counter.expect(wanted.seeds.object_bytes, wanted.plan.object_bytes)

        def made(size: int) -> None:
            self._counter.seed(size)
            self._wrote(size)

        import_seeds(self._repo, wanted.headers, wanted.seeds, made)
        self._batches.land()
        return bool(wanted.seeds.failed)

    def _wrote(self, size: int) -> None:
        self._batches.wrote(size)
        if self._batches.is_full:
            self._batches.land()

    def carry_out(self, plan: Plan, source: PackageSource) -> _Outcome:
        """Bring everything in ``plan`` that can be had; what was brought has landed."""
        self._counter.expect(plan.object_bytes)
        useless = self._make(plan.deltas)
        lost, refused = self._import_packages(plan, source)

        def added(size: int) -> None:
            self._counter.new(size)
            self._wrote(size)

        self._importer.add_new(self._jigdo, plan.new, added)
        # A transaction lands in no order: what names others comes after them.
        self._batches.land()
        return _Outcome(useless, lost, refused)

    def _make(self, plan: DeltaPlan) -> frozenset[int]:
        """Make what is made of older contents; returns the numbers of those that failed."""
        deltas = self._wanted.deltas
        if deltas is None or not plan.rows:
            return frozenset()
        targets = self._importer.delta_targets(deltas.table, plan)
        maker = DeltaImporter(
            self._repo,
            deltas.table,
            deltas.base,
            room=deltas.room,
            workers=self._workers,
            packers=self._packers,
        )

        def came(item: tuple[Frame, bytes]) -> tuple[Frame, bytes]:
            self._batches.fetched(item[0].size)
            return item

        # Not a generator of our own, which would hold a frame while the next is unpacked.
        frames = map(came, self._jigdo.frames(plan.frames))
        failed = maker.run(targets, frames, self._counter.made, self._batches)
        self._batches.land()
        return frozenset(failed)

    def _import_packages(
        self, plan: Plan, source: PackageSource
    ) -> tuple[tuple[LostPackage, ...], bool]:
        """Import packages side by side while later ones are still arriving.

        Returns those that are lost, and whether a file was refused.
        """
        numbers = {self._jigdo.head.packages[p.number].ref.pkgid: p for p in plan.packages}
        refs = [self._jigdo.head.packages[p.number].ref for p in plan.packages]
        plans = zip(refs, plan.packages, strict=True)
        short = {ref.pkgid: p.beginning for ref, p in plans if p.beginning}
        running: dict[Future[int], PackageRef] = {}
        taken: list[PackageRef] = []
        refused = False
        lost: tuple[LostPackage, ...] = ()

        def reap(*, everything: bool) -> None:
            nonlocal refused
            ready, _ = wait(running, return_when="ALL_COMPLETED" if everything else FIRST_COMPLETED)
            for future in ready:
                ref = running.pop(future)
                try:
                    size = future.result()
                except VerificationFailed as error:
                    if not source.refuse(ref, error):
                        raise
                    refused = True
                    continue
                taken.append(ref)
                self._counter.package(ref.nevra.name, size)
                self._batches.wrote(size)

        def settle() -> None:
            if self._batches.is_full:
                if running:
                    reap(everything=True)
                self._batches.land()
            # Only now: a large RPM is not to be fetched again for what was not flushed.
            while taken:
                source.done(taken.pop(0))

        with (
            ThreadPoolExecutor(self._workers) as pool,
            closing(source.fetch(refs, short)) as given,
        ):
            try:
                for ref, path in given:
                    job = pool.submit(self._importer.add_package, ref, path, numbers[ref.pkgid])
                    running[job] = ref
                    self._batches.fetched(short[ref.pkgid].size if ref.pkgid in short else ref.size)
                    if len(running) >= self._workers * 2:
                        reap(everything=False)
                    settle()
            except PackagesLost as error:
                lost = error.packages
            if running:
                reap(everything=True)
            settle()
        return lost, refused


def _prove(repo: Repository, wanted: Wanted) -> None:
    """Require that every content object of the commit is here, written or found."""
    missing = repo.missing_content(wanted.ordinals.checksums)
    # What this run wrote last may still be staged.
    missing = {checksum for checksum in missing if not repo.has("file", checksum)}
    if missing:
        raise VerificationFailed(
            f"{len(missing)} objects are still missing, {min(missing)} for one",
            hint="run the same command again; if it persists, the set is not genuine",
        )


def _write_tree(repo: Repository, wanted: Wanted) -> None:
    """Write dirmetas and dirtrees, children first."""
    for dirmeta in wanted.dirmetas:
        repo.write_metadata("dirmeta", ObjectChecksum(ContentDigest.of(dirmeta)), dirmeta)
    for tree, data in reversed(wanted.dirtrees.items()):
        repo.write_metadata("dirtree", tree, data)
    _require_dirmetas(repo, wanted)


def _write_commit(repo: Repository, checksum: ObjectChecksum, commit: CommitFrame) -> None:
    if commit.detached:
        repo.write_detached_metadata(checksum, commit.detached)
    repo.write_metadata("commit", checksum, commit.data)


def _require_dirmetas(repo: Repository, wanted: Wanted) -> None:
    metas = {wanted.start.commit.meta}
    for data in wanted.dirtrees.values():
        metas.update(entry.meta for entry in parse_dirtree(data).directories)
    for meta in sorted(metas):
        if not repo.has("dirmeta", meta):
            raise VerificationFailed(f"the set lacks the dirmeta object {meta}")
