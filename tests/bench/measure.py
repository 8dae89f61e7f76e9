"""Time and memory of a command and all that it starts, from outside."""

from __future__ import annotations

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of wall clock and of CPU (user and system, children too); peak bytes of the tree."""

    wall: float
    cpu: float
    peak: int


def measure(
    argv: Sequence[object],
    *,
    env: Mapping[str, str] | None = None,
    stdout: Path = Path(os.devnull),
    status: int = 0,
) -> Measured:
    """Run a command to its end, its output into ``stdout``.

    Raises CalledProcessError with its messages when it ends with another status.
    """
    words = [str(word) for word in argv]
    started = time.monotonic()
    with stdout.open("wb") as output:
        process = subprocess.Popen(
            words,
            env={**_clean_environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
        )
    tree = _Tree(process.pid)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, ended, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(ended)
    process.stderr.close()
    peak = tree.stop()
    if process.returncode != status:
        raise subprocess.CalledProcessError(process.returncode, words, stderr=errors)
    return Measured(wall, usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss * 1024))


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
            self._peak = max(self._peak, sum(map(_resident, _descendants(self._pid))))

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


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def median(runs: Sequence[Measured]) -> Measured:
    """Take the median of each figure."""
    return Measured(
        statistics.median(run.wall for run in runs),
        statistics.median(run.cpu for run in runs),
        int(statistics.median(run.peak for run in runs)),
    )


def in_turn(
    times: int, first: Callable[[], Measured], second: Callable[[], Measured]
) -> tuple[list[Measured], list[Measured]]:
    """Run both in turn, so that a machine whose speed drifts is fair to both."""
    pairs = [(first(), second()) for _ in range(times)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
