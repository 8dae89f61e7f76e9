"""What packs a segment: libraries and programs, run on a stream."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial

from composer.jigdo.repack.programs import PacksDifferently, Run, through
from composer.jigdo.repack.recipe import (
    EXTREME,
    XZ_CHECKS,
    XZ_FILTERS,
    ZSTD_CHECKED,
    ZSTD_SIZED,
    ZSTD_THREADED,
    Packer,
    Segment,
    zstd_parameters,
)


def pack_segment(
    segment: Segment, pieces: Iterator[bytes], run: Run = through
) -> Generator[bytes, None, None]:
    packers: dict[Packer, Callable[[Segment, Iterator[bytes]], Iterator[bytes]]] = {
        Packer.NONE: lambda _, plain: plain,
        Packer.GNU_GZIP: partial(_pack_gzip, run=run),
        Packer.ZLIB: _pack_gzip,
        Packer.LIBLZMA: _pack_xz,
        Packer.LIBZSTD: _pack_zstd,
        Packer.LIBBZ2: _pack_bzip2,
        Packer.ZSTD_PROGRAM: partial(_pack_zstd_program, run=run),
        Packer.XZ_PROGRAM: partial(_pack_xz_program, run=run),
    }
    yield from packers[segment.packer](segment, pieces)


def _pack_gzip(segment: Segment, pieces: Iterator[bytes], run: Run = through) -> Iterator[bytes]:
    """Pack one member; header as recorded, trailer computed (RFC 1952)."""
    check, length = 0, 0

    def summed() -> Iterator[bytes]:
        nonlocal check, length
        for piece in pieces:
            check, length = zlib.crc32(piece, check), length + len(piece)
            yield piece

    yield segment.header
    if segment.packer == Packer.GNU_GZIP:
        yield from _gnu_gzip(segment, summed(), run)
    else:
        yield from _zlib(segment, summed())
    yield struct.pack("<II", check, length & 0xFFFFFFFF)


def _zlib(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    encoder = zlib.compressobj(segment.level, zlib.DEFLATED, -15, segment.options[0])
    yield from filter(None, map(encoder.compress, pieces))
    yield encoder.flush()


def _gnu_gzip(segment: Segment, pieces: Iterator[bytes], run: Run) -> Iterator[bytes]:
    """Yield the deflate stream of the program gzip: its output without header and trailer."""
    output = run(["gzip", "-n", "-c", f"-{segment.level}"], pieces)
    skip, held = 10, b""
    for piece in output:
        held += piece
        if skip and len(held) >= skip:
            held, skip = held[skip:], 0
        if not skip and len(held) > 8:
            yield held[:-8]
            held = held[-8:]
    if skip or len(held) != 8:
        raise PacksDifferently("gzip gave no gzip stream")


def _pack_xz(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    check, dictionary, bcj, properties = segment.options
    preset = segment.level & ~EXTREME | (lzma.PRESET_EXTREME if segment.level & EXTREME else 0)
    filters: list[dict[str, int]] = [{"id": bcj}] if bcj else []
    filters.append(
        {
            "id": lzma.FILTER_LZMA2,
            "preset": preset,
            "dict_size": dictionary,
            "lc": properties % 9,
            "lp": properties // 9 % 5,
            "pb": properties // 45,
        }
    )
    try:
        encoder = lzma.LZMACompressor(lzma.FORMAT_XZ, check=check, filters=filters)
        yield from filter(None, map(encoder.compress, pieces))
        yield encoder.flush()
    except (lzma.LZMAError, ValueError) as error:
        raise PacksDifferently(f"liblzma: {error}") from None


def _pack_xz_program(segment: Segment, pieces: Iterator[bytes], run: Run) -> Iterator[bytes]:
    check, dictionary, bcj, properties = segment.options
    preset = f"{segment.level & ~EXTREME}" + ("e" if segment.level & EXTREME else "")
    argv = ["xz", "-q", "-c", "--format=xz", "-T2", f"--check={XZ_CHECKS[check]}"]
    if bcj:
        argv.append(f"--{XZ_FILTERS[bcj]}")
    lc, lp, pb = properties % 9, properties // 9 % 5, properties // 45
    argv.append(f"--lzma2=preset={preset},dict={dictionary},lc={lc},lp={lp},pb={pb}")
    yield from run(argv, pieces)


def _pack_zstd(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    sized = segment.options[0] & ZSTD_SIZED
    try:
        compressor = zstandard.ZstdCompressor(compression_params=zstd_parameters(segment))
        encoder = compressor.compressobj(size=segment.inner if sized else -1)
        yield from filter(None, map(encoder.compress, pieces))
        yield encoder.flush()
    except zstandard.ZstdError as error:
        raise PacksDifferently(f"libzstd: {error}") from None


def _pack_zstd_program(segment: Segment, pieces: Iterator[bytes], run: Run) -> Iterator[bytes]:
    (flags,) = segment.options
    # Two threads give the bytes of any number of threads, but for none.
    argv = ["zstd", "-q", "-c", "--ultra", f"-{segment.level}"]
    argv.append("-T2" if flags & ZSTD_THREADED else "--single-thread")
    argv.append("--check" if flags & ZSTD_CHECKED else "--no-check")
    if flags & ZSTD_SIZED:
        argv.append(f"--stream-size={segment.inner}")
    yield from run(argv, pieces)


def _pack_bzip2(segment: Segment, pieces: Iterator[bytes]) -> Iterator[bytes]:
    encoder = bz2.BZ2Compressor(segment.level)
    yield from filter(None, map(encoder.compress, pieces))
    yield encoder.flush()
