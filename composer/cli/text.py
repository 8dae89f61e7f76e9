"""Text for people: what others wrote made harmless, numbers made short."""

from __future__ import annotations


def plain(text: str) -> str:
    """Make text of others fit for a terminal: what could command one is written out."""
    # Beside escape sequences this also catches characters that reverse what follows them.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def human_bytes(count: float) -> str:
    """Format a number of bytes in decimal units: ``41.8 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def human_seconds(seconds: float) -> str:
    """Format a span of time as people say it: ``40 s``, ``12 min``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
