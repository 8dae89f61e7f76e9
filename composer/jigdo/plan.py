"""Decide what to fetch.  Pure: no file, no socket; the same input gives the same plan.

Input is what the set says (head, maps, contents, index) and which objects are
missing here.  Output names every package and frame, with exact bytes.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from composer.jigdo.container import Frame, Index, Kind
from composer.jigdo.manifest import Contents, Head, Map

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class PackagePlan:
    """What to take out of one package: rows of its map, in order of the file index.

    ``number`` is the package's position in the head.
    """

    number: int
    files: array[int]
    ordinals: array[int]
    headers: array[int]
    sizes: array[int]


@dataclass(frozen=True, slots=True)
class NewPlan:
    """What to take out of the set itself.

    ``rows`` are positions in the contents table, sorted by content; ``frames`` are
    the data frames that hold those contents, in order.
    """

    rows: tuple[int, ...]
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to be fetched for the missing objects."""

    packages: tuple[PackagePlan, ...]
    new: NewPlan
    package_bytes: int
    new_bytes: int
    object_bytes: int
    disk_bytes: int


def unexplained(missing: bytearray, maps: Iterable[Map], contents: Contents) -> int:
    """Count missing objects that neither ``maps`` nor ``contents`` hold.

    ``missing`` has one byte per ordinal: 1 for an object that is not here.
    """
    left = bytearray(missing)
    for mapping in maps:
        for ordinal in mapping.ordinals:
            left[ordinal] = 0
    for ordinal in contents.ordinals:
        left[ordinal] = 0
    return sum(left)


def make_plan(
    head: Head, index: Index, missing: bytearray, maps: Mapping[int, Map], contents: Contents
) -> Plan:
    """Choose packages and frames for all missing objects.

    ``maps`` are by package number.  Every missing object must be explained.
    """
    chosen = _choose_packages(head, missing, maps)
    left = bytearray(missing)
    packages = []
    for number in chosen:
        package = _take(number, maps[number], left)
        if package.files:
            packages.append(package)
    new = _take_new(index, contents, left)
    sizes = [size for package in packages for size in package.sizes]
    sizes += [contents.size(contents.contents[row]) for row in new.rows]
    return Plan(
        packages=tuple(packages),
        new=new,
        package_bytes=sum(head.packages[package.number].ref.size for package in packages),
        new_bytes=sum(frame.size for frame in new.frames),
        object_bytes=sum(sizes),
        disk_bytes=sum(-(-size // _BLOCK) * _BLOCK for size in sizes),
    )


def _choose_packages(head: Head, missing: bytearray, maps: Mapping[int, Map]) -> list[int]:
    """Cover all missing objects with packages: those that must be, then the cheapest per object."""
    useful = {
        number: {ordinal for ordinal in mapping.ordinals if missing[ordinal]}
        for number, mapping in sorted(maps.items())
    }
    sources: dict[int, int] = {}
    for ordinals in useful.values():
        for ordinal in ordinals:
            sources[ordinal] = sources.get(ordinal, 0) + 1
    chosen = [n for n, ordinals in useful.items() if any(sources[o] == 1 for o in ordinals)]
    covered = set().union(*(useful[number] for number in chosen))
    rest = {n: o - covered for n, o in useful.items() if o - covered}
    chosen += _cheapest(head, rest)
    return _needed(head, chosen, useful)


def _cheapest(head: Head, rest: dict[int, set[int]]) -> list[int]:
    """Choose by cost per object, unless a single package has all and costs less."""

    def cost(number: int) -> int:
        return head.packages[number].ref.size

    everything: set[int] = set().union(*rest.values())
    queue = [(cost(number) / len(ordinals), number) for number, ordinals in rest.items()]
    heapify(queue)
    chosen, covered = [], set[int]()
    while len(covered) < len(everything):
        _, number = heappop(queue)
        gained = rest[number] - covered
        # Gains only shrink, so what still leads after a second look is the best of all.
        again = (cost(number) / len(gained), number) if gained else None
        if again and queue and queue[0] < again:
            heappush(queue, again)
        elif again:
            chosen.append(number)
            covered |= gained
    whole = [number for number, ordinals in rest.items() if len(ordinals) == len(everything)]
    single = min(whole, key=lambda n: (cost(n), n), default=None)
    if single is not None and cost(single) < sum(map(cost, chosen)):
        return [single]
    return chosen


def _needed(head: Head, chosen: list[int], useful: Mapping[int, set[int]]) -> list[int]:
    """Leave out what the other chosen packages hold as well, the dearest first."""
    holders = Counter(ordinal for number in chosen for ordinal in useful[number])
    kept = set(chosen)
    for number in sorted(chosen, key=lambda n: (-head.packages[n].ref.size, n)):
        if all(holders[ordinal] > 1 for ordinal in useful[number]):
            kept.remove(number)
            holders.subtract(useful[number])
    return sorted(kept)


def _take(number: int, mapping: Map, left: bytearray) -> PackagePlan:
    """Take from ``mapping`` the rows of objects that are still ``left``, and mark them."""
    rows = []
    for row, ordinal in enumerate(mapping.ordinals):
        if left[ordinal]:
            left[ordinal] = 0
            rows.append(row)

    def column(values: Sequence[int]) -> array[int]:
        return array("q", (values[row] for row in rows))

    return PackagePlan(
        number,
        column(mapping.files),
        column(mapping.ordinals),
        column(mapping.headers),
        column(mapping.sizes),
    )


def _take_new(index: Index, contents: Contents, left: bytearray) -> NewPlan:
    rows = [row for row, ordinal in enumerate(contents.ordinals) if left[ordinal]]
    rows.sort(key=lambda row: (contents.contents[row], row))
    wanted = [contents.contents[row] for row in rows]
    spans = [
        (contents.offsets[c], contents.offsets[c + 1])
        for c in dict.fromkeys(wanted)
        if contents.size(c)
    ]
    frames, start, position = [], 0, 0
    for frame in index.of(Kind.DATA):
        end = start + frame.uncompressed
        while position < len(spans) and spans[position][1] <= start:
            position += 1
        # Spans are sorted, so only the first that ends behind this frame's start can touch it.
        if position < len(spans) and spans[position][0] < end:
            frames.append(frame)
        start = end
    return NewPlan(tuple(rows), tuple(frames))
