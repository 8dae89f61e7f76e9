"""Bytes from mirrors for those who ask: small documents, ranges, streams.

What arrives is bounded, not trusted: every caller checks it against a digest,
best through ``check``, so that a mirror that sent wrong bytes is named and the
next one is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, BinaryIO

from composer.net.body import Span
from composer.net.connections import Connections
from composer.net.job import FetchFailed, Job, Sink
from composer.net.location import Mirrors
from composer.net.network import Network

Check = Callable[[bytes], object]

Keep = Callable[[str, int, bytes, bool], object]
"""Gets what has come and was found right: location, first byte, bytes, whether it is all."""


class Fetcher:
    """Fetches by location below ``mirrors``; for one thread.  Close it, or use ``with``.

    ``kind`` labels what is moved in ``network.traffic``; ``keep`` gets a copy of small
    documents and ranges.  Every method raises NotFound, VerificationFailed (ChecksumMismatch,
    BoundExceeded) or FetchFailed, naming each mirror with its reason, when no mirror delivers.
    """

    def __init__(
        self,
        mirrors: Mirrors,
        *,
        kind: str = "set",
        network: Network | None = None,
        keep: Keep | None = None,
    ) -> None:
        self.mirrors, self.kind, self.keep = mirrors, kind, keep
        self._connections = Connections(network)
        self.network = self._connections.network
        self.traffic = self.network.traffic
        self._giving_up = False

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._connections.close()

    def give_up(self, running: Future[Any]) -> None:
        """End what is being fetched, in another thread, for ``running``; returns when it has."""
        self._giving_up = True
        wait([running])
        self._giving_up = False

    def fetch_range(
        self,
        location: str,
        *,
        first: int,
        length: int,
        kind: str | None = None,
        check: Check | None = None,
    ) -> bytes:
        """Return the ``length`` bytes from ``first`` on of the file at ``location``.

        ``check`` gets them and raises VerificationFailed when they are wrong.
        """
        return next(self.fetch_ranges(location, [(first, length)], kind=kind, checks=[check]))

    def fetch_ranges(
        self,
        location: str,
        ranges: Sequence[tuple[int, int]],
        *,
        kind: str | None = None,
        checks: Sequence[Check | None] = (),
    ) -> Iterator[bytes]:
        """Yield each ``(first, length)`` of the file at ``location``, in the order given.

        A few travel at once; at most a few wait in memory for their turn.
        """
        sinks = [_Memory(check) for check in checks or [None] * len(ranges)]
        jobs = [
            self._job(location, Span(first, length), sink, kind)
            for (first, length), sink in zip(ranges, sinks, strict=True)
        ]
        for (first, _), data in zip(ranges, self._in_order(jobs, sinks), strict=True):
            if self.keep is not None:
                self.keep(location, first, data, False)
            yield data

    def fetch_file(
        self,
        location: str,
        *,
        length: int,
        into: BinaryIO,
        kind: str | None = None,
        check: Callable[[BinaryIO], object],
    ) -> None:
        """Write the first ``length`` bytes of the file at ``location`` to the empty file ``into``.

        ``check`` gets ``into``, at its start, and raises VerificationFailed when it is
        wrong; the next mirror then begins anew.
        """
        if length:
            self._one(self._job(location, Span(0, length), _File(into, check), kind))

    def fetch_small(
        self, location: str, *, limit: int, kind: str | None = None, check: Check | None = None
    ) -> bytes:
        """Return the whole file at ``location``, which has at most ``limit`` bytes."""
        sink = _Memory(check)
        self._one(self._job(location, Span(0, limit, exact=False), sink, kind))
        data = sink.take()
        if self.keep is not None:
            self.keep(location, 0, data, True)
        return data

    def fetch_whole(self, *, limit: int, check: Check | None = None) -> bytes:
        """Return the file, of at most ``limit`` bytes, that the base URLs name themselves."""
        sink = _Memory(check)
        span = Span(0, limit, exact=False)
        self._one(Job(str(self.mirrors), "", self.mirrors, self.kind, span, sink))
        return sink.take()

    def _job(self, location: str, span: Span, sink: Sink, kind: str | None) -> Job:
        return Job(location, location, self.mirrors, kind or self.kind, span, sink)

    def _one(self, job: Job) -> None:
        for ended in self._connections.run([job]):
            if ended.error is not None:
                raise ended.error

    def _in_order(self, jobs: list[Job], sinks: list[_Memory]) -> Iterator[bytes]:
        due, ahead = 0, 2 * self._connections.limits.parallel
        place = {id(job): index for index, job in enumerate(jobs)}
        ended: set[int] = set()
        real = [job for job in jobs if job.span.length]
        ended.update(index for index, job in enumerate(jobs) if not job.span.length)
        running = self._connections.run(
            real,
            may_start=lambda job: place[id(job)] < due + ahead,
            stopped=lambda: self._giving_up,
        )
        while due < len(jobs):
            if due not in ended:
                job = next(running, None)
                if job is None:
                    raise FetchFailed("given up, as it is not needed any more")
                if job.error is not None:
                    running.close()
                    raise job.error
                ended.add(place[id(job)])
                continue
            yield sinks[due].take()
            due += 1


class _Memory:
    """A sink for what is small enough to be held."""

    def __init__(self, check: Check | None) -> None:
        self._check = check
        self._pieces: list[bytes] = []

    def start(self) -> int:
        return 0

    def write(self, piece: bytes | memoryview) -> None:
        self._pieces.append(bytes(piece))

    def finish(self, source: str) -> None:
        if self._check is not None:
            self._pieces = [b"".join(self._pieces)]
            self._check(self._pieces[0])

    def digest(self) -> bytes:
        digest = hashlib.sha256()
        for piece in self._pieces:
            digest.update(piece)
        return digest.digest()

    def restart(self) -> None:
        self._pieces.clear()

    def close(self) -> None:
        return

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


class _File:
    """A sink that is an open file."""

    def __init__(self, file: BinaryIO, check: Callable[[BinaryIO], object]) -> None:
        self._file, self._check = file, check

    def start(self) -> int:
        return 0

    def write(self, piece: bytes | memoryview) -> None:
        self._file.write(piece)

    def finish(self, source: str) -> None:
        self._file.seek(0)
        self._check(self._file)

    def digest(self) -> bytes:
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").digest()  # type: ignore[arg-type]

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()

    def close(self) -> None:
        return
