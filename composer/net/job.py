"""One thing to fetch: what it is, who may have it, how far it has come, why it failed.

Judges and remembers; the bytes are moved by ``connections``.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from composer.errors import ComposerError, NotFound, VerificationFailed
from composer.net.body import AttemptFailed, Span, Verdict
from composer.net.location import Mirrors
from composer.net.network import Limits
from composer.net.standing import Standing

# An attempt that brought this much is no failure of the mirror when it breaks off.
_PROGRESS = 64 << 10
_SLOW_AT_MOST = 3
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

    def digest(self) -> bytes:
        """Return the SHA-256 of what has arrived."""

    def restart(self) -> None:
        """Forget what has arrived."""

    def close(self) -> None:
        """Let go of files; what has arrived may be continued by another run."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes up to ``end`` came from ``base``; the digest is of all up to there."""

    base: str
    end: int
    digest: bytes


@dataclass(slots=True, eq=False)
class Job:
    """One thing to fetch.

    ``done`` counts bytes that have arrived; ``error`` is set when no mirror could
    deliver.  ``what`` names it in messages, ``kind`` in the traffic.  Bytes that several
    mirrors sent and that are wrong together are fetched again from one; once they are
    right, :meth:`liar` says which of the mirrors it was.
    """

    what: str
    location: str
    mirrors: Mirrors
    kind: str
    span: Span
    sink: Sink
    error: ComposerError | None = None
    done: int = 0
    requests: int = 0
    came_from: dict[str, int] = field(default_factory=dict)
    _parts: list[_Part] = field(default_factory=list)
    _wrong: list[_Part] = field(default_factory=list)
    _right: dict[int, bytes] = field(default_factory=dict)
    _due: deque[int] = field(default_factory=deque)
    _furthest: int = 0
    _failures: list[str] = field(default_factory=list)
    _lies: list[VerificationFailed] = field(default_factory=list)
    _missing: int = 0
    _silent: int = 0
    _slow: int = 0
    _ruled_out: set[str] = field(default_factory=set)
    _tries: dict[str, int] = field(default_factory=dict)

    # Who is asked.

    def candidates(self, limits: Limits) -> list[str]:
        """The mirrors that may still deliver."""
        return [
            base
            for base in self.mirrors.bases
            if base not in self._ruled_out and self._tries.get(base, 0) < limits.attempts
        ]

    def next_base(self, standing: Standing, limits: Limits) -> str | None:
        """The mirror to ask now, or None when all have been tried enough."""
        left = self.candidates(limits)
        if not left:
            return None
        if self._wrong and self.done and self._parts and self._parts[-1].base in left:
            return self._parts[-1].base  # all from one: that is how a liar is found
        order = standing.order(left)

        def key(base: str) -> tuple[bool, int, bool, int, float]:
            lied, busy, failures, rank = order[base]
            return lied, self._tries.get(base, 0), busy, failures, rank

        return min(left, key=key)

    def is_fresh(self) -> bool:
        """Tell whether nothing of it has failed yet."""
        return not self._failures

    def pause(self, base: str, limits: Limits) -> float:
        """Return how long to wait before ``base`` is asked: longer each time that it failed."""
        tries = self._tries.get(base, 0)
        longest: float = limits.backoff_seconds * 2 ** (tries - 1) if tries else 0.0
        # Not all at the same moment, of those who failed together.
        return min(longest, limits.longest_wait) * random.uniform(0.5, 1)

    def may_be_slow(self) -> bool:
        """Tell whether it may be taken from a slow mirror once more."""
        return self._slow < _SLOW_AT_MOST

    # What arrives.

    def begin(self) -> None:
        """Get ready, from what an earlier run left."""
        self.done = self.sink.start()
        if self.done:
            self._parts = [_Part("", self.done, self.sink.digest())]

    def take(self, base: str, piece: bytes | memoryview) -> None:
        """Keep the next bytes, which came from ``base``."""
        while piece:
            size = len(piece)
            if self._due:  # up to where the digest of wrong bytes is known
                size = min(size, self._due[0] - self.done)
            self.sink.write(piece[:size])
            self.done += size
            self.came_from[base] = self.came_from.get(base, 0) + size
            piece = piece[size:]
            if self._due and self.done == self._due[0]:
                self._right[self._due.popleft()] = self.sink.digest()

    def broke_off(self, base: str) -> None:
        """Note that ``base`` sent what came last, and that another may continue."""
        if self.done > (self._parts[-1].end if self._parts else 0):
            self._parts.append(_Part(base, self.done, self.sink.digest()))

    def continues(self, base: str) -> bool:
        """Tell whether bytes of ``base`` may follow those that are here."""
        return not self._wrong or set(self.came_from) <= {base}

    def is_proven_of(self, base: str) -> bool:
        """Tell whether ``base`` alone sent all bytes, so that it lied when they are wrong."""
        if set(self.came_from) != {base} or sum(self.came_from.values()) != self.done:
            return False
        # A file may have changed between two requests; the second time it is a lie.
        return bool(self._wrong) or not self._parts

    def suspect(self, base: str) -> None:
        """Note that bytes of several, lastly of ``base``, are wrong together."""
        self.broke_off(base)
        self._wrong = self._parts

    def liar(self) -> str | None:
        """Now that the bytes are right: the mirror of the first that were wrong, if it was one."""
        for part in self._wrong:
            if self._right.get(part.end) != part.digest:
                return part.base or None
        return None

    def restart(self) -> None:
        """Forget what has arrived."""
        self.done = 0
        self._parts = []
        self._right = {}
        self._due = deque(part.end for part in self._wrong)
        self.came_from.clear()
        self.sink.restart()

    # What went wrong.

    def record(self, base: str, url: str, failure: AttemptFailed) -> None:
        """Remember why ``base`` did not deliver."""
        self._failures.append(f"{url}: {failure.reason}")
        if not (failure.verdict is Verdict.TRANSIENT and self._has_advanced()):
            self._tries[base] = self._tries.get(base, 0) + 1
        self._missing += failure.verdict is Verdict.MISSING
        self._silent += failure.verdict is Verdict.TRANSIENT
        self._slow += failure.verdict is Verdict.SLOW
        if failure.verdict not in (Verdict.TRANSIENT, Verdict.SLOW):
            self._ruled_out.add(base)
        if isinstance(failure.cause, VerificationFailed):
            self._lies.append(failure.cause)

    def _has_advanced(self) -> bool:
        # More than ever before: else a mirror could keep us busy for ever.
        advanced = self.span.exact and self.done >= self._furthest + _PROGRESS
        self._furthest = max(self._furthest, self.done)
        return advanced

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
