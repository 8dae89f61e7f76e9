"""Pools of patches: docs/format/delta.md section 3."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import FormatError
from composer.jigdo.delta.columns import Copy, encode
from composer.jigdo.delta.pools import Pool, pool
from composer.jigdo.encoding import uvarint, uvarints
from tests.jigdo.delta.contents import pairs


@given(st.lists(pairs(), max_size=6))
def test_pool_gives_its_patches_back(cases: list[tuple[bytes, bytes]]) -> None:
    patches = [
        encode(base, target, [Copy(0, min(len(base), len(target)), 0)]) for base, target in cases
    ]
    moves, shared = [base[:5] for base, _ in cases], [b"", b"several"]
    found = Pool(pool(patches, moves, shared), len(patches))
    assert [found[number] for number in range(len(found))] == patches
    assert [found.moves(number) for number in range(len(found))] == moves
    assert [found.shared(number) for number in range(2)] == shared
    with pytest.raises(FormatError):
        found.shared(2)


@given(st.binary(max_size=80))
def test_damaged_pool_is_refused_or_read(data: bytes) -> None:
    try:
        found = Pool(data, data[0] if data else 0)
    except FormatError:
        return
    shared: list[bytes] = []
    with contextlib.suppress(FormatError):
        while True:
            shared.append(found.shared(len(shared)))
    numbers = range(len(found))
    again = pool([found[n] for n in numbers], [found.moves(n) for n in numbers], shared)
    assert again == data


def test_pool_cannot_claim_more_than_it_holds() -> None:
    with pytest.raises(FormatError):
        Pool(uvarint(2**40), 2**40)
    with pytest.raises(FormatError):
        Pool(uvarints([1, 0, 2**40, 0, 0, 0, 0]), 1)
    with pytest.raises(FormatError):
        Pool(uvarints([0, 2**40]), 0)
