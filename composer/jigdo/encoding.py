"""Integers and columns as docs/format/jigdo.md section 1 writes them.

A :class:`Cursor` is the one way to read: it never reads past its data, and every
count is bounded by what the data could hold.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise

from composer.errors import FormatError

_LIMIT = 1 << 63
_SUM_LIMIT = 1 << 62


def uvarint(value: int) -> bytes:
    """Encode an integer from 0 to 2^63 - 1."""
    if not 0 <= value < _LIMIT:
        raise ValueError(f"not an unsigned 63-bit integer: {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def uvarints(values: Iterable[int]) -> bytes:
    """Encode a column of unsigned integers."""
    out = bytearray()
    for value in values:
        if 0 <= value <= 0x7F:  # by far the most common; a call per value would double the time
            out.append(value)
        else:
            out += uvarint(value)
    return bytes(out)


def svarints(values: Iterable[int]) -> bytes:
    """Encode a column of signed integers, zigzag."""
    return uvarints(value << 1 if value >= 0 else (-value << 1) - 1 for value in values)


def prefixed(data: bytes) -> bytes:
    """Encode bytes with their length before them."""
    return uvarint(len(data)) + data


def differences(column: Sequence[int]) -> Iterable[int]:
    """Turn a column that never falls into the differences that are written."""
    return (later - earlier for earlier, later in pairwise((0, *column)))


def sums(column: Iterable[int]) -> array[int]:
    """Undo :func:`differences`; raises FormatError where a sum is out of range."""
    total, out = 0, array("q")
    for value in column:
        total += value
        if total >= _SUM_LIMIT:
            raise FormatError("a column's sum is out of range")
        out.append(total)
    return out


def steps(column: Sequence[int]) -> Iterable[int]:
    """Turn a column that mostly counts up into what is written: 0 where it does."""
    return (later - earlier - 1 for earlier, later in pairwise((-1, *column)))


def unstepped(column: Iterable[int]) -> array[int]:
    """Undo :func:`steps`; raises FormatError where a sum is out of range."""
    last, out = -1, array("q")
    for value in column:
        last += value + 1
        if not -_SUM_LIMIT < last < _SUM_LIMIT:
            raise FormatError("a column's sum is out of range")
        out.append(last)
    return out


class Cursor:
    """Reads values from bytes, front to back; raises FormatError naming ``what``."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._at = data, what, 0

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return len(self._data) - self._at

    def fail(self, reason: str) -> FormatError:
        """Return the error that says ``reason`` of what is being read."""
        return FormatError(f"{self._what}: {reason}", hint="the file is damaged or not genuine")

    def uvarint(self) -> int:
        """Read one unsigned integer."""
        return self.uvarints(1)[0]

    def count(self, *, least: int = 1) -> int:
        """Read a count of items that take at least ``least`` bytes each."""
        value = self.uvarint()
        if value * least > len(self._data) - self._at:
            raise self.fail(f"claims {value} items, more than it can hold")
        return value

    def uvarints(self, count: int) -> array[int]:
        """Read a column of unsigned integers."""
        data, at = self._data, self._at
        column = array("q")
        try:
            for _ in range(count):
                byte = data[at]
                at += 1
                if byte > 0x7F:
                    byte, at = self._long(byte, at)
                column.append(byte)
        except IndexError:
            raise self.fail("ends in the middle of a value") from None
        self._at = at
        return column

    def _long(self, first: int, at: int) -> tuple[int, int]:
        value, shift = first & 0x7F, 7
        while True:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte <= 0x7F:
                break
            if shift >= 63:
                raise self.fail("an integer is too large")
        if byte == 0 or value >= _LIMIT:
            raise self.fail("an integer is too large or not in its shortest form")
        return value, at

    def svarints(self, count: int) -> array[int]:
        """Read a column of signed integers."""
        return array("q", (v >> 1 if not v & 1 else -((v + 1) >> 1) for v in self.uvarints(count)))

    def take(self, length: int) -> bytes:
        """Read exactly ``length`` bytes."""
        if length > len(self._data) - self._at:
            raise self.fail("ends in the middle of a value")
        piece = self._data[self._at : self._at + length]
        self._at += length
        return piece

    def prefixed(self) -> bytes:
        """Read bytes with their length before them."""
        return self.take(self.uvarint())

    def require_below(self, column: Sequence[int], limit: int, noun: str) -> None:
        """Require that every number names one of ``limit`` things, counted from 0."""
        if column and not 0 <= min(column) <= max(column) < limit:
            raise self.fail(f"it names a {noun} that is not there")

    def rest(self) -> bytes:
        """Read everything that is left."""
        return self.take(len(self._data) - self._at)

    @property
    def at_end(self) -> bool:
        """Tell whether everything was read."""
        return self._at == len(self._data)

    def end(self) -> None:
        """Require that everything was read."""
        if not self.at_end:
            raise self.fail(f"has {len(self._data) - self._at} bytes too many")
