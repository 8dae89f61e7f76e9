"""Functions that say where things went: told as steps, or seen in the copies of a patch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from composer.jigdo.encoding import Cursor, differences, sums, svarints, uvarint, uvarints

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

_SUM_LIMIT = 1 << 40
# Of one function, for they are held in memory.
_MOST_STEPS = 1 << 16


class Steps:
    """A function that is constant between ``places``, which rise: 0 before the first of them."""

    __slots__ = ("_arrays", "changes", "places")

    def __init__(self, places: Sequence[int] = (), changes: Sequence[int] = ()) -> None:
        """``changes`` are by how much the function changes at each place."""
        self.places, self.changes = places, changes
        self._arrays: tuple[Numbers, Numbers] | None = None

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def of(cls, levels: Sequence[tuple[int, int]]) -> Steps:
        """Return the steps through (place, value from there on), in order."""
        values = [0, *(value for _, value in levels)]
        changes = [later - earlier for earlier, later in itertools.pairwise(values)]
        return cls([place for place, _ in levels], changes)

    def dump(self) -> bytes:
        """Return their bytes: places by their differences, then the changes."""
        return uvarint(len(self)) + uvarints(differences(self.places)) + svarints(self.changes)

    @classmethod
    def read(cls, cursor: Cursor) -> Steps:
        """Read what :meth:`dump` wrote; raises FormatError."""
        count = cursor.count(least=2)
        if count > _MOST_STEPS:
            raise cursor.fail(f"has {count} steps; at most {_MOST_STEPS} are allowed")
        if not count:
            return cls()
        places, changes = sums(cursor.uvarints(count)), cursor.svarints(count)
        for column in (places, changes):
            if column and not -_SUM_LIMIT < min(column) <= max(column) < _SUM_LIMIT:
                raise cursor.fail("a step is too large")
        return cls(places, changes)

    def at(self, places: Numbers) -> Numbers:
        """Return the function's values at these places."""
        import numpy

        if not self.places:
            return numpy.zeros(len(places), numpy.int64)
        if self._arrays is None:
            levels = numpy.zeros(len(self) + 1, numpy.int64)
            numpy.cumsum(numpy.array(self.changes, numpy.int64), out=levels[1:])
            self._arrays = numpy.array(self.places, numpy.int64), levels
        found: Numbers = self._arrays[1][self._arrays[0].searchsorted(places, side="right")]
        return found


class Functions:
    """A function of each of several files."""

    __slots__ = ("_keys", "_levels", "_one")

    def __init__(self, own: Sequence[Steps]) -> None:
        import numpy

        self._one = own[0] if len(own) == 1 or all(one is own[0] for one in own) else None
        if self._one is None and not any(map(len, own)):
            self._one = own[0]
        if self._one is not None:
            return
        keys: list[int] = []
        levels: list[int] = []
        for number, one in enumerate(own):
            keys.append(number << 41)
            levels.append(0)
            if one.places:
                keys += [(number << 41) + place + 1 for place in one.places]
                levels += itertools.accumulate(one.changes)
        self._keys, self._levels = numpy.array(keys, numpy.int64), numpy.array(levels, numpy.int64)

    def at(self, files: Numbers, places: Numbers) -> Numbers:
        """Return the values at places of these files; or, where all are 0, perhaps but one 0."""
        import numpy

        if self._one is not None:
            return self._one.at(places if self._one.places else places[:1])
        # No place of a step is as large: see _SUM_LIMIT.
        keys = numpy.minimum(numpy.maximum(places, -1), _SUM_LIMIT) + ((files << 41) + 1)
        found: Numbers = self._levels[self._keys.searchsorted(keys, side="right") - 1]
        return found


class Positions:
    """Where bytes of a part of the base are in the target, by a patch's copies from there."""

    def __init__(self, rows: Numbers, start: int, end: int) -> None:
        """Take rows of (offset in the base, in the target, length)."""
        rows = rows[(rows[:, 0] >= start) & (rows[:, 0] < end)]
        order, own = _telling(rows[:, 0], rows[:, 2])
        rows = rows[order[own]]
        self._starts = rows[1:, 0]
        self._shifts = rows[:, 1] - rows[:, 0]

    def __call__(self, places: Numbers) -> Numbers:
        """Return where these places went: with the last copy that begins before them."""
        if not len(self._shifts):
            return places
        found: Numbers = places + self._shifts[self._starts.searchsorted(places, side="right")]
        return found


class Shifts:
    """By how much bytes of a part of each of several bases moved, which lie back to back.

    Places are offsets in what holds them all.
    """

    def __init__(
        self, rows: Numbers, files: Numbers, begins: Numbers, parts: tuple[Numbers, Numbers]
    ) -> None:
        """Take rows of (offset in the base, in the target, length), each of one of ``files``.

        ``begins`` is where each base begins, ``parts`` where its part begins and ends in it.
        Copies are from within their base.
        """
        import numpy

        here = (rows[:, 0] >= parts[0][files]) & (rows[:, 0] < parts[1][files])
        rows, files = rows[here], files[here]
        lacking = (numpy.bincount(files, minlength=len(begins)) == 0).nonzero()[0]
        if len(lacking):
            rows = numpy.concatenate((rows, numpy.zeros((len(lacking), 3), numpy.int64)))
            files = numpy.concatenate((files, lacking))
        starts = rows[:, 0] + begins[files]
        order, own = _telling(starts, rows[:, 2])
        files = files[order]
        first = numpy.ones(len(files), bool)
        first[1:] = files[1:] != files[:-1]
        own |= first
        order, first = order[own], first[own]
        self._starts = numpy.where(first, begins[files[own]], starts[order])
        self._shifts = rows[order, 1] - rows[order, 0]

    def at(self, places: Numbers) -> Numbers:
        """Return the shifts: those of the last copies that begin before these places."""
        found: Numbers = self._shifts[self._starts.searchsorted(places, side="right") - 1]
        return found


def _telling(starts: Numbers, lengths: Numbers) -> tuple[Numbers, Numbers]:
    """Return the order of copies by where they start, and which of them, in it, tell something."""
    import numpy

    order = numpy.lexsort((-lengths, starts))
    ends = numpy.maximum.accumulate((starts + lengths)[order])
    # A copy within an earlier one is a chance match; it says nothing of what moved.
    own = numpy.ones(len(order), bool)
    own[1:] = ends[1:] > ends[:-1]
    return order, own
