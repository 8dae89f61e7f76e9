"""How much memory this process holds on to that it does not use."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8


def hold_less() -> None:
    """Have all threads share one heap; to be called before they start.

    glibc gives each its own, which keeps what the thread has freed: 35 MB in a pull with two
    workers.  A C library without that knob is left alone.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
