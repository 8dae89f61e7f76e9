"""Integers and columns: docs/format/jigdo.md section 1."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import FormatError
from composer.jigdo.encoding import Cursor, prefixed, svarints, uvarint, uvarints

_UNSIGNED = st.integers(0, 2**63 - 1) | st.integers(0, 300)
_SIGNED = st.integers(-(2**62), 2**62 - 1) | st.integers(-200, 200)

KNOWN_UNSIGNED = [
    (0, "00"),
    (1, "01"),
    (127, "7f"),
    (128, "8001"),
    (300, "ac02"),
    (16383, "ff7f"),
    (16384, "808001"),
    (2**32, "8080808010"),
    (2**62, "808080808080808040"),
    (2**63 - 1, "ffffffffffffffff7f"),
]
KNOWN_SIGNED = [(0, "00"), (-1, "01"), (1, "02"), (-2, "03"), (63, "7e"), (-64, "7f"), (64, "8001")]


@pytest.mark.parametrize(("value", "encoded"), KNOWN_UNSIGNED)
def test_unsigned_integer_has_known_bytes(value: int, encoded: str) -> None:
    assert uvarint(value).hex() == encoded
    assert uvarints([value]).hex() == encoded
    assert Cursor(bytes.fromhex(encoded), "test").uvarint() == value


@pytest.mark.parametrize(("value", "encoded"), KNOWN_SIGNED)
def test_signed_integer_has_known_bytes(value: int, encoded: str) -> None:
    assert svarints([value]).hex() == encoded
    assert list(Cursor(bytes.fromhex(encoded), "test").svarints(1)) == [value]


@given(st.lists(_UNSIGNED))
def test_unsigned_column_survives(values: list[int]) -> None:
    cursor = Cursor(uvarints(values), "test")
    assert cursor.uvarints(len(values)) == array("q", values)
    cursor.end()


@given(st.lists(_SIGNED))
def test_signed_column_survives(values: list[int]) -> None:
    cursor = Cursor(svarints(values), "test")
    assert list(cursor.svarints(len(values))) == values
    cursor.end()


@given(st.lists(st.binary(max_size=300)))
def test_prefixed_bytes_survive(pieces: list[bytes]) -> None:
    cursor = Cursor(b"".join(prefixed(piece) for piece in pieces), "test")
    assert [cursor.prefixed() for _ in pieces] == pieces
    assert cursor.at_end


@given(st.binary(max_size=24))
def test_what_is_read_is_the_only_encoding_of_it(data: bytes) -> None:
    cursor, values = Cursor(data, "test"), []
    try:
        while not cursor.at_end:
            values.append(cursor.uvarint())
    except FormatError:
        return
    assert uvarints(values) == data


@pytest.mark.parametrize("value", [-1, 2**63, 2**64])
def test_integer_out_of_range_is_not_written(value: int) -> None:
    with pytest.raises(ValueError):
        uvarint(value)
    with pytest.raises(ValueError):
        uvarints([1, value])


@pytest.mark.parametrize(
    "encoded",
    [
        "",  # nothing
        "80",  # cut
        "8080",
        "8000",  # overlong zero
        "ff8000",  # overlong 127
        "ffffffffffffffffff01",  # 2^64 - 1
        "80808080808080808001",  # 2^63
        "8080808080808080808001",  # eleven bytes
        "ff" * 100,
    ],
)
def test_bad_integer_is_refused(encoded: str) -> None:
    with pytest.raises(FormatError, match="the thing: "):
        Cursor(bytes.fromhex(encoded), "the thing").uvarint()


@pytest.mark.parametrize(("least", "data"), [(1, "05" + "00" * 4), (4, "02" + "00" * 7)])
def test_count_of_more_than_fits_is_refused(least: int, data: str) -> None:
    with pytest.raises(FormatError, match="more than it can hold"):
        Cursor(bytes.fromhex(data), "test").count(least=least)


def test_absurd_count_is_refused_before_anything_is_made() -> None:
    with pytest.raises(FormatError, match="more than it can hold"):
        Cursor(uvarint(2**62) + b"\0" * 10, "test").count()


def test_length_past_the_end_is_refused() -> None:
    with pytest.raises(FormatError, match="middle of a value"):
        Cursor(b"\x05abcd", "test").prefixed()


def test_trailing_bytes_are_refused() -> None:
    cursor = Cursor(b"\x01\x02", "test")
    cursor.uvarint()
    with pytest.raises(FormatError, match="1 bytes too many"):
        cursor.end()
