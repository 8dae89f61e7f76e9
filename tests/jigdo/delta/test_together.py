"""Patches of moved bases side by side: what comes out is what each makes alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.errors import ComposerError, FormatError
from composer.jigdo.delta import codecs
from composer.jigdo.delta.codecs import CodecNumber
from composer.jigdo.delta.linking import Learning, Linked, moves_of
from composer.jigdo.delta.moving import NOTHING_SHARED, join_linked, split_linked
from composer.jigdo.delta.together import apply_linked
from tests.jigdo.delta.contents import mutated
from tests.jigdo.delta.modules import Kernel, module

OLD, NEW = Kernel(100_000, 1_000_000), Kernel(100_037, 1_000_411)

Made = tuple[bytes, bytes, int]
"""A base, a patch, the size of the target."""


def _pair(seed: int) -> tuple[bytes, bytes]:
    with_btf, functions = seed % 3 > 0, 20 + seed * 7 % 50
    base = module(seed, OLD, functions=functions, with_btf=with_btf)
    inserted = seed * 11 % functions if seed % 4 else -1
    return base, module(seed, NEW, functions=functions, inserted=inserted, with_btf=with_btf)


def _patches(count: int, *, learn: bool) -> list[Made]:
    pairs = [_pair(seed) for seed in range(count)]
    shared = NOTHING_SHARED
    if learn:
        learning = Learning()
        for pair in pairs:
            learning.add(moves_of(*pair))
        shared = learning.shared()
    return [(base, Linked(shared).make(base, target), len(target)) for base, target in pairs]


LEARNED = _patches(12, learn=True)
ALONE = _patches(5, learn=False)


def _together(rows: Sequence[Made]) -> list[bytes]:
    bases = bytearray(b"".join(base for base, _, _ in rows))
    sizes = [len(base) for base, _, _ in rows]
    out = apply_linked(bases, sizes, [patch for _, patch, _ in rows], [size for *_, size in rows])
    found, at = [], 0
    for *_, size in rows:
        found.append(bytes(out[at : at + size]))
        at += size
    assert at == len(out)
    return found


def _alone(row: Made) -> bytes | None:
    base, patch, size = row
    try:
        pieces = codecs.apply(CodecNumber.LINKED, base, patch, size=size, max_memory=1 << 30)
        return b"".join(pieces)
    except ComposerError:
        return None


@pytest.mark.parametrize("rows", [LEARNED, LEARNED[:1], LEARNED[::-1], ALONE, LEARNED + ALONE])
def test_several_make_what_each_makes_alone(rows: list[Made]) -> None:
    assert _together(rows) == [_alone(row) for row in rows]


def test_targets_are_those_that_patches_were_made_of() -> None:
    assert _together(LEARNED) == [_pair(seed)[1] for seed in range(len(LEARNED))]


def test_another_kind_of_file_among_them_is_refused() -> None:
    other = (b"text\n" * 100, LEARNED[0][1], LEARNED[0][2])
    with pytest.raises(FormatError):
        _together([LEARNED[1], other, LEARNED[2]])


@pytest.mark.parametrize("change", [-1, 1])
def test_another_size_than_declared_is_refused(change: int) -> None:
    base, patch, size = LEARNED[3]
    with pytest.raises(FormatError):
        _together([LEARNED[1], (base, patch, size + change), LEARNED[2]])


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_patch_among_them_is_refused_or_harms_no_other(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.sampled_from(LEARNED), min_size=2, max_size=4))
    place = data.draw(st.integers(0, len(rows) - 1))
    base, patch, size = rows[place]
    parts = list(split_linked(patch))
    which = data.draw(st.integers(0, 2))
    parts[which] = data.draw(mutated(parts[which]))
    rows[place] = (base, join_linked(*parts), size)
    alone = [_alone(row) for row in rows]
    try:
        made = _together(rows)
    except ComposerError:
        assert alone[place] is None
    else:
        assert made == alone


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_base_among_them_is_refused_or_harms_no_other(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.sampled_from(LEARNED), min_size=2, max_size=4))
    place = data.draw(st.integers(0, len(rows) - 1))
    base, patch, size = rows[place]
    damaged = bytearray(base)
    (table,) = struct.unpack_from("<Q", base, 0x28)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 63), st.integers(table, len(base) - 9)))
        value = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        width = data.draw(st.sampled_from([1, 8]))
        damaged[at : at + width] = bytes([value]) * width
    rows[place] = (bytes(damaged), patch, size)
    alone = [_alone(row) for row in rows]
    try:
        made = _together(rows)
    except ComposerError:
        assert alone[place] is None
    else:
        assert [one for n, one in enumerate(made) if n != place] == [
            one for n, one in enumerate(alone) if n != place
        ]
        assert alone[place] in (None, made[place])
