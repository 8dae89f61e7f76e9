"""Columns of integers, read and written in blocks: the same bytes as ``encoding.uvarints``.

numpy is imported where it is used: commands that handle no delta never load it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from composer.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

_BLOCK = 1 << 16
_BEYOND = "a length or an offset is beyond what base and target hold"
_CUT = "a column ends in the middle of a value"
# Columns of so many bytes are read one number after the other.
_SHORT = 256


def wrong(reason: str) -> FormatError:
    """Return the error that says ``reason`` of a patch."""
    return FormatError(f"delta: {reason}", hint="the set is damaged or not genuine")


def write_numbers(values: Numbers) -> bytes:
    """Encode a column of unsigned integers."""
    import numpy

    if not len(values):
        return b""
    rest = values.astype(numpy.uint64)
    widths = numpy.ones(len(rest), numpy.int64)
    shifted = rest >> numpy.uint64(7)
    while shifted.any():
        widths += shifted > 0
        shifted >>= numpy.uint64(7)
    starts = numpy.cumsum(widths) - widths
    out = numpy.zeros(int(widths.sum()), numpy.uint8)
    for place in range(int(widths.max())):
        here = widths > place
        more = numpy.where(widths[here] > place + 1, 0x80, 0).astype(numpy.uint8)
        low = (rest[here] >> numpy.uint64(7 * place)) & numpy.uint64(0x7F)
        out[starts[here] + place] = low.astype(numpy.uint8) | more
    return out.tobytes()


def read_numbers(column: bytes, width: int, limit: int) -> Iterator[Numbers]:
    """Yield blocks of rows of ``width`` integers; raises FormatError for one above ``limit``."""
    import numpy

    if not column:
        return
    if column[-1] > 0x7F:
        raise wrong(_CUT)
    if len(column) <= _SHORT:
        values = _few_numbers(column, limit)
        if len(values) % width:
            raise wrong("a column ends in the middle of a row")
        yield numpy.array(values, numpy.int64).reshape(-1, width)
        return
    data = numpy.frombuffer(column, numpy.uint8)
    at = 0
    while at < len(data):
        block = data[at : at + _BLOCK]
        ends = (block < 0x80).nonzero()[0]
        ends = ends[: len(ends) - len(ends) % width]
        if not len(ends):
            raise wrong("a column ends in the middle of a row, or an integer is too large")
        block = block[: ends[-1] + 1]
        yield _numbers(block, ends, limit).reshape(-1, width)
        at += len(block)


def read_together(columns: Sequence[bytes], width: int, limit: int) -> tuple[Numbers, Numbers]:
    """Return the rows of ``width`` integers of several columns, and how many are of each."""
    import numpy

    data = numpy.frombuffer(b"".join(columns), numpy.uint8)
    lengths = numpy.array([*map(len, columns)], numpy.int64)
    if not len(data):
        return numpy.zeros((0, width), numpy.int64), lengths
    stops = lengths.cumsum()
    if (data[stops[lengths > 0] - 1] > 0x7F).any():
        raise wrong(_CUT)
    ends = (data < 0x80).nonzero()[0]
    counts = ends.searchsorted(stops)
    counts[1:] -= counts[:-1].copy()
    if (counts % width).any():
        raise wrong("a column ends in the middle of a row")
    return _numbers(data, ends, limit).reshape(-1, width), counts // width


def _few_numbers(column: bytes, limit: int) -> list[int]:
    """Read a short column as :func:`_numbers` does, whose calls would take longer."""
    values, value, shift = [], 0, 0
    for byte in column:
        value |= (byte & 0x7F) << shift
        if byte > 0x7F:
            shift += 7
            continue
        if shift > 56:
            raise wrong("an integer is too large")
        if shift and not byte:
            raise wrong("an integer is not in its shortest form")
        if value > limit:
            raise wrong(_BEYOND)
        values.append(value)
        value = shift = 0
    return values


def _numbers(block: Numbers, ends: Numbers, limit: int) -> Numbers:
    import numpy

    starts = numpy.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    widths = ends - starts
    longest = int(widths.max()) + 1
    if longest > 9:
        raise wrong("an integer is too large")
    if longest > 1 and ((block[ends] == 0) & (widths > 0)).any():
        raise wrong("an integer is not in its shortest form")
    values = (block[starts] & 0x7F).astype(numpy.int64)
    for place in range(1, longest):
        here = (widths >= place).nonzero()[0]
        values[here] |= (block[starts[here] + place] & 0x7F).astype(numpy.int64) << (7 * place)
    if int(values.max()) > limit:
        raise wrong(_BEYOND)
    return values
