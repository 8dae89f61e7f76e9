"""CVE-2014-9862 (bspatch writes before and behind its buffer), and sizes like those that
overflowed in OSTree's static deltas: what a patch claims, and sums of it.
"""

from __future__ import annotations

import struct
from contextlib import suppress

import numpy
import pytest

from composer.errors import ComposerError
from composer.jigdo.delta.codecs import _bsdiff_copies
from composer.jigdo.delta.columns import Streams, apply, encode
from composer.jigdo.delta.numbers import write_numbers

_SIZE = 64
_BASE, _TARGET = b"abcdefgh" * 8, b"abcdXfgh" * 8


def _made(patch: bytes) -> bytes:
    """Apply a patch; returns what came out of it until it was refused."""
    made = bytearray()
    with suppress(ComposerError):
        for piece in apply(_BASE, patch, size=_SIZE):
            made += piece
    return bytes(made)


@pytest.mark.parametrize(
    "triples",
    [
        [(-5, 0, 0)],
        [(0, -5, 0)],
        [(4, 0, -(1 << 40)), (4, 0, 0)],
        [(1 << 62, 0, 0)],
        [(4, 1 << 62, 0), (4, 0, 0)],
        [((1 << 63) - 1, (1 << 63) - 1, 0), (4, 0, 0)],
    ],
    ids=["length", "literal", "seek", "long-copy", "long-literal", "sum"],
)
def test_cve_2014_9862_what_bsdiff_says_writes_nowhere_else(
    triples: list[tuple[int, int, int]],
) -> None:
    """No client reads bsdiff's numbers; where sets are built, wrong ones give no wrong bytes."""
    control = b"".join(
        struct.pack("<3Q", *(v if v >= 0 else 1 << 63 | -v for v in triple)) for triple in triples
    )
    try:
        patch = encode(_BASE, _TARGET, _bsdiff_copies(control))
    except (ValueError, OverflowError, MemoryError):
        return  # the worker that makes deltas goes on without this codec
    assert _made(patch) in (b"", _TARGET)


@pytest.mark.parametrize("huge", [65, 1 << 31, 1 << 32, 1 << 62, (1 << 63) - 1])
@pytest.mark.parametrize("place", range(3), ids=["literal", "length", "seek"])
def test_cve_2014_9862_numbers_of_our_own_patches(place: int, huge: int) -> None:
    """Nothing outside of the base is read, and nothing longer than declared is made."""
    numbers = [0, 8, 0, 0, 8, 0]
    numbers[3 + place] = huge
    control = write_numbers(numpy.array(numbers, numpy.int64))
    with pytest.raises(ComposerError):
        list(apply(_BASE, Streams(control, b"", b"", b"").join(), size=_SIZE))
    assert len(_made(Streams(control, b"", b"", b"").join())) <= _SIZE


def test_sizes_whose_sum_overflows_are_refused() -> None:
    """Copies that add up to the declared size only modulo 2^64."""
    most = (1 << 62) + (1 << 61)
    numbers = [0, most, 0, 0, most, 0, 0, (1 << 62) + _SIZE, 0]
    control = write_numbers(numpy.array(numbers, numpy.int64))
    with pytest.raises(ComposerError):
        list(apply(_BASE, Streams(control, b"", b"", b"").join(), size=_SIZE))
