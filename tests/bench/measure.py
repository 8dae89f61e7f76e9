"""Time and memory of a command and all that it starts, from outside."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_SECONDS = 0.02
_SUBREAPER = 36
_ORPHANS_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of wall clock and of CPU (user and system, children too); peak bytes of the tree."""

    wall: float
    cpu: float
    peak: int


class TooLong(Exception):
    """A command took longer than it was given, and was ended."""


def measure(
    argv: Sequence[object],
    *,
    env: Mapping[str, str] | None = None,
    stdout: Path | None = None,
    seconds: float | None = None,
    status: int = 0,
) -> Measured:
    """Run a command to its end; raises CalledProcessError when it ends with another status.

    Its standard output goes to the file ``stdout``.  After ``seconds`` it is killed, with
    all that it started, and TooLong raised.
    """
    words = [str(word) for word in argv]
    _adopt_orphans()
    with (stdout or Path(os.devnull)).open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            words,
            env={**_clean_environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    tree = _Tree(process.pid)
    limit = _Limit(process.pid, seconds)
    try:
        assert process.stderr is not None
        errors = process.stderr.read()
        _, ended, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        cpu = usage.ru_utime + usage.ru_stime + _cpu_of_orphans(process.pid)
    except BaseException:
        limit.kill()
        raise
    finally:
        limit.stop()
        peak = tree.stop()
    process.returncode = os.waitstatus_to_exitcode(ended)
    process.stderr.close()
    if limit.reached:
        raise TooLong(f"{words[0]} took longer than {seconds:.0f} s")
    if process.returncode != status:
        raise subprocess.CalledProcessError(process.returncode, words, stderr=errors)
    # The kernel's own figure starts at what this process had when it forked.
    peak = peak or usage.ru_maxrss * 1024
    return Measured(wall, cpu, peak)


def _adopt_orphans() -> None:
    """Become the parent of what commands leave behind (prctl(2), PR_SET_CHILD_SUBREAPER).

    Python's fork server ends after the program, which does not wait for it: the CPU time of
    its children, the delta workers, would be nobody's.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


def _cpu_of_orphans(group: int) -> float:
    """Wait for what is left of a process group; returns its seconds of CPU, children's too."""
    seconds, until = 0.0, time.monotonic() + _ORPHANS_SECONDS
    while time.monotonic() < until:
        try:
            pid, _, usage = os.wait4(-group, os.WNOHANG)
        except ChildProcessError:
            break
        if pid:
            seconds += usage.ru_utime + usage.ru_stime
        else:
            time.sleep(0.01)
    return seconds


class _Limit:
    """Kills a session's processes when its time is over."""

    def __init__(self, session: int, seconds: float | None) -> None:
        self._session, self.reached = session, False
        self._timer = threading.Timer(seconds or 0, self._expire)
        self._timer.daemon = True
        if seconds is not None:
            self._timer.start()

    def _expire(self) -> None:
        self.reached = True
        self.kill()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._session, signal.SIGKILL)

    def stop(self) -> None:
        self._timer.cancel()


def _clean_environment() -> dict[str, str]:
    # A coverage run around us would measure itself.
    return {key: value for key, value in os.environ.items() if not key.startswith("COV")}


class _Tree:
    """Samples the resident memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            found = _descendants(self._pid)
            self._peak = max(self._peak, _together(found), _highest(self._pid))

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak


def _descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _together(pids: Sequence[int]) -> int:
    """Add up their resident memory; of a child that has not begun its program yet it is ours."""
    first, *others = (_sizes(pid) for pid in pids)
    return first[1] + sum(sizes[1] for sizes in others if sizes != first)


def _sizes(pid: int) -> tuple[int, int]:
    """Return bytes mapped and resident."""
    try:
        mapped, resident = Path(f"/proc/{pid}/statm").read_text().split()[:2]
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return 0, 0
    return int(mapped) * _PAGE, int(resident) * _PAGE


def _highest(pid: int) -> int:
    """Return the peak that the kernel keeps for a process: between two samples it may rise."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def median(runs: Sequence[Measured]) -> Measured:
    """Take the median of each figure."""
    return Measured(
        statistics.median(run.wall for run in runs),
        statistics.median(run.cpu for run in runs),
        int(statistics.median(run.peak for run in runs)),
    )


def together(*runs: Measured) -> Measured:
    """Add up what ran one after the other; the peak is the highest of them."""
    return Measured(
        sum(run.wall for run in runs), sum(run.cpu for run in runs), max(run.peak for run in runs)
    )


def in_turn(
    times: int, first: Callable[[], Measured], second: Callable[[], Measured]
) -> tuple[list[Measured], list[Measured]]:
    """Run both in turn, so that a machine whose speed drifts is fair to both."""
    pairs = [(first(), second()) for _ in range(times)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
