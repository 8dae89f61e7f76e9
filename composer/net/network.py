"""How one run talks to mirrors: patience, proxy, certificates, rate; and what it learned of them.

One :class:`Network` goes through a whole run, so that what one part of it learned of a
mirror (it is slow, it lies, it asked to be left alone for a minute) holds for all.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from composer.net.standing import Standing
from composer.net.traffic import Traffic

_SLEEP = 0.25


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient to be.  Seconds, bytes per second, counts.

    An attempt ends when less than ``stall_rate`` came for ``stall_seconds``, at the latest
    after ten times both; one of a mirror that is much slower than another, from
    ``slow_seconds`` on.  A mirror that asks for more than ``longest_wait`` is not waited for.
    """

    connect_seconds: float = 15.0
    stall_seconds: int = 30
    stall_rate: int = 100
    slow_seconds: float = 5.0
    attempts: int = 3
    backoff_seconds: float = 0.5
    longest_wait: float = 60.0
    parallel: int = 4

    def most_seconds(self, length: int) -> float:
        """Return how long an attempt to fetch ``length`` bytes may take at most."""
        return self.connect_seconds + 10 * self.stall_seconds + length / (10 * self.stall_rate)


@dataclass(frozen=True, slots=True)
class Way:
    """By what way mirrors are reached.

    ``proxy`` is a URL, "" for what the environment says, "none" for none.  The client's
    certificate is shown to ``own`` alone (:func:`origin`): the hosts that a person named,
    not those of a list of mirrors, and none that a redirect leads to.  ``limit_rate`` is in
    bytes per second over all connections, 0 for none.
    """

    proxy: str = ""
    client_cert: Path | None = None
    client_key: Path | None = None
    ca_cert: Path | None = None
    limit_rate: int = 0
    own: frozenset[str] = frozenset()


def origin(url: str) -> str:
    """Return scheme, host and port of a URL: to whom it leads."""
    parts = urlsplit(url)
    default = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    place = parts.netloc.rpartition("@")[2].lower()
    return f"{parts.scheme}://{place if place.rpartition(':')[2].isdecimal() else place + default}"


class Throttle:
    """Lets so many bytes per second pass, from all threads together."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0

    @property
    def piece(self) -> int:
        """Return how many bytes may be taken at once without a long sleep; 0 for any number."""
        return max(1024, self.rate // 8) if self.rate else 0

    def take(self, size: int) -> None:
        """Return when ``size`` more bytes are due."""
        if not self.rate:
            return
        with self._lock:
            now = time.monotonic()
            due = max(self._free_at, now)
            self._free_at = due + size / self.rate
        while (left := due - time.monotonic()) > 0:
            time.sleep(min(left, _SLEEP))


@dataclass(frozen=True, slots=True)
class Network:
    """What the parts of a run share."""

    limits: Limits = field(default_factory=Limits)
    way: Way = field(default_factory=Way)
    traffic: Traffic = field(default_factory=Traffic)
    standing: Standing = field(default_factory=Standing)
    throttle: Throttle = field(default_factory=lambda: Throttle(0))

    @classmethod
    def by(cls, way: Way, limits: Limits | None = None) -> Network:
        """One that knows nothing yet."""
        return cls(limits or Limits(), way, throttle=Throttle(way.limit_rate))

    def with_limits(self, limits: Limits) -> Network:
        """The same with another patience."""
        return replace(self, limits=limits)
