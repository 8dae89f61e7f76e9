"""Which words of BTF, the kernel's type information, are references.

BTF (the kernel's Documentation/bpf/btf.rst) is a row of records of 32-bit words that name
each other by number and their names by offset.  A module's goes on from that of the kernel
itself: when the kernel gains a type or a name, every reference in every module is another.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

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
# An array: its own three words are followed by two numbers of types.
_ARRAY = 3
# Words that follow a record's three, by kind: those of all of the kind, ...
_TAIL = {1: (PLAIN,), _ARRAY: (TYPE, TYPE, PLAIN), 14: (PLAIN,), 17: (PLAIN,)}
# ... and those of each of its members.
_MEMBER = {
    4: (NAME, TYPE, PLAIN),
    5: (NAME, TYPE, PLAIN),
    6: (NAME, PLAIN),
    13: (NAME, TYPE),
    15: (TYPE, PLAIN, PLAIN),
    19: (NAME, PLAIN, PLAIN),
}


def records_of(data: Bytes, start: int, end: int) -> tuple[int, int] | None:
    """Return where the words of its records begin and end; None for what is no BTF."""
    size = end - start
    if size < _HEADER.size or end > len(data):
        return None
    magic, _, _, header, offset, length, _, _ = _HEADER.unpack_from(data, start)
    if magic != _MAGIC or header + offset + length > size:
        return None
    begin = start + header + offset
    return begin, begin + length // 4 * 4


class _Tables(NamedTuple):
    """By kind: words of the tail, words of a member, and which of those are references, or -1."""

    tail: Numbers
    member: Numbers
    refers: Numbers
    name: Numbers
    type: Numbers


@cache
def _tables() -> _Tables:
    import numpy

    tail, member = numpy.zeros(32, numpy.int64), numpy.zeros(32, numpy.int64)
    name, kind_of_type = numpy.full(32, -1), numpy.full(32, -1)
    for kind, words in _TAIL.items():
        tail[kind] = len(words)
    for kind, words in _MEMBER.items():
        member[kind] = len(words)
        for table, wanted in ((name, NAME), (kind_of_type, TYPE)):
            if wanted in words:
                table[kind] = words.index(wanted)
    refers = numpy.zeros(32, bool)
    refers[list(_REFERRING)] = True
    return _Tables(tail, member, refers, name, kind_of_type)


def references(words: Numbers, counts: Sequence[int]) -> Iterator[tuple[Numbers, Numbers]]:
    """Find the references in words of so many each: yield where types are, and names.

    Records that do not fit end their words: what is beyond them is plain.
    """
    import numpy

    tables = _tables()
    at = number = stop = 0
    stop = counts[0] if counts else 0
    for start in range(0, len(words) - 1, _BLOCK):
        # Of a record that would begin at each of these words, its kind and how long it would be.
        seconds = words[start + 1 : start + 1 + _BLOCK]
        kinds = seconds >> 24 & 31
        lengths = 3 + tables.tail[kinds] + tables.member[kinds] * (seconds & 0xFFFF)
        # One number of thousands is looked at: no list is made of them.
        steps, top = memoryview(lengths), start + len(seconds)
        begun: list[int] = []
        begin = begun.append
        while number < len(counts):
            last, before = min(top, stop - 2), len(begun)
            while at < last:
                begin(at)
                at += steps[at - start]
            if at < stop - 2:
                break
            if at > stop and len(begun) > before:
                begun.pop()
            at, number = stop, number + 1
            stop += counts[number] if number < len(counts) else 0
        if begun:
            own = numpy.array(begun, numpy.int64)
            yield _references(own, kinds[own - start], lengths[own - start])


def _references(begun: Numbers, kinds: Numbers, lengths: Numbers) -> tuple[Numbers, Numbers]:
    """Return where types are in records that begin there, and names; in no order."""
    import numpy

    tail, member, refers, name, own_type = _tables()
    arrays = begun[kinds == _ARRAY] + 3
    types = [begun[refers[kinds]] + 2, arrays, arrays + 1]
    names = [begun]
    grown = (member[kinds] > 0).nonzero()[0]
    kinds = kinds[grown]
    width = member[kinds]
    counts = (lengths[grown] - 3 - tail[kinds]) // width
    kinds, width = kinds.repeat(counts), width.repeat(counts)
    firsts = begun[grown] + 3
    places = numpy.arange(len(kinds)) - (counts.cumsum() - counts).repeat(counts)
    places = places * width + firsts.repeat(counts)
    for found, table in ((types, own_type), (names, name)):
        within = table[kinds]
        here = within >= 0
        found.append(places[here] + within[here])
    return numpy.concatenate(types), numpy.concatenate(names)
