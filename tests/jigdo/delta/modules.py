"""Modules of a kernel, made up: relocatable files whose tables refer to each other."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

_PROGBITS, _SYMTAB, _STRTAB, _RELA = 1, 2, 3, 4
_PC32 = 2


@dataclass(frozen=True)
class Kernel:
    """What its modules refer to: how many types it has, how many bytes of names."""

    types: int
    names: int


@dataclass
class _Section:
    name: str
    kind: int
    data: bytes
    flags: int = 0
    link: int = 0
    info: int = 0
    offset: int = field(default=0, init=False)


def module(
    seed: int, kernel: Kernel, *, functions: int = 60, inserted: int = -1, with_btf: bool = True
) -> bytes:
    """Return a module; ``inserted`` is the number of a function that the next version gained.

    The other functions of a seed are the same in every version, and so is what they refer to.
    """
    order = list(range(functions))
    if inserted >= 0:
        order.insert(inserted, functions + inserted)
    bodies = {one: random.Random(f"{seed} {one}").randbytes(90 + one % 40) for one in order}
    starts, at = {}, 0
    for one in order:
        starts[one], at = at, at + len(bodies[one])
    names, strings = {}, b"\0"
    for one in order:
        names[one] = len(strings)
        strings += b"function_%d\0" % (one * 7919)
    numbers = {one: number + 2 for number, one in enumerate(order)}
    symbols = bytes(24) + struct.pack("<IBBHqq", 0, 3, 0, 1, 0, 0)
    for one in order:
        symbols += struct.pack("<IBBHqq", names[one], 18, 0, 1, starts[one], len(bodies[one]))
    calls, table = b"", b""
    for number, one in enumerate(order):
        called = (one * 31 + 7) % functions
        calls += struct.pack("<qIIq", starts[one] + 40, _PC32, numbers[called], -4)
        # A table with an entry per function, by the section's own symbol.
        table += struct.pack("<qIIq", number * 4, _PC32, 1, starts[one])
    sections = [
        _Section("", 0, b""),
        _Section(".text", _PROGBITS, b"".join(bodies[one] for one in order), 6),
        _Section(".table", _PROGBITS, bytes(4 * len(order)), 2),
        _Section(".BTF", _PROGBITS, _btf(seed, kernel, order) if with_btf else b""),
        _Section(".symtab", _SYMTAB, symbols, link=5),
        _Section(".strtab", _STRTAB, strings),
        _Section(".rela.text", _RELA, calls, link=4, info=1),
        _Section(".rela.table", _RELA, table, link=4, info=2),
    ]
    return _file(sections) + random.Random(f"{seed} {inserted} {kernel}").randbytes(64)


def _btf(seed: int, kernel: Kernel, order: list[int]) -> bytes:
    """Each function has a record for itself and one for its parameters."""
    records, strings = b"", b""
    for number, one in enumerate(order):
        chance = random.Random(f"{seed} {one}")
        words = [0, 13 << 24 | 2, _grown(chance.randrange(1, 90_000), kernel.types)]
        for _ in range(2):
            name = _grown(chance.randrange(1, 900_000), kernel.names)
            words += [name, _grown(chance.randrange(1, 90_000), kernel.types)]
        words += [kernel.names + len(strings), 12 << 24 | 1, kernel.types + 2 * number]
        strings += b"function_%d\0" % (one * 7919)
        records += struct.pack(f"<{len(words)}I", *words)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(records), len(records), len(strings))
    return head + records + strings


def _grown(number: int, size: int) -> int:
    """Return the number of a kernel's type or name; what is in its last tenth moved with it."""
    return number if number < 50_000 else number + size % 1000


def _file(sections: list[_Section]) -> bytes:
    names = b"".join(section.name.encode() + b"\0" for section in sections) + b".shstrtab\0"
    sections.append(_Section(".shstrtab", _STRTAB, names))
    body = bytearray(64)
    for section in sections[1:]:
        body += bytes(-len(body) % 8)
        section.offset = len(body)
        body += section.data
    body += bytes(-len(body) % 8)
    table = len(body)
    for section in sections:
        name = names.index(section.name.encode() + b"\0")
        place = (section.offset, len(section.data), section.link, section.info, 8, 0)
        body += struct.pack("<IIqqqqIIqq", name, section.kind, section.flags, 0, *place)
    header = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64,
                          len(sections), len(sections) - 1)  # fmt: skip
    body[:64] = header
    return bytes(body)
