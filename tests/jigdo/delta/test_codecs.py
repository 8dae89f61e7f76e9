"""Codecs: docs/format/delta.md section 1."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.errors import BoundExceeded, FormatError
from composer.jigdo.delta import codecs
from composer.jigdo.delta.codecs import Codec, CodecNumber, memory
from composer.jigdo.delta.columns import Streams
from composer.jigdo.delta.linking import Linked
from composer.jigdo.delta.moving import Shared
from composer.jigdo.delta.steps import Steps
from tests.jigdo.delta.contents import mutated, pairs, revised
from tests.jigdo.delta.modules import Kernel, module

_PLENTY = 1 << 30
_NUMBERS = [
    number
    for number in CodecNumber
    if number != CodecNumber.LINKED  # for a kind of file: test_linking.py
    if number != CodecNumber.LIBRSYNC or ctypes.util.find_library("rsync")
]


def _codec(number: CodecNumber) -> Codec:
    (codec,) = codecs.available((number,))
    return codec


def _applied(number: int, base: bytes, patch: bytes, size: int) -> bytes:
    return b"".join(codecs.apply(number, base, patch, size=size, max_memory=_PLENTY))


@pytest.mark.parametrize("number", _NUMBERS)
@given(pair=pairs())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_target_comes_back(number: CodecNumber, pair: tuple[bytes, bytes]) -> None:
    base, target = pair
    assert _applied(number, base, _codec(number).make(base, target), len(target)) == target


@pytest.mark.parametrize("number", _NUMBERS)
def test_patch_of_a_revision_is_small_and_always_the_same(number: CodecNumber) -> None:
    base, target = revised(3, 200_000)
    patch = _codec(number).make(base, target)
    assert patch == _codec(number).make(base, target)
    assert _applied(number, base, patch, len(target)) == target
    if number in (CodecNumber.HDIFF, CodecNumber.BSDIFF, CodecNumber.ZSTD):
        assert len(patch) < len(target) / 10


@pytest.mark.parametrize("number", _NUMBERS)
def test_another_size_than_declared_is_refused(number: CodecNumber) -> None:
    base, target = revised(4, 5000)
    patch = _codec(number).make(base, target)
    for size in (0, len(target) - 1, len(target) + 1, 1 << 50):
        with pytest.raises((FormatError, BoundExceeded)):
            _applied(number, base, patch, size)


@pytest.mark.parametrize("number", _NUMBERS)
def test_wrong_base_ends_in_an_error_or_in_as_many_bytes(number: CodecNumber) -> None:
    base, target = revised(5, 5000)
    patch = _codec(number).make(base, target)
    for wrong in (b"", base[:100], base[::-1], revised(6, 5000)[0]):
        try:
            made = _applied(number, wrong, patch, len(target))
        except FormatError:
            continue
        assert len(made) == len(target)
        assert made != target or number == CodecNumber.FULL


@pytest.mark.parametrize("number", _NUMBERS)
@given(data=st.data())
@settings(max_examples=500, deadline=None)
def test_damaged_patch_is_refused_or_makes_as_many_bytes(
    number: CodecNumber, data: st.DataObject
) -> None:
    base, target = revised(7, 2000)
    damaged = data.draw(mutated(_patch_of_seven(number)))
    try:
        made = _applied(number, base, damaged, len(target))
    except FormatError:
        return
    assert len(made) == len(target)


def _patch_of_seven(number: CodecNumber, made: dict[int, bytes] = {}) -> bytes:  # noqa: B006
    if number not in made:
        made[number] = _codec(number).make(*revised(7, 2000))
    return made[number]


def test_zstd_bomb_is_refused_before_it_unpacks() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 30))
    with pytest.raises(FormatError, match="declare"):
        _applied(CodecNumber.ZSTD, b"base", bomb, 1000)


def test_zstd_window_beyond_base_and_target_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=1)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = compressor.compress(bytes(1000)) + compressor.flush()
    with pytest.raises(FormatError, match="declare"):
        _applied(CodecNumber.ZSTD, b"base", frame, 1000)


def test_unknown_codec_is_refused() -> None:
    with pytest.raises(FormatError, match="unknown codec 9"):
        _applied(9, b"", b"", 0)


def test_patch_that_needs_too_much_memory_is_refused_before_it_starts() -> None:
    with pytest.raises(BoundExceeded):
        codecs.apply(CodecNumber.ZSTD, bytes(2000), b"", size=10**9, max_memory=200 << 20)
    with pytest.raises(BoundExceeded):
        codecs.apply(CodecNumber.HDIFF, b"", bytes(2000), size=10, max_memory=5 << 20)


_MEASURE = r"""
import re, sys
from composer.jigdo.delta import codecs
import composer.errors, numpy, zstandard
number, size, limit = map(int, sys.argv[1:4])
base, patch = open(sys.argv[4], "rb"), open(sys.argv[5], "rb")
from composer.jigdo.delta.columns import FileBase
source = FileBase(base.fileno(), base.seek(0, 2))
def peak():
    # Not ru_maxrss: it begins with the peak of the process that started this one.
    return int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) << 10
before = peak()
made = sum(map(len, codecs.apply(
    number, source, patch.read(), size=size, max_memory=limit)))
assert made == size, made
print(peak() - before)
"""


def _revision(number: CodecNumber) -> tuple[bytes, bytes, int]:
    base, target = revised(8, 12 << 20)
    return base, _codec(number).make(base, target), len(target)


def _smallest_rows() -> tuple[bytes, bytes, int]:
    """Return a patch of nothing but the smallest rows: one byte each, and each corrected."""
    count = 2 << 20
    control, runs = bytes([1, 1, 0]) * (count // 2), bytes([0, 1]) * count
    return bytes(count), Streams(control, runs, b"x" * count, b"y" * (count // 2)).join(), count


def _large_module() -> tuple[bytes, bytes, int]:
    old, new = Kernel(100_000, 1_000_000), Kernel(100_037, 1_000_411)
    base, target = (module(1, one, functions=30_000) for one in (old, new))
    return base, Linked(Shared(Steps(), Steps()).dump()).make(base, target), len(target)


MEMORY: dict[str, tuple[CodecNumber, Callable[[], tuple[bytes, bytes, int]]]] = {
    "full": (CodecNumber.FULL, partial(_revision, CodecNumber.FULL)),
    "columns": (CodecNumber.HDIFF, partial(_revision, CodecNumber.HDIFF)),
    "smallest rows": (CodecNumber.HDIFF, _smallest_rows),
    "linked": (CodecNumber.LINKED, _large_module),
    "zstd": (CodecNumber.ZSTD, partial(_revision, CodecNumber.ZSTD)),
}


@pytest.mark.parametrize("case", MEMORY)
def test_apply_stays_within_the_memory_it_declares(case: str, tmp_path: Path) -> None:
    number, made = MEMORY[case]
    base, patch, size = made()
    (tmp_path / "base").write_bytes(base)
    (tmp_path / "patch").write_bytes(patch)
    declared = memory(number, len(base), size, len(patch))
    arguments = [str(number.value), str(size), str(declared)]
    used = subprocess.run(
        [sys.executable, "-c", _MEASURE, *arguments, tmp_path / "base", tmp_path / "patch"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    print(f"{case}: used {int(used) >> 20} MiB of {declared >> 20} declared")
    assert int(used) <= declared


def test_importing_codecs_loads_no_engine() -> None:
    code = (
        "import sys, composer.jigdo.delta.making\n"
        "assert not {'numpy', 'hdiffpatch', 'bsdiff4', 'zstandard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
