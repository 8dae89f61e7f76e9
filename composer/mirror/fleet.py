"""A fleet of clients and a history of releases: what mirrors send, and when.  Pure.

The model is described in docs/fleet.md.  What an update moves comes from outside, exact; what
is drawn (when a client looks, how far behind it stays, which mirror it asks) depends on the
seed and the client alone, so that scenarios differ by nothing else.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from composer.errors import UsageError
from composer.jigdo.pointer import PointerEntry
from composer.mirror.population import Group, Population, Scenario

DAY = 86_400
MAX_LOOKS = 20_000_000
KINDS = ("look", "set", "delta", "new", "rpm")

Amounts = Mapping[str, tuple[int, int]]
"""By kind: bytes and requests.  "look" is asking what is newest."""


class Arithmetic(Protocol):
    """What things cost.  ``look`` without a version asks for the newest."""

    def look(self, ref: str, *, newest: bool) -> tuple[int, int]:
        """Bytes and requests of asking."""
        ...

    def update(
        self,
        base: PointerEntry | None,
        target: PointerEntry,
        *,
        deltas: bool,
        described: bool,
    ) -> tuple[Amounts, bool]:
        """Bytes and requests of an update, without asking; whether the client, which may be
        ``described``, has the target's whole description afterwards.
        """
        ...

    def storage(self, kept: Sequence[PointerEntry], bases: Mapping[PointerEntry, int]) -> int:
        """Bytes of all RPMs of versions; ``bases`` of which set has deltas from how many before."""
        ...


@dataclass(frozen=True, slots=True)
class Pull:
    """A client's update, at a time; without a ``target`` it found nothing new."""

    time: float
    client: str
    mirror: str
    base: PointerEntry | None
    target: PointerEntry | None
    amounts: Amounts
    seconds: float

    @property
    def bytes(self) -> int:
        """All that moved."""
        return sum(size for size, _ in self.amounts.values())


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scenario comes to.

    ``by_kind`` has bytes and requests; ``by_mirror`` bytes and the peak rate, bytes per second.
    ``days`` are bytes per day from the first release on; ``storage`` is what the end has,
    ``most_storage`` the largest after a release.
    """

    scenario: Scenario
    clients: int
    looks: int
    updates: int
    by_kind: Mapping[str, tuple[int, int]]
    by_mirror: Mapping[str, tuple[int, float]]
    peak: float
    storage: int
    most_storage: int
    days: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """All that mirrors send."""
        return sum(size for size, _ in self.by_kind.values())


def releases(
    entries: Sequence[PointerEntry], population: Population
) -> dict[str, tuple[PointerEntry, ...]]:
    """Return the history of each ref that groups name, oldest first; raises UsageError."""
    by_ref: dict[str, list[PointerEntry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda one: (one.timestamp, one.commit)):
        by_ref[entry.ref].append(entry)
    found = {}
    for group in population.group:
        ref = group.ref or (next(iter(by_ref)) if len(by_ref) == 1 else "")
        if ref not in by_ref:
            known = ", ".join(sorted(by_ref))
            raise UsageError(
                f"group {group.name}: {ref or 'its ref is not named'}", hint=f"there are: {known}"
            )
        found[group.ref] = tuple(by_ref[ref])
    return found


def simulate(
    history: Mapping[str, Sequence[PointerEntry]],
    population: Population,
    scenario: Scenario,
    costs: Arithmetic,
    *,
    seen: Callable[[Pull], object] = lambda pull: None,
) -> Outcome:
    """Play ``history`` (of :func:`releases`) against a population; ``seen`` gets every look."""
    first = min(own[0].timestamp for own in history.values())
    end = max(own[-1].timestamp for own in history.values()) + population.tail.total_seconds()
    _require_bounded(population, end - first)
    totals: dict[str, list[int]] = {kind: [0, 0] for kind in KINDS}
    rates: dict[str, Counter[float]] = {one.name: Counter() for one in population.mirror}
    sent: Counter[str] = Counter()
    days = [0] * (int((end - first) // DAY) + 1)
    looks = updates = 0
    for group in population.group:
        own = history[group.ref]
        for number in range(group.count):
            for pull in _client(group, number, own, population, scenario, costs, first, end):
                seen(pull)
                looks += 1
                updates += pull.target is not None
                for kind, (size, requests) in pull.amounts.items():
                    totals[kind][0] += size
                    totals[kind][1] += requests
                sent[pull.mirror] += pull.bytes
                days[int((pull.time - first) // DAY)] += pull.bytes
                rates[pull.mirror][pull.time] += group.bandwidth
                rates[pull.mirror][pull.time + pull.seconds] -= group.bandwidth
    after = [costs.storage(*_kept(history, scenario, time)) for time in _times(history)]
    everything: Counter[float] = Counter()
    for changes in rates.values():
        for time, change in changes.items():
            everything[time] += change
    return Outcome(
        scenario=scenario,
        clients=sum(group.count for group in population.group),
        looks=looks,
        updates=updates,
        by_kind={kind: (size, requests) for kind, (size, requests) in totals.items()},
        by_mirror={name: (sent[name], _peak(changes)) for name, changes in rates.items()},
        peak=_peak(everything),
        storage=after[-1],
        most_storage=max(after),
        days=tuple(days),
    )


def _require_bounded(population: Population, seconds: float) -> None:
    looks = sum(
        group.count * (seconds // group.every.total_seconds() + 1) for group in population.group
    )
    if looks > MAX_LOOKS:
        raise UsageError(
            f"the clients look {looks:.0f} times, more than {MAX_LOOKS}",
            hint="simulate a tenth of them, or a shorter history, and multiply",
        )


def _client(
    group: Group,
    number: int,
    own: Sequence[PointerEntry],
    population: Population,
    scenario: Scenario,
    costs: Arithmetic,
    first: float,
    end: float,
) -> Iterator[Pull]:
    """Play one client: it looks every so often, and updates to what it may have."""
    name = f"{group.name} {number}"
    drawn = random.Random(f"{population.seed}/{name}")
    [behind] = drawn.choices(range(len(group.behind)), group.behind)
    mirrors = population.mirror
    [mirror] = drawn.choices(mirrors, [one.share for one in mirrors])
    every = group.every.total_seconds()
    times = [entry.timestamp for entry in own]
    time = first + drawn.uniform(0, every)
    here, described = 0 if group.installed else -1, True
    while time < end:
        newest = bisect_right(times, time) - 1
        oldest = newest - scenario.keep + 1 if scenario.keep else 0
        wanted = max(newest - behind, oldest, 0) if newest >= 0 else -1
        amounts: dict[str, tuple[int, int]] = {
            "look": costs.look(own[0].ref, newest=wanted == newest)
        }
        base = own[here] if here >= 0 else None
        target = own[wanted] if wanted > here else None
        if target is not None:
            window = scenario.deltas
            deltas = window is None or (here >= 0 and wanted - here <= window)
            moved, described = costs.update(base, target, deltas=deltas, described=described)
            amounts.update(moved)
            here = wanted
        size = sum(one for one, _ in amounts.values())
        yield Pull(time, name, mirror.name, base, target, amounts, size / group.bandwidth)
        time += every


def _times(history: Mapping[str, Sequence[PointerEntry]]) -> list[int]:
    return sorted({entry.timestamp for own in history.values() for entry in own})


def _kept(
    history: Mapping[str, Sequence[PointerEntry]], scenario: Scenario, time: int
) -> tuple[list[PointerEntry], dict[PointerEntry, int]]:
    """Return the versions that are there at a time, and the windows of their sets' deltas."""
    kept: dict[PointerEntry, None] = {}
    for own in history.values():
        there = [entry for entry in own if entry.timestamp <= time]
        kept |= dict.fromkeys(there[-scenario.keep :] if scenario.keep else there)
    window = scenario.deltas
    return [*kept], {} if window is None else dict.fromkeys(kept, window)


def _peak(changes: Mapping[float, int]) -> float:
    """Return the most that is sent at once, of changes of the rate by time."""
    most = rate = 0
    for _, change in sorted(changes.items()):
        rate += change
        most = max(most, rate)
    return float(most)
