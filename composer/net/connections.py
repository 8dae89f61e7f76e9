"""A few reused connections to mirrors: failover, resume, retry, and strict bounds.

libcurl moves the bytes (proxies from the environment, TLS, HTTP/2, file://),
driven by one thread.  Rules kept here: redirects stay on http and https and
never leave https; stalled connections are dropped; a mirror that failed is
asked last from then on; a mirror that sent wrong bytes is not asked for that
thing again; what has arrived is not fetched again from the next mirror.
"""

from __future__ import annotations

import heapq
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from composer import __version__
from composer.errors import ComposerError, NotFound, VerificationFailed
from composer.net.body import AttemptFailed, Body, Span, Verdict
from composer.net.location import Mirrors, safe_location
from composer.net.traffic import Traffic

_EARLIER_RUN = "an earlier run"
_REDIRECTS = 5
# curl.h has it, pycurl 7.45 not; a proxy's answer to CONNECT is not the mirror's.
_SUPPRESS_CONNECT_HEADERS = 265
_STATUS_LINE = re.compile(r"HTTP/[0-9.]+ ([0-9]{3})(?: |\Z)")
_MAX_HEADERS = 256 << 10
_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
_BUFFER = 256 << 10
_LONGEST_SELECT = 0.5
_LONGEST_WAIT = 60.0
# An attempt that brought this much is no failure of the mirror when it breaks off.
_PROGRESS = 1 << 20
_HINT = "check the network and the URL, or add another mirror with `remote add`"


class FetchFailed(ComposerError):
    """No mirror could deliver something; the details say why for each."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient to be.  Seconds, bytes per second, counts."""

    connect_seconds: float = 15.0
    stall_seconds: int = 30
    stall_rate: int = 100
    attempts: int = 3
    backoff_seconds: float = 0.5
    parallel: int = 4


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
    """One thing to fetch.  ``error`` is set when no mirror could deliver it."""

    what: str
    location: str
    mirrors: Mirrors
    kind: str
    span: Span
    sink: Sink
    error: ComposerError | None = None
    _done: int = 0
    _failures: list[str] = field(default_factory=list)
    _lies: list[VerificationFailed] = field(default_factory=list)
    _missing: int = 0
    _ruled_out: set[str] = field(default_factory=set)
    _tries: dict[str, int] = field(default_factory=dict)

    def next_base(self, standing: dict[str, int], attempts: int) -> str | None:
        """The mirror to ask now, or None when all have been tried enough."""
        left = [
            (self._tries.get(base, 0), standing.get(base, 0), place, base)
            for place, base in enumerate(self.mirrors.bases)
            if base not in self._ruled_out and self._tries.get(base, 0) < attempts
        ]
        return min(left)[3] if left else None

    def record(self, base: str, url: str, failure: AttemptFailed) -> None:
        """Remember why ``base`` did not deliver."""
        self._failures.append(f"{url}: {failure.reason}")
        self._tries[base] = self._tries.get(base, 0) + 1
        self._missing += failure.verdict is Verdict.MISSING
        if failure.verdict is not Verdict.TRANSIENT:
            self._ruled_out.add(base)
        if isinstance(failure.cause, VerificationFailed):
            self._lies.append(failure.cause)

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
        return FetchFailed(f"{self.what}: could not be fetched", details=reasons, hint=_HINT)


class Connections:
    """Up to ``limits.parallel`` transfers at once, for one thread.  Close it, or use ``with``."""

    def __init__(self, *, limits: Limits | None = None, traffic: Traffic | None = None) -> None:
        import pycurl

        self.limits = limits or Limits()
        self.traffic = traffic or Traffic()
        self._multi = pycurl.CurlMulti()
        self._idle = [self._handle() for _ in range(self.limits.parallel)]
        self._running: dict[Any, _Attempt] = {}
        self._later: list[tuple[float, int, Job]] = []
        self._order = 0
        self._standing: dict[str, int] = {}

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._abandon()
        for handle in self._idle:
            handle.close()
        self._idle.clear()
        self._multi.close()

    def run(
        self,
        jobs: Iterable[Job],
        *,
        may_start: Callable[[Job], bool] = lambda job: True,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Generator[Job, None, None]:
        """Work through ``jobs`` and yield each as it ends, delivered or with its ``error``.

        ``may_start`` holds the next job back while it answers False; ``stopped``
        ends the run early when it answers True.  Raises what a sink's ``write``
        raised: a full disk ends everything.
        """
        waiting = deque(jobs)
        try:
            while (waiting or self._running or self._later) and not stopped():
                ended = list(self._begin(waiting, may_start))
                if self._running:
                    ended += self._advance()
                elif not ended:
                    time.sleep(0.02)
                yield from ended
        finally:
            self._abandon()

    def _begin(self, waiting: deque[Job], may_start: Callable[[Job], bool]) -> Iterator[Job]:
        while self._idle:
            if self._later and self._later[0][0] <= time.monotonic():
                job = heapq.heappop(self._later)[2]
            elif waiting and may_start(waiting[0]):
                job = waiting.popleft()
                job._done = job.sink.start()
                if job._done == job.span.length and job.span.exact:
                    yield from self._accept(job, _EARLIER_RUN, _EARLIER_RUN, alone=False)
                    continue
            else:
                return
            base = job.next_base(self._standing, self.limits.attempts)
            assert base is not None  # a job that has no mirror left is not put back
            self._start(job, base)

    def _start(self, job: Job, base: str) -> None:
        handle = self._idle.pop()
        attempt = _Attempt(job, base, base + safe_location(job.location), job.span.after(job._done))
        attempt.configure(handle)
        self._running[handle] = attempt
        self._multi.add_handle(handle)

    def _advance(self) -> list[Job]:
        """Let bytes move for a moment; returns the jobs that ended."""
        if self._multi.select(_LONGEST_SELECT) == -1:
            time.sleep(0.001)  # libcurl has nothing to wait for, only to do
        self._multi.perform()
        ended: list[Job] = []
        while True:
            more, good, bad = self._multi.info_read()
            for handle in good:
                ended += self._settle(handle, 0, "")
            for handle, code, reason in bad:
                ended += self._settle(handle, code, reason)
            if not more:
                return ended

    def _settle(self, handle: Any, code: int, reason: str) -> list[Job]:
        attempt = self._running.pop(handle)
        self._multi.remove_handle(handle)
        self._idle.append(handle)
        job = attempt.job
        self.traffic.count(mirror=attempt.base, kind=job.kind, requests=1, bytes=attempt.received)
        alone = job._done == 0
        job._done += attempt.body.kept
        try:
            attempt.result(code, reason, self.limits)
            return list(self._accept(job, attempt.base, attempt.url, alone=alone))
        except AttemptFailed as failure:
            if attempt.body.kept >= _PROGRESS and failure.verdict is Verdict.TRANSIENT:
                job._tries[attempt.base] = -1
            if not job.span.exact and job.sink.restart():
                job._done = 0  # nothing says that what is left belongs to the same document
            return self._failed(job, attempt.base, attempt.url, failure)
        except BaseException:
            job.sink.close()
            raise

    def _accept(self, job: Job, base: str, url: str, *, alone: bool) -> Iterator[Job]:
        """All bytes are here; if they are wrong, ``alone`` says that only this mirror sent them."""
        try:
            job.sink.finish(url)
        except VerificationFailed as error:
            job._done = 0
            told = error.details[0] if error.details else error.message
            verdict = Verdict.LIED if alone else Verdict.TRANSIENT
            failure = AttemptFailed(told.removeprefix(f"from {url}: "), verdict, cause=error)
            if not job.sink.restart():
                job._ruled_out.update(job.mirrors.bases)
            yield from self._failed(job, base, url, failure)
        else:
            job.sink.close()
            yield job

    def _failed(self, job: Job, base: str, url: str, failure: AttemptFailed) -> list[Job]:
        """Put ``job`` back for the next mirror; returns it when there is none."""
        job.record(base, url, failure)
        if failure.verdict is not Verdict.MISSING:
            self._standing[base] = self._standing.get(base, 0) + 1
        following = job.next_base(self._standing, self.limits.attempts)
        if following is None:
            job.sink.close()
            job.error = job.verdict()
            return [job]
        tries = job._tries.get(following, 0)
        delay = self.limits.backoff_seconds * 2 ** (tries - 1) if tries > 0 else 0.0
        if following == base:
            delay = min(max(delay, failure.wait), _LONGEST_WAIT)
        self._order += 1
        heapq.heappush(self._later, (time.monotonic() + delay, self._order, job))
        return []

    def _abandon(self) -> None:
        for handle, attempt in self._running.items():
            self._multi.remove_handle(handle)
            self._idle.append(handle)
            self.traffic.count(
                mirror=attempt.base, kind=attempt.job.kind, requests=1, bytes=attempt.received
            )
            attempt.job.sink.close()
        self._running.clear()
        for _, _, job in self._later:
            job.sink.close()
        self._later.clear()

    def _handle(self) -> Any:
        import pycurl

        handle = pycurl.Curl()
        handle.setopt(pycurl.USERAGENT, f"jigdo-composer/{__version__}")
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.BUFFERSIZE, _BUFFER)
        handle.setopt(pycurl.FOLLOWLOCATION, 1)
        handle.setopt(pycurl.MAXREDIRS, _REDIRECTS)
        handle.setopt(_SUPPRESS_CONNECT_HEADERS, 1)
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(self.limits.connect_seconds * 1000))
        handle.setopt(pycurl.LOW_SPEED_LIMIT, self.limits.stall_rate)
        handle.setopt(pycurl.LOW_SPEED_TIME, self.limits.stall_seconds)
        return handle


class _Attempt:
    """One request to one mirror: libcurl's callbacks for it, and what they saw."""

    def __init__(self, job: Job, base: str, url: str, span: Span) -> None:
        self.job, self.base, self.url = job, base, url
        self.body = Body(span, job.what)
        self.received = 0
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._status = 0
        self._stopped_by: BaseException | None = None

    def configure(self, handle: Any) -> None:
        """Point ``handle`` at the URL, the range and the callbacks."""
        import pycurl

        web = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
        scheme = self.url.partition(":")[0]
        own = {"http": web, "https": pycurl.PROTO_HTTPS, "file": pycurl.PROTO_FILE}[scheme]
        handle.setopt(pycurl.URL, self.url)
        handle.setopt(pycurl.PROTOCOLS, own)
        handle.setopt(pycurl.REDIR_PROTOCOLS, own & web)
        handle.setopt(pycurl.HEADERFUNCTION, self._header)
        handle.setopt(pycurl.WRITEFUNCTION, self._write)
        if self.body.span.header:
            handle.setopt(pycurl.RANGE, self.body.span.header)
        else:
            handle.unsetopt(pycurl.RANGE)

    def _header(self, line: bytes) -> int:
        try:
            self._header_bytes += len(line)
            text = line.decode("latin-1").strip()
            if self._header_bytes > _MAX_HEADERS:
                raise AttemptFailed("headers without end", Verdict.LIED)
            if match := _STATUS_LINE.match(text):
                self._status, self._headers = int(match[1]), {}
            elif text:
                name, _, value = text.partition(":")
                self._headers[name.strip().lower()] = value.strip()
            elif self._status >= 200 and not self._redirected():
                self.body.begin(self._status, self._headers)
                self._status = 0  # what follows the body are trailers
        except BaseException as error:
            self._stopped_by = error
            return -1
        return len(line)

    def _redirected(self) -> bool:
        return self._status in _REDIRECT_STATUS and "location" in self._headers

    def _write(self, piece: bytes) -> int:
        try:
            self.received += len(piece)
            kept = self.body.take(piece)
            if kept:
                self.job.sink.write(kept)
            return -1 if self.body.complete else len(piece)
        except BaseException as error:
            self._stopped_by = error
            return -1

    def result(self, code: int, reason: str, limits: Limits) -> None:
        """Raise AttemptFailed when this attempt did not bring all; else return."""
        if self._stopped_by is not None:
            raise self._stopped_by
        if self.body.complete:
            return
        if self.body.fault is not None:
            raise self.body.fault
        if code:
            raise self._explained(code, reason, limits)
        self.body.end()

    def _explained(self, code: int, reason: str, limits: Limits) -> BaseException:
        import pycurl

        if code == pycurl.E_WRITE_ERROR:
            # Python ran a signal handler before the callback's first line: Ctrl-C.
            return KeyboardInterrupt()
        if code == pycurl.E_FILE_COULDNT_READ_FILE:
            return AttemptFailed("no such file", Verdict.MISSING)
        if code in (pycurl.E_BAD_DOWNLOAD_RESUME, pycurl.E_HTTP_RANGE_ERROR):
            return AttemptFailed("the file there is shorter than declared", Verdict.LIED)
        if code == pycurl.E_TOO_MANY_REDIRECTS:
            return AttemptFailed(f"more than {_REDIRECTS} redirects", Verdict.REFUSED)
        if code == pycurl.E_UNSUPPORTED_PROTOCOL:
            return AttemptFailed("redirects to a less trusted kind of URL", Verdict.REFUSED)
        if code == pycurl.E_PEER_FAILED_VERIFICATION:
            return AttemptFailed(f"TLS: {reason}", Verdict.REFUSED)
        if code == pycurl.E_OPERATION_TIMEDOUT and self.received:
            seconds = limits.stall_seconds
            reason = f"stalled for {seconds} s after {self.received} bytes"
        if code == pycurl.E_PARTIAL_FILE:
            reason = f"closed the connection after {self.received} bytes"
        return AttemptFailed(reason or f"libcurl error {code}", Verdict.TRANSIENT)
