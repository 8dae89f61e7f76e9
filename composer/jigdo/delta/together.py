"""Patches of the codec "linked" for several small bases, applied side by side.

A kernel has thousands of modules, and applying a patch to one is a few dozen calls of numpy,
whatever its size.  Here the bases lie back to back in one buffer, and each call is for all of
them.  What comes out is what each patch makes alone (``composer.jigdo.delta.codecs``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from composer.jigdo.delta.columns import Streams
from composer.jigdo.delta.moving import (
    MOST_COPIES,
    NOTHING_SHARED,
    Moves,
    Shared,
    move_together,
    split_linked,
)
from composer.jigdo.delta.numbers import read_together, wrong
from composer.jigdo.encoding import Cursor, prefixed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]


def apply_linked(
    bases: bytearray, sizes: Sequence[int], patches: Sequence[bytes], targets: Sequence[int]
) -> bytearray:
    """Return the targets of so many bytes each, back to back.

    ``bases`` are relocatable files of these ``sizes``, and are changed.  Raises FormatError where
    one of the patches would fail alone, or a base is another kind of file: which one, is not said.
    """
    shared, moves, streams = [], [], []
    known, common = b"", Shared.parse(NOTHING_SHARED)
    for patch in patches:
        # The one before mostly has the same in common; it is large.
        if not known or not patch.startswith(known):
            data = split_linked(patch)[0]
            known, common = prefixed(data), Shared.parse(data)
        cursor = Cursor(patch[len(known) :], "delta")
        shared.append(common)
        moves.append(Moves.parse(cursor.prefixed()))
        streams.append(Streams.split(cursor.rest()))
    several = _Several(sizes, streams, targets)
    if not move_together(bases, sizes, (several.rows, several.counts.tolist()), shared, moves):
        raise wrong("its base is no file whose references can be moved")
    return several.made(bases)


class _Several:
    """Columns of several patches, side by side."""

    def __init__(
        self, sizes: Sequence[int], streams: Sequence[Streams], targets: Sequence[int]
    ) -> None:
        import numpy

        self._streams = streams
        limits, wanted = numpy.array(sizes, numpy.int64), numpy.array(targets, numpy.int64)
        self._begins = limits.cumsum() - limits
        self._starts, self._size = wanted.cumsum() - wanted, int(wanted.sum())
        largest = 2 * max(*sizes, *targets)
        control, counts = read_together([one.control for one in streams], 3, largest)
        if max(counts.tolist()) > MOST_COPIES:
            raise wrong(f"more than {MOST_COPIES} copies")
        owners = numpy.arange(len(sizes)).repeat(counts)
        self.counts = counts
        literals, lengths = control[:, 0], control[:, 1]
        steps = (control[:, 2] >> 1) ^ -(control[:, 2] & 1)
        # Sums go through all of them; what was there before a patch's own is taken off.
        steps[1:] += lengths[:-1]
        first = counts.cumsum() - counts
        begun = first[counts > 0]
        steps[begun[1:]] -= lengths[begun[1:] - 1]
        offsets, ends = (
            _since(column.cumsum(), first, owners) for column in (steps, literals + lengths)
        )
        if ((offsets < 0) | (offsets + lengths > limits[owners])).any():
            raise wrong("copies from outside its base")
        new = numpy.array([len(one.literals) for one in streams], numpy.int64)
        used = _since(literals.cumsum(), first, owners)
        # All are sums of what is not negative: the last row of each patch has the largest.
        if (ends > wanted[owners]).any() or (used > new[owners]).any():
            raise wrong("makes more than the declared size, or lacks literal bytes")
        last = (first + counts - 1)[counts > 0]
        copied = numpy.zeros(len(sizes), numpy.int64)
        copied[counts > 0] = ends[last] - used[last]
        if (copied + new != wanted).any():
            raise wrong("does not make the declared size")
        self.rows = numpy.stack((offsets, ends - lengths, lengths), axis=1)
        self._literals = literals
        self._where, self._values = self._corrections(wanted)

    def _corrections(self, wanted: Numbers) -> tuple[Numbers, Numbers]:
        """Return where in the targets what is to be added."""
        import numpy

        largest = int(wanted.max())
        pairs, counts = read_together([one.runs for one in self._streams], 2, largest)
        values = [one.values for one in self._streams]
        owners = numpy.arange(len(values)).repeat(counts)
        first = counts.cumsum() - counts
        ends = _since(pairs.sum(axis=1).cumsum(), first, owners)
        lengths = pairs[:, 1]
        if (ends > wanted[owners]).any():
            raise wrong("corrections past the end of the target")
        there = numpy.array([*map(len, values)], numpy.int64)
        sums = numpy.zeros(len(there) + 1, numpy.int64)
        numpy.cumsum(lengths, out=(total := numpy.zeros(len(lengths) + 1, numpy.int64))[1:])
        sums[1:] = total[first + counts]
        if (sums[1:] - sums[:-1] != there).any():
            raise wrong("has corrections left over, or lacks values")
        starts = ends - lengths + self._starts[owners]
        where = (starts - total[:-1]).repeat(lengths) + numpy.arange(total[-1])
        return where, numpy.frombuffer(b"".join(values), numpy.uint8)

    def made(self, bases: bytearray) -> bytearray:
        """Return the targets, from bases that were moved."""
        import numpy

        out = bytearray(self._size)
        source, target = memoryview(bases), memoryview(out)
        rows = zip(self._literals.tolist(), *self.rows.T.tolist(), strict=True)
        for number, streams in enumerate(self._streams):
            begin, start = int(self._begins[number]), int(self._starts[number])
            literals, used, at = streams.literals, 0, start
            for _ in range(int(self.counts[number])):
                literal, offset, to, length = next(rows)
                to += start
                if literal:
                    target[to - literal : to] = literals[used : used + literal]
                    used += literal
                at = to + length
                target[to:at] = source[begin + offset : begin + offset + length]
            left = len(literals) - used
            target[at : at + left] = literals[used:]
        if len(self._where):
            numpy.frombuffer(out, numpy.uint8)[self._where] += self._values
        return out


def _since(sums: Numbers, first: Numbers, owners: Numbers) -> Numbers:
    """Return running sums from each one's ``first`` row on, of sums through all rows."""
    import numpy

    before = numpy.zeros(len(sums) + 1, numpy.int64)
    before[1:] = sums
    found: Numbers = sums - before[first][owners]
    return found
