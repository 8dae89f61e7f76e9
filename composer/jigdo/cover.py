"""Cover things at the least cost with sources that each have some of them.

The planner's one algorithm, pure.  The problem is weighted set cover, which has no
exact fast answer: what must be is taken, then the cheapest per thing, then what turned
out not to be needed is left out, and a single source that has everything wins when it
costs less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush


@dataclass(frozen=True, slots=True)
class Source:
    """What one transfer gives: ``cost`` in bytes, and the things in it."""

    cost: int
    things: Collection[int]


def cover(sources: Sequence[Source]) -> list[int]:
    """Return positions of sources that together have everything that any of them has.

    Sorted.  The same input gives the same answer; of equal choices the earlier source wins.
    """
    holders: Counter[int] = Counter()
    for source in sources:
        holders.update(source.things)
    chosen = [
        number
        for number, source in enumerate(sources)
        if source.things and any(holders[thing] == 1 for thing in source.things)
    ]
    covered = {thing for number in chosen for thing in sources[number].things}
    rest = {
        number: left
        for number, source in enumerate(sources)
        if (left := set(source.things) - covered)
    }
    return _needed(sources, chosen + _cheapest(sources, rest))


def _cheapest(sources: Sequence[Source], rest: dict[int, set[int]]) -> list[int]:
    everything: set[int] = set().union(*rest.values())
    queue = [(sources[number].cost / len(things), number) for number, things in rest.items()]
    heapify(queue)
    chosen, covered = [], set[int]()
    while len(covered) < len(everything):
        _, number = heappop(queue)
        gained = rest[number] - covered
        # Gains only shrink, so what still leads after a second look is the best of all.
        again = (sources[number].cost / len(gained), number) if gained else None
        if again and queue and queue[0] < again:
            heappush(queue, again)
        elif again:
            chosen.append(number)
            covered |= gained
    whole = [number for number, things in rest.items() if len(things) == len(everything)]
    single = min(whole, key=lambda n: (sources[n].cost, n), default=None)
    if single is not None and sources[single].cost < sum(sources[n].cost for n in chosen):
        return [single]
    return chosen


def _needed(sources: Sequence[Source], chosen: list[int]) -> list[int]:
    """Leave out what the other chosen sources have as well, the dearest first."""
    holders = Counter(thing for number in chosen for thing in sources[number].things)
    kept = set(chosen)
    for number in sorted(chosen, key=lambda n: (-sources[n].cost, n)):
        if all(holders[thing] > 1 for thing in sources[number].things):
            kept.remove(number)
            holders.subtract(sources[number].things)
    return sorted(kept)


def bundles(links: Sequence[Sequence[int]]) -> dict[int, int]:
    """Group numbers that are needed together; returns each one's group, its least number."""
    group: dict[int, int] = {}

    def find(number: int) -> int:
        while group.setdefault(number, number) != number:
            group[number] = group[group[number]]
            number = group[number]
        return number

    for link in links:
        roots = sorted({find(number) for number in link})
        for root in roots[1:]:
            group[root] = roots[0]
    return {number: find(number) for number in sorted(group)}
