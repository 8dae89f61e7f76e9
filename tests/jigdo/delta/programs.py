"""Libraries, made up: code whose calls, tables and pointers all lead somewhere in the file."""

from __future__ import annotations

import random
import struct

_PAGE = 0x1000


def library(seed: int, *, functions: int = 80, inserted: int = -1, grown: int = 0) -> bytes:
    """Return a library; ``inserted`` is the number of a function that the next version gained.

    ``grown`` pages more lie, in memory alone, between code and data.
    """
    order = list(range(functions))
    if inserted >= 0:
        order.insert(inserted, functions + inserted)
    bodies = {one: random.Random(f"{seed} {one}").randbytes(60 + one % 50) for one in order}
    unwinding, relocations, symbols = 12 + 8 * len(order), 24 * len(order), 24 * len(order)
    entries = 20 * len(order)
    first = 64 + 56 * 4
    places = {"symbols": first, "relocations": first + symbols}
    places["header"] = places["relocations"] + relocations
    places["entries"] = places["header"] + unwinding
    end = places["entries"] + entries
    code = -(-end // _PAGE) * _PAGE
    starts, at = {}, code
    for one in order:
        starts[one], at = at, at + len(bodies[one])
    data = -(-at // _PAGE) * _PAGE
    address = data + grown * _PAGE
    text = b""
    for one in order:
        body = bytearray(bodies[one])
        called, read = starts[(one * 31 + 7) % functions], address + 8 * order.index(one)
        # call, then lea of a pointer in the data.
        struct.pack_into("<Bi", body, 10, 0xE8, called - (starts[one] + 15))
        struct.pack_into("<3Bi", body, 20, 0x48, 0x8D, 0x05, read - (starts[one] + 27))
        text += body
    table = {"symbols": b"", "relocations": b"", "pairs": b"", "entries": b""}
    for number, one in enumerate(order):
        table["symbols"] += struct.pack("<IBBHqq", one, 18, 0, 1, starts[one], len(bodies[one]))
        pointer = address + 8 * number
        table["relocations"] += struct.pack("<qqq", pointer, 8, starts[one])
        entry = places["entries"] + 20 * number
        header = places["header"]
        table["pairs"] += struct.pack("<ii", starts[one] - header, entry - header)
        back = entry + 4 - places["entries"]
        table["entries"] += struct.pack("<Iiiii", 16, back, starts[one] - entry - 8, 60, 0)
    head = b"\1\x1b\3\x3b" + struct.pack("<iI", 8 + 8 * len(order), len(order))
    loads = [
        (1, 4, 0, 0, 0, end, end, _PAGE),
        (1, 5, code, code, code, len(text), len(text), _PAGE),
        (1, 6, data, address, address, 8 * len(order), 8 * len(order), _PAGE),
        (0x6474E550, 4, header, header, header, unwinding, unwinding, 4),
    ]
    pointers = struct.pack(f"<{len(order)}q", *(starts[one] for one in order))
    sections = data + len(pointers)
    file = b"\x7fELF\2\1\1".ljust(16, b"\0")
    file += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, sections, 0, 64, 56, 4, 64, 3, 0)
    file += b"".join(struct.pack("<IIqqqqqq", *load) for load in loads)
    file += table["symbols"] + table["relocations"] + head + table["pairs"] + table["entries"]
    file = (file.ljust(code, b"\0") + text).ljust(data, b"\0") + pointers
    file += bytes(64)
    for kind, name, size in ((11, "symbols", symbols), (4, "relocations", relocations)):
        file += struct.pack("<IIqqqqIIqq", 0, kind, 2, 0, places[name], size, 0, 0, 8, 24)
    return file
