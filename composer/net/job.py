"""One thing to fetch: what it is, who may have it, how far it has come, why it failed.

Judges and remembers; the bytes are moved by ``connections``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from composer.errors import ComposerError, NotFound, VerificationFailed
from composer.net.body import AttemptFailed, Span, Verdict
from composer.net.location import Mirrors

# An attempt that brought this much is no failure of the mirror when it breaks off.
_PROGRESS = 1 << 20
_HINT = "check the network and the URL, or add another mirror with `remote add`"


class FetchFailed(ComposerError):
    """No mirror could deliver something; the details say why for each."""


class Unreachable(FetchFailed):
    """No mirror said anything about it: the network, or all of them, are down."""


class Sink(Protocol):
    """Where the bytes of one job go."""

    def start(self) -> int:
        """Get ready; returns how many bytes an earlier run left here."""

    def write(self, piece: bytes | memoryview) -> object:
        """Take the next bytes."""

    def finish(self, source: str) -> None:
        """All has arrived, lastly from ``source``; raises VerificationFailed if it is wrong."""

    def restart(self) -> bool:
        """Forget what has arrived; False where that cannot be done."""

    def close(self) -> None:
        """Let go of files; what has arrived may be continued by another run."""


@dataclass(slots=True, eq=False)
class Job:
    """One thing to fetch.

    ``done`` counts bytes that have arrived; ``error`` is set when no mirror could
    deliver.  ``what`` names it in messages, ``kind`` in the traffic.
    """

    what: str
    location: str
    mirrors: Mirrors
    kind: str
    span: Span
    sink: Sink
    error: ComposerError | None = None
    done: int = 0
    _furthest: int = 0
    _failures: list[str] = field(default_factory=list)
    _lies: list[VerificationFailed] = field(default_factory=list)
    _missing: int = 0
    _silent: int = 0
    _ruled_out: set[str] = field(default_factory=set)
    _tries: dict[str, int] = field(default_factory=dict)

    def next_base(self, standing: dict[str, int], attempts: int) -> str | None:
        """The mirror to ask now, or None when all have been tried enough."""
        left = [
            (self.tries(base), standing.get(base, 0), place, base)
            for place, base in enumerate(self.mirrors.bases)
            if base not in self._ruled_out and self.tries(base) < attempts
        ]
        return min(left)[3] if left else None

    def tries(self, base: str) -> int:
        """How often ``base`` has failed without bringing much."""
        return self._tries.get(base, 0)

    def record(self, base: str, url: str, failure: AttemptFailed) -> None:
        """Remember why ``base`` did not deliver."""
        self._failures.append(f"{url}: {failure.reason}")
        if not (failure.verdict is Verdict.TRANSIENT and self._has_advanced()):
            self._tries[base] = self.tries(base) + 1
        self._missing += failure.verdict is Verdict.MISSING
        self._silent += failure.verdict is Verdict.TRANSIENT
        if failure.verdict is not Verdict.TRANSIENT:
            self._ruled_out.add(base)
        if isinstance(failure.cause, VerificationFailed):
            self._lies.append(failure.cause)

    def _has_advanced(self) -> bool:
        # More than ever before: else a mirror could keep us busy for ever.
        advanced = self.span.exact and self.done >= self._furthest + _PROGRESS
        self._furthest = max(self._furthest, self.done)
        return advanced

    def restart(self) -> None:
        """Forget what has arrived; where it has been passed on, no mirror can help any more."""
        self.done = 0
        if not self.sink.restart():
            self._ruled_out.update(self.mirrors.bases)

    def verdict(self) -> ComposerError:
        """The error that tells best why nobody could deliver."""
        reasons = tuple(dict.fromkeys(self._failures))
        if self._lies:
            error: ComposerError = self._lies[-1]
            error.details = (*error.details, *(r for r in reasons if r not in error.details))
            error.hint = error.hint or "the mirror is stale or damaged; " + _HINT
            return error
        if self._missing == len(self._failures):
            message = f"{self.what}: not found on any mirror"
            return NotFound(message, details=reasons, hint=_HINT)
        kind = Unreachable if self._silent == len(self._failures) else FetchFailed
        return kind(f"{self.what}: could not be fetched", details=reasons, hint=_HINT)
