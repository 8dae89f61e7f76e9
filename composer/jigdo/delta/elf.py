"""What of a relocatable ELF file says where other things in it are: a kernel's modules.

Such a file is code and data with holes, and tables that say what belongs into each hole.
One inserted instruction moves everything behind it, and so changes the tables all over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

Bytes = bytes | bytearray

_RELOCATABLE_64 = b"\x7fELF\x02\x01"
_HEADER = 64
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


class _Types(NamedTuple):
    section: Any
    symbol: Any
    relocation: Any


@cache
def _dtypes() -> _Types:
    import numpy

    return _Types(numpy.dtype(_SECTION), numpy.dtype(_SYMBOL), numpy.dtype(_RELOCATION))


@dataclass(frozen=True, slots=True)
class Relocatable:
    """A relocatable file's section headers and which of them are what; numbers of sections.

    The symbols lie before their names, and all ``relocations`` after these, back to back.
    ``btf`` is -1 where there is none.
    """

    sections: Numbers
    symbols: int
    names: int
    relocations: Numbers
    btf: int

    def extent(self, section: int) -> tuple[int, int]:
        """Return where the section begins and ends in the file."""
        one = self.sections[section]
        return int(one["offset"]), int(one["offset"] + one["size"])


def parse_relocatable(data: Bytes) -> Relocatable | None:
    """Read a 64-bit little-endian relocatable file; None for anything else.

    None, too, where the file is not laid out as linkers do it, or lacks these tables.
    """
    import numpy

    if len(data) < _HEADER or data[:6] != _RELOCATABLE_64 or data[16:18] != b"\1\0":
        return None
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry, count, strings = struct.unpack_from("<HHH", data, 0x3A)
    if entry != _HEADER or strings >= count or table + count * _HEADER > len(data):
        return None
    sections = numpy.frombuffer(data, _dtypes().section, count, table)
    used = (sections["type"] != NOBITS) & (sections["size"] > 0)
    ends = sections["offset"] + sections["size"]
    fits = (sections["offset"] >= 0) & (ends >= sections["offset"]) & (ends <= len(data))
    if not (fits | ~used).all():
        return None
    symbols = numpy.flatnonzero(used & (sections["type"] == SYMTAB))
    relocations = numpy.flatnonzero(used & (sections["type"] == RELA))
    if len(symbols) != 1 or not len(relocations):
        return None
    names = int(sections["link"][symbols[0]])
    found = Relocatable(
        sections, int(symbols[0]), names, relocations, _named(data, sections, strings, b".BTF")
    )
    return found if _is_ordinary(found) else None


def _named(data: Bytes, sections: Numbers, strings: int, name: bytes) -> int:
    import numpy

    start, size = int(sections["offset"][strings]), int(sections["size"][strings])
    at = data.find(name + b"\0", start, start + size) - start
    found = numpy.flatnonzero((sections["name"] == at) & (sections["type"] != NOBITS))
    return int(found[0]) if at >= 0 and len(found) else -1


def _is_ordinary(file: Relocatable) -> bool:
    """Tell whether the tables follow each other, none of them shared."""
    if file.names >= len(file.sections) or file.sections["type"][file.names] != STRTAB:
        return False
    own = file.sections[file.relocations]
    starts, sizes = own["offset"], own["size"]
    if (sizes % ENTRY).any() or file.sections["size"][file.symbols] % ENTRY:
        return False
    if (starts[1:] != (starts + sizes)[:-1]).any():
        return False
    before = file.extent(file.symbols)[1] <= file.extent(file.names)[0]
    return before and file.extent(file.names)[1] <= int(starts[0])


def symbols_of(data: Bytes, file: Relocatable) -> Numbers:
    """Return the symbol table."""
    import numpy

    start, end = file.extent(file.symbols)
    return numpy.frombuffer(data, _dtypes().symbol, (end - start) // ENTRY, start)


def relocations_of(data: Bytes, file: Relocatable) -> Numbers:
    """Return the entries of all relocation sections, one after the other."""
    import numpy

    sections = file.relocations
    start, end = file.extent(int(sections[0]))[0], file.extent(int(sections[-1]))[1]
    return numpy.frombuffer(data, _dtypes().relocation, (end - start) // ENTRY, start)


def section_names(data: Bytes, sections: Numbers) -> list[bytes]:
    """Return the name of each section."""
    (strings,) = struct.unpack_from("<H", data, 0x3E)
    start = int(sections["offset"][strings])
    found = []
    for at in sections["name"].tolist():
        end = data.index(b"\0", start + at)
        found.append(bytes(data[start + at : end]))
    return found
