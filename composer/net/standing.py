"""What a run has learned of mirrors: how fast they are, who failed, who lied, who is busy.

Judges nothing that is fetched.  Rules kept here: a mirror that served wrong bytes is asked
only for what nobody else has; the fastest is asked first, and where none is twice as fast
as another, the one that was named first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

# Seconds for 1 MiB: whatever is faster is fast enough not to look for better.
_FAST = 0.25
_TYPICAL = 1 << 20
# Fewer bytes say how far a mirror is, not how much it gives.
_TELLING = 64 << 10
_MOST_MEASURED = 4


@dataclass(slots=True)
class _Known:
    failures: int = 0
    busy_until: float = 0.0
    latency: float | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class WrongBytes:
    """A mirror that served wrong bytes: of what, and what was wrong."""

    mirror: str
    what: str
    reason: str


class Standing:
    """What is known of each mirror, by base URL; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._wrong: dict[str, WrongBytes] = {}

    def _of(self, base: str) -> _Known:
        return self._known.setdefault(base, _Known())

    def failed(self, base: str) -> None:
        """Ask ``base`` after others from now on."""
        with self._lock:
            self._of(base).failures += 1

    def lied(self, base: str, what: str, reason: str) -> None:
        """Leave ``base``: of ``what`` it sent wrong bytes."""
        with self._lock:
            self._wrong.setdefault(base, WrongBytes(base, what, reason))

    def busy(self, base: str, seconds: float) -> None:
        """Leave ``base`` alone for so long, as it asked."""
        with self._lock:
            known = self._of(base)
            known.busy_until = max(known.busy_until, time.monotonic() + seconds)

    def measured(self, base: str, *, latency: float, size: int, seconds: float) -> None:
        """Learn from an answer of ``size`` bytes that took so many seconds after ``latency``."""
        with self._lock:
            known = self._of(base)
            known.latency = _mixed(known.latency, latency)
            if size >= _TELLING:
                known.rate = _mixed(known.rate, size / max(seconds, 1e-6))

    def wrong(self) -> tuple[WrongBytes, ...]:
        """The mirrors that were left, in the order in which that was found out."""
        with self._lock:
            return tuple(self._wrong.values())

    def is_left(self, base: str) -> bool:
        """Tell whether ``base`` served wrong bytes."""
        return base in self._wrong

    def wait(self, base: str) -> float:
        """Return the seconds for which ``base`` wants to be left alone."""
        with self._lock:
            return max(0.0, self._of(base).busy_until - time.monotonic())

    def is_sound(self, base: str) -> bool:
        """Tell whether nothing speaks against ``base``."""
        with self._lock:
            known = self._of(base)
            busy = known.busy_until > time.monotonic()
            return not (known.failures or busy or base in self._wrong)

    def rate(self, base: str) -> float | None:
        """Return the bytes per second of one connection to ``base``, once they are known."""
        with self._lock:
            return self._of(base).rate

    def order(self, bases: Iterable[str]) -> dict[str, tuple[bool, bool, int, float]]:
        """Return a key for each of ``bases``, the lowest for the one to ask first."""
        with self._lock:
            now = time.monotonic()
            known = {base: self._of(base) for base in bases}
            costs = [_cost(one) for one in known.values() if not one.failures]
            best = min((cost for cost in costs if cost is not None), default=0.0)
            return {
                base: (base in self._wrong, one.busy_until > now, one.failures, _rank(one, best))
                for base, one in known.items()
            }

    def worth_a_try(self, bases: Iterable[str]) -> str | None:
        """Return a mirror to learn about, where those that are known are slow."""
        with self._lock:
            known = {base: self._of(base) for base in bases}
            costs = [cost for one in known.values() if (cost := _cost(one)) is not None]
            if not costs or min(costs) <= _FAST or len(costs) >= _MOST_MEASURED:
                return None
            unknown = (
                base
                for base, one in known.items()
                if one.latency is None and not one.failures and base not in self._wrong
            )
            return next(unknown, None)


def _mixed(before: float | None, now: float) -> float:
    return now if before is None else (before + now) / 2


def _cost(known: _Known) -> float | None:
    """Seconds that a request of typical size takes."""
    if known.latency is None:
        return None
    return known.latency + (_TYPICAL / known.rate if known.rate else 0.0)


def _rank(known: _Known, best: float) -> float:
    cost = _cost(known)
    if cost is None:
        return 0.0 if not best else float("inf")
    return 0.0 if cost <= 2 * max(best, _FAST) else cost
