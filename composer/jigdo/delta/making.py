"""Make patches for many pairs on all cores, whatever a codec does to the process it runs in.

Each worker is a process of its own with bounded memory and CPU time.  One that
dies, hangs or runs out of memory costs the pair that codec and nothing else: a
new worker goes on with the codec after it.  Every patch is applied and compared
before it counts.

The outcome depends on the pairs, the codecs and their libraries' versions, not
on the number of workers or on time: results come in the order of the pairs, the
smallest wins, and the lower number where two are equal.  The limits are far
beyond what an ordinary pair needs (CPU time, not wall time, so a busy machine
changes nothing); a pair at a limit is reported as lost, for only there could two
builds differ.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from composer.errors import ComposerError
from composer.jigdo.delta import codecs, columns
from composer.jigdo.delta.codecs import PART, CannotMake, Codec, CodecNumber
from composer.jigdo.delta.columns import Base, HeldFile
from composer.jigdo.delta.moving import split_linked
from composer.progress import Report, Step, silent
from composer.system.heap import hold_less

#: Where a base or a target comes from; read in the worker.  A callable must be picklable.
Source = Path | Callable[[], Base] | bytes

#: Pairs that are under way or wait for an earlier one, per worker: bounds the memory
#: that results take while one slow pair holds the others back.
_AHEAD = 32
_ESTIMATE_LEVEL = 9
#: A patch is compared with the content whole only when it is not far smaller.
_CLEARLY_SMALLER = 16
_NO_CPU_LIMIT = -1
# Seconds.  poll() takes no more than 24 days, which a pair of some gigabytes may have.
_LONGEST_WAIT = 3600.0
#: A part's matches are sought in the whole of a base up to this size; in a larger one
#: around the part's own place, this far on either side.
_WHOLE_BASE = 96 << 20
_AROUND = 16 << 20
#: Pairs that together take more memory are made one after the other.
_TOGETHER = 256 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What one codec may take for one pair before it is given up."""

    memory: int = 6 << 30
    cpu_seconds: float = 120.0
    cpu_seconds_per_mib: float = 20.0
    wall_factor: float = 20.0

    def cpu(self, size: int) -> int:
        """Return the CPU seconds for a base and a target of ``size`` bytes together."""
        return int(self.cpu_seconds + self.cpu_seconds_per_mib * size / (1 << 20)) + 1


@dataclass(frozen=True, slots=True)
class Pair:
    """A target that is wanted from a base; ``key`` comes back with the result.

    ``maker`` is one for this kind of content: what it can make, the others need not try.
    ``sizes`` are of both, about, to tell how much memory it takes.
    """

    key: Any
    base: Source
    target: Source
    maker: Codec | None = None
    sizes: tuple[int, int] = (0, 0)

    @property
    def memory(self) -> int:
        """Bytes that a worker takes for it, about: HDiffPatch sorts what it seeks in."""
        base, target = self.sizes
        return 6 * min(base, _WHOLE_BASE) + 3 * min(target, PART)


@dataclass(frozen=True, slots=True)
class Part:
    """The patch for the next ``length`` bytes of the target."""

    length: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Patch:
    """The smallest way found for one pair.

    ``estimate`` is what its parts take compressed, about; pooled they take less.  It has no
    parts where a large content is best taken whole: nobody holds that.
    ``lost`` names the codecs that crashed, hung or were wrong, and how.
    """

    key: Any
    codec: int
    parts: tuple[Part, ...]
    estimate: int
    lost: tuple[str, ...] = ()


@dataclass(slots=True)
class _Task:
    number: int
    pair: Pair
    codecs: list[Codec]
    size: int = 0
    results: list[tuple[int, int, tuple[Part, ...]]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def patch(self) -> Patch:
        if not self.results:
            raise ComposerError(
                f"no codec could make a delta for {self.pair.key}", details=self.lost
            )
        estimate, codec, parts = min(self.results, key=lambda result: result[:2])
        return Patch(self.pair.key, codec, parts, estimate, tuple(self.lost))


def best_patches(
    pairs: Iterable[Pair],
    *,
    effort: str = "normal",
    workers: int,
    report: Report = silent,
    total: int = 0,
    limits: Limits | None = None,
    makers: tuple[Codec, ...] = (),
) -> Iterator[Patch]:
    """Yield the smallest patch for each pair, in the order of the pairs.

    ``makers`` overrides the codecs of ``effort``.  The content whole (codec 0) is
    always among the candidates, so there is a patch for every pair that can be
    read; raises ComposerError when one cannot.
    """
    chosen = makers or codecs.available(codecs.EFFORTS[effort])
    bench = _Bench(max(1, workers), limits or Limits())
    tasks = (
        _Task(n, pair, [*([pair.maker] if pair.maker else []), *chosen, codecs.Full()])
        for n, pair in enumerate(pairs)
    )
    with contextlib.closing(bench):
        for done, task in enumerate(bench.run(tasks), 1):
            patch = task.patch()
            report(Step("deltas", done, total, "objects", str(patch.key)))
            yield patch


class _Bench:
    """Workers, what they work on, and the order in which it is handed out and given back."""

    def __init__(self, count: int, limits: Limits) -> None:
        # Not fork: a caller may have threads (libostree's, curl's), whose locks a fork copies.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])
        self._limits = limits
        self._workers = [_Worker(self._context, limits) for _ in range(count)]
        self._waiting: _Task | None = None

    def run(self, tasks: Iterator[_Task]) -> Iterator[_Task]:
        finished: dict[int, _Task] = {}
        due = handed_out = 0
        more = True
        while True:
            for worker in self._workers:
                if more and worker.idle and handed_out < due + _AHEAD * len(self._workers):
                    task = self._waiting or next(tasks, None)
                    if task is None:
                        more = False
                        break
                    self._waiting = None if self._fits(task) else task
                    if self._waiting:
                        break
                    worker.start(task)
                    handed_out += 1
            while due in finished:
                yield finished.pop(due)
                due += 1
            busy = [worker for worker in self._workers if not worker.idle]
            if not busy and not more and due == handed_out:
                return
            for task in _wait(busy):
                finished[task.number] = task

    def _fits(self, task: _Task) -> bool:
        """Tell whether there is memory for a pair beside those that are under way."""
        taken = sum(worker.memory for worker in self._workers)
        return not taken or taken + task.pair.memory <= _TOGETHER

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()


def _wait(workers: list[_Worker]) -> Iterator[_Task]:
    """Wait until a worker says something, dies or is overdue; yield the tasks that are done."""
    if not workers:
        return
    left = min(worker.deadline for worker in workers) - time.monotonic()
    timeout = min(max(0.0, left), _LONGEST_WAIT)
    spoken = set(wait([worker.connection for worker in workers], timeout))
    for worker in workers:
        if worker.connection in spoken:
            task = worker.listen()
        elif time.monotonic() >= worker.deadline:
            task = worker.lose("no answer in time")
        else:
            continue
        if task is not None:
            yield task


class _Worker:
    """One process, started anew whenever it was lost."""

    def __init__(self, context: Any, limits: Limits) -> None:
        self._context, self._limits = context, limits
        self._process: Any = None
        self._task: _Task | None = None
        self.connection: Connection
        self.deadline = 0.0

    @property
    def idle(self) -> bool:
        return self._task is None

    @property
    def memory(self) -> int:
        return self._task.pair.memory if self._task else 0

    def start(self, task: _Task) -> None:
        """Have the process work on ``task``, beginning with the first codec that is left."""
        if self._process is None:
            self.connection, theirs = self._context.Pipe()
            process = self._context.Process(
                target=_work, args=(theirs, self._limits), daemon=True, name="delta"
            )
            process.start()
            self._process = process
            theirs.close()
        self._task = task
        self._extend()
        # Should the process be gone already, listen() finds out.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((task.pair, task.codecs))

    def _extend(self) -> None:
        assert self._task is not None
        allowed = self._limits.cpu(self._task.size) * self._limits.wall_factor
        self.deadline = time.monotonic() + allowed

    def listen(self) -> _Task | None:
        """Take one message; return the task if that was its last."""
        assert self._task is not None
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return self.lose(_death(self._process.exitcode))
        if kind == "error":
            self._task.results.clear()
            self._task.codecs.clear()
            self._task.lost.append(value)
        elif kind == "size":
            self._task.size = value
        else:
            codec = self._task.codecs.pop(0)
            if kind == "made":
                self._task.results.append(value)
            elif kind == "failed":
                self._task.lost.append(f"{_name(codec)}: {value}")
        self._extend()
        return self._done()

    def lose(self, why: str) -> _Task | None:
        """Give up the process and the codec that it was at; go on with the next one."""
        task = self._task
        assert task is not None
        self._kill()
        task.lost.append(f"{_name(task.codecs.pop(0))}: {why}")
        if task.codecs:
            self.start(task)
        return self._done()

    def _done(self) -> _Task | None:
        task = self._task
        if task is None or task.codecs:
            return None
        self._task = None
        return task

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self.connection.close()
            self._process = None

    def stop(self) -> None:
        """End the process."""
        self._kill()


def _name(codec: Codec) -> str:
    return type(codec).__name__.lower()


def _death(status: int | None) -> str:
    import signal

    if status is not None and status < 0:
        if -status == signal.SIGXCPU:
            return "took too much CPU time"
        return f"killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _work(connection: Connection, limits: Limits) -> None:
    """Serve pairs until the other end closes; what a worker process runs."""
    import signal

    # Ctrl-C reaches the whole group; the parent decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit(resource.RLIMIT_AS, limits.memory)
    _limit(resource.RLIMIT_CORE, 0)
    hold_less()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            pair, makers = connection.recv()
            _serve(connection, pair, makers, limits)


def _serve(connection: Connection, pair: Pair, makers: list[Codec], limits: Limits) -> None:
    try:
        base, target = read(pair.base), read(pair.target)
    except Exception as error:
        connection.send(("error", f"{type(error).__name__}: {error}"))
        return
    size = len(base) + len(target)
    connection.send(("size", size))
    for attempt in attempts(base, target, makers, before=lambda: _allow_cpu(limits.cpu(size))):
        connection.send(attempt)
    _allow_cpu(_NO_CPU_LIMIT)
    for content in (base, target):
        if isinstance(content, HeldFile):
            content.close()


def attempts(
    base: Base, target: Base, makers: Sequence[Codec], *, before: Callable[[], None]
) -> Iterator[tuple[str, Any]]:
    """Yield what each codec comes to: ("made", (estimate, codec, parts)), "skipped" or "failed".

    ``before`` is called before each of them.  Every patch is proven.
    """
    smallest, by_own = len(target), False
    for codec in makers:
        before()
        try:
            if codec.number == CodecNumber.FULL and smallest * _CLEARLY_SMALLER < len(target):
                yield "skipped", None
                continue
            if codec.number != CodecNumber.FULL and by_own:
                yield "skipped", None
                continue
            if codec.number == CodecNumber.FULL and len(target) > PART:
                yield "made", (len(target), int(codec.number), ())
                continue
            parts = tuple(_parts(codec, base, target))
            estimate = estimated(codec.number, parts)
            smallest = min(smallest, estimate)
            by_own = by_own or codec.number == CodecNumber.LINKED
            yield "made", (estimate, int(codec.number), parts)
        except CannotMake:
            yield "skipped", None
        except Exception as error:
            yield "failed", f"{type(error).__name__}: {error}"


def _limit(kind: int, soft: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(kind, (soft, hard))


def _allow_cpu(seconds: int) -> None:
    """Let this process use ``seconds`` more of CPU time before SIGXCPU ends it."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if seconds == _NO_CPU_LIMIT:
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


def read(source: Source) -> Base:
    """Return the bytes of a base or a target, or a file of it that is to be closed."""
    if isinstance(source, bytes):
        return source
    return HeldFile(source.open("rb")) if isinstance(source, Path) else source()


def _parts(codec: Codec, base: Base, target: Base) -> Iterator[Part]:
    """Make one patch per PART of the target, each proven."""
    for at in range(0, max(1, len(target)), PART):
        piece = bytes(target[at : at + PART])
        data = _part(codec, base, piece, at)
        prove(codec.number, base, data, piece)
        yield Part(len(piece), data)


def _part(codec: Codec, base: Base, piece: bytes, at: int) -> bytes:
    if codec.number == CodecNumber.FULL:
        return piece
    if len(base) <= _WHOLE_BASE:
        return codec.make(bytes(base[0 : len(base)]), piece)
    if codec.number in (CodecNumber.ZSTD, CodecNumber.LINKED):
        raise CannotMake("they work on the whole base: too large for their memory")
    start = max(0, min(at - _AROUND, len(base) - _AROUND))
    window = bytes(base[start : at + len(piece) + _AROUND])
    return columns.rebased(codec.make(window, piece), start)


def prove(codec: int, base: Base, data: bytes, target: bytes, *, max_memory: int = 1 << 62) -> None:
    """Apply a patch; raises ValueError or FormatError unless it makes ``target``."""
    at = 0
    if codec == CodecNumber.FULL:
        return
    for piece in codecs.apply(codec, base, data, size=len(target), max_memory=max_memory):
        if piece != target[at : at + len(piece)]:
            raise ValueError("the patch does not make the target")
        at += len(piece)


def estimated(codec: int, parts: Iterable[Part]) -> int:
    """Return about what patches take in a frame, cheaply; the same everywhere."""
    return sum(_estimate(codec, part.data) for part in parts)


def _estimate(codec: int, data: bytes) -> int:
    import zstandard

    if codec == CodecNumber.ZSTD:
        return len(data)
    if codec == CodecNumber.LINKED:
        # What many patches share takes nothing in each.
        _, moves, patch = split_linked(data)
        data = moves + patch
    return len(zstandard.ZstdCompressor(level=_ESTIMATE_LEVEL).compress(data))
