"""What a pull takes of memory, its processes together: the one place that says it.

`plan` announces it, planning leaves out what would take more than is allowed, and those who
work at once share a :class:`Budget`.  Figures are bytes, measured and rounded up; tests hold
what is announced against what is taken (tests/client/test_pull_memory.py).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from composer.errors import BoundExceeded

if TYPE_CHECKING:
    from composer.jigdo.container import Frame

_MIB = 1 << 20

ALLOWED = 200_000_000
"""What a pull may take, unless the user says otherwise."""

# The interpreter, libostree, librpm, curl, numpy.
_PROGRAM = 68 * _MIB
# A shell that runs packers.
_SHELL = 2 * _MIB
# What is known of an object of the tree or of its base: checksums, maps, tables, plans.
_OBJECT = 350
# One that imports an RPM: librpm's decompressor (zstd's window at level 19), pieces on their way.
_IMPORTER = 20 * _MIB
# One that makes a content: its pieces on their way, and an object.
_MAKER = 3 * _MIB

QUEUED = 4 * _MIB
"""Patches that wait for somebody to apply them."""

UNPACKING = 16 * _MIB
"""Unpacking a frame of patches: a window for what a writer puts into one."""

LARGEST_MOVED = 12 * _MIB
"""Of a base whose references are moved: it is held."""

LARGEST_PATCH = 16 * _MIB
"""Bytes of a patch; what is larger is shipped whole, in parts, so that a frame can hold it."""

MODEST = 40 * _MIB
"""Packing that takes more than this is not for everybody: another way is offered too."""

AHEAD = 6 * _MIB
"""Frames that are fetched while one is worked on, as they come: so the line is not idle."""

TOGETHER = _MIB
"""Bases, and what is made of them, that are worked on side by side, about."""

PATCHES_TOGETHER = 1 << 17
"""Bytes of their patches, at most."""

SMALL = 4 * _MIB
"""A base of up to this size is held, a larger one is read where it is needed."""


# Patches


def full(patch: int) -> int:
    """Return what writing a content that is there whole takes."""
    return patch + _MIB


def columns(patch: int) -> int:
    """Return what applying columns takes: the patch, its columns cut out of it, blocks of them."""
    return 2 * patch + min(patch, 4 * _MIB) + 7 * _MIB


def linked(base: int, patch: int) -> int:
    """Return what moving a base takes, and applying the patch to it."""
    base = min(base, LARGEST_MOVED)
    copies = 12 * min(patch, 3 << 17)
    return patch + copies + max(3 * base + patch + 3 * _MIB, base + columns(patch))


def together(bases: int, patches: int, own: int, targets: int) -> int:
    """Return what applying patches to moved bases takes that lie side by side.

    ``own`` is what patches have without what is shared: columns become wider numbers.
    """
    return 3 * bases + 2 * targets + patches + 24 * own + 4 * _MIB


def most_together(size: int) -> int:
    """Return what that takes at most at a time, of ``size`` bytes that are made in all."""
    size = min(size, 2 * TOGETHER)
    return together(size, size, min(size, PATCHES_TOGETHER), size)


def zstd(base: int, window: int, patch: int) -> int:
    """Return what libzstd takes with the base as its dictionary."""
    return 2 * base + window + patch + 8 * _MIB


# Containers


def opening(window: int) -> int:
    """Return what opening a stream takes whose header asks for ``window``."""
    return window + 2 * _MIB


def simple() -> int:
    """Return what gzip, zlib and bzip2 take to pack, program or library."""
    return 10 * _MIB


def lzma(dictionary: int) -> int:
    """Return what liblzma takes to pack."""
    # bt4, as levels 4 to 9 have it: 11.5 bytes per byte of dictionary; fewer below that.
    return dictionary * 23 // 2 + 5 * _MIB


def xz_program(dictionary: int) -> int:
    """Return what the program xz takes: two threads, each with blocks of three dictionaries."""
    return 2 * lzma(dictionary) + 12 * max(dictionary, _MIB)


def zstd_packer(context: int, window: int, *, threaded: bool) -> int:
    """Return what libzstd takes to pack; threaded it also holds jobs of four windows."""
    return context + 6 * _MIB + (24 * window + 32 * _MIB if threaded else 0)


# A pull


def making(base: int, patches: Iterable[int], packing: int = 0) -> int:
    """Return what one content takes whose ``patches`` take so much, one after the other."""
    return _MAKER + (base if base <= SMALL else 0) + max(patches, default=0) + packing


def held(read: Collection[Frame]) -> int:
    """Return what frames take that are read: one in use while others come, still packed."""
    unpacked = max((frame.uncompressed for frame in read), default=0)
    packed = max((frame.size for frame in read), default=0)
    ahead = max(packed, min(AHEAD, sum(frame.size for frame in read)))
    return unpacked + packed + ahead + QUEUED + max(0, unpacking(read) - UNPACKING)


def unpacking(read: Collection[Frame]) -> int:
    """Return what unpacking one of these frames takes beside what comes of it."""
    return max((min(1 << frame.window, frame.uncompressed) for frame in read), default=0)


def standing(objects: int, workers: int = 2) -> int:
    """Return what is there all the time; ``objects`` are those of the tree and of its base."""
    return _PROGRAM + _SHELL * workers + _OBJECT * objects


def importing(workers: int) -> int:
    """Return what ``workers`` who import RPMs take."""
    return _IMPORTER * workers


def room(allowed: int, objects: int, read: Collection[Frame]) -> int:
    """Return how much of what is allowed is left for making contents, and unpacking frames."""
    return max(0, allowed - standing(objects) - held(read))


class Budget:
    """Memory that those who work at once share: who would exceed it waits for the others."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, size: int) -> Iterator[None]:
        """Hold ``size`` bytes of it for the block; raises BoundExceeded for more than it has."""
        if size > self.size:
            raise BoundExceeded(
                what=f"{size} bytes of memory to make a content",
                bound=self.size,
                hint="allow more with --max-memory, or fetch the content whole",
            )
        with self._changed:
            self._changed.wait_for(lambda: self._taken + size <= self.size)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
