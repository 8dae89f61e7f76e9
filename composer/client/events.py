"""What a pull tells while it works: data, for a bar, a log or another program.

Rule kept here: a :class:`Progress` never goes back, whatever is fetched twice or
planned anew.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from composer.client.planning import PullPlan
from composer.client.transfers import Transfers
from composer.errors import EXIT_INTERRUPTED, ComposerError
from composer.jigdo.lost import LostPackage
from composer.progress import Step

# A byte written is a quarter of the work that a byte fetched is: the network is slower.
_WRITING = 0.25
# Time left is told from the speed in the last so many seconds, once there are a few.
_WINDOW, _LEAST = 30.0, 1.0


class Cancelled(ComposerError):
    """The caller has ended it; the ref is the old one, and what was fetched is kept."""

    exit_status = EXIT_INTERRUPTED


class Declined(ComposerError):
    """The caller did not approve of the plan; nothing was written."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the whole update is; nothing of it but ``total`` and ``seconds_left`` goes down.

    ``done`` of ``total`` bytes to move have come; ``fraction`` is of all work, 0 to 1, writing
    too; ``seconds_left`` is None where it cannot be told yet.  ``phase`` and ``item`` are
    the last step's.
    """

    done: int
    total: int
    fraction: float
    seconds_left: float | None
    phase: str = ""
    item: str = ""


@dataclass(frozen=True, slots=True)
class Replanned:
    """Packages that turned out lost during a pull, and what is to move in their stead."""

    lost: tuple[LostPackage, ...]
    transfers: Transfers


Event: TypeAlias = Step | Progress | PullPlan | Replanned

Listener: TypeAlias = Callable[[Event], object]
"""Gets events, from any thread, one at a time; what it raises ends the pull."""


def unheard(event: Event) -> None:
    """Tell nobody."""


class Meter:
    """Passes steps on, and makes one progress of them from when :meth:`expect` was called.

    ``cancel``, once set, ends the work at the next step by :class:`Cancelled`.
    """

    def __init__(
        self,
        tell: Listener,
        *,
        cancel: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell, self._cancel, self._clock = tell, cancel, clock
        self._lock = threading.RLock()
        self._expected = False
        self._fetch, self._write = 0, 0  # bytes in all
        self._earlier, self._packages, self._packages_total = 0, 0, -1
        self._content, self._written = 0, 0
        self._start = (0.0, 0.0)  # work and fraction where the newest plan began
        self._done, self._fraction = 0, 0.0
        self._seen: deque[tuple[float, float]] = deque()

    def expect(self, transfers: Transfers, object_bytes: int) -> None:
        """Say what is to be moved, and to be written, from now on."""
        with self._lock:
            fetched, work = self._fetched(), self._work()
            self._fetch = fetched + sum(part.bytes for part in transfers.values())
            self._write = self._written + object_bytes
            self._earlier, self._packages, self._packages_total = fetched - self._content, 0, -1
            self._start = (work, self._fraction)
            self._expected = True

    def tell(self, event: Event) -> None:
        """Pass something on."""
        with self._lock:
            self._tell(event)

    def __call__(self, step: Step) -> None:
        with self._lock:
            if self._cancel is not None and self._cancel.is_set():
                raise Cancelled(
                    "cancelled; the old state is whole",
                    hint="the same call again continues where this one ended",
                )
            self._tell(step)
            self._count(step)
            if self._expected:
                self._tell(self._progress(step))

    def finish(self) -> None:
        """Say that all is done."""
        with self._lock:
            if self._expected:
                self._done, self._fraction = self._fetch, 1.0
                self._tell(Progress(self._fetch, self._fetch, 1.0, 0.0, "done"))

    def _count(self, step: Step) -> None:
        if step.phase == "packages":
            if step.total != self._packages_total:  # another round, for what was lost in the last
                self._earlier += self._packages
                self._packages, self._packages_total = 0, step.total
            self._packages = max(self._packages, step.done)
        elif step.phase == "content":
            self._content = max(self._content, step.done)
        elif step.phase == "import":
            self._written = max(self._written, step.done)

    def _fetched(self) -> int:
        return self._earlier + self._packages + self._content

    def _work(self) -> float:
        return self._fetched() + _WRITING * self._written

    def _progress(self, step: Step) -> Progress:
        self._done = max(self._done, min(self._fetched(), self._fetch))
        work, fraction = self._start
        whole = self._fetch + _WRITING * self._write
        part = (self._work() - work) / (whole - work) if whole > work else 0.0
        self._fraction = max(self._fraction, fraction + (1 - fraction) * min(part, 1.0))
        return Progress(
            self._done,
            max(self._fetch, self._done),
            self._fraction,
            self._seconds_left(),
            step.phase,
            step.item,
        )

    def _seconds_left(self) -> float | None:
        now = self._clock()
        self._seen.append((now, self._fraction))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()
        then, before = self._seen[0]
        if now - then < _LEAST or self._fraction <= before:
            return None
        return (1 - self._fraction) * (now - then) / (self._fraction - before)
