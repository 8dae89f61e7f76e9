"""Decide what to fetch.  Pure: no file, no socket; the same input gives the same plan.

Input is what the set says (head, maps, contents, index) and which objects are
missing here.  Output names every package and frame, with exact bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Self

from composer.jigdo.container import Frame, Index, Kind
from composer.jigdo.cover import Source, bundles, cover
from composer.jigdo.delta.table import DeltaContent, DeltaTable
from composer.jigdo.manifest import Contents, Head, Map
from composer.rpm.beginnings import Beginning

BLOCK = 4096
"""Bytes of disk that files are counted in."""

Price = Callable[[DeltaContent], int | None]
"""What making a content costs, as bytes would; None: more than any other way does."""


@dataclass(frozen=True, slots=True)
class PackagePlan:
    """What to take out of one package: rows of its map, in order of the file index.

    ``number`` is the package's position in the head; ``transfer`` what its RPM costs,
    nothing where it is here already; ``beginning`` is what suffices of it, None for all.
    """

    number: int
    files: array[int]
    ordinals: array[int]
    headers: array[int]
    sizes: array[int]
    transfer: int
    beginning: Beginning | None = None


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


def unexplained(
    missing: bytearray,
    maps: Iterable[Map],
    contents: Contents,
    table: DeltaTable | None = None,
    usable: Callable[[DeltaContent], bool] = lambda content: True,
) -> list[int]:
    """Return the missing objects that ``maps``, ``contents`` and ``table`` do not hold.

    ``missing`` has one byte per ordinal: 1 for an object that is not here.  The result is
    of ordinals, sorted; ``usable`` is as in :func:`make_plan`.
    """
    left = bytearray(missing)
    for mapping in maps:
        for ordinal in mapping.ordinals:
            left[ordinal] = 0
    for ordinal in contents.ordinals:
        left[ordinal] = 0
    for make in _makes(left, table, usable, lambda content: 0):
        for ordinal in make.ordinals:
            left[ordinal] = 0
    return [ordinal for ordinal, flag in enumerate(left) if flag]


def make_plan(
    head: Head,
    index: Index,
    missing: bytearray,
    maps: Mapping[int, Map],
    contents: Contents,
    table: DeltaTable | None = None,
    usable: Callable[[DeltaContent], bool] = lambda content: True,
    price: Price = lambda content: 0,
    here: Collection[int] = (),
) -> Plan:
    """Choose packages and frames for all missing objects, for the least bytes and prices.

    ``maps`` are by package number; ``table`` is of a commit that is here, and ``usable``
    says of a content in it whether this client can make it that way, ``price`` what that
    costs it beside the patch.  ``here`` has the numbers of packages whose RPMs need not be
    moved.  Every missing object must be explained.
    """
    costs = {
        n: 0 if n in here else package_bytes(head, n, mapping, missing)
        for n, mapping in maps.items()
    }
    plain = [*_new_offers(index, missing, contents), *_package_offers(costs, missing, maps)]
    ways = _ways(index, plain, _makes(missing, table, usable, price))
    taken = [_Taken.of(way, head, index, missing, maps, contents, table, here) for way in ways]
    least = min(taken, key=lambda one: one.cost)
    packages, new, deltas = least.packages, least.new, least.deltas
    sizes = [size for package in packages for size in package.sizes]
    sizes += [contents.size(contents.contents[row]) for row in new.rows]
    if table is not None:
        sizes += [table.contents[table.numbers[row]].size for row in deltas.rows]
    return Plan(
        packages=packages,
        new=new,
        deltas=deltas,
        package_bytes=sum(package.transfer for package in packages),
        new_bytes=sum(frame.size for frame in new.frames),
        delta_bytes=sum(frame.size for frame in deltas.frames),
        object_bytes=sum(sizes),
        disk_bytes=sum(-(-size // BLOCK) * BLOCK for size in sizes),
    )


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a way takes of each source, each object once, and what that costs with prices."""

    packages: tuple[PackagePlan, ...]
    new: NewPlan
    deltas: DeltaPlan
    cost: int

    @classmethod
    def of(
        cls,
        way: Sequence[_Offer],
        head: Head,
        index: Index,
        missing: bytearray,
        maps: Mapping[int, Map],
        contents: Contents,
        table: DeltaTable | None,
        here: Collection[int],
    ) -> Self:
        """Take from the sources of ``way``."""
        left = bytearray(missing)
        deltas = _take_deltas(index, table, way, left)
        new = _take_new(index, contents, way, left)
        numbers = [offer.numbers[0] for offer in way if offer.kind is _Kind.PACKAGE]
        packages = []
        # What comes whole anyway gives all it has, so that less of the others may do.
        partly = {n for n in numbers if maps[n].beginnings and n not in here}
        for number in sorted(numbers, key=lambda n: (n in partly, n)):
            whole = 0 if number in here else head.packages[number].ref.size
            package = _take(number, maps[number], left, whole)
            if package.files:
                packages.append(package)
        cost = sum(package.transfer for package in packages)
        cost += sum(frame.size for frame in (*deltas.frames, *new.frames))
        cost += sum(make.price or 0 for offer in way for make in offer.makes)
        return cls(tuple(sorted(packages, key=lambda p: p.number)), new, deltas, cost)


def _ways(index: Index, plain: Sequence[_Offer], makes: Sequence[_Make]) -> list[list[_Offer]]:
    """Return a few ways, for greed alone can be worse than doing without deltas.

    Where an RPM is taken anyway, its files cost no CPU time; but with the last of them more of
    it has to come.  So there is one without that thrift, too.
    """
    held = {thing for offer in plain for thing in offer.source.things}
    needed = [m for m in makes if not held.issuperset(m.ordinals)]
    kept = {m.number for m in needed}
    cheap = [m for m in makes if m.price is not None or m.number in kept]
    free = [m for m in makes if m.price == 0 or m.number in kept]
    ways = [_with_deltas(index, plain, cheap)]
    if any(make.price for make in cheap):
        ways.append(_covering([*_delta_offers(index, cheap), *plain]))
    if len(free) < len(cheap):
        ways.append(_with_deltas(index, plain, free))
    if not needed:
        ways.append(_covering(plain))
    return ways


def _with_deltas(index: Index, plain: Sequence[_Offer], makes: Sequence[_Make]) -> list[_Offer]:
    """Choose patch frames by their bytes; then weigh each content's price against the rest."""
    chosen = _covering([*_delta_offers(index, makes), *plain])
    if not any(make.price for make in makes):
        return chosen
    taken = [make for offer in chosen for make in offer.makes]
    free = [make for make in taken if not make.price]
    priced = [make for make in taken if make.price]
    offers = [
        *(_delta_offer(index, [make], cost=make.price or 0) for make in priced),
        *([_delta_offer(index, free, cost=0)] if free else []),
        *plain,
    ]
    found = _covering(offers)
    rest = [offer for offer in found if offer.kind is not _Kind.DELTA]
    kept = [make for offer in found for make in offer.makes]
    return [_delta_offer(index, kept), *rest] if kept else rest


def _covering(offers: Sequence[_Offer]) -> list[_Offer]:
    return [offers[number] for number in cover([offer.source for offer in offers])]


class _Kind(Enum):
    DELTA = "delta"
    NEW = "new"
    PACKAGE = "package"


@dataclass(frozen=True, slots=True)
class _Offer:
    """A source with what it is: a package's number, or numbers of frames.

    ``makes`` are the contents that deltas are taken for.
    """

    kind: _Kind
    numbers: tuple[int, ...]
    source: Source
    makes: tuple[_Make, ...] = ()


@dataclass(frozen=True, slots=True)
class _Make:
    """A content of the deltas table: what it needs and costs, and the missing objects of it."""

    number: int
    frames: tuple[int, ...]
    price: int | None
    ordinals: tuple[int, ...]


def _package_offers(
    costs: Mapping[int, int], missing: bytearray, maps: Mapping[int, Map]
) -> Iterator[_Offer]:
    for number, mapping in sorted(maps.items()):
        things = {ordinal for ordinal in mapping.ordinals if missing[ordinal]}
        if things:
            yield _Offer(_Kind.PACKAGE, (number,), Source(costs[number], things))


def _new_offers(index: Index, missing: bytearray, contents: Contents) -> Iterator[_Offer]:
    wanted = [row for row, ordinal in enumerate(contents.ordinals) if missing[ordinal]]
    spans = needed_frames(index, contents, {contents.contents[row] for row in wanted})
    things: dict[tuple[int, ...], list[int]] = {}
    for row in wanted:
        things.setdefault(spans[contents.contents[row]], []).append(contents.ordinals[row])
    yield from _frame_offers(_Kind.NEW, index, things)


def _makes(
    missing: bytearray,
    table: DeltaTable | None,
    usable: Callable[[DeltaContent], bool],
    price: Price,
) -> list[_Make]:
    if table is None:
        return []
    objects: dict[int, list[int]] = {}
    for ordinal, number in zip(table.ordinals, table.numbers, strict=True):
        if missing[ordinal]:
            objects.setdefault(number, []).append(ordinal)
    found = []
    for number, ordinals in sorted(objects.items()):
        content = table.contents[number]
        if usable(content):
            frames = tuple(sorted({piece.frame for piece in content.pieces}))
            found.append(_Make(number, frames, price(content), tuple(ordinals)))
    return found


def _delta_offers(index: Index, makes: Sequence[_Make]) -> Iterator[_Offer]:
    """Make an offer per group of patch frames that are needed together."""
    groups = bundles(list({make.frames: None for make in makes}))
    held: dict[int, list[_Make]] = {}
    for make in makes:
        held.setdefault(groups[make.frames[0]] if make.frames else -1, []).append(make)
    for _, own in sorted(held.items()):
        yield _delta_offer(index, own)


def _delta_offer(index: Index, makes: Sequence[_Make], *, cost: int | None = None) -> _Offer:
    numbers = tuple(sorted({number for make in makes for number in make.frames}))
    things = [ordinal for make in makes for ordinal in make.ordinals]
    if cost is None:
        cost = sum(index[number].size for number in numbers)
    return _Offer(_Kind.DELTA, numbers, Source(cost, things), tuple(makes))


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


def package_bytes(head: Head, number: int, mapping: Map, missing: bytearray) -> int:
    """Return what it costs to fetch all missing objects of a package from its RPM."""
    last = next((n for n, o in enumerate(reversed(mapping.ordinals)) if missing[o]), None)
    beginning = None if last is None else mapping.beginning(len(mapping) - last)
    return beginning.size if beginning else head.packages[number].ref.size


def _take(number: int, mapping: Map, left: bytearray, whole: int) -> PackagePlan:
    """Take from ``mapping`` the rows of objects that are still ``left``, and mark them.

    ``whole`` is what the whole RPM costs.
    """
    rows = []
    for row, ordinal in enumerate(mapping.ordinals):
        if left[ordinal]:
            left[ordinal] = 0
            rows.append(row)

    beginning = mapping.beginning(rows[-1] + 1) if rows and whole else None

    def column(values: Sequence[int]) -> array[int]:
        return array("q", (values[row] for row in rows))

    return PackagePlan(
        number,
        column(mapping.files),
        column(mapping.ordinals),
        column(mapping.headers),
        column(mapping.sizes),
        beginning.size if beginning else whole,
        beginning,
    )


def _take_deltas(
    index: Index, table: DeltaTable | None, chosen: Sequence[_Offer], left: bytearray
) -> DeltaPlan:
    if table is None:
        return DeltaPlan((), ())
    numbers = {make.number for offer in chosen for make in offer.makes}
    rows = []
    for row, ordinal in enumerate(table.ordinals):
        # An object can be made in more than one way.
        if left[ordinal] and table.numbers[row] in numbers:
            left[ordinal] = 0
            rows.append(row)
    rows.sort(key=lambda row: (table.numbers[row], row))
    frames = {p.frame for row in rows for p in table.contents[table.numbers[row]].pieces}
    return DeltaPlan(tuple(rows), tuple(index[number] for number in sorted(frames)))


def _take_new(
    index: Index, contents: Contents, chosen: Sequence[_Offer], left: bytearray
) -> NewPlan:
    numbers = {n for offer in chosen if offer.kind is _Kind.NEW for n in offer.numbers}
    things = {o for offer in chosen if offer.kind is _Kind.NEW for o in offer.source.things}
    rows = [row for row, o in enumerate(contents.ordinals) if left[o] and o in things]
    for row in rows:
        left[contents.ordinals[row]] = 0
    rows.sort(key=lambda row: (contents.contents[row], row))
    needed = needed_frames(index, contents, {contents.contents[row] for row in rows})
    kept = numbers & {number for frames in needed.values() for number in frames}
    return NewPlan(tuple(rows), tuple(index[number] for number in sorted(kept)))


def needed_frames(
    index: Index, contents: Contents, wanted: Iterable[int]
) -> dict[int, tuple[int, ...]]:
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
