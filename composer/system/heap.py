"""How much memory this process holds on to that it does not use."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 1 << 20
_SPARE = 8 << 20


def hold_less() -> None:
    """Have all threads share one heap, and give large blocks back; call it before they start.

    glibc gives each thread a heap of its own, which keeps what the thread has freed: 35 MB in a
    pull with two workers.  And a large block that was freed once makes it take all blocks of
    that size from the heap, where they stay.  What is free at the heap's end is kept up to a few
    MB: given back each time, a third of a pull's system time was getting it again.  A C library
    without these knobs is left alone.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        library.mallopt(_M_TRIM_THRESHOLD, _SPARE)
