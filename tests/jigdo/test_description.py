"""Updates of descriptions: docs/format/jigdo.md section 9."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.checksum import ContentDigest
from composer.errors import BoundExceeded, ChecksumMismatch, ComposerError, FormatError
from composer.jigdo.delta.codecs import CodecNumber
from composer.jigdo.delta.columns import Streams
from composer.jigdo.delta.frames import decompress_update, join_patches
from composer.jigdo.delta.table import MAX_PIECE
from composer.jigdo.description import MAX_DESCRIPTION, apply_update, make_update, parse_update
from composer.jigdo.encoding import svarints, uvarints
from tests.jigdo.delta.contents import mutated, revised

OLD, NEW = revised(1, 20_000)
DELTAS = b"what can be made" * 20
MEMORY = 100 << 20


@pytest.fixture(scope="module")
def update() -> bytes:
    packed, size, digest = make_update(OLD, NEW, DELTAS)
    data = decompress_update(packed, size=size)
    assert len(data) == size
    assert ContentDigest.of(data) == digest
    return data


def written(base: bytes, size: int, deltas: int, targets: list[int], patch: bytes) -> bytes:
    """Return an update as nobody should write one; all pieces are one patch."""
    return b"".join(
        (
            ContentDigest.of(base),
            uvarints((size, deltas, len(targets))),
            bytes([CodecNumber.HDIFF]) * len(targets),
            uvarints(targets),
            join_patches([(CodecNumber.HDIFF, patch)] * len(targets)),
        )
    )


def copies(length: int, times: int) -> bytes:
    """Return a patch that copies the base's first ``length`` bytes again and again."""
    first = uvarints((0, length)) + svarints((0,))
    again = uvarints((0, length)) + svarints((-length,))
    return Streams(first + again * (times - 1), b"", b"", b"").join()


def test_update_makes_the_description_and_the_table(update: bytes) -> None:
    assert len(update) < len(NEW) // 4
    assert apply_update(parse_update(update), OLD, max_memory=MEMORY) == (NEW, DELTAS)


def test_wrong_base_is_refused_before_anything_is_made(update: bytes) -> None:
    with pytest.raises(ChecksumMismatch, match="description that is here"):
        apply_update(parse_update(update), OLD + b"\0", max_memory=MEMORY)


def test_cut_and_longer_updates_are_refused(update: bytes) -> None:
    for raw in (update[:-1], update[:40], update[:10], b"", update + b"\0"):
        with pytest.raises(FormatError):
            parse_update(raw)


@pytest.mark.parametrize(
    ("size", "deltas", "targets"),
    [
        (MAX_DESCRIPTION, 1, [MAX_PIECE] * 4 + [1]),
        (1 << 62, 0, [100]),
        (100, 0, [99]),
        (100, 1, [100]),
        (MAX_PIECE + 1, 0, [MAX_PIECE + 1]),
        (10, 0, []),
    ],
)
def test_sizes_that_cannot_be_are_refused(size: int, deltas: int, targets: list[int]) -> None:
    with pytest.raises(FormatError):
        parse_update(written(OLD, size, deltas, targets, copies(1, 1)))


def test_patch_that_makes_another_size_is_refused() -> None:
    for size in (99, 101):
        made = parse_update(written(OLD, size, 0, [size], copies(100, 1)))
        with pytest.raises(ComposerError):
            apply_update(made, OLD, max_memory=MEMORY)


def test_bomb_is_refused_before_it_grows() -> None:
    raw = written(OLD, 4 * MAX_PIECE, 0, [MAX_PIECE] * 4, copies(16_384, MAX_PIECE // 16_384))
    assert len(raw) < 1 << 20
    with pytest.raises(BoundExceeded, match="what an update makes"):
        apply_update(parse_update(raw), OLD, max_memory=MEMORY)


def test_bomb_takes_no_memory() -> None:
    """The same in a process that has not the memory for what the bomb makes."""
    code = (
        "import resource\n"
        "import tests.jigdo.test_description as t\n"
        "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (now + (150 << 20),) * 2)\n"
        "t.test_bomb_is_refused_before_it_grows()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@settings(max_examples=300)
@given(st.data())
def test_damaged_update_gives_our_own_errors_and_no_more_bytes(
    update: bytes, data: st.DataObject
) -> None:
    raw = data.draw(mutated(update))
    try:
        parsed = parse_update(raw)
        description, deltas = apply_update(parsed, OLD, max_memory=MEMORY)
    except ComposerError:
        return
    assert (len(description), len(deltas)) == (parsed.size, parsed.deltas)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_behind_a_right_base(tail: bytes) -> None:
    try:
        apply_update(parse_update(ContentDigest.of(OLD) + tail), OLD, max_memory=MEMORY)
    except ComposerError:
        return
