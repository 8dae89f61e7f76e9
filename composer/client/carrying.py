"""Carry out what was planned: one set, or the sets of versions between where an RPM is lost.

A set has deltas from the versions that its publisher named.  From an older one there may be
deltas to one of those, and so on: a chain.  What is made of a version between is proven by
its own commit; it gets no ref, and `repo prune` removes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from composer.checksum import ObjectChecksum
from composer.client.events import Meter, Replanned
from composer.client.planning import staging_bytes
from composer.client.session import Session
from composer.client.sources import Replaced
from composer.client.transfers import Transfers, transfers
from composer.errors import ComposerError
from composer.jigdo.examine import Choices, Wanted
from composer.jigdo.lost import LostPackage, PackagesLost
from composer.jigdo.plan import Plan
from composer.jigdo.reader import JigdoSet
from composer.jigdo.reassemble import check_space, reassemble
from composer.jigdo.repack import Packers
from composer.ostree.repo import Repository

MOST_SETS = 8
"""So many sets are opened to find a way through versions between; each costs a few kB."""


@dataclass
class Carrier:
    """Brings commits into ``repo``.  ``lost`` packages came another way, ``replaced`` ones anew."""

    asked: Session
    repo: Repository
    choices: Choices
    meter: Meter
    workers: int
    packers: Packers
    lost: list[LostPackage] = field(default_factory=list)
    replaced: list[Replaced] = field(default_factory=list)

    def carry(
        self, jigdo: JigdoSet, wanted: Wanted, ref: str | None, expected: Transfers | None = None
    ) -> tuple[Plan, ...]:
        """Bring a set's commit and set ``ref``, if any; returns the plans that were carried out.

        ``expected`` is what moves, where that is known already.  Raises NoSpace before anything
        large moves, and what :func:`composer.jigdo.reassemble.reassemble` raises.
        """
        beside = staging_bytes(wanted.plan) + wanted.seeds.disk_bytes
        check_space(self.repo, wanted.plan, staging_bytes=beside)
        source = self.asked.packages(self.repo, jigdo, wanted, report=self.meter)
        self.meter.expect(
            expected or transfers(jigdo, wanted.plan),
            wanted.plan.object_bytes + wanted.seeds.object_bytes,
        )

        def replanned(plan: Plan, gone: Sequence[LostPackage]) -> None:
            self.lost.extend(gone)
            self._tell(jigdo, plan, gone)

        plans = reassemble(
            jigdo,
            wanted,
            self.repo,
            source,
            ref=ref,
            replanned=replanned,
            report=self.meter,
            workers=self.workers,
            packers=self.packers,
        )
        self.replaced += source.replaced()
        return plans

    def carry_by_chain(
        self, jigdo: JigdoSet, ref: str, start: ObjectChecksum | None, error: PackagesLost
    ) -> tuple[Plan, ...]:
        """Bring a set's commit by those between it and ``start``; raises ``error`` if it can't be.

        What was brought before packages turned out lost is here, and is not moved again.
        """
        whole = start and not self.repo.is_partial(start)
        way = self._way(jigdo, ref, start) if start and whole else []
        if not way:
            raise error
        base = start
        try:
            for between in way:
                self._carry_next(between, base, None, error.packages)
                base = between.head.commit
            plans = self._carry_next(jigdo, base, ref, error.packages)
        except PackagesLost:
            raise error from None
        self.lost += error.packages
        return plans

    def _carry_next(
        self,
        jigdo: JigdoSet,
        base: ObjectChecksum | None,
        ref: str | None,
        lost: Sequence[LostPackage],
    ) -> tuple[Plan, ...]:
        # The commits between get no ref, and the last was looked at when it was planned.
        wanted = self.asked.examine(
            jigdo, self.repo, base=base, check=lambda commit: None, choices=self.choices
        )
        self._tell(jigdo, wanted.plan, lost)
        return self.carry(jigdo, wanted, ref)

    def _tell(self, jigdo: JigdoSet, plan: Plan, lost: Sequence[LostPackage]) -> None:
        anew = Replanned(tuple(lost), transfers(jigdo, plan))
        self.meter.expect(anew.transfers, plan.object_bytes)
        self.meter.tell(anew)

    def _way(self, target: JigdoSet, ref: str, start: ObjectChecksum) -> list[JigdoSet]:
        """Find the sets to go through to ``target``, the fewest; each has deltas from the last."""
        ways: deque[tuple[JigdoSet, list[JigdoSet]]] = deque([(target, [])])
        seen = {target.head.commit, start}
        while ways:
            jigdo, way = ways.popleft()
            if way and any(base.commit == start for base in jigdo.head.bases):
                return way
            for base in jigdo.head.bases:
                if base.commit in seen or len(seen) == MOST_SETS + 2:
                    continue
                seen.add(base.commit)
                try:
                    entry = self.asked.newest(ref, str(base.commit)).entry
                    between = self.asked.open(entry, self.repo, self.choices)
                except ComposerError:
                    continue  # its set is not published any more, or cannot be read
                ways.append((between, [between, *way]))
        return []
