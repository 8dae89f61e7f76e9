"""Rebuild a commit from its set and RPMs, in a repository.

:func:`examine` finds out what is missing and what to fetch; :func:`reassemble` does
it: objects straight from RPM payloads and data frames into libostree, which checks
every one against its checksum.  The tree's own objects and the commit are written after all
content, and the ref is set by the same transaction, so a commit that is in the
repository is whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, Self

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import (
    ComposerError,
    FormatError,
    MissingRequirement,
    NoSpace,
    VerificationFailed,
)
from composer.jigdo.container import Frame, Kind
from composer.jigdo.delta.applying import MAX_MEMORY, DeltaImporter, packing_cost, usable
from composer.jigdo.delta.table import REPACK, DeltaContent, DeltaTable
from composer.jigdo.importing import Target, Targets, write_content, write_payload
from composer.jigdo.manifest import Contents, Map
from composer.jigdo.plan import (
    DeltaPlan,
    NewPlan,
    PackagePlan,
    Plan,
    Price,
    make_plan,
    unexplained,
)
from composer.jigdo.reader import CommitFrame, JigdoSet
from composer.jigdo.tree import Ordinals, tree_frames, walk
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


class Prefer(Enum):
    """What to spare: only bytes, bytes and CPU time weighed, or CPU time first."""

    BYTES = "bytes"
    BALANCED = "balanced"
    CPU = "cpu"


SECOND = 500_000
"""Bytes that a second of CPU time weighs as much as: what a line of 4 Mbit/s brings in it."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user prefers: ``max_memory`` in bytes for making contents out of older ones."""

    max_memory: int = MAX_MEMORY
    prefer: Prefer = Prefer.BALANCED


DEFAULT_CHOICES = Choices()


@dataclass(frozen=True, slots=True)
class _Deltas:
    """The table that was planned with, and the base's objects by ordinal."""

    table: DeltaTable
    base: Sequence[ObjectChecksum]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a set's commit needs here, before anything large moved."""

    start: CommitFrame
    dirmetas: tuple[bytes, ...]
    dirtrees: dict[ObjectChecksum, bytes]  # only those that the repository lacks
    ordinals: Ordinals
    headers: tuple[Header, ...]
    contents: Contents
    plan: Plan
    deltas: _Deltas | None
    again: Callable[[bytearray], Plan]  # what to fetch instead of deltas that came to nothing
    missing: bytearray  # a byte per ordinal: 1 for what is not here
    maps: Mapping[int, Map]  # those that were read
    usable: Callable[[DeltaContent], bool]  # whether this client can make a content of the table
    replan: Callable[[Prefer | None], Plan]  # what another preference, or no deltas, would fetch


AtHand = Callable[[Sequence[PackageRef]], Collection[ContentDigest]]
"""Says which of these packages' RPMs are on this machine, by pkgid."""

CheckCommit = Callable[[CommitFrame], None]
"""Raises VerificationFailed unless the commit's signatures are acceptable."""


def examine(
    jigdo: JigdoSet,
    repo: Repository,
    *,
    base: ObjectChecksum | None,
    check: CheckCommit,
    choices: Choices = DEFAULT_CHOICES,
    read_only: bool = False,
    at_hand: AtHand = lambda packages: (),
) -> Wanted:
    """Read what is needed to plan: commit, tree, maps.  ``check`` is called before the tree moves.

    ``base`` is a complete commit in ``repo``, whose objects save most of the reading;
    it only saves: what is here is always found by looking.  What an interrupted run staged
    is landed, or with ``read_only`` taken as if it had.  ``at_hand`` is asked once for
    the packages whose RPMs are on this machine, and the plan takes them for nothing.
    """
    start, dirmetas, headers, table = jigdo.read_start()
    check(start)
    if not read_only:
        repo.land_staged()
    dirtrees, ordinals = _read_tree(jigdo, repo, start, base)
    contents = jigdo.contents(table, objects=len(ordinals), headers=headers)
    missing = _missing(repo, ordinals, staged=read_only)
    deltas = _read_deltas(jigdo, repo, base, missing, headers)
    maps = _read_maps(jigdo, repo, base, missing, contents, headers)
    here = _at_hand(jigdo, missing, maps, at_hand)

    def can_make(content: DeltaContent) -> bool:
        assert deltas is not None
        return usable(deltas.table, content, max_memory=choices.max_memory)

    def without_deltas(missing: bytearray) -> Plan:
        maps.update(_read_maps(jigdo, repo, base, missing, contents, headers))
        return make_plan(jigdo.head, jigdo.index, missing, maps, contents, here=here)

    def plan(prefer: Prefer | None) -> Plan:
        offered = deltas.table if deltas and prefer else None
        price = _price(offered, prefer) if offered and prefer else lambda content: 0
        found = (jigdo.head, jigdo.index, missing, maps, contents)
        return make_plan(*found, offered, can_make, price, here)

    return Wanted(
        start,
        tuple(dirmetas),
        dirtrees,
        ordinals,
        headers,
        contents,
        plan(choices.prefer),
        deltas,
        without_deltas,
        missing,
        maps,
        can_make,
        plan,
    )


def _price(table: DeltaTable, prefer: Prefer) -> Price:
    """Return what packing a content again is worth; patching costs next to nothing."""

    def price(content: DeltaContent) -> int | None:
        if prefer is Prefer.BYTES or content.method < REPACK:
            return 0
        if prefer is Prefer.CPU:
            return None
        return math.ceil(packing_cost(table, content)[0] * SECOND)

    return price


def _at_hand(
    jigdo: JigdoSet, missing: bytearray, maps: Mapping[int, Map], at_hand: AtHand
) -> set[int]:
    """Return the numbers of packages with missing objects whose RPMs are here."""
    useful = [n for n in sorted(maps) if any(missing[o] for o in maps[n].ordinals)]
    found = set(at_hand([jigdo.head.packages[number].ref for number in useful]))
    return {number for number in useful if jigdo.head.packages[number].ref.pkgid in found}


def _read_deltas(
    jigdo: JigdoSet,
    repo: Repository,
    base: ObjectChecksum | None,
    missing: bytearray,
    headers: tuple[Header, ...],
) -> _Deltas | None:
    """Read what can be made of a commit that is here: ``base``, or else any that the set knows."""
    if not any(missing):
        return None
    known = [found.commit for found in jigdo.head.bases]
    here = [c for c in known if c == base or (repo.has("commit", c) and not repo.is_partial(c))]
    for commit in sorted(here, key=lambda c: (c != base, c)):
        try:
            objects = _objects(repo, commit)
        except ComposerError:  # pruned, or otherwise not whole
            continue
        table = jigdo.deltas(commit, objects=len(missing), headers=headers)
        if table is not None:
            return _Deltas(table, objects)
    return None


def _objects(repo: Repository, commit: ObjectChecksum) -> Sequence[ObjectChecksum]:
    ordinals = Ordinals()
    for visit in walk(repo.commit(commit).tree, lambda one: repo.metadata("dirtree", one)):
        ordinals.add(visit.tree)
    return ordinals.checksums


def _read_tree(
    jigdo: JigdoSet, repo: Repository, start: CommitFrame, base: ObjectChecksum | None
) -> tuple[dict[ObjectChecksum, bytes], Ordinals]:
    """Walk the commit's tree; fetch the tree frames that hold dirtrees which are not here."""
    frames = list(jigdo.index.of(Kind.TREE))
    known = _base_frames(repo, base)
    unread = [frame for frame in frames if frame.digest in known]
    fetched: dict[ObjectChecksum, bytes] = {}
    if len(unread) < len(frames) and not repo.has("dirtree", start.commit.tree):
        fetched.update(jigdo.dirtrees(frame for frame in frames if frame.digest not in known))
    else:
        unread = frames
    missing: dict[ObjectChecksum, bytes] = {}

    def load(checksum: ObjectChecksum) -> bytes:
        if checksum not in fetched and repo.has("dirtree", checksum):
            return repo.metadata("dirtree", checksum)
        if checksum not in fetched and unread:
            # The guess from the base was wrong, for instance after a prune: read it all.
            fetched.update(jigdo.dirtrees(unread))
            unread.clear()
        if checksum not in fetched:
            raise FormatError(f"the set lacks the dirtree object {checksum}")
        missing[checksum] = fetched[checksum]
        return missing[checksum]

    ordinals = Ordinals()
    for visit in walk(start.commit.tree, load):
        ordinals.add(visit.tree)
    return missing, ordinals


def _base_frames(repo: Repository, base: ObjectChecksum | None) -> dict[ContentDigest, None]:
    if base is None or not repo.has("commit", base):
        return {}
    root = repo.commit(base).tree
    try:
        frames = tree_frames(root, lambda checksum: repo.metadata("dirtree", checksum))
        return dict.fromkeys(map(ContentDigest.of, frames))
    except ComposerError:  # pruned, or otherwise not whole: it saves nothing
        return {}


def _missing(repo: Repository, ordinals: Ordinals, *, staged: bool) -> bytearray:
    flags = bytearray(len(ordinals))
    here = repo.staged_content() if staged else frozenset()
    for checksum in repo.missing_content(ordinals.checksums):
        if checksum not in here:
            flags[ordinals[checksum]] = 1
    return flags


def _read_maps(
    jigdo: JigdoSet,
    repo: Repository,
    base: ObjectChecksum | None,
    missing: bytearray,
    contents: Contents,
    headers: tuple[Header, ...],
) -> dict[int, Map]:
    """Read the maps of packages that the base lacks; then, if they do not suffice, all others."""
    if not any(missing):
        return {}
    objects, everything = len(missing), range(len(jigdo.head.packages))
    known = _base_packages(repo, base)
    likely = [n for n in everything if str(jigdo.head.packages[n].ref.pkgid) not in known]
    maps = jigdo.maps(likely, objects=objects, headers=headers)
    if unexplained(missing, maps.values(), contents):
        rest = [n for n in everything if n not in maps]
        maps.update(jigdo.maps(rest, objects=objects, headers=headers))
    lacking = unexplained(missing, maps.values(), contents)
    if lacking:
        raise FormatError(f"the set does not say where {lacking} of its objects come from")
    return maps


def _base_packages(repo: Repository, base: ObjectChecksum | None) -> set[str]:
    if base is None or not repo.has("commit", base):
        return set()
    packages = repo.commit(base).metadata.get("jigdo-composer.packages")
    rows = packages if isinstance(packages, list) else []
    return {str(row[1]) for row in rows if isinstance(row, tuple) and len(row) == 3}


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
