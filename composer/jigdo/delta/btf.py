"""Which words of BTF, the kernel's type information, are references.

BTF (the kernel's Documentation/bpf/btf.rst) is a row of records of 32-bit words that name
each other by number and their names by offset.  A module's goes on from that of the kernel
itself: when the kernel gains a type or a name, every reference in every module is another.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
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
    return Btf(words, start + header + offset, _classes(words, _starts(words)))


def _starts(words: Numbers) -> Numbers:
    """Return where the records begin."""
    import numpy

    tail = numpy.zeros(32, numpy.int64)
    member = numpy.zeros(32, numpy.int64)
    for kind, own in _TAIL.items():
        tail[kind] = len(own)
    for kind, own in _MEMBER.items():
        member[kind] = len(own)
    found, at = [numpy.zeros(0, numpy.int64)], 0
    for start in range(0, len(words) - 2, _BLOCK):
        # Of a record that would begin at each of these words, how long it would be.
        seconds = words[start + 1 : start + 1 + _BLOCK]
        kinds = seconds >> 24 & 31
        lengths = (3 + tail[kinds] + member[kinds] * (seconds & 0xFFFF)).tolist()
        last = min(start + _BLOCK, len(words) - 2)
        begun: list[int] = []
        while at < last:
            begun.append(at)
            at += lengths[at - start]
        found.append(numpy.array(begun, numpy.int64))
    starts = numpy.concatenate(found)
    return starts[:-1] if len(starts) and at > len(words) else starts


def _classes(words: Numbers, starts: Numbers) -> Numbers:
    import numpy

    classes = numpy.zeros(len(words), numpy.uint8)
    bounds = starts.searchsorted(numpy.arange(0, len(words), _BLOCK)).tolist()
    for first, end in pairwise((*bounds, len(starts))):
        _classify(classes, words, starts[first:end])
    return classes


def _classify(classes: Numbers, words: Numbers, starts: Numbers) -> None:
    """Say of the words of some records what each is."""
    import numpy

    kinds, counts = words[starts + 1] >> 24 & 31, (words[starts + 1] & 0xFFFF).astype(numpy.int64)
    classes[starts] = NAME
    referring = numpy.zeros(32, bool)
    referring[list(_REFERRING)] = True
    classes[starts[referring[kinds]] + 2] = TYPE
    for kind, own in _TAIL.items():
        for place, word in enumerate(own):
            if word:
                classes[starts[kinds == kind] + 3 + place] = word
    for kind, own in _MEMBER.items():
        here = kinds == kind
        members = counts[here]
        if not (total := int(members.sum())):
            continue
        before = numpy.cumsum(members) - members
        first = numpy.repeat(starts[here] + 3 - before * len(own), members)
        first += numpy.arange(total) * len(own)
        for place, word in enumerate(own):
            if word:
                classes[first + place] = word
