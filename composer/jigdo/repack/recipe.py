"""Recipes: a container's segments, their bytes, and what opening and packing them takes.

docs/format/delta.md section 4 is the norm.  Pure, but for the question what this machine has.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cache
from typing import Any

from composer.jigdo import memory
from composer.jigdo.encoding import Cursor, prefixed, uvarint

_VERSION = 1
MAX_SEGMENTS = 256
_MAX_RECIPE = 1 << 16
MAX_HEADER = 1 << 10
MAX_WINDOW = 1 << 31
_MAX_LENGTH = 1 << 40


class Kind(IntEnum):
    """What a segment of a container is."""

    VERBATIM = 0
    GZIP = 1
    XZ = 2
    ZSTD = 3
    BZIP2 = 4


class Packer(IntEnum):
    """What packs a segment; NONE: it can be opened only."""

    NONE = 0
    GNU_GZIP = 1
    ZLIB = 2
    LIBLZMA = 3
    LIBZSTD = 4
    LIBBZ2 = 5
    ZSTD_PROGRAM = 6
    XZ_PROGRAM = 7


_PACKERS = {
    Kind.VERBATIM: {Packer.NONE},
    Kind.GZIP: {Packer.NONE, Packer.GNU_GZIP, Packer.ZLIB},
    Kind.XZ: {Packer.NONE, Packer.LIBLZMA, Packer.XZ_PROGRAM},
    Kind.ZSTD: {Packer.NONE, Packer.LIBZSTD, Packer.ZSTD_PROGRAM},
    Kind.BZIP2: {Packer.NONE, Packer.LIBBZ2},
}


# Seconds of CPU to pack a MiB, measured on a kernel's code (level: seconds).
_COST = {
    Packer.GNU_GZIP: {1: 0.01, 6: 0.025, 9: 0.05},
    Packer.ZLIB: {1: 0.006, 6: 0.015, 9: 0.03},
    Packer.XZ_PROGRAM: {0: 0.025, 2: 0.07, 3: 0.09, 5: 0.15, 9: 0.2},
    Packer.LIBLZMA: {0: 0.025, 2: 0.07, 3: 0.09, 5: 0.15, 9: 0.2},
    Packer.LIBZSTD: {3: 0.002, 9: 0.007, 12: 0.02, 15: 0.06, 22: 0.2},
    Packer.LIBBZ2: {9: 0.035},
    Packer.ZSTD_PROGRAM: {3: 0.002, 9: 0.007, 12: 0.02, 15: 0.06, 22: 0.2},
}


_OPENING_COST = {Kind.GZIP: 0.006, Kind.XZ: 0.01, Kind.ZSTD: 0.002, Kind.BZIP2: 0.02}


_PROCESS_COST = 0.003
_PROGRAMS = {Packer.GNU_GZIP: "gzip", Packer.ZSTD_PROGRAM: "zstd", Packer.XZ_PROGRAM: "xz"}


EXTREME = 0x80
XZ_CHECKS = {0: "none", 1: "crc32", 4: "crc64", 10: "sha256"}


XZ_FILTERS = {4: "x86", 5: "powerpc", 6: "ia64", 7: "arm", 8: "armthumb", 9: "sparc"}


ZSTD_SIZED, ZSTD_CHECKED, ZSTD_THREADED = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Segment:
    """``packed`` bytes of a container, which open to ``inner`` bytes.

    ``window`` is the memory that opening needs.  ``level``, ``options`` and
    ``header`` mean what the packer makes of them; ``version`` is that of its
    library, where its output depends on it.
    """

    kind: Kind
    inner: int
    packed: int
    window: int = 0
    packer: Packer = Packer.NONE
    level: int = 0
    options: tuple[int, ...] = ()
    header: bytes = b""
    version: str = ""

    def dump(self) -> bytes:
        """Encode; docs/format/delta.md section 4."""
        start = bytes((self.kind, self.packer)) + uvarint(self.inner)
        if self.kind == Kind.VERBATIM:
            return start
        start += uvarint(self.packed) + uvarint(self.window)
        if self.packer == Packer.NONE:
            return start
        options = bytes((self.level, len(self.options))) + b"".join(map(uvarint, self.options))
        return start + options + prefixed(self.header) + prefixed(self.version.encode())

    @classmethod
    def parse(cls, cursor: Cursor) -> Segment:
        """Read one segment; raises FormatError."""
        numbers = cursor.take(2)
        try:
            kind, packer = Kind(numbers[0]), Packer(numbers[1])
        except ValueError:
            raise cursor.fail("names a kind or a packer that does not exist") from None
        if packer not in _PACKERS[kind]:
            raise cursor.fail("names a packer of another kind")
        inner = cursor.uvarint()
        if kind == Kind.VERBATIM:
            return cls(kind, inner, inner)
        packed, window = cursor.uvarint(), cursor.uvarint()
        if window > MAX_WINDOW:
            raise cursor.fail("a window of more than 2 GiB")
        segment = cls(kind, inner, packed, window, packer)
        if packer == Packer.NONE:
            return segment
        level, count = cursor.take(2)
        options = tuple(cursor.uvarints(count))
        header, version = cursor.prefixed(), cursor.prefixed()
        if len(header) > MAX_HEADER or len(version) > 32 or not version.isascii():
            raise cursor.fail("a header or a version that is too long")
        segment = replace(
            segment, level=level, options=options, header=header, version=version.decode()
        )
        if not is_sound(segment):
            raise cursor.fail("parameters that its packer does not have")
        return segment

    @property
    def memory(self) -> int:
        """Bytes of working memory to open and to pack this segment, whichever is more."""
        return memory.opening(self.window) + self._packing_memory()

    def _packing_memory(self) -> int:
        match self.packer:
            case Packer.NONE:
                return 0
            case Packer.LIBLZMA:
                return memory.lzma(self.options[1])
            case Packer.XZ_PROGRAM:
                return memory.xz_program(self.options[1])
            case Packer.LIBZSTD | Packer.ZSTD_PROGRAM:
                parameters = zstd_parameters(self, threads=0)  # libzstd estimates without threads
                context = int(parameters.estimated_compression_context_size())
                threaded = bool(self.options[0] & ZSTD_THREADED)
                return memory.zstd_packer(context, 1 << parameters.window_log, threaded=threaded)
        return memory.simple()

    @property
    def cost(self) -> float:
        """CPU seconds to open a base like this and to pack this, about."""
        seconds = _OPENING_COST.get(self.kind, 0.0)
        table = _COST.get(self.packer, {})
        level = self.level & ~EXTREME
        seconds += next(
            (cost for most, cost in table.items() if level <= most), 0.2 if table else 0
        )
        start = _PROCESS_COST if self.packer in _PROGRAMS else 0.0
        return start + seconds * self.inner / (1 << 20)


def is_sound(segment: Segment) -> bool:
    """Tell whether the packer takes such parameters at all."""
    level, options = segment.level, segment.options
    match segment.packer:
        case Packer.GNU_GZIP:
            return 1 <= level <= 9 and not options
        case Packer.ZLIB:
            return 1 <= level <= 9 and len(options) == 1 and 1 <= options[0] <= 9
        case Packer.LIBBZ2:
            return 1 <= level <= 9 and not options
        case Packer.LIBLZMA | Packer.XZ_PROGRAM:
            return (
                level & ~EXTREME <= 9
                and len(options) == 4
                and options[0] in XZ_CHECKS
                and 4096 <= options[1] <= 1536 << 20
                and options[2] in (0, *XZ_FILTERS)
                and options[3] < 225
                and options[3] % 9 + options[3] // 9 % 5 <= 4
            )
        case Packer.LIBZSTD | Packer.ZSTD_PROGRAM:
            return 1 <= level <= 22 and len(options) == 1 and options[0] <= 7
    return False


@dataclass(frozen=True, slots=True)
class Recipe:
    """A container's segments, front to back."""

    segments: tuple[Segment, ...]
    inner_size: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inner_size", sum(part.inner for part in self.segments))
        object.__setattr__(self, "size", sum(part.packed for part in self.segments))

    def dump(self) -> bytes:
        """Encode; a few dozen bytes, nearly the same for like content."""
        body = b"".join(segment.dump() for segment in self.segments)
        return uvarint(_VERSION) + uvarint(len(self.segments)) + body

    @classmethod
    def parse(cls, data: bytes) -> Recipe:
        """Read a recipe; raises FormatError for anything that dump() does not write."""
        cursor = Cursor(data, "recipe")
        if len(data) > _MAX_RECIPE:
            raise cursor.fail("is longer than 64 KiB")
        if cursor.uvarint() != _VERSION:
            raise cursor.fail("is of an unknown version")
        count = cursor.count(least=3)
        if not 1 <= count <= MAX_SEGMENTS:
            raise cursor.fail(f"has {count} segments")
        recipe = cls(tuple(Segment.parse(cursor) for _ in range(count)))
        cursor.end()
        if recipe.size >= _MAX_LENGTH or recipe.inner_size >= _MAX_LENGTH:
            raise cursor.fail("is of something too large")
        if recipe.dump() != data:
            raise cursor.fail("is not in its shortest form")
        return recipe

    @property
    def memory(self) -> int:
        """Bytes of working memory of unpack() and repack() at most."""
        return max(segment.memory for segment in self.segments)

    @property
    def cost(self) -> float:
        """CPU seconds to open a base like this and to pack this, about."""
        return sum(segment.cost for segment in self.segments)

    @property
    def repackable(self) -> bool:
        """Tell whether every compressed segment has a packer."""
        return all(s.packer != Packer.NONE for s in self.segments if s.kind != Kind.VERBATIM)

    def obstacle(self) -> str:
        """Return why this machine's packers would not give the same bytes; empty: they should."""
        for segment in self.segments:
            program = _PROGRAMS.get(segment.packer)
            if program and shutil.which(program) is None:
                return f"the program {program} is not installed"
            here = version_of(segment.packer)
            if segment.version != here:
                return f"{segment.packer.name} {segment.version} is needed, here is {here}"
        return ""


def version_of(packer: Packer) -> str:
    """Return the version that the packer's output depends on; empty where it does on none."""
    if packer == Packer.ZLIB:
        return zlib.ZLIB_RUNTIME_VERSION
    if packer == Packer.ZSTD_PROGRAM:
        return _zstd_program_version(shutil.which("zstd"))
    if packer == Packer.LIBZSTD:
        import zstandard

        return ".".join(map(str, zstandard.ZSTD_VERSION))
    return ""


@cache
def _zstd_program_version(path: str | None) -> str:
    if path is None:
        return ""
    done = subprocess.run([path, "--version"], capture_output=True, check=False)
    found = re.search(rb"v(\d+\.\d+\.\d+)", done.stdout)
    return found[1].decode() if found else ""


def zstd_parameters(segment: Segment, *, threads: int | None = None) -> Any:
    import zstandard

    (flags,) = segment.options
    sized = bool(flags & ZSTD_SIZED)
    return zstandard.ZstdCompressionParameters.from_level(
        segment.level,
        source_size=segment.inner if sized else 0,
        write_content_size=int(sized),
        write_checksum=int(bool(flags & ZSTD_CHECKED)),
        write_dict_id=0,
        threads=flags & ZSTD_THREADED and 1 if threads is None else threads,
    )
