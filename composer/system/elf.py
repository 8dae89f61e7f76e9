"""What a program needs before it runs: its loader and its libraries, out of its ELF headers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from composer.errors import FormatError

_HEADER = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_END, _NEEDED, _STRINGS = 0, 1, 5
_MOST_SEGMENTS, _LARGEST, _LONGEST_NAME = 64, 1 << 16, 255


@dataclass(frozen=True, slots=True)
class Program:
    """``interpreter`` is "" and ``needed`` empty for a static one."""

    interpreter: str
    needed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def read_program(stream: BinaryIO, name: str) -> Program:
    """Read a program or library; raises FormatError, with ``name``, for what is none."""
    try:
        segments = list(_segments(stream))
        interpreter = next((s for s in segments if s.kind == _INTERPRETER), None)
        return Program(
            _text(stream, interpreter.offset, interpreter.size) if interpreter else "",
            tuple(_needed(stream, segments)),
        )
    except (struct.error, ValueError, OverflowError) as error:
        raise FormatError(f"{name}: not a program for a 64-bit machine: {error}") from None


def _read(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(min(size, _LARGEST))


def _text(stream: BinaryIO, offset: int, size: int = _LONGEST_NAME + 1) -> str:
    text, end, _ = _read(stream, offset, size).partition(b"\0")
    if not end or not text:
        raise ValueError("a name in it has no end")
    return text.decode()


def _segments(stream: BinaryIO) -> Iterator[_Segment]:
    head = _read(stream, 0, 64)
    if not head.startswith(_HEADER):
        raise ValueError("no such header")
    (start,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    if count > _MOST_SEGMENTS:
        raise ValueError(f"{count} segments")
    for number in range(count):
        row = struct.unpack("<IIQQQQ", _read(stream, start + number * size, 40))
        yield _Segment(kind=row[0], offset=row[2], address=row[3], size=row[5])


def _needed(stream: BinaryIO, segments: list[_Segment]) -> Iterator[str]:
    dynamic = next((s for s in segments if s.kind == _DYNAMIC), None)
    if dynamic is None:
        return
    data = _read(stream, dynamic.offset, dynamic.size)
    rows = list(struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]))
    rows = rows[: next((i for i, (tag, _) in enumerate(rows) if tag == _END), len(rows))]
    places = [value for tag, value in rows if tag == _NEEDED]
    if not places:
        return
    strings = next((value for tag, value in rows if tag == _STRINGS), None)
    for segment in segments:
        if strings is not None and segment.kind == _LOAD:
            within = strings - segment.address
            if 0 <= within < segment.size:
                yield from (_text(stream, segment.offset + within + place) for place in places)
                return
    raise ValueError("no names of libraries")
