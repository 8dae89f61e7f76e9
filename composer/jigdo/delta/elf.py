"""What of a relocatable ELF file says where other things in it are: a kernel's modules.

Such a file is code and data with holes, and tables that say what belongs into each hole.
One inserted instruction moves everything behind it, and so changes the tables all over.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

Bytes = bytes | bytearray

Extents = Sequence[tuple[int, int]]
"""Where parts of a buffer begin and end."""

_RELOCATABLE_64 = b"\x7fELF\x02\x01"
_HEADER = 64
# From its 16th byte: type of file; section headers, their size, their number, that of names.
_FIELDS = struct.Struct("<H22xQ10xHHH")
_COLUMNS = ("offset", "size", "type")
_BTF = b".BTF\0"
_SECTION = [("name", "<u4"), ("type", "<u4"), ("flags", "<i8"), ("address", "<i8"),
            ("offset", "<i8"), ("size", "<i8"), ("link", "<u4"), ("info", "<u4"),
            ("align", "<i8"), ("entry", "<i8")]  # fmt: skip
_SYMBOL = [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"),
           ("value", "<i8"), ("size", "<i8")]  # fmt: skip
_RELOCATION = [("offset", "<i8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")]
ENTRY = 24
"""Bytes of a symbol, and of a relocation."""

SYMTAB, STRTAB, RELA, NOBITS = 2, 3, 4, 8
ALLOCATED, EXECUTABLE = 2, 4
RELOCATABLE = b"\1\0"
"""What a relocatable file has at its 16th byte."""


class _Types(NamedTuple):
    section: Any
    symbol: Any
    relocation: Any


@cache
def _dtypes() -> _Types:
    import numpy

    return _Types(numpy.dtype(_SECTION), numpy.dtype(_SYMBOL), numpy.dtype(_RELOCATION))


@dataclass(frozen=True, slots=True)
class Relocatables:
    """Relocatable files, back to back in one buffer: their sections, and which of them are what.

    File *n* is ``sizes[n]`` bytes from ``begins[n]``.  Sections are numbered through all files:
    those of *n* begin with ``first[n]``; each is of one of ``owners``.  ``offsets`` are within a
    section's file.  ``symbols``, ``names`` and ``btf`` (-1 where there is none) have one section
    of each file.  Symbols lie before their names, all ``relocations`` after these, back to back.
    """

    begins: Numbers
    sizes: Numbers
    first: Numbers
    owners: Numbers
    headers: Numbers
    offsets: Numbers
    lengths: Numbers
    symbols: Numbers
    names: Numbers
    relocations: Numbers
    btf: Numbers

    def extents(self, first: Numbers, last: Numbers) -> Extents:
        """Return where in the buffer each file's sections from ``first`` to ``last`` lie."""
        starts = self.begins + self.offsets[first]
        ends = self.begins + self.offsets[last] + self.lengths[last]
        return [*zip(starts.tolist(), ends.tolist(), strict=True)]

    def relocations_of_each(self) -> tuple[Numbers, Numbers]:
        """Return each file's first and last section of relocations."""
        bounds = self.relocations.searchsorted(self.first)
        return self.relocations[bounds[:-1]], self.relocations[bounds[1:] - 1]

    def extent(self, section: Any) -> tuple[int, int]:
        """Return where the section begins and ends in its file."""
        start = int(self.offsets[section])
        return start, start + int(self.lengths[section])


def parse_relocatables(data: Bytes, sizes: Sequence[int]) -> Relocatables | None:
    """Read 64-bit little-endian relocatable files of these sizes; None where one is another kind.

    None, too, where one is not laid out as linkers do it, or lacks these tables.
    """
    import numpy

    view, at = memoryview(data), 0
    begins, counts, tables, strings = [], [], [], []
    for size in sizes:
        if size < _HEADER or data[at : at + 6] != _RELOCATABLE_64:
            return None
        kind, table, entry, count, names = _FIELDS.unpack_from(data, at + 16)
        if kind != 1 or entry != _HEADER or names >= count or table + count * _HEADER > size:
            return None
        tables.append(view[at + table : at + table + count * _HEADER])
        begins.append(at)
        counts.append(count)
        strings.append(names)
        at += size
    headers = numpy.frombuffer(b"".join(tables), _dtypes().section)
    first = numpy.zeros(len(counts) + 1, numpy.int64)
    first[1:] = numpy.cumsum(counts)
    owners = numpy.arange(len(counts)).repeat(counts)
    offsets, lengths, kinds = (numpy.ascontiguousarray(headers[c]) for c in _COLUMNS)
    used = (kinds != NOBITS) & (lengths > 0)
    limits = numpy.array(sizes, numpy.int64)
    ends = offsets + lengths
    if (used & ((offsets < 0) | (ends < offsets) | (ends > limits[owners]))).any():
        return None
    symbols = (used & (kinds == SYMTAB)).nonzero()[0]
    relocations = (used & (kinds == RELA)).nonzero()[0]
    numbers = numpy.arange(len(counts))
    if len(symbols) != len(counts) or (owners[symbols] != numbers).any():
        return None
    if not numpy.bincount(owners[relocations], minlength=len(counts)).all():
        return None
    names = headers["link"][symbols].astype(numpy.int64)
    if (names >= counts).any():
        return None
    names += first[:-1]
    at_strings = first[:-1] + strings
    places = (begins + offsets[at_strings]).tolist()
    btf = [
        data.find(_BTF, place, place + size) - place
        for place, size in zip(places, lengths[at_strings].tolist(), strict=True)
    ]
    found = Relocatables(
        numpy.array(begins, numpy.int64),
        limits,
        first,
        owners,
        headers,
        offsets,
        lengths,
        symbols,
        names,
        relocations,
        _named(headers["name"], kinds, owners, btf),
    )
    return found if _are_ordinary(found, kinds, ends) else None


def _named(names: Numbers, kinds: Numbers, owners: Numbers, at: Sequence[int]) -> Numbers:
    """Return each file's first section whose name stands at this place, or -1."""
    import numpy

    found = numpy.full(len(at), -1, numpy.int64)
    # No name is at 2^32, or beyond.
    wanted = numpy.array([place if 0 <= place < 1 << 32 else 1 << 32 for place in at], numpy.int64)
    matches = ((names == wanted[owners]) & (kinds != NOBITS)).nonzero()[0][::-1]
    found[owners[matches]] = matches
    return found


def _are_ordinary(files: Relocatables, kinds: Numbers, ends: Numbers) -> bool:
    """Tell whether the tables follow each other, none of them shared."""
    names, symbols, own = files.names, files.symbols, files.relocations
    if (kinds[names] != STRTAB).any():
        return False
    if (files.lengths[own] % ENTRY).any() or (files.lengths[symbols] % ENTRY).any():
        return False
    together = files.owners[own[1:]] == files.owners[own[:-1]]
    if (together & (files.offsets[own[1:]] != ends[own[:-1]])).any():
        return False
    starts = files.offsets[files.relocations_of_each()[0]]
    between = files.offsets[names]
    return bool((ends[symbols] <= between).all() and (ends[names] <= starts).all())


def gathered(data: Bytes, extents: Extents, kind: Any) -> Numbers:
    """Return a copy of what lies in these places, one after the other, as an array."""
    import numpy

    view = memoryview(data)
    return numpy.frombuffer(bytearray().join([view[start:end] for start, end in extents]), kind)


def scatter(data: bytearray, extents: Extents, rows: Numbers) -> None:
    """Put back what :func:`gathered` returned."""
    own: Any = rows.view("u1")
    view, own, at = memoryview(data), memoryview(own), 0
    for start, end in extents:
        view[start:end] = own[at : at + end - start]
        at += end - start


def symbols_of(data: Bytes, files: Relocatables) -> tuple[Numbers, Extents]:
    """Return the symbol tables, and where they lie."""
    extents = files.extents(files.symbols, files.symbols)
    return gathered(data, extents, _dtypes().symbol), extents


def relocations_of(data: Bytes, files: Relocatables) -> tuple[Numbers, Extents]:
    """Return the entries of all relocation sections, and where those of each file lie."""
    extents = files.extents(*files.relocations_of_each())
    return gathered(data, extents, _dtypes().relocation), extents


def section_names(data: Bytes, files: Relocatables) -> list[bytes]:
    """Return the name of each section of the first file."""
    (strings,) = struct.unpack_from("<H", data, 0x3E)
    start = int(files.offsets[strings])
    found = []
    for at in files.headers["name"][: files.first[1]].tolist():
        end = data.index(b"\0", start + at)
        found.append(bytes(data[start + at : end]))
    return found
