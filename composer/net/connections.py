"""A few reused connections to mirrors: failover, resume, retry, and strict bounds.

libcurl moves the bytes (proxies, TLS, HTTP/2, file://), driven by one thread.  Rules kept
here: redirects stay on http and https and never leave https; stalled connections are
dropped, and slow ones where another mirror is known to be faster; a mirror that failed is
asked last from then on; one that sent wrong bytes is named, and asked for nothing that
another one has; what has arrived is not fetched again from the next mirror; the next try
waits longer each time, and as long as the mirror says.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Any

from composer.errors import VerificationFailed
from composer.net.attempt import Attempt
from composer.net.body import AttemptFailed, Verdict
from composer.net.job import Job
from composer.net.network import Network, Way
from composer.net.traffic import AGAIN

_EARLIER_RUN = "an earlier run"
_LONGEST_SELECT = 0.5


class Connections:
    """Up to ``limits.parallel`` transfers at once, for one thread.  Close it, or use ``with``."""

    def __init__(self, network: Network | None = None) -> None:
        import pycurl

        self.network = network or Network.by(Way())
        self.limits, self.traffic = self.network.limits, self.network.traffic
        self._standing = self.network.standing
        self._multi = pycurl.CurlMulti()
        self._closed = False
        self._running: dict[Any, Attempt] = {}
        self._later: list[tuple[float, int, Job]] = []
        self._order = 0
        self._looked = 0.0
        self._tried: Attempt | None = None

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._abandon()
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
        while self._has_room():
            if self._later and self._later[0][0] <= time.monotonic():
                self._ask_next(heapq.heappop(self._later)[2])
            elif waiting and may_start(waiting[0]):
                ended += self._open(waiting.popleft())
            else:
                break
        return ended

    def _open(self, job: Job) -> list[Job]:
        try:
            job.begin()
        except BaseException:
            job.sink.close()
            raise
        if job.span.exact and job.done == job.span.length:
            return self._accept(job, "", _EARLIER_RUN)
        self._ask_next(job)
        return []

    def _ask_next(self, job: Job) -> None:
        base = job.next_base(self._standing, self.limits)
        assert base is not None  # a job that has no mirror left is not put back
        unknown = self._worth_a_try(job)
        base = unknown or base
        if wait := self._standing.wait(base):
            self._put_back(job, wait)
            return
        if job.done and not job.continues(base):
            self._restart(job)
        attempt = Attempt(job, base, self.network)
        job.requests += 1
        if unknown:
            self._tried = attempt
        self._start(attempt)

    def _start(self, attempt: Attempt) -> None:
        # A handle is cheap; connections are the multi handle's, and used again.
        handle = attempt.make_handle()
        self._running[handle] = attempt
        self._multi.add_handle(handle)

    def _hang_up(self, handle: Any) -> None:
        self._multi.remove_handle(handle)
        handle.close()

    def _has_room(self) -> bool:
        return len(self._running) < self.limits.parallel

    def _worth_a_try(self, job: Job) -> str | None:
        """A mirror to learn about, while others are at work, where all known ones are slow."""
        if not self._running or not job.is_fresh() or self._tried in self._running.values():
            return None
        return self._standing.worth_a_try(job.candidates(self.limits))

    def _put_back(self, job: Job, seconds: float) -> None:
        self._order += 1
        heapq.heappush(self._later, (time.monotonic() + seconds, self._order, job))

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
        ended += self._leave_slow()
        if not ended and self._multi.select(self._patience()) == -1:
            time.sleep(0.001)  # libcurl has nothing to wait for, only to do
        return ended

    def _patience(self) -> float:
        """Seconds until libcurl has something to do, or a job is due again; at most a moment."""
        waits = [_LONGEST_SELECT]
        if (due := float(self._multi.timeout())) >= 0:
            waits.append(due / 1000)
        if self._later and self._has_room():
            waits.append(max(0.0, self._later[0][0] - time.monotonic()))
        return min(waits)

    def _settle(self, handle: Any, code: int, reason: str) -> list[Job]:
        """An attempt has ended: put its job where it belongs; returns it when it has ended too."""
        attempt = self._running[handle]
        job = attempt.job
        if not code and attempt.follow(handle):
            del self._running[handle]
            self._hang_up(handle)
            self._start(attempt)
            return []
        try:
            self._measure(handle, attempt)
            del self._running[handle]
            self._release(handle, attempt)
            failure = attempt.failure(code, reason)
            complete = job.span.exact and job.done == job.span.length
            if failure is None or (complete and failure.verdict is Verdict.TRANSIENT):
                return self._accept(job, attempt.base, attempt.url)
            return self._failed(job, attempt.base, attempt.url, failure)
        except BaseException:
            job.sink.close()
            raise

    def _measure(self, handle: Any, attempt: Attempt) -> None:
        import pycurl

        if not attempt.received:
            return
        before, first, total = (
            handle.getinfo(what)
            for what in (pycurl.PRETRANSFER_TIME, pycurl.STARTTRANSFER_TIME, pycurl.TOTAL_TIME)
        )
        self._standing.measured(
            attempt.base, latency=first - before, size=attempt.received, seconds=total - first
        )

    def _release(self, handle: Any, attempt: Attempt) -> None:
        self._hang_up(handle)
        kind, base = attempt.job.kind, attempt.base
        vain = attempt.received - attempt.kept
        self.traffic.count(mirror=base, kind=kind, bytes=attempt.kept)
        self.traffic.count(mirror=base, kind=AGAIN, bytes=vain)
        self.traffic.count(mirror=base, kind=kind if attempt.is_first else AGAIN, requests=1)

    def _restart(self, job: Job) -> None:
        for base, size in job.came_from.items():
            self.traffic.in_vain(mirror=base, kind=job.kind, bytes=size)
        job.restart()

    def _accept(self, job: Job, base: str, url: str) -> list[Job]:
        """All bytes are here, the last ones from ``base``: is it what it should be?"""
        try:
            job.sink.finish(url)
        except VerificationFailed as error:
            told = error.details[0] if error.details else error.message
            reason = told.removeprefix(f"from {url}: ")
            lied = job.is_proven_of(base)
            if lied:
                self._standing.lied(base, job.what, reason)
            else:
                job.suspect(base)
            verdict = Verdict.LIED if lied else Verdict.TRANSIENT
            return self._failed(job, base, url, AttemptFailed(reason, verdict, cause=error))
        if liar := job.liar():
            self._standing.lied(liar, job.what, "wrong bytes in the part that it sent")
        job.sink.close()
        return [job]

    def _failed(self, job: Job, base: str, url: str, failure: AttemptFailed) -> list[Job]:
        """Put ``job`` back for the next mirror; returns it when there is none."""
        # Where nothing says any more that its bytes belong together:
        if failure.verdict is Verdict.LIED or failure.cause or not job.span.exact:
            self._restart(job)
        elif job.done:
            job.broke_off(base)
        if failure.wait > self.limits.longest_wait:
            failure.verdict = Verdict.REFUSED
        elif failure.wait:
            self._standing.busy(base, failure.wait)
        if base:
            job.record(base, url, failure)
            if failure.verdict not in (Verdict.MISSING, Verdict.SLOW):
                self._standing.failed(base)
        following = job.next_base(self._standing, self.limits)
        if following is None:
            job.sink.close()
            job.error = job.verdict()
            return [job]
        self._put_back(job, job.pause(following, self.limits))
        return []

    def _leave_slow(self) -> list[Job]:
        """Take jobs from mirrors that are much slower than another that is known."""
        now = time.monotonic()
        if now < self._looked + _LONGEST_SELECT:
            return []
        self._looked = now
        ended: list[Job] = []
        for handle, attempt in list(self._running.items()):
            seconds, left = now - attempt.started, attempt.job.span.length - attempt.job.done
            if seconds < self.limits.slow_seconds or not self._goes_better(attempt, seconds, left):
                continue
            reason = f"slow: {attempt.received} bytes in {seconds:.0f} seconds"
            self._measure_slow(attempt, seconds)
            del self._running[handle]
            self._release(handle, attempt)
            failure = AttemptFailed(reason, Verdict.SLOW)
            ended += self._failed(attempt.job, attempt.base, attempt.url, failure)
        return ended

    def _goes_better(self, attempt: Attempt, seconds: float, left: int) -> bool:
        job = attempt.job
        if not (job.span.exact and job.may_be_slow()):
            return False
        rates = [
            rate
            for base in job.candidates(self.limits)
            if base != attempt.base
            and self._standing.is_sound(base)
            and (rate := self._standing.rate(base))
        ]
        needs = left * seconds / max(attempt.received, 1)
        return any(needs > 4 * left / rate + self.limits.slow_seconds for rate in rates)

    def _measure_slow(self, attempt: Attempt, seconds: float) -> None:
        size = max(attempt.received, 1)
        self._standing.measured(attempt.base, latency=0.0, size=size, seconds=seconds)

    def _abandon(self) -> None:
        for handle, attempt in self._running.items():
            self._release(handle, attempt)
            attempt.job.sink.close()
        self._running.clear()
        for _, _, job in self._later:
            job.sink.close()
        self._later.clear()
