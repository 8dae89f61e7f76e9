"""Rebuild a commit from its set and RPMs, in a repository.

:mod:`composer.jigdo.examine` finds out what is missing and what to fetch;
:func:`reassemble` does it: objects straight from RPM payloads, patches and data frames into
libostree, which checks every one against its checksum.  The tree's own objects and the
commit are written after all content, and the ref is set by the same transaction, so a
commit that is in the repository is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, Self

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import (
    ComposerError,
    MissingRequirement,
    NoSpace,
    VerificationFailed,
)
from composer.jigdo.container import Frame, Kind
from composer.jigdo.delta.applying import DeltaImporter
from composer.jigdo.delta.table import DeltaTable
from composer.jigdo.examine import DEFAULT_CHOICES, Choices, Wanted
from composer.jigdo.importing import Target, Targets, write_content, write_payload
from composer.jigdo.plan import (
    DeltaPlan,
    NewPlan,
    PackagePlan,
    Plan,
)
from composer.jigdo.reader import CommitFrame, JigdoSet
from composer.ostree.objects import Header, parse_dirtree
from composer.ostree.repo import Repository
from composer.progress import Report, Step, silent
from composer.rpm.package import PackageRef

BATCH_BYTES = 64 << 20
"""After about this many bytes, what was written is landed: the most a power cut costs."""

_PIECE = 1 << 20
_RESERVE = 16 << 20  # for metadata and what the file system itself needs


Arriving = Generator[tuple[PackageRef, Path], None, None]


class PackageSource(Protocol):
    """Gives RPM files, each proven to have its pkgid."""

    def fetch(self, packages: Sequence[PackageRef]) -> Arriving:
        """Yield every package with its file, in any order, as they arrive.

        A file may be removed by the source once the next item is asked for *and*
        :meth:`done` was called for it.  Raises when a package cannot be had.
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
    status = os.statvfs(repo.path)
    free = status.f_bavail * status.f_frsize
    need = plan.disk_bytes + staging_bytes + max(_RESERVE, repo.reserved_bytes())
    if need > free:
        raise NoSpace(
            f"{repo.path}: {need} bytes are needed, {free} are free",
            hint="free some space there and run the same command again",
        )


def reassemble(
    jigdo: JigdoSet,
    wanted: Wanted,
    repo: Repository,
    source: PackageSource,
    *,
    ref: str | None,
    choices: Choices = DEFAULT_CHOICES,
    report: Report = silent,
    workers: int = 2,
) -> None:
    """Fetch and write all that ``wanted`` lists, prove the commit whole, then set ``ref``.

    Raises VerificationFailed (and its kin) for content that is not what the commit
    says; the repository then has more objects but the same refs as before.
    """
    check_storable(repo, wanted.headers)
    with _Batches(repo) as batches:
        importer = Importer(repo, wanted)
        counter = _Counter(wanted.plan, report)
        failed = _import_deltas(jigdo, wanted, importer, repo, batches, counter, choices, workers)
        plans = [wanted.plan]
        if any(failed):
            plans.append(wanted.again(failed))
        for plan in plans:
            _import_packages(jigdo, plan, importer, source, batches, counter, workers)
            importer.add_new(jigdo, plan.new, counter.new)
        # A transaction lands in no order: what names others comes after them.
        batches.land()
        _prove(repo, wanted)
        _write_tree(repo, wanted)
        batches.land()
        _write_commit(repo, jigdo.head.commit, wanted.start)
        if ref:
            repo.set_ref(ref, jigdo.head.commit)


class _Batches:
    """One transaction after another: what was written lands every so many bytes."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._written = 0

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _begin(self) -> None:
        self._open = self._repo.transaction()
        self._open.__enter__()

    def wrote(self, size: int) -> bool:
        """Count written bytes; says whether a batch is full."""
        self._written += size
        return self._written >= BATCH_BYTES

    def land(self) -> None:
        """Commit the open transaction and begin another.  No writer may be at work."""
        self._open.__exit__(None, None, None)
        self._begin()
        self._written = 0


class _Counter:
    """Turns work done into progress: one number of bytes over all sources."""

    def __init__(self, plan: Plan, report: Report) -> None:
        self._report, self._done, self._total = report, 0, plan.object_bytes

    def package(self, name: str, size: int) -> None:
        self._done += size
        self._report(Step("import", self._done, self._total, "bytes", name))

    def made(self, size: int, objects: int) -> None:
        self._done += size * objects
        self._report(Step("import", self._done, self._total, "bytes", "deltas"))

    def new(self, size: int) -> None:
        self._done += size
        self._report(Step("import", self._done, self._total, "bytes", "new content"))


def _import_deltas(
    jigdo: JigdoSet,
    wanted: Wanted,
    importer: Importer,
    repo: Repository,
    batches: _Batches,
    counter: _Counter,
    choices: Choices,
    workers: int,
) -> bytearray:
    """Make what is made of older contents; returns flags of the objects that could not be."""
    failed = bytearray(len(wanted.ordinals))
    plan, deltas = wanted.plan.deltas, wanted.deltas
    if deltas is None or not plan.rows:
        return failed
    targets = importer.delta_targets(deltas.table, plan)
    maker = DeltaImporter(
        repo, deltas.table, deltas.base, max_memory=choices.max_memory, workers=workers
    )
    lost = maker.run(targets, jigdo.frames(plan.frames), counter.made)
    for row in plan.rows:
        if deltas.table.numbers[row] in lost:
            failed[deltas.table.ordinals[row]] = 1
    batches.land()
    return failed


def _import_packages(
    jigdo: JigdoSet,
    plan: Plan,
    importer: Importer,
    source: PackageSource,
    batches: _Batches,
    counter: _Counter,
    workers: int,
) -> None:
    """Import packages side by side while later ones are still arriving."""
    plans = {jigdo.head.packages[p.number].ref.pkgid: p for p in plan.packages}
    refs = [jigdo.head.packages[p.number].ref for p in plan.packages]
    running: dict[Future[int], PackageRef] = {}

    def reap(*, everything: bool) -> None:
        ready, _ = wait(running, return_when="ALL_COMPLETED" if everything else FIRST_COMPLETED)
        full = False
        for future in ready:
            ref = running.pop(future)
            size = future.result()
            source.done(ref)
            counter.package(ref.nevra.name, size)
            full |= batches.wrote(size)
        if full:
            if running:
                reap(everything=True)
            batches.land()

    with ThreadPoolExecutor(workers) as pool, closing(source.fetch(refs)) as arriving:
        for ref, path in arriving:
            running[pool.submit(importer.add_package, ref, path, plans[ref.pkgid])] = ref
            if len(running) >= workers * 2:
                reap(everything=False)
        if running:
            reap(everything=True)


class Importer:
    """Writes content objects out of RPM payloads and data frames.  Safe for several threads."""

    def __init__(self, repo: Repository, wanted: Wanted) -> None:
        self._repo, self._wanted = repo, wanted
        self._writers = [repo.writer(header) for header in wanted.headers]

    def _target(self, ordinal: int, header: int, size: int) -> Target:
        return Target(self._writers[header], self._wanted.ordinals.checksums[ordinal], size)

    def add_package(self, ref: PackageRef, path: Path, plan: PackagePlan) -> int:
        """Write the planned objects out of the RPM at ``path``; returns their bytes."""
        targets: Targets = {}
        columns = zip(plan.files, plan.ordinals, plan.headers, plan.sizes, strict=True)
        for index, ordinal, header, size in columns:
            targets.setdefault(index, []).append(self._target(ordinal, header, size))
        try:
            write_payload(self._repo, path, lambda header, files: targets)
        except ComposerError as error:
            error.hint = error.hint or (
                "the RPM's contents are not those that the set was made of: add another mirror "
                "of its repository with `remote add --repository`"
            )
            raise error.within(str(ref.nevra)) from error
        return sum(plan.sizes)

    def delta_targets(self, table: DeltaTable, plan: DeltaPlan) -> dict[int, list[Target]]:
        """Return the objects to make of each content of a deltas table."""
        targets: dict[int, list[Target]] = {}
        for row in plan.rows:
            number = table.numbers[row]
            size = table.contents[number].size
            target = self._target(table.ordinals[row], table.headers[row], size)
            targets.setdefault(number, []).append(target)
        return targets

    def add_new(self, jigdo: JigdoSet, plan: NewPlan, counted: Callable[[int], None]) -> None:
        """Write the planned objects out of the set's own data frames."""
        contents = self._wanted.contents
        targets: Targets = {}
        for row in plan.rows:
            content = contents.contents[row]
            size = contents.size(content)
            target = self._target(contents.ordinals[row], contents.headers[row], size)
            targets.setdefault(content, []).append(target)
        stream = _DataStream(jigdo, plan.frames)
        for content, rows in targets.items():
            start, size = contents.offsets[content], contents.size(content)
            written = list(write_content(self._repo, size, stream.pieces(start, size), rows))
            counted(size * len(written))


class _DataStream:
    """The uncompressed stream of data frames, read forwards, one frame in memory."""

    def __init__(self, jigdo: JigdoSet, frames: Sequence[Frame]) -> None:
        self._starts: dict[int, int] = {}
        start = 0
        for frame in jigdo.index.of(Kind.DATA):
            self._starts[frame.number] = start
            start += frame.uncompressed
        self._frames = jigdo.frames(frames)
        self._data, self._start = b"", 0

    def pieces(self, start: int, size: int) -> Iterator[bytes]:
        """Yield ``size`` bytes from ``start``; calls must go forwards."""
        while size:
            while start >= self._start + len(self._data):
                frame, self._data = next(self._frames)
                self._start = self._starts[frame.number]
            offset = start - self._start
            piece = self._data[offset : offset + min(size, _PIECE)]
            yield piece
            start += len(piece)
            size -= len(piece)


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
