"""The patch format: copies from a base, corrections to them, and literal bytes, in columns.

docs/format/delta.md section 2 is the reference.  A patch says where the target
equals the base (perhaps but for single bytes) and holds what is new.  Nothing
in it is compressed: like stands beside like, so that many patches compress well
together, and better still in a pool (``composer.jigdo.delta.pools``).

Whoever finds the matches (HDiffPatch, bsdiff, librsync), this is how they are
written and the only way they are applied; so a patch from afar meets no C code
but numpy's array operations on ranges that were checked.  Memory of
:func:`apply` does not grow with base, target or patch: all go by in pieces.

numpy is imported where it is used: commands that handle no delta never load it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from composer.jigdo.delta.numbers import read_numbers, write_numbers, wrong
from composer.jigdo.encoding import Cursor, svarints, uvarint, uvarints

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

#: Targets of one patch are smaller than this, so that sums of block values fit 63 bits.
SIZE_LIMIT = 1 << 40
PIECE = 1 << 18
_HEADER_LIMIT = 36


class Base(Protocol):
    """What a patch is applied to: bytes, a mapped file, or a :class:`FileBase`."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice, /) -> bytes | bytearray | memoryview: ...


class FileBase:
    """A base that is read from an open file where it is needed, without mapping it."""

    __slots__ = ("_fd", "_size")

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self._size = fd, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice, /) -> bytes:
        start, stop, _ = where.indices(self._size)
        return os.pread(self._fd, max(0, stop - start), start)


class HeldFile(FileBase):
    """One that keeps its file open, until it is closed."""

    __slots__ = ("_file",)

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        super().__init__(file.fileno(), os.fstat(file.fileno()).st_size)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Copy:
    """``length`` bytes that the target takes from ``base`` offset, after ``literal`` new bytes."""

    literal: int
    length: int
    base: int


@dataclass(frozen=True, slots=True)
class Streams:
    """The four columns of a patch."""

    control: bytes
    runs: bytes
    values: bytes
    literals: bytes

    def join(self) -> bytes:
        """Return the patch that holds these columns."""
        sizes = map(uvarint, (len(self.control), len(self.runs), len(self.values)))
        return b"".join((*sizes, self.control, self.runs, self.values, self.literals))

    @classmethod
    def split(cls, patch: bytes) -> Streams:
        """Take a patch apart; raises FormatError when it is too short for what it claims."""
        header = patch[:_HEADER_LIMIT]
        cursor = Cursor(header, "delta")
        sizes = cursor.uvarints(3)
        body = memoryview(patch)[len(header) - cursor.left :]
        if sum(sizes) > len(body):
            raise wrong("its columns are longer than the patch")
        cuts = [0, sizes[0], sizes[0] + sizes[1], sum(sizes), len(body)]
        return cls(*(bytes(body[a:b]) for a, b in itertools.pairwise(cuts)))


def encode(base: bytes | bytearray, target: bytes, copies: Iterable[Copy]) -> bytes:
    """Write the patch that makes ``target`` from ``base`` with these copies, in target order.

    Copies need not be exact: bytes that differ become corrections.
    """
    import numpy

    old, new = numpy.frombuffer(base, numpy.uint8), numpy.frombuffer(target, numpy.uint8)
    difference = numpy.zeros(len(target), numpy.uint8)
    control: list[int] = []
    literals: list[bytes] = []
    at = previous = 0
    for copy in copies:
        literals.append(target[at : at + copy.literal])
        at += copy.literal
        end = at + copy.length
        numpy.subtract(
            new[at:end], old[copy.base : copy.base + copy.length], out=difference[at:end]
        )
        offset = copy.base - previous
        control += copy.literal, copy.length, offset << 1 if offset >= 0 else (-offset << 1) - 1
        at, previous = end, copy.base + copy.length
    literals.append(target[at:])
    runs, values = _corrections(difference)
    return Streams(
        write_numbers(numpy.array(control, numpy.int64)), runs, values, b"".join(literals)
    ).join()


def _corrections(difference: Numbers) -> tuple[bytes, bytes]:
    """Return the run column (equal bytes, differing bytes, and so on) and the differences."""
    import numpy

    where = numpy.flatnonzero(difference)
    if not len(where):
        return b"", b""
    breaks = numpy.flatnonzero(numpy.diff(where) > 1)
    starts = where[numpy.concatenate(([0], breaks + 1))]
    ends = where[numpy.concatenate((breaks, [len(where) - 1]))] + 1
    pairs = numpy.empty(2 * len(starts), numpy.int64)
    pairs[0::2] = starts
    pairs[2::2] -= ends[:-1]
    pairs[1::2] = ends - starts
    return write_numbers(pairs), difference[where].tobytes()


class _Corrector:
    """Adds the corrections to pieces of the target as they go by."""

    def __init__(self, streams: Streams, size: int) -> None:
        import numpy

        self._blocks = read_numbers(streams.runs, 2, size)
        self._values = numpy.frombuffer(streams.values, numpy.uint8)
        self._size = size
        self._end = 0
        self._starts: Numbers = numpy.zeros(0, numpy.int64)
        self._ends: Numbers = self._starts
        self._used = 0

    def _next_block(self) -> bool:
        import numpy

        rows = next(self._blocks, None)
        if rows is None:
            return False
        ends = numpy.cumsum(rows.reshape(-1))[1::2] + self._end
        self._end = int(ends[-1])
        # Each value is at most `size`, so a block's sum cannot have wrapped.
        if self._end > self._size:
            raise wrong("corrections past the end of the target")
        self._starts, self._ends = ends - rows[:, 1], ends
        return True

    def correct(self, piece: Numbers, at: int) -> None:
        """Correct ``piece``, which stands at offset ``at`` of the target."""
        stop = at + len(piece)
        while True:
            count = int(self._starts.searchsorted(stop))
            if count:
                starts, ends = self._starts[:count], self._ends[:count]
                if starts[0] < at or ends[-1] > stop:
                    starts, ends = starts.clip(at), ends.clip(at, stop)
                self._add(piece, at, starts, ends)
            done = int(self._ends.searchsorted(stop, side="right"))
            self._starts, self._ends = self._starts[done:], self._ends[done:]
            if len(self._starts) or not self._next_block():
                return

    def _add(self, piece: Numbers, at: int, starts: Numbers, ends: Numbers) -> None:
        import numpy

        lengths = ends - starts
        total = int(lengths.sum())
        if self._used + total > len(self._values):
            raise wrong("more corrections than it has values for")
        before = lengths.cumsum() - lengths
        where = numpy.repeat(starts - at - before, lengths) + numpy.arange(total)
        piece[where] += self._values[self._used : self._used + total]
        self._used += total

    def finish(self) -> None:
        """Require that all was used."""
        if len(self._starts) or self._next_block() or self._used != len(self._values):
            raise wrong("has corrections left over")


def apply(base: Base, patch: bytes, *, size: int) -> Iterator[bytes]:
    """Yield the ``size`` bytes that the patch makes of ``base``, about a MiB at a time.

    Raises FormatError, perhaps after some pieces, when the patch is damaged or
    does not make exactly ``size`` bytes.  Whether they are the right bytes only
    the target's digest tells: any base that is long enough gives something.
    """
    streams = Streams.split(patch)
    return applied(base, streams, _read_control(streams, len(base), size), size=size)


def applied(
    base: Base, streams: Streams, control: Iterable[Numbers], *, size: int
) -> Iterator[bytes]:
    """As :func:`apply`, with the blocks of control as they were read."""
    import numpy

    if not 0 <= size < SIZE_LIMIT:
        raise wrong(f"a target of {size} bytes")
    corrector = _Corrector(streams, size) if streams.runs or streams.values else None
    at = 0
    for raw in _pieces(base, streams.literals, control, size):
        if corrector:
            corrector.correct(numpy.frombuffer(raw, numpy.uint8), at)
        at += len(raw)
        yield bytes(raw)
    if corrector:
        corrector.finish()
    if at != size:
        raise wrong(f"makes {at} bytes where {size} were declared")


def _read_control(streams: Streams, base_size: int, size: int) -> Iterator[Numbers]:
    return read_numbers(streams.control, 3, 2 * max(size, base_size))


def read_control(streams: Streams, base_size: int, size: int, most: int) -> Numbers:
    """Return the rows of control; raises FormatError for what is damaged, or more than ``most``."""
    import numpy

    blocks, count = [numpy.zeros((0, 3), numpy.int64)], 0
    for block in _read_control(streams, base_size, size):
        blocks.append(block)
        count += len(block)
        if count > most:
            raise wrong(f"more than {most} copies")
    return numpy.concatenate(blocks)


def copies(control: Numbers) -> Numbers:
    """Return what control copies: rows of (offset in the base, in the target, length).

    Ranges are not checked.
    """
    import numpy

    literals, lengths = control[:, 0], control[:, 1]
    steps = (control[:, 2] >> 1) ^ -(control[:, 2] & 1)
    ends = (literals + lengths).cumsum()
    before = lengths.cumsum() - lengths
    return numpy.stack((steps.cumsum() + before, ends - lengths, lengths), axis=1)


def _pieces(base: Base, new: bytes, control: Iterable[Numbers], size: int) -> Iterator[bytearray]:
    """Yield literals and uncorrected copies in target order, PIECE bytes or a little more."""
    literals, used, offset, made = memoryview(new), 0, 0, 0
    source = memoryview(base) if isinstance(base, (bytes, bytearray)) else base
    limit, most = len(base), len(literals)
    piece = bytearray()
    for rows in control:
        for literal, length, step in rows.tolist():
            made += literal + length
            offset += step >> 1 if not step & 1 else -((step + 1) >> 1)
            if offset < 0 or offset + length > limit:
                raise wrong("copies from outside its base")
            if made > size or used + literal > most:
                raise wrong("makes more than the declared size, or lacks literal bytes")
            if literal + length <= PIECE:  # nearly always, and this is what takes the time
                if literal:
                    piece += literals[used : used + literal]
                if length:
                    piece += source[offset : offset + length]
                if len(piece) >= PIECE:
                    yield piece
                    piece = bytearray()
            else:
                for part in chain(_cut(literals, used, literal), _cut(source, offset, length)):
                    piece += part
                    if len(piece) >= PIECE:
                        yield piece
                        piece = bytearray()
            used += literal
            offset += length
    if made + most - used != size:
        raise wrong("does not make the declared size")
    for part in _cut(literals, used, most - used):
        piece += part
        if len(piece) >= PIECE:
            yield piece
            piece = bytearray()
    if piece:
        yield piece


def _cut(source: Base, start: int, length: int) -> Iterator[bytes | bytearray | memoryview]:
    for at in range(start, start + length, PIECE):
        yield source[at : min(at + PIECE, start + length)]


def rebased(patch: bytes, offset: int) -> bytes:
    """Return the patch for a base of which ``patch``'s own base is what begins at ``offset``."""
    streams = Streams.split(patch)
    if not streams.control or not offset:
        return patch
    cursor = Cursor(streams.control, "delta")
    literal, length = cursor.uvarints(2)
    (step,) = cursor.svarints(1)
    first = uvarints((literal, length)) + svarints((step + offset,))
    old = len(uvarints((literal, length)) + svarints((step,)))
    return replace(streams, control=first + streams.control[old:]).join()
