"""Which bytes of a server's answer are kept: judged from status, headers and counts alone.

Rules kept here: an error page is never content; a part of a file must be the
part that was asked for; a server that ignores ranges still serves; reading
stops at exactly the declared length, and one byte more is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

from composer.errors import BoundExceeded, ComposerError, FormatError

_NUMBER = re.compile(r"[0-9]{1,18}\Z")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)\Z", re.IGNORECASE)
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# Enough of an error page to keep its connection, not enough to be fed without end.
_ERROR_PAGE = 64 << 10


class Verdict(Enum):
    """What a failed attempt says about the mirror."""

    MISSING = "missing"  # the mirror does not have it
    REFUSED = "refused"  # asking again will give the same
    LIED = "lied"  # what it sent is not what it should be
    TRANSIENT = "transient"  # may work in a moment
    SLOW = "slow"  # another does better


class AttemptFailed(ComposerError):
    """One mirror could not deliver one thing, and why."""

    def __init__(
        self, reason: str, verdict: Verdict, *, cause: ComposerError | None = None, wait: float = 0
    ) -> None:
        """``wait`` is for how many seconds the mirror asked to be left alone."""
        super().__init__(reason)
        self.reason, self.verdict, self.cause, self.wait = reason, verdict, cause, wait


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes to fetch: ``length`` of them from ``first`` on.

    ``exact`` False makes ``length`` a bound for a document that may be shorter.
    ``whole`` says that the file has no byte beyond, so that more is an error.
    """

    first: int
    length: int
    exact: bool = True
    whole: bool = False

    def after(self, done: int) -> Span:
        """What is left when ``done`` bytes have arrived."""
        return Span(self.first + done, self.length - done, self.exact, self.whole)

    @property
    def header(self) -> str:
        """The value for a Range request, or "" where all of the file is wanted."""
        if self.first == 0 and (self.whole or not self.exact):
            return ""
        return f"{self.first}-{self.first + self.length - 1}"


@dataclass(slots=True)
class Body:
    """One answer, as it comes in.  ``begin``, then ``take`` each piece, then ``end``."""

    span: Span
    what: str
    skip: int = 0
    kept: int = 0
    status: int = 0
    complete: bool = False
    _ends_there: bool = False
    fault: AttemptFailed | None = None
    _page: int = 0

    def begin(self, status: int, headers: dict[str, str]) -> None:
        """Judge status and headers; raises AttemptFailed at once where nothing can follow.

        ``headers`` have lower-case names.  Status 0 is a local file, whose range
        libcurl has already applied.  An error's page is read, within bounds, so
        that the connection can be used again; ``end`` returns the error.
        """
        self.status = status
        if status == 206:
            self._begin_part(headers)
        elif status == 200:
            self._begin_whole(headers)
        elif status:
            self.fault = self._status_fault(status, headers)

    def _begin_part(self, headers: dict[str, str]) -> None:
        stated = headers.get("content-range", "")
        match = _CONTENT_RANGE.match(stated.strip())
        if not self.span.header:
            raise AttemptFailed("answered with a part of the file unasked", Verdict.LIED)
        if match is None or int(match[1]) != self.span.first:
            raise AttemptFailed(
                f"asked for bytes {self.span.header}, answered with {stated or 'an unnamed part'}",
                Verdict.LIED,
            )
        end = self.span.first + self.span.length
        ends_file = self.span.whole and match[3] != "*"
        if int(match[2]) >= end or (ends_file and int(match[3]) > end):
            raise self._too_long()
        if int(match[2]) < end - 1:
            raise self._too_short(have=int(match[2]) + 1)

    def _begin_whole(self, headers: dict[str, str]) -> None:
        if headers.get("content-type", "").lower().startswith("text/html"):
            raise AttemptFailed("answered with an HTML page instead of the file", Verdict.LIED)
        self.skip = self.span.first
        length = headers.get("content-length", "")
        if not _NUMBER.match(length):
            return
        end = self.span.first + self.span.length
        if int(length) > end and (self.span.whole or not self.span.exact):
            raise self._too_long()
        if int(length) < end and self.span.exact:
            raise self._too_short(have=int(length))
        self._ends_there = int(length) == end

    def take(self, piece: bytes) -> bytes | memoryview:
        """Return the bytes of ``piece`` to keep; sets ``complete`` when no more are wanted.

        Raises AttemptFailed when the answer is longer than declared.
        """
        if self.fault is not None:
            self._page += len(piece)
            if self._page > _ERROR_PAGE:
                raise self.fault
            return b""
        kept: bytes | memoryview = piece
        if self.skip:
            kept = memoryview(piece)[self.skip :]
            self.skip -= len(piece) - len(kept)
        room = self.span.length - self.kept
        if len(kept) > room:
            # Only an answer that ignored the range may rightly go on.
            if self.status != 200 or self.span.whole or not self.span.exact:
                raise self._too_long()
            kept = memoryview(kept)[:room]
        self.kept += len(kept)
        if self.kept == self.span.length and self.status == 200 and not self._ends_there:
            self.complete = self.span.exact and not self.span.whole
        return kept

    def end(self) -> AttemptFailed | None:
        """The answer has ended; returns what is wrong when it was an error or too short."""
        if self.fault is not None or not self.span.exact or self.kept == self.span.length:
            return self.fault
        if not self.status:
            return self._too_short(have=self.span.first + self.kept)
        # Without a Content-Length a broken connection looks like the end of the file.
        return AttemptFailed(f"ended after {self.kept} bytes", Verdict.TRANSIENT)

    def _too_long(self) -> AttemptFailed:
        bound = self.span.length if not self.span.whole else self.span.first + self.span.length
        cause = BoundExceeded(what=self.what, bound=bound)
        return AttemptFailed(f"more than the declared {bound} bytes", Verdict.LIED, cause=cause)

    def _too_short(self, *, have: int) -> AttemptFailed:
        want = self.span.first + self.span.length
        reason = f"the file there has {have} bytes, {want} are needed"
        return AttemptFailed(reason, Verdict.LIED, cause=FormatError(f"{self.what}: {reason}"))

    def _status_fault(self, status: int, headers: dict[str, str]) -> AttemptFailed:
        reason = f"HTTP status {status}"
        if status in (404, 410):
            return AttemptFailed(reason, Verdict.MISSING)
        if status == 416:
            reason = "HTTP status 416: the file there is shorter than declared"
            return AttemptFailed(reason, Verdict.LIED, cause=FormatError(f"{self.what}: {reason}"))
        if status in _TRANSIENT_STATUS:
            wait = _retry_after(headers.get("retry-after", "").strip())
            if wait:
                reason += f", asks to wait {wait:.0f} seconds"
            return AttemptFailed(reason, Verdict.TRANSIENT, wait=wait)
        if status == 407:
            reason += ": the proxy wants a user and password"
        return AttemptFailed(reason, Verdict.REFUSED)


def _retry_after(text: str) -> float:
    """Read a Retry-After header, seconds or a date; 0 for what is neither, or past."""
    if _NUMBER.match(text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
