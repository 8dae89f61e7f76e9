"""Pools: patches that are laid beside each other, column by column.

docs/format/delta.md section 3 is the reference.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence

from composer.jigdo.delta.columns import Streams
from composer.jigdo.delta.numbers import wrong
from composer.jigdo.encoding import Cursor, uvarint, uvarints


def pool(
    patches: Sequence[bytes], moves: Sequence[bytes] = (), shared: Sequence[bytes] = ()
) -> bytes:
    """Lay patches together, column by column, so that one compressor sees like beside like.

    ``moves`` is one more column, of as many entries; ``shared`` is what several of these name.
    The inverse is :class:`Pool`.  Measured on a kernel's modules: 2.4% smaller under xz than
    the same patches one after the other.
    """
    parts = [Streams.split(patch) for patch in patches]
    names = ("control", "runs", "values", "literals")
    columns: list[Sequence[bytes]] = [[getattr(part, name) for part in parts] for name in names]
    columns += [moves or [b""] * len(parts), shared]
    head = [uvarint(len(parts)), uvarint(len(shared))]
    head += [uvarints(map(len, column)) for column in columns]
    return b"".join([*head, *itertools.chain.from_iterable(columns)])


class Pool:
    """The patches of a pool, cut out of it one at a time."""

    __slots__ = ("_body", "_count", "_starts")

    def __init__(self, data: bytes, count: int) -> None:
        """Take ``count`` patches as :func:`pool` lays them; raises FormatError."""
        cursor = Cursor(data, "pool of deltas")
        # Before anything is made of them: a frame can claim a great many that are empty.
        if (claimed := cursor.count(least=5)) != count:
            raise cursor.fail(f"has {claimed} patches instead of {count}")
        shared = cursor.count()
        sizes = cursor.uvarints(5 * count + shared)
        if sum(sizes) != cursor.left:
            raise cursor.fail("its sizes do not account for every byte")
        self._body = memoryview(data)[len(data) - cursor.left :]
        # Column by column, the patches' places in each.
        self._starts = array("q", itertools.accumulate(sizes, initial=0))
        self._count = count

    def __len__(self) -> int:
        return self._count

    def literals(self, number: int) -> bytes:
        """Return the last column of a patch; raises FormatError when it has others."""
        *others, literals = (self._cell(number, column) for column in range(4))
        if any(map(len, others)):
            raise wrong("a content that lies there whole has columns")
        return bytes(literals)

    def __getitem__(self, number: int) -> bytes:
        control, runs, values, literals = (self._cell(number, column) for column in range(4))
        sizes = map(uvarint, (len(control), len(runs), len(values)))
        return b"".join((*sizes, control, runs, values, literals))

    def moves(self, number: int) -> bytes:
        """Return what lies beside a patch."""
        return bytes(self._cell(number, 4))

    def shared(self, number: int) -> bytes:
        """Return one of the parts that several patches share; raises FormatError."""
        if not 0 <= number < len(self._starts) - 1 - 5 * self._count:
            raise wrong("it names a shared part that is not there")
        return bytes(self._cut(5 * self._count + number))

    def _cell(self, number: int, column: int) -> memoryview:
        if not 0 <= number < self._count:
            raise IndexError(number)
        return self._cut(column * self._count + number)

    def _cut(self, place: int) -> memoryview:
        return self._body[self._starts[place] : self._starts[place + 1]]
