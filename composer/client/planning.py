"""What a pull would move, use and leave on disk, before it does: `plan` and `pull --dry-run`.

Reads what a pull reads at its beginning, and writes nothing.  What is announced is what
the pull moves: requests are counted by the function that makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from composer.checksum import ContentDigest, ObjectChecksum
from composer.client.acceptance import NO_WAIVERS, Waivers
from composer.client.differences import differences
from composer.client.remote import Remote
from composer.client.session import Found, Session, session
from composer.client.sources import (
    DEFAULT_SOURCES,
    RemotePackages,
    Replaced,
    Sources,
    package_directory,
    replaced,
)
from composer.client.transfers import Moved, Transfers, together, transfers
from composer.jigdo import memory
from composer.jigdo.delta.needs import most_at_once, packing_cost
from composer.jigdo.examine import DEFAULT_CHOICES, Choices, Prefer, Wanted
from composer.jigdo.explain import Explanation, explain
from composer.jigdo.lost import LostPackage
from composer.jigdo.plan import Plan
from composer.jigdo.reader import JigdoSet
from composer.net.packages import WINDOW
from composer.net.traffic import Traffic
from composer.ostree.repo import Repository
from composer.progress import Report, silent
from composer.rpm.advisories import Advisory
from composer.rpm.beginnings import Beginning
from composer.rpm.changes import Changes
from composer.rpm.package import PackageRef


@dataclass(frozen=True, slots=True)
class Amounts:
    """One way to fetch what is missing: transfers by source, and what they take here.

    ``transfers`` are by kind: "rpm", "delta", "new" (non-RPM content).  ``cpu_seconds``
    are of packing contents again; like ``memory`` (peak, bytes) they are estimates.
    """

    transfers: Transfers
    cpu_seconds: float
    memory: int

    @property
    def bytes(self) -> int:
        """Bytes of all transfers."""
        return sum(moved.bytes for moved in self.transfers.values())


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull would do.  ``set`` is the metadata that planning read, and a pull reads too.

    ``alternatives`` are by preference, and "no-deltas"; ``explanation`` is of what was asked.
    ``objects`` and ``object_bytes`` are to be fetched; ``seeds`` and ``seed_bytes`` are of
    other trees.  ``changes`` are of packages (None where a commit does not list them),
    ``advisories`` what they fix; ``seconds`` it may take, where that can be told.  ``lost``
    packages, which no mirror has, and ``replaced`` ones, which RPMs made anew serve for, are
    known where mirrors were probed.
    """

    ref: str
    version: str
    commit: ObjectChecksum
    previous: ObjectChecksum | None
    needed: bool
    prefer: Prefer
    set: Moved
    chosen: Amounts
    packages: int
    objects: int
    object_bytes: int
    disk_bytes: int
    alternatives: Mapping[str, Amounts] = field(default_factory=dict)
    changes: Changes | None = None
    advisories: tuple[Advisory, ...] = ()
    seconds: float | None = None
    explanation: Explanation | None = None
    lost: tuple[LostPackage, ...] = ()
    replaced: tuple[Replaced, ...] = ()
    seeds: int = 0
    seed_bytes: int = 0

    @property
    def total(self) -> Moved:
        """Everything that the pull moves, metadata too."""
        return together([self.set, *self.chosen.transfers.values()])


def plan(
    remote: Remote,
    ref: str,
    repo: Repository,
    *,
    version: str = "",
    choices: Choices = DEFAULT_CHOICES,
    sources: Sources = DEFAULT_SOURCES,
    probe: bool = False,
    waivers: Waivers = NO_WAIVERS,
    report: Report = silent,
    workers: int = 2,
    question: str = "",
) -> PullPlan:
    """Plan to bring ``ref`` of ``repo`` to the newest version of ``remote``, or to ``version``.

    RPMs of this machine cost nothing, nor do files of seeds; ``question`` is a path or a
    package to explain. With ``probe`` mirrors are asked whether they have the RPMs, and what
    is lost is planned anew. Raises what a pull raises when it reads the set, PackagesLost, and
    NotFound for a question about what the commit has not.
    """
    with session(remote, sources=sources, waivers=waivers, report=report) as asked:
        found = asked.look(ref, repo, version=version, choices=choices, read_only=True)
        if found.set is None:
            return _nothing(found, choices.prefer, _read(asked))
        jigdo, wanted = found.set
        kept = _Kept(repo)
        chosen, lost = wanted.plan, list[LostPackage]()
        if probe:
            probing = replace(asked.network, traffic=Traffic())
            source = asked.packages(repo, jigdo, wanted, network=probing)
            chosen, lost = _probed(jigdo, wanted, source, kept)
        told = announce(found, asked, repo, choices, workers=workers, kept=kept, plan=chosen)

    ways: dict[str, Prefer | None] = {prefer.value: prefer for prefer in Prefer}
    others = {name: wanted.replan(prefer) for name, prefer in (ways | {"no-deltas": None}).items()}
    explained = None
    if question:
        explained = explain(jigdo, wanted, repo, question, plan=chosen, lost=lost)
    return replace(
        told,
        alternatives={
            name: _amounts(jigdo, wanted, other, kept, workers)
            for name, other in others.items()
            if other
        },
        explanation=explained,
        lost=tuple(lost),
        replaced=tuple(kept.replaced[ref] for ref in sorted(kept.replaced, key=_name)),
    )


def announce(
    found: Found,
    asked: Session,
    repo: Repository,
    choices: Choices,
    *,
    workers: int,
    kept: _Kept | None = None,
    plan: Plan | None = None,
) -> PullPlan:
    """Say what pulling what was found will do; by ``plan``, where it is not the first one."""
    assert found.set is not None
    jigdo, wanted = found.set
    plan, kept = plan or wanted.plan, kept or _Kept(repo)
    chosen = _amounts(jigdo, wanted, plan, kept, workers)
    changed = differences(repo, found.previous, jigdo.head, wanted.start)
    speed = asked.arrivals.speed
    return PullPlan(
        ref=found.entry.ref,
        version=found.entry.version,
        commit=found.entry.commit,
        previous=found.previous,
        needed=True,
        prefer=choices.prefer,
        set=_read(asked),
        chosen=chosen,
        packages=len(plan.packages),
        objects=sum(wanted.missing),
        object_bytes=plan.object_bytes,
        disk_bytes=plan.disk_bytes + staging_bytes(plan) + wanted.seeds.disk_bytes,
        changes=changed.changes,
        advisories=changed.advisories,
        seconds=chosen.bytes / speed + chosen.cpu_seconds if speed else None,
        seeds=len(wanted.seeds.places),
        seed_bytes=wanted.seeds.object_bytes,
    )


def staging_bytes(plan: Plan) -> int:
    """Return how many bytes of RPMs lie on disk at once, at most."""
    return min(plan.package_bytes, 4 * WINDOW)


def _read(asked: Session) -> Moved:
    return Moved(asked.traffic.bytes("set"), asked.traffic.requests("set"))


def _name(ref: PackageRef) -> str:
    return str(ref.nevra)


def _probed(
    jigdo: JigdoSet, wanted: Wanted, source: RemotePackages, kept: _Kept
) -> tuple[Plan, list[LostPackage]]:
    """Ask for the RPMs of the plan, and plan again for as long as some are lost."""
    plan, lost = wanted.plan, list[LostPackage]()
    asked: set[PackageRef] = set()
    while True:
        fetched = [
            (jigdo.head.packages[package.number].ref, package.beginning)
            for package in plan.packages
            if package.transfer
        ]
        unknown = [ref for ref, part in fetched if ref not in asked and kept.left(ref, part)]
        asked.update(unknown)
        found, gone = source.probe(unknown)
        for item in found:
            if item.serves is not None:
                kept.replaced[item.package] = replaced(item)
        if not gone:
            return plan, lost
        lost += gone
        plan = wanted.again((), gone)


def _nothing(found: Found, prefer: Prefer, read: Moved) -> PullPlan:
    none = Amounts(dict.fromkeys(("rpm", "delta", "new"), Moved(0, 0)), 0.0, 0)
    entry = found.entry
    return PullPlan(
        entry.ref, entry.version, entry.commit, found.previous, False, prefer, read, none,
        0, 0, 0, 0,
    )  # fmt: skip


class _Kept:
    """What an interrupted pull left of RPMs."""

    def __init__(self, repo: Repository) -> None:
        self._directory = package_directory(repo)
        self._left: dict[ContentDigest, int] = {}
        self.replaced: dict[PackageRef, Replaced] = {}

    def left(self, ref: PackageRef, beginning: Beginning | None) -> int:
        """Return how many bytes of an RPM, its beginning, or what replaces it, are to come."""
        if instead := self.replaced.get(ref):
            return instead.size
        digest, size = ref.pkgid, ref.size
        if beginning is not None:
            digest, size = beginning.digest, beginning.size
        if digest not in self._left:
            self._left[digest] = self._look(digest, size)
        return self._left[digest]

    def _look(self, digest: ContentDigest, wanted: int) -> int:
        whole = self._directory / f"{digest}.rpm"
        if whole.is_file() and whole.stat().st_size == wanted:
            with whole.open("rb") as stream:
                if ContentDigest.of_stream(stream) == digest:
                    return 0
        part = whole.with_name(whole.name + ".part")
        size = part.stat().st_size if part.is_file() else 0
        return wanted - size if size <= wanted else wanted


def _amounts(jigdo: JigdoSet, wanted: Wanted, plan: Plan, kept: _Kept, workers: int) -> Amounts:
    seconds, making = _making(wanted, plan, workers)
    phases = [
        making,
        memory.importing(min(workers, len(plan.packages))),
        memory.held(plan.new.frames) + memory.unpacking(plan.new.frames),
    ]
    objects = len(wanted.ordinals) + (len(wanted.deltas.base) if wanted.deltas else 0)
    peak = memory.standing(objects, workers) + max(phases)
    return Amounts(transfers(jigdo, plan, kept.left), seconds, peak)


def _making(wanted: Wanted, plan: Plan, workers: int) -> tuple[float, int]:
    """Return CPU seconds of packing again, and the memory that ``workers`` at once take."""
    if wanted.deltas is None or not plan.deltas.rows:
        return 0.0, 0
    table, frames = wanted.deltas.table, plan.deltas.frames
    contents = [table.contents[n] for n in sorted({table.numbers[r] for r in plan.deltas.rows})]
    largest = min(memory.LARGEST_PATCH, max((f.uncompressed for f in frames), default=0))
    at_once = most_at_once(table, contents, workers, largest=largest) + memory.unpacking(frames)
    seconds = sum(packing_cost(table, content) for content in contents)
    return seconds, memory.held(frames) + min(at_once, wanted.deltas.room)
