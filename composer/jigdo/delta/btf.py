"""Which words of BTF, the kernel's type information, are references.

BTF (the kernel's Documentation/bpf/btf.rst) is a row of records of 32-bit words that name
each other by number and their names by offset.  A module's goes on from that of the kernel
itself: when the kernel gains a type or a name, every reference in every module is another.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

Bytes = bytes | bytearray

PLAIN, TYPE, NAME = 0, 1, 2
"""What a word is: a type's number, an offset of a name, or anything else."""

_MAGIC = 0xEB9F
_BLOCK = 1 << 16
_HEADER = struct.Struct("<HBBIIIII")
# Kinds whose third word is a type's number, not a size.
_REFERRING = (2, 8, 9, 10, 11, 12, 13, 14, 17, 18)
# Words that follow a record's three, by kind: those of all of the kind, ...
_TAIL = {1: (PLAIN,), 3: (TYPE, TYPE, PLAIN), 14: (PLAIN,), 17: (PLAIN,)}
# ... and those of each of its members.
_MEMBER = {
    4: (NAME, TYPE, PLAIN),
    5: (NAME, TYPE, PLAIN),
    6: (NAME, PLAIN),
    13: (NAME, TYPE),
    15: (TYPE, PLAIN, PLAIN),
    19: (NAME, PLAIN, PLAIN),
}


@dataclass(frozen=True, slots=True)
class Btf:
    """The words of the records, where they begin in the file, and what each is."""

    words: Numbers
    start: int
    classes: Numbers


def parse_btf(data: Bytes, start: int, size: int) -> Btf | None:
    """Read the BTF of ``size`` bytes at ``start``; None when it is none.

    Records that do not fit end it: what is beyond them is plain.
    """
    import numpy

    if size < _HEADER.size or start + size > len(data):
        return None
    magic, _, _, header, offset, length, _, _ = _HEADER.unpack_from(data, start)
    if magic != _MAGIC or header + offset + length > size:
        return None
    words = numpy.frombuffer(data, "<u4", length // 4, start + header + offset)
    return Btf(words, start + header + offset, _classes(words))


@cache
def _tables() -> tuple[Numbers, Numbers, Numbers]:
    """Return by kind: words of the tail, words of a member, and what each word is.

    The latter in a row of six: a record's first three, then those of the tail or of a member.
    """
    import numpy

    tail, member = numpy.zeros(32, numpy.int64), numpy.zeros(32, numpy.int64)
    classes = numpy.zeros((32, 6), numpy.uint8)
    classes[:, 0] = NAME
    classes[list(_REFERRING), 2] = TYPE
    for sizes, rows in ((tail, _TAIL), (member, _MEMBER)):
        for kind, own in rows.items():
            sizes[kind] = len(own)
            classes[kind, 3 : 3 + len(own)] = own
    return tail, member, classes


def _classes(words: Numbers) -> Numbers:
    import numpy

    tail, member, _ = _tables()
    classes = numpy.zeros(len(words), numpy.uint8)
    at = 0
    for start in range(0, len(words) - 2, _BLOCK):
        # Of a record that would begin at each of these words, its kind and how long it would be.
        seconds = words[start + 1 : start + 1 + _BLOCK]
        kinds = seconds >> 24 & 31
        lengths = 3 + tail[kinds] + member[kinds] * (seconds & 0xFFFF)
        steps, last = lengths.tolist(), min(start + _BLOCK, len(words) - 2)
        begun: list[int] = []
        while at < last:
            begun.append(at)
            at += steps[at - start]
        if begun and at > len(words):
            begun.pop()
        if begun:
            own = numpy.array(begun, numpy.int64) - start
            _classify(classes[begun[0] :], kinds[own], lengths[own])
    return classes


def _classify(classes: Numbers, kinds: Numbers, lengths: Numbers) -> None:
    """Say of the words of some records, back to back, what each is."""
    import numpy

    tail, member, table = _tables()
    ends = lengths.cumsum()
    places = numpy.arange(ends[-1]) - (ends - lengths).repeat(lengths)
    widths = numpy.maximum(tail + member, 1)[kinds].repeat(lengths)
    places = numpy.where(places < 3, places, 3 + (places - 3) % widths)
    classes[: len(places)] = table[kinds.repeat(lengths), places]
