"""SHA-256 values."""

from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ContentDigest, ObjectChecksum, Sha256

BOTH = pytest.mark.parametrize("kind", [ContentDigest, ObjectChecksum])


@BOTH
@given(st.binary(min_size=32, max_size=32))
def test_checksum_survives_as_text(kind: type[Sha256], raw: bytes) -> None:
    value = kind(raw)
    assert kind.parse(str(value)) == value == raw
    assert type(kind.parse(str(value))) is kind
    assert len(str(value)) == 64
    assert str(value) in repr(value)
    assert kind.__name__ in repr(value)


@BOTH
@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_other_lengths_are_refused(kind: type[Sha256], length: int) -> None:
    with pytest.raises(ValueError, match=f"not {length}"):
        kind(bytes(length))


@BOTH
@pytest.mark.parametrize(
    "text",
    ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, " " + "a" * 63, "a" * 64 + "\n", "٣" * 64, "0x"],
)
def test_other_texts_are_refused(kind: type[Sha256], text: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case hexadecimal digits"):
        kind.parse(text)


@given(st.binary(max_size=3000))
def test_digest_of_bytes_and_of_a_stream_is_sha_256(data: bytes) -> None:
    expected = hashlib.sha256(data).digest()
    assert ContentDigest.of(data) == ContentDigest.of(memoryview(data)) == expected
    stream = io.BytesIO(b"before" + data)
    stream.seek(6)
    assert ContentDigest.of_stream(stream) == expected


def test_large_stream_is_digested_whole() -> None:
    data = bytes(range(256)) * 12_000
    assert ContentDigest.of_stream(io.BytesIO(data)) == hashlib.sha256(data).digest()


def test_checksums_sort_and_hash_as_bytes() -> None:
    values = [ObjectChecksum(bytes([n] * 32)) for n in (3, 1, 2)]
    assert [value[0] for value in sorted(values)] == [1, 2, 3]
    assert {ContentDigest(bytes(32)), ContentDigest(bytes(32))} == {bytes(32)}
