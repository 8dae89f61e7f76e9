"""A few reused connections to mirrors: failover, resume, retry, and strict bounds.

libcurl moves the bytes (proxies from the environment, TLS, HTTP/2, file://),
driven by one thread.  Rules kept here: redirects stay on http and https and
never leave https; stalled connections are dropped; a mirror that failed is
asked last from then on; a mirror that sent wrong bytes is not asked for that
thing again; what has arrived is not fetched again from the next mirror.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from composer.errors import VerificationFailed
from composer.net.attempt import Attempt, make_handle
from composer.net.body import AttemptFailed, Verdict
from composer.net.job import Job
from composer.net.traffic import Traffic

_EARLIER_RUN = "an earlier run"
_LONGEST_SELECT = 0.5
_LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient to be.  Seconds, bytes per second, counts."""

    connect_seconds: float = 15.0
    stall_seconds: int = 30
    stall_rate: int = 100
    attempts: int = 3
    backoff_seconds: float = 0.5
    parallel: int = 4


class Connections:
    """Up to ``limits.parallel`` transfers at once, for one thread.  Close it, or use ``with``."""

    def __init__(self, *, limits: Limits | None = None, traffic: Traffic | None = None) -> None:
        import pycurl

        self.limits = limits or Limits()
        self.traffic = traffic or Traffic()
        self._multi = pycurl.CurlMulti()
        self._idle = [
            make_handle(
                connect_seconds=self.limits.connect_seconds,
                stall_rate=self.limits.stall_rate,
                stall_seconds=self.limits.stall_seconds,
            )
            for _ in range(self.limits.parallel)
        ]
        self._closed = False
        self._running: dict[Any, Attempt] = {}
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
        self._closed = True
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
        assert not self._closed, "they are closed"
        try:
            while (waiting or self._running or self._later) and not stopped():
                ended = self._begin(waiting, may_start)
                if self._running:
                    ended += self._advance()
                elif not ended:
                    time.sleep(0.02)
                yield from ended
        finally:
            self._abandon()

    def _begin(self, waiting: deque[Job], may_start: Callable[[Job], bool]) -> list[Job]:
        """Give idle handles work; returns jobs that ended at once, by an earlier run's bytes."""
        ended: list[Job] = []
        while self._idle:
            if self._later and self._later[0][0] <= time.monotonic():
                self._ask_next(heapq.heappop(self._later)[2])
            elif waiting and may_start(waiting[0]):
                ended += self._open(waiting.popleft())
            else:
                break
        return ended

    def _open(self, job: Job) -> list[Job]:
        try:
            job.done = job.sink.start()
        except BaseException:
            job.sink.close()
            raise
        if job.span.exact and job.done == job.span.length:
            return self._accept(job, _EARLIER_RUN, _EARLIER_RUN, alone=False)
        self._ask_next(job)
        return []

    def _ask_next(self, job: Job) -> None:
        base = job.next_base(self._standing, self.limits.attempts)
        assert base is not None  # a job that has no mirror left is not put back
        attempt = Attempt(job, base)
        handle = self._idle.pop()
        attempt.configure(handle)
        self._running[handle] = attempt
        self._multi.add_handle(handle)

    def _advance(self) -> list[Job]:
        """Let bytes move for a moment; returns the jobs that ended."""
        # First: a transfer that was just added has nothing yet to wait for, and would
        # wait for the others.
        self._multi.perform()
        ended: list[Job] = []
        while True:
            more, good, bad = self._multi.info_read()
            for handle in good:
                ended += self._settle(handle, 0, "")
            for handle, code, reason in bad:
                ended += self._settle(handle, code, reason)
            if not more:
                break
        if not ended and self._multi.select(self._patience()) == -1:
            time.sleep(0.001)  # libcurl has nothing to wait for, only to do
        return ended

    def _patience(self) -> float:
        """Seconds until libcurl has something to do, or a job is due again; at most a moment."""
        waits = [_LONGEST_SELECT]
        if (due := float(self._multi.timeout())) >= 0:
            waits.append(due / 1000)
        if self._later and self._idle:
            waits.append(max(0.0, self._later[0][0] - time.monotonic()))
        return min(waits)

    def _settle(self, handle: Any, code: int, reason: str) -> list[Job]:
        """An attempt has ended: put its job where it belongs; returns it when it has ended too."""
        attempt = self._running.pop(handle)
        job = attempt.job
        try:
            self._release(handle, attempt)
            alone = job.done == 0
            job.done += attempt.body.kept
            failure = attempt.failure(code, reason)
            complete = job.span.exact and job.done == job.span.length
            if failure is None or (complete and failure.verdict is Verdict.TRANSIENT):
                return self._accept(job, attempt.base, attempt.url, alone=alone)
            if job.done and (failure.verdict is Verdict.LIED or not job.span.exact):
                job.restart()  # nothing says any more that its bytes belong together
            return self._failed(job, attempt.base, attempt.url, failure)
        except BaseException:
            job.sink.close()
            raise

    def _release(self, handle: Any, attempt: Attempt) -> None:
        self._multi.remove_handle(handle)
        self._idle.append(handle)
        self.traffic.count(
            mirror=attempt.base, kind=attempt.job.kind, requests=1, bytes=attempt.received
        )

    def _accept(self, job: Job, base: str, url: str, *, alone: bool) -> list[Job]:
        """All bytes are here; if they are wrong, ``alone`` says that only this mirror sent them."""
        try:
            job.sink.finish(url)
        except VerificationFailed as error:
            told = error.details[0] if error.details else error.message
            verdict = Verdict.LIED if alone else Verdict.TRANSIENT
            failure = AttemptFailed(told.removeprefix(f"from {url}: "), verdict, cause=error)
            job.restart()
            return self._failed(job, base, url, failure)
        job.sink.close()
        return [job]

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
        tries = job.tries(following)
        delay = self.limits.backoff_seconds * 2 ** (tries - 1) if tries else 0.0
        if following == base:
            delay = min(max(delay, failure.wait), _LONGEST_WAIT)
        self._order += 1
        heapq.heappush(self._later, (time.monotonic() + delay, self._order, job))
        return []

    def _abandon(self) -> None:
        for handle, attempt in self._running.items():
            self._release(handle, attempt)
            attempt.job.sink.close()
        self._running.clear()
        for _, _, job in self._later:
            job.sink.close()
        self._later.clear()
