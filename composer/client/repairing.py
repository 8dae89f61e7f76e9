"""Prove what refs have, and fetch again what is damaged, from whatever the planner finds.

An object is known by its checksum, so whoever has it is as good as any: the remote's set of the
very commit, its newest one, and what these take their contents from: RPMs, deltas, caches, seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from composer.checksum import ObjectChecksum
from composer.client.planning import staging_bytes
from composer.client.remote import Remote
from composer.client.session import Session, session
from composer.client.sources import DEFAULT_SOURCES, Sources
from composer.client.transfers import Moved, together
from composer.errors import ComposerError, NoSpace
from composer.jigdo.examine import DEFAULT_CHOICES, Choices
from composer.jigdo.reassemble import check_space, reassemble
from composer.net.repository import find_entry
from composer.ostree.checking import Checker, Fault, ObjectName
from composer.ostree.locking import Wait, changing, reading
from composer.ostree.repairing import SideRepository
from composer.ostree.repo import Repository
from composer.progress import Report, silent

_BINDING = "ostree.ref-binding"
_NOTHING = Moved(0, 0)


@dataclass(frozen=True, slots=True)
class Means:
    """What a repair may use: a remote, sources beside it, choices of how."""

    remote: Remote
    sources: Sources = DEFAULT_SOURCES
    choices: Choices = DEFAULT_CHOICES


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found: ``faults`` that are left, and ``repaired`` ones that were.

    ``partial`` commits are marked as not completely fetched.  ``reasons`` say why something could
    not be had.
    """

    commits: int
    objects: int
    faults: tuple[Fault, ...]
    repaired: tuple[Fault, ...] = ()
    partial: tuple[ObjectChecksum, ...] = ()
    moved: Moved = _NOTHING
    reasons: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether everything is as it must be."""
        return not self.faults and not self.partial


def fsck(
    repo: Repository,
    refs: Sequence[str] = (),
    *,
    means: Means | None = None,
    report: Report = silent,
    workers: int = 2,
    wait: Wait | None = None,
) -> Checked:
    """Prove every object of ``refs``, or of all refs; with ``means`` repair what is not sound.

    A ref has its commit and so much of its history as is here.  A damaged object keeps its place
    until a good one takes it.  Raises NotFound for a ref that is not here, Busy as
    :func:`composer.client.pull.pull` does, and what a pull raises for want of space.
    """
    with changing(repo, wait) if means else reading(repo, wait):
        commits = _commits(repo, refs)
        checker = Checker(repo, workers=workers, report=report)
        faults = checker.check(commits)
        work = _Repair(repo, commits, means, report, workers) if means else None
        found: dict[ObjectName, Fault] = {}
        while faults and work is not None:
            found |= {fault.name: fault for fault in faults}
            if not work.mend(faults):
                break
            # A directory that was damaged may hide others: they are seen now.
            commits |= _commits(repo, refs)
            faults = checker.check(commits)
        left = {fault.name for fault in faults}
        partial = {commit for commit in commits if repo.is_partial(commit)}
        if means and not faults:
            for commit in sorted(partial):
                repo.mark_whole(commit)
            partial = set()
        return Checked(
            commits=len(commits),
            objects=checker.objects,
            faults=tuple(faults),
            repaired=tuple(fault for name, fault in sorted(found.items()) if name not in left),
            partial=tuple(sorted(partial)),
            moved=work.moved if work else _NOTHING,
            reasons=tuple(dict.fromkeys(work.reasons)) if work else (),
        )


def _commits(repo: Repository, refs: Sequence[str]) -> dict[ObjectChecksum, tuple[str, ...]]:
    """Return the commits of refs, and their history as far as it is here, with names of refs."""
    every = repo.refs()
    heads = {ref: every[ref] if ref in every else repo.require(ref) for ref in refs or every}
    found: dict[ObjectChecksum, tuple[str, ...]] = {}
    for ref, head in sorted(heads.items()):
        commit: ObjectChecksum | None = head
        while commit is not None:
            found[commit] = (*found.get(commit, ()), ref.rpartition(":")[2])
            try:
                bound = repo.commit(commit).metadata.get(_BINDING)
                parent = repo.commit(commit).parent
            except ComposerError:
                break  # it is damaged or missing, which is told when it is checked
            if isinstance(bound, list):
                found[commit] = tuple(dict.fromkeys([*map(str, bound), *found[commit]]))
            commit = parent if parent and repo.has("commit", parent) else None
            if commit and repo.is_partial(commit):
                break  # of history, nothing but the name
    return found


@dataclass
class _Repair:
    """Brings what is lacking, commit by commit."""

    repo: Repository
    commits: dict[ObjectChecksum, tuple[str, ...]]
    means: Means
    report: Report
    workers: int
    reasons: list[str] = field(default_factory=list)
    moved: Moved = _NOTHING

    def mend(self, faults: Sequence[Fault]) -> bool:
        """Bring good objects for ``faults``; tells whether there are fewer now."""
        side = SideRepository.beside(self.repo, {fault.name for fault in faults})
        remote, sources = self.means.remote, self.means.sources
        try:
            with session(remote, sources=sources, report=self.report) as asked:
                try:
                    for ref, wanted in _sets(self.commits, faults):
                        if not side.lacking:
                            break
                        self._try(asked, side, ref, wanted)
                finally:
                    traffic = asked.traffic
                    self.moved = together([self.moved, Moved(traffic.bytes(), traffic.requests())])
        finally:
            installed = side.install()
        side.remove()
        return bool(installed)

    def _try(self, asked: Session, side: SideRepository, ref: str, wanted: str) -> None:
        try:
            self._bring(asked, side, ref, wanted)
        except NoSpace:
            raise
        except ComposerError as error:
            # What else the remote has may do.
            self.reasons += [error.message, *error.details]

    def _bring(self, asked: Session, side: SideRepository, ref: str, wanted: str) -> None:
        choices = self.means.choices
        # By its checksum, not by who says that it is the newest: each object is proven by itself.
        entry = find_entry(asked.fetcher, ref, wanted)
        jigdo = asked.open(entry, self.repo, choices)
        needed = asked.examine(jigdo, side, base=None, check=lambda commit: None, choices=choices)
        beside = staging_bytes(needed.plan) + needed.seeds.disk_bytes
        check_space(self.repo, needed.plan, staging_bytes=beside)
        reassemble(
            jigdo,
            needed,
            side,
            asked.packages(side, jigdo, needed, report=self.report),
            ref=None,
            report=self.report,
            workers=self.workers,
        )


def _sets(
    commits: dict[ObjectChecksum, tuple[str, ...]], faults: Iterable[Fault]
) -> Iterator[tuple[str, str]]:
    """Yield what sets to ask for, as ref and commit: those of the very commits, then the newest."""
    damaged = sorted({fault.commit for fault in faults})
    for commit in damaged:
        for ref in commits[commit]:
            yield ref, str(commit)
    yield from sorted({(ref, "") for commit in damaged for ref in commits[commit]})
