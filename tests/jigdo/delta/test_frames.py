"""Patch frames and updates: laid together, compressed, bounded."""

from __future__ import annotations

import lzma
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import BoundExceeded, ComposerError, FormatError
from composer.jigdo.container import Codec
from composer.jigdo.delta.codecs import CodecNumber
from composer.jigdo.delta.columns import Streams
from composer.jigdo.delta.frames import (
    FramePatches,
    compress_by_xz,
    compress_update,
    decompress_update,
    join_patches,
    split_patches,
)
from composer.jigdo.delta.moving import join_linked
from composer.jigdo.delta.pools import pool
from composer.jigdo.encoding import uvarint, uvarints
from tests.jigdo.delta.contents import mutated

BYTES = st.binary(max_size=50)
WHOLE = st.tuples(st.sampled_from([CodecNumber.FULL, CodecNumber.ZSTD]), BYTES)
COLUMNS = st.builds(
    lambda a, b, c, d: (CodecNumber.HDIFF, Streams(a, b, c, d).join()), BYTES, BYTES, BYTES, BYTES
)
LINKED = st.builds(
    lambda shared, moves, patch: (CodecNumber.LINKED, join_linked(shared, moves, patch[1])),
    st.sampled_from([b"", b"one", b"another"]),
    BYTES,
    COLUMNS,
)
PATCHES = st.lists(WHOLE | COLUMNS | LINKED, max_size=6)


@given(PATCHES)
def test_patches_come_back_bit_for_bit(patches: Sequence[tuple[int, bytes]]) -> None:
    joined = join_patches(patches)
    assert split_patches(joined, [codec for codec, _ in patches]) == [data for _, data in patches]


@given(PATCHES, st.data())
def test_damaged_frame_is_refused_or_has_no_more_than_it_had(
    patches: Sequence[tuple[int, bytes]], data: st.DataObject
) -> None:
    raw = data.draw(mutated(join_patches(patches)))
    try:
        found = split_patches(raw, [codec for codec, _ in patches])
    except ComposerError:
        return
    # Each patch of columns is preceded by its three sizes, and has its own copy of what is shared.
    assert sum(map(len, found)) <= len(raw) * (1 + len(found)) + 45 * len(found)


def test_patches_are_cut_out_one_at_a_time() -> None:
    whole = [bytes([number]) * (1 << 20) for number in range(8)]
    raw = join_patches([(0, data) for data in whole])
    tracemalloc.start()
    try:
        patches = FramePatches(raw, [0] * len(whole))
        assert all(patches[place] == data for place, data in enumerate(whole))
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_whole_content_with_columns_is_refused() -> None:
    raw = pool([Streams(b"a", b"", b"", b"b").join()])
    with pytest.raises(FormatError):
        split_patches(raw, [CodecNumber.FULL])


@pytest.mark.parametrize("moves", [b"", b"\1", b"\0\0"])
def test_moves_that_are_of_no_use_are_refused(moves: bytes) -> None:
    raw = pool([Streams(b"", b"", b"", b"b").join()], [moves], [b"only"])
    number = CodecNumber.HDIFF if moves == b"\0\0" else CodecNumber.LINKED
    with pytest.raises(FormatError):
        split_patches(raw, [number])


def test_what_patches_share_lies_in_the_frame_once() -> None:
    shared, patch = bytes(range(256)) * 40, Streams(b"", b"", b"", b"new").join()
    linked = [(5, join_linked(shared, b"%d" % number, patch)) for number in range(50)]
    assert len(join_patches(linked)) < len(shared) + 50 * 12


def test_other_number_of_patches_is_refused() -> None:
    joined = join_patches([(0, b"a"), (0, b"b")])
    for codecs in ([], [0], [0, 0, 0]):
        with pytest.raises(FormatError, match="has 2 patches instead of"):
            split_patches(joined, codecs)


@pytest.mark.parametrize(
    "data",
    [
        uvarint(1 << 60),
        uvarints([1, 0, 1 << 62, 0, 0, 0, 0]),
        uvarints([2, 0, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0]) + b"abc",  # they overlap
        join_patches([(0, b"a")]) + b"\0",
        b"",
    ],
)
def test_pool_that_claims_what_is_not_there_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        split_patches(data, [0])


@given(st.binary(max_size=2000))
def test_update_is_compressed_and_back(data: bytes) -> None:
    assert decompress_update(compress_update(data), size=len(data)) == data


def test_what_does_not_shrink_is_stored() -> None:
    assert compress_by_xz(b"abc") == (b"abc", Codec.STORED, 0)
    assert compress_by_xz(bytes(10_000))[1] == Codec.XZ


def test_bomb_is_ended_at_its_bound() -> None:
    bomb = compress_update(bytes(50 << 20))
    assert len(bomb) < 20_000
    with pytest.raises(BoundExceeded):
        decompress_update(bomb, size=1000)


def test_window_larger_than_agreed_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 28}]
    packed = lzma.compress(b"x" * 100, lzma.FORMAT_XZ, filters=filters)
    with pytest.raises(ComposerError):
        decompress_update(packed, size=100)


@given(st.data())
def test_damaged_update_gives_our_own_errors(data: st.DataObject) -> None:
    raw = data.draw(mutated(compress_update(b"some bytes" * 30)))
    try:
        found = decompress_update(raw, size=300)
    except ComposerError:
        return
    assert len(found) <= 300
