"""Make patches of the codec "linked": from a base whose references are moved first.

``composer.jigdo.delta.moving`` has what a reader does, and what it is good for; here is
found what to tell it.  What moved is seen where tables of base and target are the same but
for their references, and is told as steps, where that takes less than what it mends.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from composer.jigdo.delta import btf, columns
from composer.jigdo.delta.codecs import CannotMake, CodecNumber, hdiff_copies
from composer.jigdo.delta.columns import Copy
from composer.jigdo.delta.elf import (
    ALLOCATED,
    RELA,
    Relocatables,
    parse_relocatables,
    relocations_of,
    section_names,
)
from composer.jigdo.delta.images import move_image, segments_of
from composer.jigdo.delta.moving import (
    MOST_COPIES,
    NOTHING_SHARED,
    Moves,
    Moving,
    Places,
    Shared,
    join_linked,
)
from composer.jigdo.delta.steps import Positions, Steps
from composer.jigdo.memory import LARGEST_MOVED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

Pairs = tuple["Numbers", "Numbers"]
"""Two columns: what in the base goes with what in the target."""

Moved = tuple["Numbers", "Numbers"]
"""Rows of (reference, change), and in how many files each was seen."""

# Words that a step has to mend, or it is not told: what it takes, about.
_STEP, _SHARED_STEP, _HOLE_STEP = 3.0, 4.0, 2.5
# Of a patch that an executable's moved references have to spare, or it is made the plain way.
_WORTH = 0.1
# Of what is learned, rows are added up when there are so many.
_MANY = 1 << 20


@dataclass(frozen=True, slots=True)
class Linked:
    """A codec for ELF files, with what was learned of all of a kernel's modules."""

    shared: bytes = NOTHING_SHARED
    number = CodecNumber.LINKED

    def make(self, base: bytes, target: bytes) -> bytes:
        """Return the patch; raises CannotMake where base or target is another kind of file."""
        if len(base) > LARGEST_MOVED:
            raise CannotMake("linked: too large")
        moving = Moving.of(bytearray(base), [len(base)])
        file = parse_relocatables(target, [len(target)]) if moving else None
        if moving is not None and file is not None:
            return _Match(base, target, moving, file, self.shared).patch()
        return _image_patch(base, target)


def _image_patch(base: bytes, target: bytes) -> bytes:
    """Make a patch for an executable or a library, if moving pays."""
    ours, theirs = segments_of(base), segments_of(target)
    if ours is None or theirs is None:
        raise CannotMake("linked: no ELF file of a kind that is known")
    levels = []
    if len(ours) == len(theirs):
        shifts = (theirs.addresses - theirs.offsets) - (ours.addresses - ours.offsets)
        levels = [
            (number, shift)
            for number, shift in enumerate(shifts.tolist())
            if shift != (shifts[number - 1] if number else 0)
        ]
    sections = Steps.of(levels)
    rows = [*_rows(base, target)]
    plain = len(columns.encode(base, target, _as_copies(rows)))
    moved = _moved_image(base, rows, sections)
    # What was moved once shows better matches, in tables above all.
    rows = [*_rows(moved, target)]
    moved = _moved_image(base, rows, sections)
    patch = columns.encode(moved, target, _as_copies(rows))
    if plain - len(patch) < _WORTH * plain or len(rows) > MOST_COPIES:
        raise CannotMake("linked: it gains too little")
    nothing = Steps()
    return join_linked(NOTHING_SHARED, Moves(nothing, nothing, sections, nothing).dump(), patch)


def _moved_image(base: bytes, rows: Sequence[tuple[int, int, int]], sections: Steps) -> bytearray:
    import numpy

    moved, copies = bytearray(base), numpy.array(rows, numpy.int64).reshape(-1, 3)
    move_image(moved, Positions(copies, 0, len(base)), sections)
    return moved


class _Match:
    """Base and target side by side, matched table by table, each moved by those before it."""

    def __init__(
        self, base: bytes, target: bytes, moving: Moving, file: Relocatables, shared: bytes
    ) -> None:
        self._base, self._target, self._moving, self._file = base, target, moving, file
        self._shared = shared

    def patch(self) -> bytes:
        ours, theirs = self._moving.files, self._file
        symbols, own_symbols = ours.extent(ours.symbols[0]), theirs.extent(theirs.symbols[0])
        last = ours.extent(ours.relocations[0])[0]
        own_last = theirs.extent(theirs.relocations[0])[0]
        moves = self._moved_types()
        front = self._copies((0, symbols[0]), (0, own_symbols[0]))
        names = self._copies((symbols[1], last), (own_symbols[1], own_last))
        places = self._places([*front, *names])
        moves = self._moved_sections(moves, places)
        self._moving.move_symbols(places, self._moving.targets(places, [moves]))
        table = self._copies(symbols, own_symbols)
        places = self._places([*front, *table, *names])
        moves = self._moved_sections(moves, places)
        targets = self._moving.targets(places, [moves])
        moves = self._moved_holes(moves, places, targets)
        self._moving.move_relocations(places, targets, [moves.holes])
        rest = self._copies((last, len(self._base)), (own_last, len(self._target)))
        rows = [*front, *table, *names, *rest]
        if len(rows) > MOST_COPIES:
            raise CannotMake("linked: too many copies")
        patch = columns.encode(self._moving.data, self._target, _as_copies(rows))
        return join_linked(self._shared, moves.dump(), patch)

    def _copies(self, ours: tuple[int, int], theirs: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Match a part of the base with a part of the target."""
        found = _rows(self._moving.data[slice(*ours)], self._target[slice(*theirs)])
        return [(at + ours[0], to + theirs[0], length) for at, to, length in found]

    def _places(self, copies: Sequence[tuple[int, int, int]]) -> Places:
        import numpy

        rows = numpy.array(copies, numpy.int64).reshape(-1, 3)
        return self._moving.places(rows, [len(rows)])

    def _moved_types(self) -> Moves:
        shared = Shared.parse(self._shared)
        ours, theirs = _btf(self._base, self._moving.files), _btf(self._target, self._file)
        pairs = _references(ours, theirs)
        types, names = (
            _levels(old, new - old - steps.at(old), _STEP)
            for (old, new), steps in zip(pairs, (shared.types, shared.names), strict=True)
        )
        moves = Moves(types, names, Steps(), Steps())
        self._moving.move_types([shared], [moves])
        return moves

    def _moved_sections(self, moves: Moves, at: Places) -> Moves:
        """Tell where sections begin in the target, where the copies do not."""
        ours, theirs = self._moving.files, self._file
        places = {
            name: number
            for number, name in reversed([*enumerate(section_names(self._target, theirs))])
        }
        told, begins = self._moving.told(at).tolist(), theirs.offsets.tolist()
        tables = int(ours.symbols[0]), int(ours.names[0])
        headers = ours.headers
        referred = (headers["flags"] & ALLOCATED != 0) & (headers["type"] != RELA)
        referred &= headers["size"] != 0
        referred[list(tables)] = True
        wanted = referred.tolist()
        levels, level = [], 0
        for number, name in enumerate(section_names(self._base, ours)):
            if name not in places or not wanted[number]:
                continue
            value = begins[places[name]] - told[number]
            if value != level:
                levels.append((number, value))
                level = value
        return replace(moves, sections=Steps.of(levels))

    def _moved_holes(self, moves: Moves, places: Places, targets: Numbers) -> Moves:
        """Tell where holes are, as entries were put in between."""
        import numpy

        entries, holes = self._moving.moved_relocations(places, targets)
        wanted, _ = relocations_of(self._target, self._file)
        old, new = _aligned(_without_offset(entries), _without_offset(wanted), 16)
        order = numpy.argsort(holes[old], kind="stable")
        old, new = old[order], new[order]
        lacks = wanted["offset"][new] - entries["offset"][old]
        return replace(moves, holes=_levels(holes[old], lacks, _HOLE_STEP))


def _without_offset(entries: Numbers) -> bytes:
    rows: bytes = entries.view("<i8").reshape(-1, 3)[:, 1:].tobytes()
    return rows


def _rows(base: bytes | bytearray, target: bytes) -> Iterator[tuple[int, int, int]]:
    """Match two contents: yield (offset in the base, in the target, length)."""
    at = 0
    for copy in hdiff_copies(bytes(base), target):
        at += copy.literal
        yield copy.base, at, copy.length
        at += copy.length


def _as_copies(rows: Iterable[tuple[int, int, int]]) -> Iterator[Copy]:
    made = 0
    for at, to, length in rows:
        yield Copy(to - made, length, at)
        made = to + length


def _aligned(base: bytes, target: bytes, width: int) -> Pairs:
    """Match two tables with rows of ``width`` bytes: numbers of rows that go together."""
    import numpy

    ours, theirs = [numpy.zeros(0, numpy.int64)], [numpy.zeros(0, numpy.int64)]
    for at, to, length in _rows(base, target):
        first, last = -(-at // width), (at + length) // width
        if (to - at) % width == 0 and first < last:
            rows = numpy.arange(first, last)
            ours.append(rows)
            theirs.append(rows + (to - at) // width)
    return numpy.concatenate(ours), numpy.concatenate(theirs)


def references(base: bytes, target: bytes) -> tuple[Pairs, Pairs]:
    """Return what stands for what in the BTF of two files: numbers of types, offsets of names.

    Each as (in the base, in the target).
    """
    files = (parse_relocatables(data, [len(data)]) for data in (base, target))
    return _references(*map(_btf, (base, target), files))


def _references(
    ours: tuple[Numbers, Numbers] | None, theirs: tuple[Numbers, Numbers] | None
) -> tuple[Pairs, Pairs]:
    import numpy

    nothing = numpy.zeros(0, numpy.int64)
    if ours is None or theirs is None:
        return (nothing, nothing), (nothing, nothing)
    old, new = _aligned(_plain(ours), _plain(theirs), 4)
    found = []
    for kind in (btf.TYPE, btf.NAME):
        here = (ours[1][old] == kind) & (theirs[1][new] == kind)
        pair = ours[0][old[here]].astype(numpy.int64), theirs[0][new[here]]
        found.append((pair[0], pair[1].astype(numpy.int64)))
    return found[0], found[1]


def _btf(data: bytes, file: Relocatables | None) -> tuple[Numbers, Numbers] | None:
    """Return the words of a file's BTF, and what each is."""
    import numpy

    if file is None or file.btf[0] < 0:
        return None
    place = btf.records_of(data, *file.extent(file.btf[0]))
    if place is None:
        return None
    words = numpy.frombuffer(data, "<u4", (place[1] - place[0]) // 4, place[0])
    kinds = numpy.zeros(len(words), numpy.uint8)
    for types, names in btf.references(words, [len(words)]):
        kinds[types], kinds[names] = btf.TYPE, btf.NAME
    return words, kinds


def _plain(found: tuple[Numbers, Numbers]) -> bytes:
    """Return the words without references: by what stays, records are recognised."""
    words, kinds = found
    return bytes(words * (kinds == btf.PLAIN))


class Learning:
    """Gathers from many pairs of modules what all have in common."""

    def __init__(self) -> None:
        self._seen: tuple[list[Moved], list[Moved]] = [], []
        self._rows = 0

    def add(self, found: Sequence[Moved]) -> None:
        """Add the :func:`moves_of` a pair of modules."""
        for seen, pair in zip(self._seen, found, strict=True):
            seen.append(pair)
            self._rows += len(pair[0])
        if self._rows > _MANY:
            self._add_up()

    def _add_up(self) -> None:
        self._rows = 0
        for seen in self._seen:
            seen[:] = [_counted(seen)]
            self._rows += len(seen[0][0])

    def shared(self) -> bytes:
        """Return what was learned."""
        self._add_up()
        found = []
        for (seen,) in self._seen:
            keys, counts = seen
            found.append(_best_steps(keys[:, 0], keys[:, 1], counts, _SHARED_STEP))
        return Shared(*found).dump()


def _counted(seen: Sequence[Moved]) -> Moved:
    import numpy

    if not seen:
        return numpy.zeros((0, 2), numpy.int64), numpy.zeros(0, numpy.int64)
    keys = numpy.concatenate([pair[0] for pair in seen])
    counts = numpy.concatenate([pair[1] for pair in seen])
    distinct, places = numpy.unique(keys, axis=0, return_inverse=True)
    return distinct, numpy.bincount(places.reshape(-1), counts, len(distinct)).astype(numpy.int64)


def moves_of(base: bytes, target: bytes) -> tuple[Moved, Moved]:
    """Return how types and names of a module moved: rows of (old, change), each once."""
    import numpy

    found = []
    for old, new in references(base, target):
        places, values, counts = _counted_pairs(old, new - old)
        found.append((numpy.stack((places, values), axis=1), numpy.ones_like(counts)))
    return found[0], found[1]


def _levels(places: Numbers, values: Numbers, cost: float) -> Steps:
    """Return the steps that tell most of ``values``, if any differs from 0."""
    if not values.any():
        return Steps.of(())
    return _best_steps(*_counted_pairs(places, values), cost)


def _counted_pairs(places: Numbers, values: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """Return distinct pairs, by place and value, and how often each is there."""
    import numpy

    order = numpy.lexsort((values, places))
    places, values = places[order], values[order]
    starts = numpy.flatnonzero(_begins(places, values))
    counts = numpy.diff(numpy.append(starts, len(places)))
    return places[starts], values[starts], counts


def _begins(*columns: Numbers) -> Numbers:
    """Return which rows are another than the one before."""
    import numpy

    begins = numpy.zeros(len(columns[0]), bool)
    begins[:1] = True
    for column in columns:
        begins[1:] |= column[1:] != column[:-1]
    return begins


def _best_steps(places: Numbers, values: Numbers, counts: Numbers, cost: float) -> Steps:
    """Return the steps that are right most often, where each costs as much as ``cost`` hits.

    Rows are sorted by place; one place may have several values, with how often each was
    seen.  The best of all, by Viterbi's algorithm.
    """
    import numpy

    # Of places in a row that have but one value, and the same, only the first matters.
    own = _begins(places)
    alone = own.copy()
    alone[:-1] &= own[1:]
    begins = _begins(values)
    begins[1:] |= ~(alone[1:] & alone[:-1])
    starts = numpy.flatnonzero(begins)
    if len(starts):
        places, values, counts = places[starts], values[starts], numpy.add.reduceat(counts, starts)
    best, level = 0.0, 0
    score: dict[int, float] = {0: 0.0}
    # For each value the steps that led to it, the last first: (place, value, steps before).
    path: dict[int, Any] = {0: None}
    rows = zip(places.tolist(), values.tolist(), counts.tolist(), strict=True)
    for place, seen in itertools.groupby(rows, key=lambda row: row[0]):
        before, way = best - cost, path[level]
        for _, value, count in seen:
            reached = score.get(value)
            if reached is None or before > reached:
                reached = before
                path[value] = (place, value, way)
            score[value] = reached = reached + count
            if reached > best or (reached == best and value == level):
                best, level = reached, value
    steps, found = path[level], []
    while steps is not None:
        found.append(steps[:2])
        steps = steps[2]
    return Steps.of(found[::-1])
