"""The patch format: docs/format/delta.md sections 2 and 3."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.errors import FormatError
from composer.jigdo.delta import numbers
from composer.jigdo.delta.columns import (
    PIECE,
    Copy,
    FileBase,
    Streams,
    apply,
    encode,
)
from composer.jigdo.encoding import uvarints
from tests.jigdo.delta.contents import mutated, pairs, revised


def _made(base: bytes, patch: bytes, size: int) -> bytes:
    return b"".join(apply(base, patch, size=size))


@st.composite
def _copies(draw: st.DrawFn) -> tuple[bytes, bytes, list[Copy]]:
    """Draw any base, any target and any copies between them, exact or not."""
    base, target = draw(pairs())
    copies, at = [], 0
    while base and at < len(target) and draw(st.booleans()):
        literal = draw(st.integers(0, min(20, len(target) - at)))
        start = draw(st.integers(0, len(base)))
        room = min(len(base) - start, len(target) - at - literal)
        copies.append(Copy(literal, length := draw(st.integers(0, room)), start))
        at += literal + length
    return base, target, copies


def test_patch_has_known_bytes() -> None:
    base, target = b"abcdefghij", b"xyabXdefg!"
    patch = encode(base, target, [Copy(2, 7, 0)])
    assert patch == (
        b"\x03\x02\x01"  # bytes of control, runs and values; what is left are literals
        b"\x02\x07\x00"  # two literal bytes, copy seven, from where the last copy ended
        b"\x04\x01"  # four bytes of the target are right, the next one is not
        + bytes([(ord("X") - ord("c")) % 256])
        + b"xy!"
    )
    assert _made(base, patch, 10) == target


@given(_copies())
def test_any_copies_make_the_target(case: tuple[bytes, bytes, list[Copy]]) -> None:
    base, target, copies = case
    assert _made(base, encode(base, target, copies), len(target)) == target


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_pieces_meet_anywhere(offset: int) -> None:
    size = 2 * PIECE + offset
    base = bytes(size)
    target = bytearray(size)
    for at in (0, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE - 2, size - 1):
        target[at] = 7
    target[PIECE - 70_000 : PIECE + 70_000] = b"z" * 140_000  # a run across pieces
    patch = encode(base, bytes(target), [Copy(0, size, 0)])
    pieces = list(apply(base, patch, size=size))
    assert b"".join(pieces) == target
    assert max(map(len, pieces)) <= 2 * PIECE


def test_many_runs_cross_the_blocks_they_are_read_in() -> None:
    size = 400_000
    base = bytes(size)
    target = bytes(at % 3 == 0 for at in range(size))
    assert _made(base, encode(base, target, [Copy(0, size, 0)]), size) == target


def test_base_is_read_from_a_file_where_needed(tmp_path: Path) -> None:
    base, target = revised(1, 50_000)
    (tmp_path / "base").write_bytes(base)
    patch = encode(base, target, [Copy(0, 37_000, 12_500)])
    with (tmp_path / "base").open("rb") as file:
        from_file = FileBase(file.fileno(), os.fstat(file.fileno()).st_size)
        assert b"".join(apply(from_file, patch, size=len(target))) == target


@given(st.data(), st.integers(0, 50))
@settings(max_examples=1500, deadline=None)
def test_damaged_patch_is_refused_or_makes_what_was_declared(
    data: st.DataObject, seed: int
) -> None:
    base, target = revised(seed, 3000)
    patch = encode(base, target, [Copy(0, 2200, 750), Copy(10, 300, 0)])
    damaged = data.draw(mutated(patch))
    made = 0
    try:
        for piece in apply(base, damaged, size=len(target)):
            made += len(piece)
            assert made <= len(target)
    except FormatError:
        return
    assert made == len(target)


@given(st.binary(max_size=60), st.integers(0, 300))
@settings(max_examples=1500)
def test_any_bytes_are_refused_or_make_what_was_declared(patch: bytes, size: int) -> None:
    try:
        made = _made(b"0123456789" * 20, patch, size)
    except FormatError:
        return
    assert len(made) == size


_HUGE = 2**63 - 1


def _patch(
    control: list[int], runs: list[int], values: bytes = b"", literals: bytes = b""
) -> bytes:
    return Streams(uvarints(control), uvarints(runs), values, literals).join()


HOSTILE = {
    "empty": b"",
    "columns longer than the patch": uvarints([5, 0, 0]) + b"abc",
    "huge column": uvarints([_HUGE, _HUGE, _HUGE]),
    "copy past the base": _patch([0, 100, 2], []),
    "copy before the base": _patch([0, 100, 1], []),
    "huge copy": _patch([0, _HUGE, 0], []),
    "huge offset": _patch([0, 100, _HUGE - 1], []),
    "huge literal": _patch([_HUGE, 0, 0], []),
    "copies of copies past the size": _patch([0, 100, 0] + [0, 100, 199] * 1000, []),
    "literals that are not there": _patch([101, 0, 0], [], literals=b"x" * 100),
    "literals left over": _patch([0, 100, 0], [], literals=b"x"),
    "too little": _patch([0, 99, 0], []),
    "half a row": _patch([0, 100], []),
    "correction past the end": _patch([0, 100, 0], [100, 1], b"v"),
    "correction far past the end": _patch([0, 100, 0], [99, _HUGE], b"v"),
    "corrections whose sum wraps": _patch([0, 100, 0], [2**62, 2**62, 2**62, 2**62], b"v" * 9),
    "more corrections than values": _patch([0, 100, 0], [0, 2], b"v"),
    "values left over": _patch([0, 100, 0], [0, 1], b"vv"),
    "half a run": _patch([0, 100, 0], [0], b""),
    "integer not in its shortest form": uvarints([4, 0, 0]) + b"\x80\x00\x64\x00",
    "integer of ten bytes": uvarints([12, 0, 0]) + b"\xff" * 9 + b"\x01\x64\x00",
    "column that ends within a value": uvarints([3, 0, 0]) + b"\x00\x64\x80",
    "no end of a value in a block": uvarints([100_001, 0, 0]) + b"\xff" * 100_000 + b"\x01",
}


# Short columns are read another way than long ones.
_EITHER_WAY = pytest.mark.parametrize("short", [0, 1 << 10], ids=["as long", "as short"])


@_EITHER_WAY
@pytest.mark.parametrize("patch", HOSTILE.values(), ids=HOSTILE)
def test_hostile_patch_is_refused(
    patch: bytes, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "_SHORT", short)
    with pytest.raises(FormatError):
        _made(bytes(100), patch, 100)


@given(
    st.lists(st.integers(0, 300) | st.integers(0, 2**63 - 1), max_size=9).map(uvarints)
    | st.binary(max_size=30),
    st.integers(1, 3),
    st.sampled_from([0, 127, 1 << 20, 2**63 - 1]),
)
def test_a_column_means_the_same_short_and_long(column: bytes, width: int, limit: int) -> None:
    def read(short: int) -> list[list[int]] | None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(numbers, "_SHORT", short)
            try:
                blocks = [block.tolist() for block in numbers.read_numbers(column, width, limit)]
            except FormatError:
                return None
            return [row for block in blocks for row in block]

    assert read(0) == read(1 << 10)


def test_bomb_stops_at_the_declared_size() -> None:
    # 3 bytes a row, each of them a copy of the whole base.
    bomb = _patch([0, 100_000, 0] + [0, 100_000, 199_999] * 100_000, [])
    made: list[int] = []
    with pytest.raises(FormatError):
        made.extend(map(len, apply(bytes(100_000), bomb, size=5 << 20)))
    assert sum(made) <= 5 << 20
