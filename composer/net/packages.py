"""RPMs from mirrors, each handed over as soon as it has arrived and its digest is right.

A thread of its own moves the bytes while the caller works on what has arrived.
Rules kept here: a file under its final name is complete and verified; what is
not lies beside it as ``NAME.part`` and is continued by the next run; each byte
is hashed once, as it passes; no RPM is held in memory; no more than ``window``
bytes lie between mirror and caller.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, ComposerError, NotFound, VerificationFailed
from composer.net.body import Span
from composer.net.connections import Connections
from composer.net.job import FetchFailed, Job, Unreachable
from composer.net.location import Mirrors
from composer.net.network import Network
from composer.progress import Report, Step, silent
from composer.rpm.beginnings import Beginning
from composer.rpm.package import PackageRef
from composer.system.files import explained

if TYPE_CHECKING:
    from hashlib import _Hash

WINDOW = 24 << 20
"""Bytes of RPMs that may lie between mirror and caller, and of one that are not flushed."""

_CHUNK = 1 << 20
_REPORT_SECONDS = 0.5

_Ended: TypeAlias = "queue.SimpleQueue[Job | BaseException | None]"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An RPM to fetch: which one, under what name to keep it, who may have it.

    ``serves`` is the package that it is fetched for, where it is not that one itself;
    ``beginning`` is what is wanted of it, None for the whole.
    """

    ref: PackageRef
    destination: Path
    mirrors: Mirrors
    serves: PackageRef | None = None
    beginning: Beginning | None = None

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return self.beginning.size if self.beginning else self.ref.size

    @property
    def digest(self) -> ContentDigest:
        """Digest of these bytes."""
        return self.beginning.digest if self.beginning else self.ref.pkgid

    @property
    def package(self) -> PackageRef:
        """The package that was asked for."""
        return self.serves or self.ref


Elsewhere: TypeAlias = "Callable[[Sequence[PackageRef]], Iterable[Wanted]]"
"""Says what to try for packages that were not had; several for one package in their order."""

Lost: TypeAlias = "Callable[[PackageRef, tuple[ComposerError, ...]], object]"
"""Called with a package that nobody has, and what was said by those who were asked."""


def fetch_packages(
    wanted: Sequence[Wanted],
    *,
    network: Network | None = None,
    elsewhere: Sequence[Elsewhere] = (),
    lost: Lost | None = None,
    report: Report = silent,
    window: int | None = None,
    kind: str = "rpm",
    probe: bool = False,
) -> Generator[Wanted, None, None]:
    """Yield each of ``wanted`` when its RPM is complete and verified at its destination.

    The order is that of arrival.  An item counts against ``window`` (bytes, WINDOW) until
    the next one is asked for.  A verified file of an earlier run is yielded
    without a request, a partial one is continued.  For RPMs that are on no mirror, or
    are another file than they should be on each, ``elsewhere`` is asked, one after the
    other, and what it names is fetched, and yielded, instead.  At the end ``lost`` gets
    what was not had; without it, the first such error is raised: ChecksumMismatch (and
    kin), NotFound, FetchFailed.  Unreachable mirrors and NoSpace end it at once.  With
    ``probe``, only one byte of each is asked for, and nothing is kept.  Close the
    generator to stop early.
    """
    courier = _Courier(network, report=report, window=window or WINDOW, kind=kind, probe=probe)
    failed: dict[ContentDigest, tuple[PackageRef, list[ComposerError]]] = {}
    try:
        for item, error in (yield from courier.deliver(wanted, patient=False)):
            failed[item.package.pkgid] = item.package, [error]
        for ask in elsewhere if failed else ():
            offers: dict[ContentDigest, deque[Wanted]] = {}
            for item in ask([package for package, _ in failed.values()]):
                offers.setdefault(item.package.pkgid, deque()).append(item)
            while wave := [own.popleft() for key, own in offers.items() if key in failed and own]:
                missed = yield from courier.deliver(wave, patient=True)
                for item, error in missed:
                    failed[item.package.pkgid][1].append(error)
                for key in {i.package.pkgid for i in wave} - {i.package.pkgid for i, _ in missed}:
                    del failed[key]
    finally:
        courier.close()
    for package, errors in failed.values():
        if lost is None:
            raise errors[0]
        lost(package, tuple(errors))


class _Courier:
    """Moves packages in a thread, and holds back when they are not taken."""

    def __init__(
        self,
        network: Network | None,
        *,
        report: Report,
        window: int,
        kind: str,
        probe: bool,
    ) -> None:
        self._probe = probe
        self._connections = Connections(network)
        self._report, self._window, self._kind = report, window, kind
        self._lock = threading.Lock()
        self._held = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """Stop what is under way, keep what has arrived of it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._connections.close()

    def deliver(
        self, wanted: Sequence[Wanted], *, patient: bool
    ) -> Generator[Wanted, None, list[tuple[Wanted, ComposerError]]]:
        """Yield what arrives; returns what did not, with the reason.

        Unless ``patient``, the first that finds nobody reachable ends it: the others would
        wait as long for the same.
        """
        make = _Probe if self._probe else _PackageFile
        sinks = [make(item) for item in {item.destination: item for item in wanted}.values()]
        ended: _Ended = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._move, args=([self._job(sink) for sink in sinks], ended), daemon=True
        )
        self._thread.start()
        missing: list[tuple[Wanted, ComposerError]] = []
        for job in self._arriving(ended, sinks):
            assert isinstance(job.sink, (_PackageFile, _Probe))
            item = job.sink.item
            if job.error is None:
                yield item
            elif isinstance(job.error, Unreachable) and not patient and item.serves is None:
                raise job.error
            elif isinstance(job.error, (NotFound, FetchFailed, VerificationFailed)):
                missing.append((item, job.error))
            else:
                raise job.error
            with self._lock:
                self._held -= job.span.length
        return missing

    def _job(self, sink: _PackageFile | _Probe) -> Job:
        item = sink.item
        span = Span(0, item.size, whole=item.beginning is None)
        if self._probe:  # the last byte: a file of another size is told by that, too
            span = Span(max(item.ref.size - 1, 0), 1, whole=True)
        return Job(str(item.ref.nevra), item.ref.location, item.mirrors, self._kind, span, sink)

    def _move(self, jobs: list[Job], ended: _Ended) -> None:
        """The thread: everything it has to say goes through ``ended``."""
        run = self._connections.run(jobs, may_start=self._may_start, stopped=self._stop.is_set)
        try:
            with closing(run):
                for job in run:
                    ended.put(job)
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    def _may_start(self, job: Job) -> bool:
        with self._lock:
            if self._held and self._held + job.span.length > self._window:
                return False
            self._held += job.span.length
            return True

    def _arriving(self, ended: _Ended, sinks: Sequence[_PackageFile | _Probe]) -> Iterator[Job]:
        total = sum(sink.item.size for sink in sinks)
        name = ""
        while True:
            done = sum(sink.size for sink in sinks)
            self._report(Step("packages", done=done, total=total, unit="bytes", item=name))
            try:
                job = ended.get(timeout=_REPORT_SECONDS)
            except queue.Empty:
                continue
            if job is None:
                return
            if isinstance(job, BaseException):
                raise job
            name = job.what
            yield job


class _Probe:
    """A sink that only learns that an RPM is there."""

    def __init__(self, item: Wanted) -> None:
        self.item = item
        self.size = 0

    def start(self) -> int:
        return 0

    def write(self, piece: bytes | memoryview) -> None:
        self.size += len(piece)

    def finish(self, source: str) -> None:
        pass

    def digest(self) -> bytes:
        return b""

    def restart(self) -> None:
        self.size = 0

    def close(self) -> None:
        pass


class _PackageFile:
    """A sink that makes one verified RPM: ``NAME.part``, renamed when its digest is right."""

    def __init__(self, item: Wanted) -> None:
        self.item = item
        self.size = 0
        self._part = item.destination.with_name(item.destination.name + ".part")
        self._file = -1
        self._digest: _Hash = hashlib.sha256()
        self._kept = False
        self._flushed = 0

    def start(self) -> int:
        """Look for what an earlier run left: the whole, or a part; both are hashed."""
        with suppress(FileNotFoundError):
            if self._hash(self.item.destination) and self._right():
                self._kept = True
                return self.size
            self.item.destination.unlink()
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._lock()
        if not self._hash(self._part):
            self.restart()
        os.lseek(self._file, self.size, os.SEEK_SET)
        self._flushed = self.size
        return self.size

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ComposerError(
                f"{self._part}: another process is fetching it",
                hint="wait until it has ended, or use another directory",
            ) from error

    def _hash(self, path: Path) -> bool:
        """Take the digest of what is there; False when it is longer than the RPM."""
        self._digest, self.size = hashlib.sha256(), 0
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size > self.item.size:
                return False
            while piece := stream.read(_CHUNK):
                self._digest.update(piece)
                self.size += len(piece)
        return True

    def _right(self) -> bool:
        return self._digest.digest() == self.item.digest

    def write(self, piece: bytes | memoryview) -> None:
        self._digest.update(piece)
        self.size += len(piece)
        try:
            while piece:
                piece = piece[os.write(self._file, piece) :]
            if self.size - self._flushed >= WINDOW:
                self._flush()
        except OSError as error:
            raise explained(error, self._part) from error

    def _flush(self) -> None:
        """Keep the most of a large RPM through a power cut; small ones are fetched again."""
        os.fdatasync(self._file)
        self._flushed = self.size

    def finish(self, source: str) -> None:
        if not self._right():
            raise ChecksumMismatch(
                what=str(self.item.ref.nevra),
                expected=str(self.item.digest),
                actual=self._digest.hexdigest(),
                source=source,
            )
        if not self._kept:
            if self.size > WINDOW:
                self._flush()
            self._part.rename(self.item.destination)

    def digest(self) -> bytes:
        return self._digest.digest()

    def restart(self) -> None:
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._digest, self.size, self._flushed = hashlib.sha256(), 0, 0

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
