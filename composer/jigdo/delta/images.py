"""Executables and shared libraries for x86-64: move what in them refers to other places.

Code calls, jumps and reads relative to where it stands, so all of these distances change that
reach across something inserted; tables of the dynamic linker and of unwinding likewise.  No
instruction is decoded: four bytes behind what looks like such an opcode, and that lead to a
place in the file, are a distance.  Where that is wrong a few bytes more are corrected.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from composer.jigdo.delta.steps import Positions, Steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

_IDENTITY = b"\x7fELF\x02\x01"
_X86_64 = 62
_EXECUTABLE, _SHARED = 2, 3
_LOAD, _UNWINDING = 1, 0x6474E550
_MAY_EXECUTE, _MAY_WRITE = 1, 2
_RELA, _DYNAMIC_SYMBOLS = 4, 11
_RELATIVE = 8
_MOST_SEGMENTS = 64
# Of a segment, at a time.
_BLOCK = 1 << 20
# Of that, while its bytes are looked at: what is larger is fetched from the system each time.
_PIECE = 1 << 17
# Of its places that look like references, at a time.
_PLACES = 1 << 16
_MOST_UNWINDING = 1 << 17
# .eh_frame_hdr: version, then how its numbers are written: what all linkers do.
_SEARCH_TABLE = b"\x01\x1b\x03\x3b"


@dataclass(frozen=True, slots=True)
class Segments:
    """What is loaded from the file: addresses, offsets and sizes, by address, and flags."""

    addresses: Numbers
    offsets: Numbers
    sizes: Numbers
    flags: Numbers

    def __len__(self) -> int:
        return len(self.addresses)


@dataclass(frozen=True, slots=True)
class _Addresses:
    """Where addresses went."""

    segments: Segments
    positions: Positions
    moved: Numbers

    def known(self, addresses: Numbers) -> tuple[Numbers, Numbers]:
        """Return where addresses went, and which of them are in the file."""
        import numpy

        own = self.segments
        number = own.addresses.searchsorted(addresses, side="right") - 1
        within = addresses - own.addresses[number]
        known = (number >= 0) & (within >= 0) & (within < own.sizes[number])
        shift = own.addresses[number] - own.offsets[number]
        went = self.positions(addresses - shift) + shift + self.moved[number]
        return numpy.where(known, went, addresses), known

    def __call__(self, addresses: Numbers) -> Numbers:
        return self.known(addresses)[0]

    def distance(self, start: Numbers, distance: Numbers) -> tuple[Numbers, Numbers]:
        """Return what became of the distance from ``start``, and where both ends are known."""
        end, known = self.known(start + distance)
        begin, own = self.known(start)
        return end - begin, known & own


def segments_of(data: bytes | bytearray) -> Segments | None:
    """Return the segments of an x86-64 executable or library; None for anything else."""
    import numpy

    if len(data) < 64 or data[:6] != _IDENTITY:
        return None
    kind, machine = struct.unpack_from("<HH", data, 16)
    headers, (size, count) = _headers(data, 0x20, 0x36)
    if kind not in (_EXECUTABLE, _SHARED) or machine != _X86_64 or size != 56:
        return None
    if headers + count * size > len(data):
        return None
    rows = [
        (address, offset, length, flags)
        for kind, flags, offset, address, length in _program(data, headers, count)
        if kind == _LOAD and length
    ]
    rows.sort()
    # Nothing is read twice.
    if not 0 < len(rows) <= _MOST_SEGMENTS or sum(row[2] for row in rows) > len(data):
        return None
    end = 0
    for address, offset, length, _ in rows:
        if address < end or offset + length > len(data) or address + length >= 1 << 48:
            return None
        end = address + length
    return Segments(*numpy.array(rows, numpy.int64).T.copy())


def _headers(data: bytes | bytearray, place: int, sizes: int) -> tuple[int, tuple[int, int]]:
    (start,) = struct.unpack_from("<Q", data, place)
    return start, struct.unpack_from("<HH", data, sizes)


def _program(
    data: bytes | bytearray, start: int, count: int
) -> list[tuple[int, int, int, int, int]]:
    """Return kind, flags, offset, address and size of each program header."""
    rows = (struct.unpack_from("<IIQQQQ", data, start + 56 * number) for number in range(count))
    return [(kind, flags, offset, address, size) for kind, flags, offset, address, _, size in rows]


def _sections(data: bytes | bytearray) -> list[tuple[int, int, int]]:
    """Return kind, offset and size of each section that lies in the file."""
    start, (size, count) = _headers(data, 0x28, 0x3A)
    if size != 64 or start + size * count > len(data):
        return []
    rows = (struct.unpack_from("<IIQQQQ", data, start + 64 * number) for number in range(count))
    return [
        (kind, offset, length)
        for _, kind, _, _, offset, length in rows
        if offset + length <= len(data)
    ]


def move_image(data: bytearray, positions: Positions, moved: Steps) -> bool:
    """Move the references in an executable or library, in place; False for another kind of file.

    ``moved`` is by how much addresses of each segment moved, beyond their offsets in the file.
    """
    import numpy

    segments = segments_of(data)
    if segments is None:
        return False
    addresses = _Addresses(segments, positions, moved.at(numpy.arange(len(segments))))
    unwinding = _unwinding(data, addresses)
    for number in range(len(segments)):
        if segments.flags[number] & _MAY_EXECUTE:
            _move_code(data, addresses, number)
        elif segments.flags[number] & _MAY_WRITE:
            _move_pointers(data, addresses, number)
    for kind, offset, size in _tables(data):
        if kind == _RELA:
            _move_relocations(data, addresses, offset, size)
        else:
            _move_symbols(data, addresses, offset, size)
    for places, values in unwinding:
        _put(data, places, values)
    return True


def _tables(data: bytearray) -> list[tuple[int, int, int]]:
    """Return the dynamic linker's tables, those that do not overlap."""
    found, end = [], 0
    for kind, offset, size in sorted(_sections(data), key=lambda row: row[1]):
        if kind in (_RELA, _DYNAMIC_SYMBOLS) and size >= 24 and offset >= end:
            found.append((kind, offset, size))
            end = offset + size
    return found


def _move_code(data: bytearray, addresses: _Addresses, number: int) -> None:
    import numpy

    own = addresses.segments
    start, size = int(own.offsets[number]), int(own.sizes[number])
    shift = int(own.addresses[number]) - start
    for at in range(start, start + size, _BLOCK):
        code = numpy.frombuffer(data, numpy.uint8, min(_BLOCK, start + size - at), at)
        if len(code) < 6:
            return
        found = _like_opcodes(code[:-4])
        cuts = range(_PLACES, len(found), _PLACES)
        moved = [_moved(code, part, at + shift, addresses) for part in numpy.split(found, cuts)]
        places, became = map(numpy.concatenate, zip(*moved, strict=True))
        apart = numpy.ones(len(places), bool)
        apart[1:] = numpy.diff(places) >= 5
        _put(data, places[apart] + (at + 1), became[apart])


def _like_opcodes(code: Numbers) -> Numbers:
    """Return where bytes look like an opcode that a distance follows."""
    import numpy

    found = []
    for at in range(0, len(code), _PIECE):
        # call and jmp; a ModRM byte that says "relative to the next instruction"; jcc.
        part, before = code[at : at + _PIECE], code[at - 1 : at]
        like = (part & 0xFE == 0xE8) | (part & 0xC7 == 5)
        like[1:] |= (part[1:] & 0xF0 == 0x80) & (part[:-1] == 0x0F)
        like[:1] |= (part[:1] & 0xF0 == 0x80) & (before == 0x0F).any()
        found.append(like.nonzero()[0] + at)
    return numpy.concatenate(found)


def _moved(
    code: Numbers, places: Numbers, address: int, addresses: _Addresses
) -> tuple[Numbers, Numbers]:
    """Return which of these places have a distance that is another now, and what became of it."""
    import numpy

    # Words at every place, aligned or not.
    words = numpy.ndarray((len(code) - 3,), "<i4", code, strides=(1,))
    distances = words[places + 1].astype(numpy.int64)
    starts = places + (address + 5)
    # Most that are no distance lead far away; it takes little to see that.
    own, ends = addresses.segments, starts + distances
    here = (ends >= own.addresses[0]) & (ends < own.addresses[-1] + own.sizes[-1])
    places, distances = places[here], distances[here]
    became, known = addresses.distance(starts[here], distances)
    here = known & (became != distances)
    return places[here], became[here]


def _move_pointers(data: bytearray, addresses: _Addresses, number: int) -> None:
    import numpy

    own = addresses.segments
    start, size = int(own.offsets[number]), int(own.sizes[number])
    skipped = -int(own.addresses[number]) % 8
    for at in range(start + skipped, start + size - 7, _BLOCK):
        words = numpy.frombuffer(data, "<i8", min(_BLOCK, start + size - at) // 8, at)
        here = words.nonzero()[0]
        words[here] = addresses(words[here])


def _move_relocations(data: bytearray, addresses: _Addresses, offset: int, size: int) -> None:
    import numpy

    for at in range(offset, offset + size - 23, 24 << 15):
        rows = numpy.frombuffer(data, "<i8", min(24 << 15, offset + size - at) // 24 * 3, at)
        rows = rows.reshape(-1, 3)
        rows[:, 0] = addresses(rows[:, 0])
        here = rows[:, 1] & 0xFFFFFFFF == _RELATIVE
        rows[here, 2] = addresses(rows[here, 2])


def _move_symbols(data: bytearray, addresses: _Addresses, offset: int, size: int) -> None:
    import numpy

    rows = numpy.frombuffer(data, "<i8", size // 24 * 3, offset).reshape(-1, 3)
    # Of the section that a symbol is in, 0 is none; its number is the last 16 bits of 64.
    here = numpy.flatnonzero((rows[:, 0] >> 48 != 0) & (rows[:, 1] != 0))
    rows[here, 1] = addresses(rows[here, 1])


def _unwinding(data: bytearray, addresses: _Addresses) -> list[tuple[Numbers, Numbers]]:
    """Return what is to be put where in the tables of unwinding: places and values."""
    import numpy

    headers, (_, count) = _headers(data, 0x20, 0x36)
    for kind, _, offset, address, size in _program(data, headers, count):
        if kind != _UNWINDING or size < 12 or offset + size > len(data) or address >= 1 << 48:
            continue
        if (size - 12) // 8 > _MOST_UNWINDING:
            continue
        if data[offset : offset + 4] != _SEARCH_TABLE:
            continue
        words = numpy.frombuffer(data, "<i4", (size - 12) // 8 * 2, offset + 12).astype(numpy.int64)
        start = numpy.full(len(words), address)
        found = [
            _kept(numpy.arange(len(words)) * 4 + offset + 12, addresses.distance(start, words))
        ]
        # Each second number leads to an entry, where two more distances stand.
        entries, within = addresses.segments, words[1::2] + address
        number = numpy.maximum(entries.addresses.searchsorted(within, side="right") - 1, 0)
        here = (within >= entries.addresses[number]) & (
            within - entries.addresses[number] + 12 <= entries.sizes[number]
        )
        number, within = number[here], within[here]
        places = within - entries.addresses[number] + entries.offsets[number]
        code = numpy.frombuffer(data, numpy.uint8)
        begins = _words(code, places + 8)
        found.append(_kept(places + 8, addresses.distance(within + 8, begins)))
        common = _words(code, places + 4)
        back, known = addresses.distance(within + 4, -common)
        found.append(_kept(places + 4, (-back, known)))
        return found
    return []


def _kept(places: Numbers, became: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers]:
    values, known = became
    return places[known], values[known]


def _words(code: Numbers, places: Numbers) -> Numbers:
    """Return the signed 32-bit words at these places, aligned or not."""
    import numpy

    found = numpy.zeros(len(places), numpy.uint32)
    for byte in range(4):
        found |= code[places + byte].astype(numpy.uint32) << (8 * byte)
    return found.astype(numpy.int32).astype(numpy.int64)


def _put(data: bytearray, places: Numbers, values: Numbers) -> None:
    """Write 32-bit words."""
    import numpy

    code = numpy.frombuffer(data, numpy.uint8)
    for byte in range(4):
        code[places + byte] = (values >> (8 * byte)).astype(numpy.uint8)
