"""The deltas table: docs/format/jigdo.md section 8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ObjectChecksum
from composer.errors import FormatError
from composer.jigdo.delta.table import (
    COPY,
    MAX_PIECE,
    PATCH,
    REPACK,
    DeltaContent,
    DeltaTable,
    Piece,
    dump_table,
    make_table,
    parse_table,
)
from composer.ostree.objects import Header

BASE = ObjectChecksum(bytes(range(32)))
HEADERS = (Header(0, 0, 0o100644, ()), Header(0, 0, 0o100755, ()))
OBJECTS = 500

SMALL = st.integers(0, 300)


@st.composite
def tables(draw: st.DrawFn) -> DeltaTable:
    recipes = draw(st.lists(st.binary(max_size=20), max_size=3))
    contents, frame, place = [], 10, 0
    for base in draw(st.lists(st.integers(0, 10_000), max_size=8)):
        method = draw(st.integers(0, 1 + len(recipes)))
        pieces = []
        for _ in range(0 if method == COPY else draw(st.integers(0, 3))):
            if place and draw(st.booleans()):
                frame, place = frame + draw(st.integers(1, 3)), 0
            target = draw(st.integers(0, MAX_PIECE))
            pieces.append(Piece(draw(st.integers(0, 255)), target, frame, place))
            place += 1
        size = sum(piece.target for piece in pieces) if method == PATCH else draw(SMALL)
        contents.append(DeltaContent(base, size, method, tuple(pieces)))
    objects = [
        (ordinal, draw(st.integers(0, len(contents) - 1)), draw(st.integers(0, 1)))
        for ordinal in sorted(draw(st.sets(st.integers(0, OBJECTS - 1), max_size=12)))
        if contents
    ]
    return make_table(BASE, recipes, contents, objects)


def frames(table: DeltaTable) -> set[int]:
    return {piece.frame for content in table.contents for piece in content.pieces}


def parsed(data: bytes, numbers: set[int]) -> DeltaTable:
    return parse_table(data, objects=OBJECTS, headers=HEADERS, frames=numbers)


@given(tables())
def test_what_was_written_is_read(table: DeltaTable) -> None:
    assert parsed(dump_table(table), frames(table)) == table


@given(tables(), st.data())
def test_damaged_table_is_refused_or_still_sound(table: DeltaTable, data: st.DataObject) -> None:
    raw = bytearray(dump_table(table))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parsed(bytes(raw), frames(table))
    except FormatError:
        return
    assert all(ordinal < OBJECTS for ordinal in found.ordinals)
    assert all(number < len(found.contents) for number in found.numbers)
    assert frames(found) <= frames(table)


@given(tables(), st.integers(0, 200))
def test_cut_table_is_refused(table: DeltaTable, length: int) -> None:
    raw = dump_table(table)
    with pytest.raises(FormatError):
        parsed(raw[: min(length, len(raw) - 1)], frames(table))


ONE = Piece(1, 7, 3, 0)
TWO = Piece(1, 8, 3, 1)


def with_pieces(*pieces: Piece, size: int, method: int = PATCH) -> DeltaTable:
    return make_table(BASE, [], [DeltaContent(0, size, method, pieces)], [(0, 0, 0)])


WRONG: Sequence[tuple[str, Callable[[], bytes]]] = [
    ("not its size", lambda: dump_table(with_pieces(ONE, TWO, size=16))),
    ("has patches", lambda: dump_table(with_pieces(ONE, TWO, size=15, method=COPY))),
    ("names a recipe", lambda: dump_table(with_pieces(ONE, TWO, size=15, method=REPACK))),
    (
        "makes more than",
        lambda: dump_table(with_pieces(replace(ONE, target=MAX_PIECE + 1), size=MAX_PIECE + 1)),
    ),
]


def test_frame_without_patches_is_refused() -> None:
    with pytest.raises(FormatError, match="it names frame 3"):
        parsed(dump_table(with_pieces(ONE, TWO, size=15)), {4})


@pytest.mark.parametrize(("message", "make"), WRONG)
def test_table_that_contradicts_itself_is_refused(message: str, make: Callable[[], bytes]) -> None:
    with pytest.raises(FormatError, match=message):
        parsed(make(), {3})


def test_table_that_contradicts_the_set_is_refused() -> None:
    content = DeltaContent(0, 5, COPY, ())
    sound = make_table(BASE, [], [content], [(0, 0, 0)])
    assert parsed(dump_table(sound), set()) == sound
    for row, what in (((OBJECTS, 0, 0), "object"), ((0, 1, 0), "content"), ((0, 0, 2), "header")):
        with pytest.raises(FormatError, match=f"names a {what}"):
            parsed(dump_table(make_table(BASE, [], [content], [row])), set())
    twice = make_table(BASE, [], [content], [(4, 0, 0), (4, 0, 1)])
    with pytest.raises(FormatError, match="not in order"):
        parsed(dump_table(twice), set())
    with pytest.raises(FormatError, match="too many"):
        parsed(dump_table(sound) + b"\0", set())
