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

    __slots__ = ("_levels", "_places")

    def __init__(self, places: Sequence[int] = (), changes: Sequence[int] = ()) -> None:
        """``changes`` are by how much the function changes at each place."""
        import numpy

        self._places = numpy.array(places, numpy.int64)
        self._levels = numpy.zeros(len(places) + 1, numpy.int64)
        numpy.cumsum(numpy.array(changes, numpy.int64), out=self._levels[1:])

    def __len__(self) -> int:
        return len(self._places)

    @classmethod
    def of(cls, levels: Sequence[tuple[int, int]]) -> Steps:
        """Return the steps through (place, value from there on), in order."""
        values = [0, *(value for _, value in levels)]
        changes = [later - earlier for earlier, later in itertools.pairwise(values)]
        return cls([place for place, _ in levels], changes)

    def dump(self) -> bytes:
        """Return their bytes: places by their differences, then the changes."""
        changes = (self._levels[1:] - self._levels[:-1]).tolist()
        places = uvarints(differences(self._places.tolist()))
        return uvarint(len(self)) + places + svarints(changes)

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

        if not len(self._places):
            return numpy.zeros(len(places), numpy.int64)
        levels: Numbers = self._levels[self._places.searchsorted(places, side="right")]
        return levels


class Positions:
    """Where bytes of a part of the base are in the target, by a patch's copies from there."""

    def __init__(self, rows: Numbers, start: int, end: int) -> None:
        """Take rows of (offset in the base, in the target, length)."""
        import numpy

        rows = rows[(rows[:, 0] >= start) & (rows[:, 0] < end)]
        rows = rows[numpy.lexsort((-rows[:, 2], rows[:, 0]))]
        ends = numpy.maximum.accumulate(rows[:, 0] + rows[:, 2])
        # A copy within an earlier one is a chance match; it says nothing of what moved.
        own = numpy.ones(len(rows), bool)
        own[1:] = ends[1:] > ends[:-1]
        self._starts = rows[own, 0][1:]
        self._shifts = (rows[:, 1] - rows[:, 0])[own]

    def __call__(self, places: Numbers) -> Numbers:
        """Return where these places went: with the last copy that begins before them."""
        if not len(self._shifts):
            return places
        found: Numbers = places + self._shifts[self._starts.searchsorted(places, side="right")]
        return found
