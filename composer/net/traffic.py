"""What was moved, counted where it arrives: bytes of bodies, by mirror and by kind.

What was of no use, because it was wrong, or no part of what was asked for, or had to be
fetched once more, counts as :data:`AGAIN`: so the other kinds have what a plan announced.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

AGAIN = "again"
"""Bytes that were moved in vain, and the requests that were repeated."""


@dataclass(frozen=True, slots=True, order=True)
class Moved:
    """Requests made to one mirror for one kind of thing, and the body bytes that came."""

    mirror: str
    kind: str
    requests: int
    bytes: int


class Traffic:
    """Counts from any thread.  ``kind`` is the caller's word, such as "rpm" or "set"."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], tuple[int, int]] = {}

    def count(self, *, mirror: str, kind: str, requests: int = 0, bytes: int = 0) -> None:
        """Add to what ``mirror`` has answered and sent."""
        with self._lock:
            before = self._counts.get((mirror, kind), (0, 0))
            self._counts[mirror, kind] = (before[0] + requests, before[1] + bytes)

    def in_vain(self, *, mirror: str, kind: str, bytes: int) -> None:
        """Count bytes, of what ``mirror`` has sent, as moved in vain."""
        self.count(mirror=mirror, kind=kind, bytes=-bytes)
        self.count(mirror=mirror, kind=AGAIN, bytes=bytes)

    def rows(self) -> tuple[Moved, ...]:
        """Everything so far, sorted."""
        with self._lock:
            counts = self._counts.items()
            return tuple(sorted(Moved(*key, *value) for key, value in counts if any(value)))

    def bytes(self, kind: str | None = None) -> int:
        """Body bytes of ``kind``, or of all kinds."""
        return sum(row.bytes for row in self.rows() if kind in (None, row.kind))

    def requests(self, kind: str | None = None) -> int:
        """Requests for ``kind``, or for all kinds."""
        return sum(row.requests for row in self.rows() if kind in (None, row.kind))
