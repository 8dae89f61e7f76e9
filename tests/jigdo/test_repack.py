"""Opening containers and closing them bit for bit: docs/format/delta.md section 4."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.errors import FormatError
from composer.jigdo.repack import (
    Kind,
    Packer,
    PacksDifferently,
    Recipe,
    Segment,
    analyse,
    opened,
    repack,
    unpack,
)
from tests.jigdo.delta.contents import mutated


def _text(size: int, seed: int = 1) -> bytes:
    words = [f"{n:x}" * (n % 5 + 1) for n in range(300)]
    pick = random.Random(seed)
    return " ".join(pick.choice(words) for _ in range(size // 4 + 1)).encode()[:size]


def _gzipped(data: bytes, *options: str) -> bytes:
    return subprocess.run(["gzip", *options], input=data, capture_output=True, check=True).stdout


def _command(*argv: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        if shutil.which(argv[0]) is None:
            pytest.skip(f"{argv[0]} is not installed")
        return subprocess.run(argv, input=data, capture_output=True, check=True).stdout

    return pack


def _kernel_xz(data: bytes) -> bytes:
    filters = [
        {"id": lzma.FILTER_X86},
        {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20},
    ]
    return lzma.compress(data, check=lzma.CHECK_CRC32, filters=filters)


def _zstd(level: int, *, sized: bool = True, checked: bool = False) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level,
            source_size=len(data) if sized else 0,
            write_content_size=sized,
            write_checksum=checked,
        )
        encoder = zstandard.ZstdCompressor(compression_params=parameters).compressobj(
            size=len(data) if sized else -1
        )
        return encoder.compress(data) + encoder.flush()

    return pack


PACKINGS: dict[str, tuple[Callable[[bytes], bytes], Packer]] = {
    "gzip -9n": (_command("gzip", "-9n"), Packer.GNU_GZIP),
    "gzip -6": (_command("gzip", "-6"), Packer.GNU_GZIP),
    "gzip -1": (_command("gzip", "-1"), Packer.GNU_GZIP),
    "zlib with a name and a time": (
        lambda data: (
            b"\x1f\x8b\x08\x08abcd\x02\x03name.txt\0"
            + zlib.compress(data, 9)[2:-4]
            + struct.pack("<II", zlib.crc32(data), len(data))
        ),
        Packer.GNU_GZIP,
    ),
    "xz of a kernel": (_kernel_xz, Packer.LIBLZMA),
    "xz -6": (lzma.compress, Packer.LIBLZMA),
    "xz -9e": (lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), Packer.LIBLZMA),
    "xz of a module": (_command("xz", "--check=crc32", "--lzma2=dict=1MiB"), Packer.LIBLZMA),
    "zstd -19": (_zstd(19), Packer.LIBZSTD),
    "zstd -3 with a checksum, from a pipe": (_zstd(3, sized=False, checked=True), Packer.LIBZSTD),
    "zstd of dracut": (_command("zstd", "-15", "-q", "-T0"), Packer.ZSTD_PROGRAM),
    "zstd of a module": (_command("zstd", "-19", "-q"), Packer.ZSTD_PROGRAM),
    "xz of dracut": (
        _command("xz", "--check=crc32", "--lzma2=dict=1MiB", "-T2"),
        Packer.XZ_PROGRAM,
    ),
    "bzip2": (lambda data: bz2.compress(data, 9), Packer.LIBBZ2),
}
# Where both have one version, or one thread gives the same, the library does it.
_AS_GOOD = {
    Packer.GNU_GZIP: Packer.ZLIB,
    Packer.ZSTD_PROGRAM: Packer.LIBZSTD,
    Packer.XZ_PROGRAM: Packer.LIBLZMA,
}


@pytest.mark.parametrize("name", PACKINGS)
@pytest.mark.parametrize("size", [1, 3000, 300_000])
def test_container_opens_and_closes_bit_for_bit(name: str, size: int) -> None:
    pack, packer = PACKINGS[name]
    inner = _text(size)
    container = pack(inner)
    recipe = analyse(container)
    assert recipe is not None
    assert recipe.repackable
    assert not recipe.obstacle()
    assert {segment.packer for segment in recipe.segments} <= {packer, _AS_GOOD.get(packer)}
    assert b"".join(unpack(container, recipe)) == inner
    assert b"".join(repack(recipe, [inner], size=len(container))) == container
    assert Recipe.parse(recipe.dump()) == recipe
    assert len(recipe.dump()) < 60


def test_empty_container_opens_or_is_left_alone() -> None:
    for pack, _ in PACKINGS.values():
        container = pack(b"")
        recipe = analyse(container)  # an xz stream without a block says nothing of its packer
        if recipe is not None:
            assert b"".join(unpack(container, recipe)) == b""
            assert b"".join(repack(recipe, [], size=len(container))) == container


@given(
    st.binary(min_size=1, max_size=2000),
    st.sampled_from(sorted(PACKINGS)),
    st.integers(1, 500),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_pieces_may_be_of_any_size(inner: bytes, name: str, step: int) -> None:
    container = PACKINGS[name][0](inner)
    recipe = analyse(container)
    assert recipe is not None
    pieces = [inner[at : at + step] for at in range(0, len(inner), step)]
    assert b"".join(repack(recipe, pieces, size=len(container))) == container


def _cpio(name: str, data: bytes) -> bytes:
    """Return an archive of one file, as the kernel reads it."""

    def entry(name: str, data: bytes) -> bytes:
        fields = [1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        head += name.encode() + b"\0"
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    return entry(name, data) + entry("TRAILER!!!", b"")


def _bzimage(payload: bytes, setup_sectors: int = 4) -> bytes:
    head = bytearray(random.Random(2).randbytes((setup_sectors + 1) * 512 + 100))
    head[0x1F1] = setup_sectors
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x208] = b"HdrS\x0f\x02"
    struct.pack_into("<II", head, 0x248, 100, len(payload) + 4)
    return bytes(head) + payload + struct.pack("<I", 1234) + b"the end of a kernel image" * 9


def test_kernel_image_opens_around_its_payload() -> None:
    inner = _text(400_000)
    image = _bzimage(_kernel_xz(inner))
    recipe = analyse(image)
    assert recipe is not None
    assert [segment.kind for segment in recipe.segments] == [Kind.VERBATIM, Kind.XZ, Kind.VERBATIM]
    insides = b"".join(unpack(image, recipe))
    assert insides == image[:2660] + inner + image[-(4 + 25 * 9) :]
    assert b"".join(repack(recipe, [insides], size=len(image))) == image


def test_arm_kernel_image_opens() -> None:
    payload = _gzipped(_text(50_000), "-9n")
    image = b"MZ\0\0zimg" + struct.pack("<II", 64, len(payload)) + bytes(48) + payload + b"tail"
    recipe = analyse(image)
    assert recipe is not None
    assert [s.kind for s in recipe.segments] == [Kind.VERBATIM, Kind.GZIP, Kind.VERBATIM]


def test_initramfs_opens_past_its_microcode() -> None:
    early = _cpio("kernel/x86/microcode/GenuineIntel.bin", random.Random(1).randbytes(5001))
    early += bytes(-len(early) % 512)
    packed = _zstd(15, sized=False, checked=True)(_cpio("init", _text(60_000)))
    more = _gzipped(_cpio("etc/more", b"x"), "-9n")
    image = early + packed + more + bytes(100)
    recipe = analyse(image)
    assert recipe is not None
    kinds = [Kind.VERBATIM, Kind.ZSTD, Kind.GZIP, Kind.VERBATIM]
    assert [segment.kind for segment in recipe.segments] == kinds
    insides = b"".join(unpack(image, recipe))
    assert insides.startswith(early + _cpio("init", _text(60_000)))
    assert b"".join(repack(recipe, [insides], size=len(image))) == image


def test_stream_that_no_packer_gives_stays_closed_but_opens_as_a_base() -> None:
    # Two deflate blocks of different levels: no encoder here writes that.
    inner = _text(40_000)
    encoder = zlib.compressobj(1, zlib.DEFLATED, -15)
    odd = encoder.compress(inner[:20_000]) + encoder.flush(zlib.Z_FULL_FLUSH)
    odd += encoder.compress(inner[20_000:]) + encoder.flush()
    container = (
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + odd + struct.pack("<II", zlib.crc32(inner), len(inner))
    )
    assert gzip.decompress(container) == inner
    assert analyse(container) is None
    base = opened(container)
    assert base is not None
    assert not base.repackable
    assert b"".join(unpack(container, base)) == inner
    with pytest.raises(FormatError):
        b"".join(repack(base, [inner], size=len(container)))


NO_CONTAINERS = {
    "nothing": b"",
    "text": b"hello\n",
    "zeros": bytes(10_000),
    "elf": b"\x7fELF" + random.Random(1).randbytes(9000),
    "magic and no more": b"\x1f\x8b\x08",
    "truncated gzip": gzip.compress(b"abc" * 1000)[:-9],
    "truncated xz": lzma.compress(_text(1000))[:-20],
    "truncated zstd": _zstd(3)(_text(1000))[:-3],
    "truncated bzip2": bz2.compress(_text(1000))[:-3],
    "damaged gzip": gzip.compress(_text(1000))[:-8] + b"\0" * 8,
    "cpio without a trailer": _cpio("a", b"b")[:150],
    "cpio that is all": _cpio("a", b"b"),
    "kernel image with its payload elsewhere": _bzimage(b"nothing compressed"),
}


@pytest.mark.parametrize("data", NO_CONTAINERS.values(), ids=NO_CONTAINERS)
def test_other_content_is_no_container(data: bytes) -> None:
    assert analyse(data) is None
    assert opened(data) is None


@given(st.data(), st.sampled_from(sorted(PACKINGS)))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_container_never_surprises(data: st.DataObject, name: str) -> None:
    damaged = data.draw(mutated(PACKINGS[name][0](b"abcdefgh" * 40)))
    recipe = analyse(damaged, inner_limit=1 << 20)
    if recipe is not None:
        insides = b"".join(unpack(damaged, recipe))
        assert b"".join(repack(recipe, [insides], size=len(damaged))) == damaged


_BOMB = bytes(64 << 20)
BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(_BOMB, 1),
    "xz": lambda: lzma.compress(_BOMB, preset=0),
    "zstd": lambda: _zstd(1)(_BOMB),
    "bzip2": lambda: bz2.compress(_BOMB, 9),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_stays_closed_and_stops_at_the_declared_size(name: str) -> None:
    bomb = BOMBS[name]()
    assert opened(bomb, inner_limit=10 << 20) is None
    honest = opened(bomb)
    assert honest is not None
    (segment,) = honest.segments
    lying = Recipe((Segment(segment.kind, 1000, len(bomb), segment.window),))
    made: list[int] = []
    with pytest.raises(FormatError):
        made.extend(map(len, unpack(bomb, lying)))
    assert sum(made) <= 1000


def test_memory_beyond_the_declared_window_is_refused() -> None:
    inner = _text(100_000)
    for container in (lzma.compress(inner, preset=9), _zstd(19, sized=False)(inner)):
        honest = opened(container)
        assert honest is not None
        (segment,) = honest.segments
        lying = Recipe((Segment(segment.kind, len(inner), len(container), 4096),))
        with pytest.raises(FormatError):
            b"".join(unpack(container, lying))


def _recipe() -> tuple[bytes, bytes, Recipe]:
    inner = _text(5000)
    container = _gzipped(inner, "-9n")
    recipe = analyse(container)
    assert recipe is not None
    return container, inner, recipe


def test_recipe_of_another_container_is_refused() -> None:
    container, inner, recipe = _recipe()
    with pytest.raises(FormatError):
        b"".join(unpack(container + b"x", recipe))
    with pytest.raises(FormatError):
        b"".join(unpack(bytes(len(container)), recipe))
    with pytest.raises(FormatError):
        b"".join(repack(recipe, [inner], size=len(container) + 1))


def test_wrong_insides_are_refused() -> None:
    container, inner, recipe = _recipe()
    for wrong in (inner[:-1], inner + b"x", b""):
        with pytest.raises((FormatError, PacksDifferently)):
            b"".join(repack(recipe, [wrong], size=len(container)))
    # Of the right length: packs to another size, or to bytes that the digest refuses.
    made: list[int] = []
    with pytest.raises(PacksDifferently):
        made.extend(map(len, repack(recipe, [bytes(5000)], size=len(container))))
    assert sum(made) <= len(container)


def test_error_of_the_source_comes_through_a_packer() -> None:
    container, inner, recipe = _recipe()

    def broken() -> Iterator[bytes]:
        yield inner[:2000]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        b"".join(repack(recipe, broken(), size=len(container)))


def test_stopping_early_leaves_no_process() -> None:
    big = _text(3 << 20)
    container = _gzipped(big, "-9n")
    recipe = analyse(container)
    assert recipe is not None
    packing = repack(
        recipe, (big[at : at + 1000] for at in range(0, len(big), 1000)), size=len(container)
    )
    assert next(packing)
    next(packing)
    packing.close()  # type: ignore[attr-defined]


def test_missing_gzip_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    container, inner, recipe = _recipe()
    assert recipe.segments[0].packer == Packer.GNU_GZIP
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "gzip" in recipe.obstacle()
    with pytest.raises(PacksDifferently, match="gzip"):
        b"".join(repack(recipe, [inner], size=len(container)))
    without = analyse(container)
    assert without is None or without.segments[0].packer == Packer.ZLIB


def test_options_of_gzip_in_the_environment_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    container, inner, recipe = _recipe()
    monkeypatch.setenv("GZIP", "-1")
    assert b"".join(repack(recipe, [inner], size=len(container))) == container


def test_another_version_of_a_library_is_an_obstacle() -> None:
    segment = Segment(Kind.ZSTD, 10, 9, 1024, Packer.LIBZSTD, 3, (0,), b"", "0.1.2")
    assert "0.1.2" in Recipe((segment,)).obstacle()


@given(st.data())
@settings(max_examples=1000)
def test_damaged_recipe_is_refused_or_is_another_one(data: st.DataObject) -> None:
    segments = (
        Segment(Kind.VERBATIM, 70_000, 70_000),
        Segment(Kind.XZ, 5000, 300, 1 << 25, Packer.LIBLZMA, 6, (1, 1 << 25, 4, 93)),
        Segment(Kind.GZIP, 900, 300, 1 << 15, Packer.ZLIB, 9, (8,), b"\x1f\x8b head", "1.2.13"),
    )
    whole = Recipe(segments).dump()
    assert Recipe.parse(whole).segments == segments
    damaged = data.draw(mutated(whole))
    try:
        recipe = Recipe.parse(damaged)
    except FormatError:
        return
    assert recipe.dump() == damaged
    assert recipe.memory > 0
    assert recipe.cost >= 0


@given(st.binary(max_size=50))
@settings(max_examples=1000)
def test_any_bytes_are_a_recipe_or_refused(data: bytes) -> None:
    try:
        recipe = Recipe.parse(data)
    except FormatError:
        return
    assert recipe.dump() == data


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_hostile_recipe_makes_no_more_than_the_size(data: st.DataObject) -> None:
    container, inner, recipe = _recipe()
    try:
        hostile = Recipe.parse(data.draw(mutated(recipe.dump())))
    except FormatError:
        return
    if hostile.memory > 200 << 20 or hostile.size != len(container):
        return
    made = 0
    try:
        for piece in repack(hostile, [inner], size=len(container)):
            made += len(piece)
    except (FormatError, PacksDifferently):
        pass
    assert made <= len(container)


_MEASURE = r"""
import re, sys
from composer.jigdo.repack import Recipe, unpack, repack
from composer.jigdo.delta.columns import FileBase
file = open(sys.argv[1], "rb")
container = FileBase(file.fileno(), file.seek(0, 2))
recipe = Recipe.parse(open(sys.argv[2], "rb").read())
import zstandard
def peak():
    return int(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1]) << 10
before = peak()
made = sum(map(len, repack(recipe, unpack(container, recipe), size=len(container))))
assert made == len(container)
import resource
# A program's peak begins with this process's own, at its start.
programs = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
print(peak() - before + max(0, programs - before))
"""

MEMORY: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _command("gzip", "-9n"),
    "xz, 1 MiB": _kernel_xz,
    "xz, 8 MiB": lambda data: lzma.compress(data, preset=6),
    "zstd 3": _zstd(3, sized=False),
    "zstd 15": _zstd(15),
    "xz program": _command("xz", "--check=crc32", "--lzma2=dict=1MiB", "-T2"),
    "zstd program": _command("zstd", "-15", "-q", "-T0"),
    "bzip2": lambda data: bz2.compress(data, 9),
}


@pytest.mark.parametrize("name", MEMORY)
def test_opening_and_closing_stay_within_the_memory_they_declare(name: str, tmp_path: Path) -> None:
    container = MEMORY[name](_text(1 << 20) + random.Random(1).randbytes(2 << 20) + bytes(4 << 20))
    recipe = analyse(container)
    assert recipe is not None
    (tmp_path / "container").write_bytes(container)
    (tmp_path / "recipe").write_bytes(recipe.dump())
    used = subprocess.run(
        [sys.executable, "-c", _MEASURE, tmp_path / "container", tmp_path / "recipe"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert re.fullmatch(r"\d+\n", used)
    print(f"{name}: used {int(used) >> 20} MiB of {recipe.memory >> 20} declared")
    assert int(used) <= recipe.memory < 1 << 30
