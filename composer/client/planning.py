"""What a pull would move, use and leave on disk, before it does: `plan` and `pull --dry-run`.

Reads what a pull reads at its beginning, and writes nothing.  What is announced is what
the pull moves: requests are counted by the function that makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.client.pull import Found, Moved, look, package_directory, staging_bytes
from composer.client.remote import Remote
from composer.client.rpm_cache import RpmCache
from composer.jigdo.delta.applying import packing_cost
from composer.jigdo.examine import DEFAULT_CHOICES, Choices, Prefer, Wanted
from composer.jigdo.explain import Explanation, explain
from composer.jigdo.plan import Plan
from composer.jigdo.reader import JigdoSet, requests
from composer.net.fetch import Fetcher
from composer.net.location import Mirrors
from composer.net.traffic import Traffic
from composer.ostree.repo import Repository
from composer.progress import Report, silent
from composer.rpm.package import PackageRef

# What the program takes before it does anything: the interpreter, libostree, librpm.
_PROGRAM = 80 << 20
# What applying a patch takes beside the patch (composer.jigdo.delta.columns), rounded up.
_APPLYING = 48 << 20


@dataclass(frozen=True, slots=True)
class Amounts:
    """One way to fetch what is missing: transfers by source, and what they take here.

    ``transfers`` are by kind: "rpm", "delta", "new" (non-RPM content).  ``cpu_seconds``
    are of packing contents again; like ``memory`` (peak, bytes) they are estimates.
    """

    transfers: Mapping[str, Moved]
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
    alternatives: Mapping[str, Amounts]
    explanation: Explanation | None = None

    @property
    def total(self) -> Moved:
        """Everything that the pull moves, metadata too."""
        moved = [self.set, *self.chosen.transfers.values()]
        return Moved(sum(m.bytes for m in moved), sum(m.requests for m in moved))


def plan_pull(
    remote: Remote,
    ref: str,
    repo: Repository,
    *,
    choices: Choices = DEFAULT_CHOICES,
    rpm_caches: Sequence[Path] = (),
    report: Report = silent,
    workers: int = 2,
    question: str = "",
) -> PullPlan:
    """Plan to bring ``ref`` of ``repo`` to the newest version that ``remote`` has.

    ``rpm_caches`` are directories whose RPMs cost nothing; ``question`` is a path or a
    package to explain.  Raises what a pull raises when it
    reads the set, and NotFound for a question about what the commit has not.
    """
    traffic, cache = Traffic(), RpmCache(rpm_caches)
    with closing(Fetcher(Mirrors.parse(*remote.urls), traffic=traffic)) as fetcher:
        found = look(
            fetcher,
            remote,
            ref,
            repo,
            choices=choices,
            at_hand=cache.find,
            report=report,
            read_only=True,
        )
        read = Moved(traffic.bytes(), traffic.requests())
    if found.set is None:
        return _nothing(found, choices.prefer, read)
    jigdo, wanted = found.set
    kept = _Kept(repo)

    def amounts(plan: Plan) -> Amounts:
        return _amounts(jigdo, wanted, plan, kept, workers)

    others: dict[str, Prefer | None] = {prefer.value: prefer for prefer in Prefer}
    plan = wanted.plan
    return PullPlan(
        ref=found.entry.ref,
        version=found.entry.version,
        commit=found.entry.commit,
        previous=found.previous,
        needed=True,
        prefer=choices.prefer,
        set=read,
        chosen=amounts(plan),
        packages=len(plan.packages),
        objects=sum(wanted.missing),
        object_bytes=plan.object_bytes,
        disk_bytes=plan.disk_bytes + staging_bytes(plan),
        alternatives={
            name: amounts(wanted.replan(prefer))
            for name, prefer in {**others, "no-deltas": None}.items()
        },
        explanation=explain(jigdo, wanted, repo, question) if question else None,
    )


def _nothing(found: Found, prefer: Prefer, read: Moved) -> PullPlan:
    none = Amounts(dict.fromkeys(("rpm", "delta", "new"), Moved(0, 0)), 0.0, 0)
    entry = found.entry
    return PullPlan(
        entry.ref, entry.version, entry.commit, found.previous, False, prefer, read, none,
        0, 0, 0, 0, {},
    )  # fmt: skip


class _Kept:
    """What an interrupted pull left of RPMs."""

    def __init__(self, repo: Repository) -> None:
        self._directory = package_directory(repo)
        self._left: dict[ContentDigest, int] = {}

    def left(self, ref: PackageRef) -> int:
        """Return how many bytes of an RPM are still to come."""
        if ref.pkgid not in self._left:
            self._left[ref.pkgid] = self._look(ref)
        return self._left[ref.pkgid]

    def _look(self, ref: PackageRef) -> int:
        whole = self._directory / f"{ref.pkgid}.rpm"
        if whole.is_file() and whole.stat().st_size == ref.size:
            with whole.open("rb") as stream:
                if ContentDigest.of_stream(stream) == ref.pkgid:
                    return 0
        part = whole.with_name(whole.name + ".part")
        size = part.stat().st_size if part.is_file() else 0
        return ref.size - size if size <= ref.size else ref.size


def _amounts(jigdo: JigdoSet, wanted: Wanted, plan: Plan, kept: _Kept, workers: int) -> Amounts:
    fetched = [package.number for package in plan.packages if package.transfer]
    left = [kept.left(jigdo.head.packages[number].ref) for number in fetched]
    costs = _packing(wanted, plan)
    frames = [*plan.deltas.frames, *plan.new.frames]
    memory = _PROGRAM + sum(sorted((memory for _, memory in costs), reverse=True)[:workers])
    memory += 2 * max((frame.uncompressed for frame in frames), default=0)
    memory += _APPLYING * min(workers, len(plan.deltas.frames))
    return Amounts(
        {
            "rpm": _moved(size for size in left if size),
            "delta": _moved(requests(plan.deltas.frames)),
            "new": _moved(requests(plan.new.frames)),
        },
        sum(seconds for seconds, _ in costs),
        memory,
    )


def _moved(sizes: Iterable[int]) -> Moved:
    every = list(sizes)
    return Moved(sum(every), len(every))


def _packing(wanted: Wanted, plan: Plan) -> list[tuple[float, int]]:
    if wanted.deltas is None:
        return []
    table = wanted.deltas.table
    numbers = sorted({table.numbers[row] for row in plan.deltas.rows})
    return [packing_cost(table, table.contents[number]) for number in numbers]
