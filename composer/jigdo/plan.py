"""Decide what to fetch.  Pure: no file, no socket; the same input gives the same plan.

Input is what the set says (head, maps, contents, index) and which objects are
missing here.  Output names every package and frame, with exact bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate

from composer.jigdo.container import Frame, Index, Kind
from composer.jigdo.cover import Source, bundles, cover
from composer.jigdo.delta.table import DeltaContent, DeltaTable
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
class DeltaPlan:
    """What to make out of contents that are here.

    ``rows`` are positions in the deltas table's objects, sorted by content; ``frames``
    are the patch frames that they need, in order.
    """

    rows: tuple[int, ...]
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is to be fetched for the missing objects; bytes are of transfers."""

    packages: tuple[PackagePlan, ...]
    new: NewPlan
    deltas: DeltaPlan
    package_bytes: int
    new_bytes: int
    delta_bytes: int
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
    head: Head,
    index: Index,
    missing: bytearray,
    maps: Mapping[int, Map],
    contents: Contents,
    table: DeltaTable | None = None,
    usable: Callable[[DeltaContent], bool] = lambda content: True,
) -> Plan:
    """Choose packages and frames for all missing objects, for the fewest bytes.

    ``maps`` are by package number; ``table`` is of a commit that is here, and ``usable``
    says of a content in it whether this client wants to make it that way.  Every missing
    object must be explained.
    """
    offers = [
        *_delta_offers(index, missing, table, usable),
        *_new_offers(index, missing, contents),
        *_package_offers(head, missing, maps),
    ]
    chosen = _choose(offers)
    left = bytearray(missing)
    deltas = _take_deltas(index, table, chosen, left)
    new = _take_new(index, contents, chosen, left)
    packages = []
    for offer in chosen:
        if offer.kind is _Kind.PACKAGE:
            package = _take(offer.numbers[0], maps[offer.numbers[0]], left)
            if package.files:
                packages.append(package)
    sizes = [size for package in packages for size in package.sizes]
    sizes += [contents.size(contents.contents[row]) for row in new.rows]
    if table is not None:
        sizes += [table.contents[table.numbers[row]].size for row in deltas.rows]
    return Plan(
        packages=tuple(packages),
        new=new,
        deltas=deltas,
        package_bytes=sum(head.packages[package.number].ref.size for package in packages),
        new_bytes=sum(frame.size for frame in new.frames),
        delta_bytes=sum(frame.size for frame in deltas.frames),
        object_bytes=sum(sizes),
        disk_bytes=sum(-(-size // _BLOCK) * _BLOCK for size in sizes),
    )


def _choose(offers: Sequence[_Offer]) -> list[_Offer]:
    """Choose the cheapest; never worse than doing without deltas, which greed alone can be."""
    with_deltas = _covering(offers)
    plain = [offer for offer in offers if offer.kind is not _Kind.DELTA]
    held = {thing for offer in plain for thing in offer.source.things}
    if all(thing in held for offer in offers for thing in offer.source.things):
        without = _covering(plain)
        if _cost(without) < _cost(with_deltas):
            return without
    return with_deltas


def _covering(offers: Sequence[_Offer]) -> list[_Offer]:
    return [offers[number] for number in cover([offer.source for offer in offers])]


def _cost(offers: Iterable[_Offer]) -> int:
    return sum(offer.source.cost for offer in offers)


class _Kind(Enum):
    DELTA = "delta"
    NEW = "new"
    PACKAGE = "package"


@dataclass(frozen=True, slots=True)
class _Offer:
    """A source with what it is: a package's number, or numbers of frames."""

    kind: _Kind
    numbers: tuple[int, ...]
    source: Source


def _package_offers(head: Head, missing: bytearray, maps: Mapping[int, Map]) -> Iterator[_Offer]:
    for number, mapping in sorted(maps.items()):
        things = {ordinal for ordinal in mapping.ordinals if missing[ordinal]}
        if things:
            yield _Offer(_Kind.PACKAGE, (number,), Source(head.packages[number].ref.size, things))


def _new_offers(index: Index, missing: bytearray, contents: Contents) -> Iterator[_Offer]:
    wanted = [row for row, ordinal in enumerate(contents.ordinals) if missing[ordinal]]
    spans = _spans(index, contents, {contents.contents[row] for row in wanted})
    things: dict[tuple[int, ...], list[int]] = {}
    for row in wanted:
        things.setdefault(spans[contents.contents[row]], []).append(contents.ordinals[row])
    yield from _frame_offers(_Kind.NEW, index, things)


def _delta_offers(
    index: Index,
    missing: bytearray,
    table: DeltaTable | None,
    usable: Callable[[DeltaContent], bool],
) -> Iterator[_Offer]:
    if table is None:
        return
    things: dict[tuple[int, ...], list[int]] = {}
    for ordinal, number in zip(table.ordinals, table.numbers, strict=True):
        if missing[ordinal] and usable(table.contents[number]):
            frames = tuple(sorted({piece.frame for piece in table.contents[number].pieces}))
            things.setdefault(frames, []).append(ordinal)
    yield from _frame_offers(_Kind.DELTA, index, things)


def _frame_offers(
    kind: _Kind, index: Index, things: Mapping[tuple[int, ...], list[int]]
) -> Iterator[_Offer]:
    """Make an offer per group of frames that are needed together; what needs none is free."""
    groups = bundles(list(things))
    frames: dict[int, list[int]] = {}
    for number, group in groups.items():
        frames.setdefault(group, []).append(number)
    held: dict[int, list[int]] = {}
    for needed, ordinals in things.items():
        held.setdefault(groups[needed[0]] if needed else -1, []).extend(ordinals)
    for group, ordinals in sorted(held.items()):
        numbers = tuple(frames.get(group, ()))
        yield _Offer(kind, numbers, Source(sum(index[n].size for n in numbers), ordinals))


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


def _take_deltas(
    index: Index, table: DeltaTable | None, chosen: Sequence[_Offer], left: bytearray
) -> DeltaPlan:
    numbers = {n for offer in chosen if offer.kind is _Kind.DELTA for n in offer.numbers}
    things = {o for offer in chosen if offer.kind is _Kind.DELTA for o in offer.source.things}
    if table is None:
        return DeltaPlan((), ())
    rows = []
    for row, ordinal in enumerate(table.ordinals):
        pieces = table.contents[table.numbers[row]].pieces
        # An object can be made in more than one way.
        if left[ordinal] and ordinal in things and all(p.frame in numbers for p in pieces):
            left[ordinal] = 0
            rows.append(row)
    rows.sort(key=lambda row: (table.numbers[row], row))
    return DeltaPlan(tuple(rows), tuple(index[number] for number in sorted(numbers)))


def _take_new(
    index: Index, contents: Contents, chosen: Sequence[_Offer], left: bytearray
) -> NewPlan:
    numbers = {n for offer in chosen if offer.kind is _Kind.NEW for n in offer.numbers}
    things = {o for offer in chosen if offer.kind is _Kind.NEW for o in offer.source.things}
    rows = [row for row, o in enumerate(contents.ordinals) if left[o] and o in things]
    for row in rows:
        left[contents.ordinals[row]] = 0
    rows.sort(key=lambda row: (contents.contents[row], row))
    needed = _spans(index, contents, {contents.contents[row] for row in rows})
    kept = numbers & {number for frames in needed.values() for number in frames}
    return NewPlan(tuple(rows), tuple(index[number] for number in sorted(kept)))


def _spans(index: Index, contents: Contents, wanted: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """Return the numbers of the data frames that each wanted content lies in."""
    numbers = index.numbers(Kind.DATA)
    ends = list(accumulate(index[number].uncompressed for number in numbers))
    found = {}
    for content in sorted(wanted):
        start, end = contents.offsets[content], contents.offsets[content + 1]
        first = bisect_right(ends, start)
        last = bisect_left(ends, end) + 1 if end > start else first
        found[content] = tuple(numbers[first:last])
    return found
