"""Patches from bases whose references are moved: docs/format/delta.md section 2.1."""

from __future__ import annotations

import contextlib
import lzma
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.errors import ComposerError, FormatError
from composer.jigdo.delta import codecs
from composer.jigdo.delta.codecs import CannotMake, CodecNumber, HDiff
from composer.jigdo.delta.columns import FileBase
from composer.jigdo.delta.elf import parse_relocatables, relocations_of
from composer.jigdo.delta.linking import Learning, Linked, moves_of
from composer.jigdo.delta.moving import Moves, Shared, join_linked, split_linked
from composer.jigdo.delta.steps import Steps
from composer.jigdo.encoding import Cursor, uvarint, uvarints
from tests.jigdo.delta.contents import mutated
from tests.jigdo.delta.modules import Kernel, module

OLD, NEW = Kernel(100_000, 1_000_000), Kernel(100_037, 1_000_411)
NOTHING = Shared(Steps(), Steps()).dump()


def _pair(seed: int) -> tuple[bytes, bytes]:
    return module(seed, OLD), module(seed, NEW, inserted=seed * 11 % 50)


def _made(base: bytes, patch: bytes, size: int) -> bytes:
    pieces = codecs.apply(CodecNumber.LINKED, base, patch, size=size, max_memory=1 << 30)
    return b"".join(pieces)


def _learned(pairs: list[tuple[bytes, bytes]]) -> bytes:
    learning = Learning()
    for base, target in pairs:
        learning.add(moves_of(base, target))
    return learning.shared()


def _packed(*patches: bytes) -> int:
    return len(lzma.compress(b"".join(patches)))


def test_one_inserted_function_costs_little_more_than_itself() -> None:
    pairs = [_pair(seed) for seed in range(20)]
    shared = _learned(pairs)
    linked = [Linked(shared).make(*pair) for pair in pairs]
    for (base, target), patch in zip(pairs, linked, strict=True):
        assert _made(base, patch, len(target)) == target
    # What nothing can spare: a function of 90 to 130 bytes, a signature of 64.
    new = 20 * (90 + 64)
    ordinary = _packed(*(HDiff().make(*pair) for pair in pairs)) - new
    ours = _packed(shared, *(b"".join(split_linked(patch)[1:]) for patch in linked)) - new
    assert 0 < ours < ordinary / 3


def test_what_moved_alike_is_learned_once() -> None:
    pairs = [_pair(seed) for seed in range(20)]
    base, target = pairs[3]
    alone = split_linked(Linked(NOTHING).make(base, target))[1]
    with_others = split_linked(Linked(_learned(pairs)).make(base, target))[1]
    assert len(with_others) < len(alone)


def test_learning_from_many_is_the_same_as_it_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [_pair(seed) for seed in range(6)]
    at_once = _learned(pairs)
    monkeypatch.setattr("composer.jigdo.delta.linking._MANY", 100)
    assert _learned(pairs) == at_once


@pytest.mark.parametrize("inserted", [-1, 0, 59])
def test_any_place_of_insertion_makes_the_target(inserted: int) -> None:
    base, target = module(1, OLD), module(1, NEW, inserted=inserted)
    assert _made(base, Linked(NOTHING).make(base, target), len(target)) == target
    assert _made(target, Linked(NOTHING).make(target, base), len(base)) == base


def test_module_without_btf_makes_the_target() -> None:
    base, target = (module(1, OLD, inserted=n, with_btf=False) for n in (-1, 30))
    patch = Linked(NOTHING).make(base, target)
    assert _made(base, patch, len(target)) == target
    assert len(patch) < len(HDiff().make(base, target))


def test_base_is_read_where_it_lies(tmp_path: object) -> None:
    import tempfile

    base, target = _pair(4)
    with tempfile.TemporaryFile() as file:
        file.write(base)
        file.flush()
        source = FileBase(file.fileno(), len(base))
        patch = Linked(NOTHING).make(base, target)
        pieces = codecs.apply(
            CodecNumber.LINKED, source, patch, size=len(target), max_memory=1 << 30
        )
        assert b"".join(pieces) == target


@pytest.mark.parametrize("other", [b"", b"text\n" * 100, b"\x7fELF\2\1" + bytes(100)])
def test_other_files_are_not_for_this_codec(other: bytes) -> None:
    base, target = _pair(1)
    for pair in ((other, target), (base, other)):
        with pytest.raises(CannotMake):
            Linked(NOTHING).make(*pair)


def test_another_base_is_refused_or_gives_no_more_than_declared() -> None:
    base, target = _pair(1)
    patch = Linked(NOTHING).make(base, target)
    with pytest.raises(FormatError, match="references can be moved"):
        _made(bytes(len(base)), patch, len(target))
    other = module(2, OLD, functions=70)
    assert len(_made(other, patch, len(target))) == len(target)


@settings(max_examples=200)
@given(st.data())
def test_damaged_patch_gives_our_own_errors(data: st.DataObject) -> None:
    base, target = _pair(1)
    shared, moves, patch = split_linked(Linked(_learned([_pair(1)])).make(base, target))
    damaged = data.draw(mutated(data.draw(st.sampled_from([shared, moves, patch]))))
    parts = [damaged if data.draw(st.booleans()) else one for one in (shared, moves, patch)]
    with contextlib.suppress(ComposerError):
        assert len(_made(base, join_linked(*parts), len(target))) == len(target)


@settings(max_examples=200)
@given(st.data())
def test_damaged_base_gives_our_own_errors(data: st.DataObject) -> None:
    base, target = _pair(1)
    patch = Linked(NOTHING).make(base, target)
    damaged = bytearray(base)
    tables = len(base) - 64 - 9 * 64
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, 63), st.integers(tables, len(base) - 65)))
        value = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        damaged[at : at + data.draw(st.sampled_from([1, 8]))] = bytes([value]) * 8
    with contextlib.suppress(ComposerError):
        assert len(_made(bytes(damaged), patch, len(target))) == len(target)


def test_tables_that_overlap_or_end_outside_are_no_relocatable_file() -> None:
    base = module(1, OLD)
    file = parse_relocatables(base, [len(base)])
    assert file is not None
    table = int.from_bytes(base[0x28:0x30], "little")
    for field, values in ((0x18, (1 << 62, len(base), 0)), (0x20, (1 << 63, len(base), 25))):
        for section in map(int, (file.symbols[0], file.names[0], file.relocations[0])):
            for value in values:
                damaged = bytearray(base)
                struct.pack_into("<Q", damaged, table + section * 64 + field, value)
                found = parse_relocatables(damaged, [len(damaged)])
                if found is not None:
                    assert len(relocations_of(damaged, found)[0]) * 24 <= len(base)


def test_more_steps_than_allowed_are_refused() -> None:
    many = Steps.of([(number, number) for number in range(1 << 16)]).dump()
    assert len(Steps.read(Cursor(many, "steps"))) == 1 << 16
    more = Steps.of([(number, number) for number in range((1 << 16) + 1)]).dump()
    with pytest.raises(FormatError, match="steps"):
        Steps.read(Cursor(more, "steps"))
    for bad in (uvarint(1 << 40), uvarints([1, 1 << 41, 2]), uvarints([2, 1, 1, 1 << 42, 0])):
        with pytest.raises(FormatError):
            Shared.parse(bad)


def test_more_copies_than_allowed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    base, target = _pair(1)
    patch = Linked(NOTHING).make(base, target)
    monkeypatch.setattr("composer.jigdo.delta.moving.MOST_COPIES", 2)
    with pytest.raises(FormatError, match="more than 2 copies"):
        _made(base, patch, len(target))


def test_larger_base_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    base, target = _pair(1)
    patch = Linked(NOTHING).make(base, target)
    monkeypatch.setattr("composer.jigdo.delta.moving.LARGEST_MOVED", 1000)
    with pytest.raises(FormatError, match="too large to be moved"):
        _made(base, patch, len(target))
    with pytest.raises(CannotMake):
        Linked(NOTHING).make(base, target)


@given(st.lists(st.tuples(st.integers(0, 1 << 39), st.integers(-(1 << 38), 1 << 38)), max_size=9))
def test_steps_come_back(levels: list[tuple[int, int]]) -> None:
    levels = sorted(dict(levels).items())
    cursor = Cursor(Steps.of(levels).dump(), "steps")
    found = Steps.read(cursor)
    cursor.end()
    assert found.dump() == Steps.of(levels).dump()
    import numpy

    for number, (place, value) in enumerate(levels):
        before = levels[number - 1][1] if number else 0
        assert found.at(numpy.array([place - 1, place])).tolist() == [
            before if not number or levels[number - 1][0] <= place - 1 else 0,
            value,
        ]


def test_moves_have_known_bytes() -> None:
    moves = Moves(Steps.of([(5, 2), (105, -1)]), Steps(), Steps.of([(3, 64)]), Steps())
    assert moves.dump() == (
        b"\x02\x05\x64\x04\x05"  # two steps, at 5 and 100 later, by 2 and by -3
        b"\x00"
        b"\x01\x03\x80\x01"  # one step, at section 3, by 64
        b"\x00"
    )
