"""What is inside an initramfs: enough to know that its programs can start.

dracut asks ldd which libraries a program needs.  In a tree without ldd it leaves all of them
out, complains, and ends well; such an image panics at boot.  So the loader that its programs name
is looked for in what came out, which also holds for a dracut that needs no ldd.
"""

from __future__ import annotations

import io
import mmap
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from composer.errors import FormatError
from composer.jigdo.repack import opened, unpack
from composer.system.elf import read_program

_HEADER = re.compile(rb"07070[12][0-9A-Fa-f]{104}\Z")
_HEADER_SIZE, _TRAILER = 110, "TRAILER!!!"
_LONGEST_NAME = 4096
# Where a program names its loader: behind its headers, before all else.
_HEAD = 4096


@dataclass(frozen=True, slots=True)
class Member:
    """One entry: its name and mode, and how a regular file or a symlink begins."""

    name: str
    mode: int
    head: bytes


def missing_loader(image: Path) -> str:
    """Return the loader that programs of an initramfs name and none of which is in it, or "".

    "" too where the image is of a kind that cannot be read here.
    """
    wanted: dict[str, str] = {}
    present = set()
    try:
        for member in members(image):
            if stat.S_ISDIR(member.mode):
                continue
            present.add(os.path.basename(member.name))
            loader = _loader(member)
            if loader:
                wanted.setdefault(os.path.basename(loader), loader)
    except FormatError:
        return ""
    return "" if present & wanted.keys() else next(iter(wanted.values()), "")


def _loader(member: Member) -> str:
    if not stat.S_ISREG(member.mode) or not member.head.startswith(b"\x7fELF"):
        return ""
    try:
        return read_program(io.BytesIO(member.head), member.name).interpreter
    except FormatError:  # of another kind of machine, or no program
        return ""


def members(image: Path) -> Iterator[Member]:
    """Yield what an image has: cpio archives one after the other, compressed or not.

    Raises FormatError where there is anything else, such as a compression that is not known.
    """
    with image.open("rb") as stream, _mapped(stream.fileno()) as data:
        recipe = opened(data)
        pieces = unpack(data, recipe) if recipe else (data[at : at + _HEAD] for at in _steps(data))
        yield from _archives(_Reader(pieces, str(image)))


def _mapped(descriptor: int) -> mmap.mmap:
    if os.fstat(descriptor).st_size == 0:
        raise FormatError("initramfs: is empty")
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


def _steps(data: mmap.mmap) -> range:
    return range(0, len(data), _HEAD)


class _Reader:
    """Reads exact lengths from pieces."""

    def __init__(self, pieces: Iterable[bytes], name: str) -> None:
        self._pieces, self._rest, self._name, self.at = iter(pieces), b"", name, 0

    def read(self, length: int) -> bytes:
        """Return ``length`` bytes, fewer only at the end."""
        while len(self._rest) < length and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:length], self._rest[length:]
        self.at += len(data)
        return data

    def exactly(self, length: int) -> bytes:
        """Return ``length`` bytes; raises FormatError at the end."""
        data = self.read(length)
        if len(data) < length:
            raise self.wrong("it ends in the middle")
        return data

    def skip(self, length: int) -> None:
        """Pass over ``length`` bytes."""
        while length > 0:
            length -= len(self.exactly(min(length, 1 << 20)))

    def wrong(self, what: str) -> FormatError:
        return FormatError(f"{self._name}: at byte {self.at}: {what}")


def _archives(reader: _Reader) -> Iterator[Member]:
    while head := reader.read(4):
        if head == b"\0\0\0\0":  # padding between archives
            continue
        head += reader.exactly(_HEADER_SIZE - 4)
        if not _HEADER.match(head):
            raise reader.wrong("not a cpio archive")
        mode, size, name_size = (int(head[at : at + 8], 16) for at in (14, 54, 94))
        if not 0 < name_size <= _LONGEST_NAME:
            raise reader.wrong("an endless name")
        name = reader.exactly(name_size).rstrip(b"\0").decode(errors="surrogateescape")
        reader.skip(-(_HEADER_SIZE + name_size) % 4)
        member = Member(name, mode, reader.exactly(min(size, _HEAD)))
        reader.skip(size - len(member.head))
        # What follows the last file may end without its padding.
        reader.read(-size % 4)
        if name != _TRAILER:
            yield member
