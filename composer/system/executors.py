"""Work on other machines: a Dask cluster behind ``concurrent.futures.Executor``.

A :class:`Farm` is an executor whose workers may die, hang, be slow or be wrong.  :func:`spread`
gives work to it and takes that into account: results come in the order of the items, each is
judged here before it counts, and what the farm does not give, or not in time, is done here.
Tasks carry their input as bytes: workers share no file system with this machine.

What crosses is pickled, as everything that Dask moves: docs/executors.md says whom one trusts.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from composer.errors import ComposerError, UsageError, missing_library

Item = TypeVar("Item")
Result = TypeVar("Result")

#: A task has so many items, or bytes, at most; what is larger than the last stays here.
TASK_PAIRS = 32
TASK_BYTES = 4 << 20
LARGEST = 64 << 20
#: Tasks under way for each thread of a worker: one works, the others are on their way.
_AHEAD = 3
# Bytes of input under way, all together; one task may be larger.
_BYTES_AHEAD = 256 << 20
#: Seconds after which a task is done here as well, and what was slow so far, so many times.
_PATIENCE = 60.0
_SLOWER = 4
_CONNECT_SECONDS = 15.0
# A function of a module that a worker lacks would end the worker; an expression is only an error.
_ASK = f"__import__('{__name__}', fromlist=['']).identity()"
# What decides which bytes come out, besides our own code.
_LIBRARIES = ("bsdiff4", "distributed", "hdiffpatch", "numpy", "zstandard")


class Unanswered(ComposerError):
    """A cluster that cannot be reached, has no workers, or workers of other versions."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files by which scheduler and client prove to each other who they are."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def is_given(self) -> bool:
        """Tell whether any of them is."""
        return bool(self.ca or self.cert or self.key)


class Farm(Executor):
    """Workers of a cluster; ``troubles`` counts why tasks were done here instead."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self.address = client, address
        self._executor = client.get_executor(pure=False, retries=0)
        self._identity = identity()
        self._slots, self._counted = 0, 0.0
        self.troubles: Counter[str] = Counter()
        self.tasks = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker call ``fn``, a function of a module that it can import."""
        self.tasks += 1
        future: Future[Any] = self._executor.submit(_called, self._identity, fn, args, kwargs)
        return future

    def slots(self) -> int:
        """Return how many tasks the workers that are there now can do at once."""
        now = time.monotonic()
        if now - self._counted > 1:
            with suppress(Exception):  # as many as before
                workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
                self._slots = sum(worker["nthreads"] for worker in workers)
            self._counted = now
        return max(1, self._slots)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the connection; what was not waited for is cancelled."""
        with suppress(Exception):
            self._executor.shutdown(wait=False)


class OtherVersions(Exception):
    """Raised at a worker whose code or libraries are not the client's."""


def _called(
    expected: dict[str, str],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if identity() != expected:
        raise OtherVersions(", ".join(_differences(expected, identity())))
    return function(*args, **kwargs)


@cache
def identity() -> dict[str, str]:
    """Return what decides which results come out: our own code, Python and libraries."""
    state = hashlib.sha256()
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        data = path.read_bytes()
        state.update(f"{path.relative_to(root)}\0{len(data)}\0".encode() + data)
    found = {
        "jigdo-composer's code": state.hexdigest()[:16],
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "byte order": sys.byteorder,
    }
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _differences(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    return [
        f"{name} {theirs.get(name, 'none')} (here {ours.get(name, 'none')})"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


@contextmanager
def opened_executor(url: str, tls: Tls = Tls()) -> Iterator[Farm | None]:
    """Connect to what ``url`` names: ``processes`` (None: this machine) or ``dask://HOST:PORT``.

    Raises UsageError for another URL, MissingRequirement without Dask, and Unanswered when the
    scheduler cannot be reached, has no workers, or one of them is of other versions.
    """
    if url == "processes":
        yield None
        return
    address = _address(url, secure=tls.is_given)
    try:
        distributed: Any = import_module("distributed")
    except ImportError:
        raise missing_library("distributed") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    security = None
    if tls.is_given:
        security = distributed.Security(
            tls_ca_file=str(tls.ca) if tls.ca else None,
            tls_client_cert=str(tls.cert) if tls.cert else None,
            tls_client_key=str(tls.key) if tls.key else None,
            require_encryption=True,
        )
    try:
        client = distributed.Client(
            address,
            timeout=_CONNECT_SECONDS,
            security=security,
            set_as_default=False,
            direct_to_workers=False,
        )
    except Exception as error:
        raise Unanswered(
            f"{url}: no Dask scheduler answers",
            details=_causes(error),
            hint="is it running there (`dask scheduler`), in the same version, and with the same "
            "--executor-tls files?",
        ) from error
    import dask

    try:
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            _require_alike(client, url)
            farm = Farm(client, url)
            try:
                yield farm
            finally:
                farm.shutdown()
    finally:
        with suppress(Exception):
            client.close(timeout=5)


def _causes(error: BaseException | None) -> list[str]:
    """Describe an error and what it came from, most of which says nothing."""
    found: list[str] = []
    while error is not None:
        if str(error):
            found.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return list(dict.fromkeys(found))[:4]


def _address(url: str, *, secure: bool) -> str:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "dask" or not parts.hostname or not port or parts.path.strip("/"):
        raise UsageError(
            f"--executor {url}: expected processes or dask://HOST:PORT",
            hint="the address is the one that `dask scheduler` prints, with dask:// before it",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{'tls' if secure else 'tcp'}://{host}:{port}"


def _require_alike(client: Any, url: str) -> None:
    """Ask each worker for its versions; one that does not answer now is let be."""
    try:
        client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
    except Exception as error:
        raise Unanswered(
            f"{url}: the scheduler has no workers", hint=f"start some: dask worker {url}"
        ) from error
    workers = list(client.scheduler_info(n_workers=-1)["workers"])
    asked = {
        worker: client.submit(
            eval, _ASK, pure=False, workers=[worker], allow_other_workers=False, retries=0
        )
        for worker in workers
    }
    give_up = time.monotonic() + _CONNECT_SECONDS
    answered, wrong = 0, []
    for worker, future in asked.items():
        try:
            theirs = future.result(timeout=max(0.1, give_up - time.monotonic()))
        except TimeoutError:
            continue
        except Exception as error:
            wrong.append(f"{worker}: {type(error).__name__}: {error}")
            continue
        answered += 1
        if theirs != identity():
            wrong.append(f"{worker}: {', '.join(_differences(identity(), theirs))}")
    client.cancel(list(asked.values()))
    if wrong:
        raise Unanswered(
            f"{url}: {len(wrong)} of {len(workers)} workers cannot do what this machine does",
            details=sorted(wrong)[:10],
            hint="install the same jigdo-composer and the same libraries there "
            "(packaging/setup.sh of the same checkout), and start the workers anew",
        )
    if not answered:
        raise Unanswered(f"{url}: none of its {len(workers)} workers answers")


@dataclass(frozen=True, slots=True)
class Work(Generic[Item, Result]):
    """How items are worked on elsewhere, and what happens to them when that fails.

    ``load`` returns the arguments of ``function``, all that a worker needs, and about how many
    bytes they are; None to have the item done ``here``.  ``judge`` returns the result, or
    raises anything where it is not what it should be: then ``here`` does it (in a thread).
    ``patience`` is how many seconds one may take at least.
    """

    function: Callable[..., Any]
    load: Callable[[Item], tuple[tuple[Any, ...], int] | None]
    judge: Callable[[Item, tuple[Any, ...], Any], Result]
    here: Callable[[Item], Result]
    patience: float = 0.0


@dataclass(slots=True)
class _Out(Generic[Item, Result]):
    """One item that is under way."""

    item: Item
    args: tuple[Any, ...] = ()
    size: int = 0
    since: float = 0.0
    there: Future[Any] | None = None
    here: Future[Result] | None = None
    done: list[Result] = field(default_factory=list)


def spread(
    farm: Farm, work: Work[Item, Result], items: Iterable[Item], *, workers: int
) -> Iterator[Result]:
    """Yield the result for each item, in order; ``workers`` threads do what the farm does not.

    Few are under way at once, for each takes memory.  Raises what ``here`` raises.
    """
    threads = ThreadPoolExecutor(workers, thread_name_prefix="here")
    try:
        yield from _Spread(farm, work, threads, workers).run(iter(items))
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


class _Spread(Generic[Item, Result]):
    def __init__(
        self, farm: Farm, work: Work[Item, Result], threads: ThreadPoolExecutor, workers: int
    ) -> None:
        self._farm, self._work, self._threads, self._workers = farm, work, threads, workers
        self._out: deque[_Out[Item, Result]] = deque()
        self._slowest = 0.0
        # When the last result came, and when the last of the tasks with results was handed out.
        self._heard = time.monotonic()
        self._passed = 0.0

    def run(self, items: Iterator[Item]) -> Iterator[Result]:
        more = True
        try:
            while True:
                while more and self._has_room():
                    try:
                        self._hand_out(next(items))
                    except StopIteration:
                        more = False
                while self._out and self._out[0].done:
                    yield self._out.popleft().done[0]
                if not self._out:
                    if not more:
                        return
                    continue
                self._wait()
        finally:
            for one in self._out:
                if one.there is not None:
                    one.there.cancel()

    def _has_room(self) -> bool:
        size = sum(one.size for one in self._out)
        return len(self._out) < _AHEAD * self._farm.slots() + self._workers and (
            not self._out or size < _BYTES_AHEAD
        )

    def _hand_out(self, item: Item) -> None:
        out: _Out[Item, Result] = _Out(item)
        self._out.append(out)
        loaded = self._work.load(item)
        if loaded is None:
            self._do_here(out)
            return
        out.args, out.size = loaded
        out.since = time.monotonic()
        if len(self._out) == 1:
            self._heard = out.since
        try:
            out.there = self._farm.submit(self._work.function, *out.args)
        except Exception as error:  # the scheduler has gone
            self._give_up(out, error)

    def _wait(self) -> None:
        """Wait until something is done; judge it, and do here what is overdue."""
        waited = [
            future
            for one in self._out
            if not one.done
            for future in (one.there, one.here)
            if future is not None
        ]
        wait(waited, timeout=1.0, return_when=FIRST_COMPLETED)
        for one in self._out:
            if one.done:
                continue
            if one.here is not None and one.here.done():
                self._finish(one, one.here.result())
            elif one.there is not None and one.there.done():
                self._judge(one)
        for one in self._out:
            busy = sum(o.here is not None and not o.done for o in self._out)
            if busy >= self._workers:
                break
            if one.there and not (one.done or one.here) and self._is_overdue(one):
                self._farm.troubles["no result in time"] += 1
                self._do_here(one)

    def _is_overdue(self, one: _Out[Item, Result]) -> bool:
        """Tell whether a task is late, and not for waiting in a queue that moves."""
        late, now = max(_PATIENCE, self._work.patience, _SLOWER * self._slowest), time.monotonic()
        stuck = self._passed > one.since or now - self._heard > late
        return stuck and now - one.since > late

    def _judge(self, one: _Out[Item, Result]) -> None:
        assert one.there is not None
        try:
            result = self._work.judge(one.item, one.args, one.there.result())
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            one.there = None
            self._give_up(one, error)
            return
        self._heard = time.monotonic()
        self._passed = max(self._passed, one.since)
        self._slowest = max(self._slowest, self._heard - one.since)
        self._finish(one, result)

    def _give_up(self, one: _Out[Item, Result], error: BaseException) -> None:
        self._farm.troubles[_told(error)] += 1
        if one.here is None:
            self._do_here(one)

    def _do_here(self, one: _Out[Item, Result]) -> None:
        one.here = self._threads.submit(self._work.here, one.item)

    def _finish(self, one: _Out[Item, Result], result: Result) -> None:
        if one.there is not None:
            one.there.cancel()
        if one.here is not None:
            one.here.cancel()
        one.done.append(result)
        one.args, one.size, one.there = (), 0, None


def _told(error: BaseException) -> str:
    """Describe why a task failed, in the same words for the same reason."""
    name = type(error).__name__
    if name == "KilledWorker":
        return "it killed its workers"
    if name in ("CancelledError", "FutureCancelledError", "FuturesCancelledError"):
        return "the scheduler has lost it"
    return f"{name}: {error}".splitlines()[0][:200]
