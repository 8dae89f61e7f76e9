"""Where a compose's time goes, told by the steps that it reports."""

from __future__ import annotations

import time
from collections.abc import Mapping

from composer.progress import Report, Step

# Several of rpm-ostree's and of our steps are one phase to whoever tunes them.
_JOINED = {"download": "fetch", "verify": "fetch", "install": "transaction"}


class Stopwatch:
    """Passes steps on, and counts the time until the next one as that of the step's phase."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._seconds: dict[str, float] = {}
        self._phase, self._since = "", time.monotonic()

    def __call__(self, step: Step) -> None:
        self.enter(_JOINED.get(step.phase, step.phase))
        self._report(step)

    def enter(self, phase: str) -> None:
        """Begin ``phase``, which ends the one before; "" only ends it."""
        now = time.monotonic()
        if self._phase:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def seconds(self) -> Mapping[str, float]:
        """Return the seconds of wall clock of each phase so far, in the order they began."""
        self.enter(self._phase)
        return {phase: round(spent, 3) for phase, spent in self._seconds.items()}
