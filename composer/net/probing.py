"""Whether files are there and intact on a mirror: by a byte of each, or by all of them.

Rules kept here: a few connections, and no file is asked for more bytes than it is said to
have; nothing is kept; of a million files, a few hundred are under way in memory.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, ComposerError
from composer.net.body import Span
from composer.net.connections import Connections
from composer.net.job import Job, Unreachable
from composer.net.location import Mirrors
from composer.net.network import Network

_BATCH = 256
_WORKERS = 2
_PATIENCE = 4


@dataclass(frozen=True, slots=True)
class Probe:
    """A file to ask for; ``number`` is the caller's name for it."""

    number: int
    location: str
    size: int
    digest: bytes


Probed = tuple[Probe, ComposerError | None]


def probe(
    files: Iterable[Probe], mirrors: Mirrors, network: Network, *, whole: bool
) -> Iterator[Probed]:
    """Ask for each of ``files``; yields it with what is wrong with it, None for nothing.

    The last byte shows that it is there and as long as it should be; with ``whole`` all
    are read and hashed, on two cores.  Raises Unreachable for a few in a row that nobody
    answers for.
    """
    if not whole:
        yield from _probe(iter(files), mirrors, network, whole=False)
        return
    half = max(1, network.limits.parallel // _WORKERS)
    each = network.with_limits(replace(network.limits, parallel=half))
    yield from _in_threads(files, mirrors, each)


def _probe(
    files: Iterator[Probe], mirrors: Mirrors, network: Network, *, whole: bool
) -> Iterator[Probed]:
    unanswered = 0
    with Connections(network) as connections:
        while batch := list(islice(files, _BATCH)):
            jobs = [_job(one, mirrors, whole=whole) for one in batch]
            with closing(connections.run(jobs)) as run:
                for job in run:
                    assert isinstance(job.sink, _Sink)
                    silent = isinstance(job.error, Unreachable)
                    unanswered = unanswered + 1 if silent else 0
                    if job.error is not None and unanswered >= _PATIENCE:
                        raise job.error
                    yield job.sink.file, job.error


def _job(file: Probe, mirrors: Mirrors, *, whole: bool) -> Job:
    span = Span(0, file.size, whole=True)
    if not whole:
        span = Span(max(file.size - 1, 0), 1, whole=True)
    sink = _Digest(file) if whole else _Sink(file)
    return Job(file.location, file.location, mirrors, "probe", span, sink)


def _in_threads(files: Iterable[Probe], mirrors: Mirrors, network: Network) -> Iterator[Probed]:
    results: queue.Queue[Probed | BaseException | None] = queue.Queue(maxsize=4 * _BATCH)
    source, lock, stop = iter(files), threading.Lock(), threading.Event()

    def shared() -> Iterator[Probe]:
        while not stop.is_set():
            with lock:
                batch = list(islice(source, 16))
            if not batch:
                return
            yield from batch

    def work() -> None:
        try:
            for result in _probe(shared(), mirrors, network, whole=True):
                results.put(result)
                if stop.is_set():
                    return
            results.put(None)
        except BaseException as error:
            results.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(_WORKERS)]
    for thread in threads:
        thread.start()
    left = len(threads)
    try:
        while left:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                left -= 1
            else:
                yield result
    finally:
        stop.set()
        while any(thread.is_alive() for thread in threads):
            while not results.empty():
                results.get_nowait()
            threads[0].join(0.05)
            threads[1].join(0.05)


class _Sink:
    """A sink that learns that a file is there."""

    def __init__(self, file: Probe) -> None:
        self.file = file

    def start(self) -> int:
        return 0

    def write(self, piece: bytes | memoryview) -> None:
        pass

    def finish(self, source: str) -> None:
        pass

    def digest(self) -> bytes:
        return b""

    def restart(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Digest(_Sink):
    """A sink that learns that it is the right one, too."""

    def __init__(self, file: Probe) -> None:
        super().__init__(file)
        self._state = hashlib.sha256()

    def write(self, piece: bytes | memoryview) -> None:
        self._state.update(piece)

    def finish(self, source: str) -> None:
        if self._state.digest() != self.file.digest:
            raise ChecksumMismatch(
                what=self.file.location,
                expected=str(ContentDigest(self.file.digest)),
                actual=self._state.hexdigest(),
                source=source,
            )

    def digest(self) -> bytes:
        return self._state.digest()

    def restart(self) -> None:
        self._state = hashlib.sha256()
