"""How much a sandboxed program may use of this machine, and the watch over it.

rlimits do not hold root, and cgroups are not everybody's to make, so :class:`Watch`
looks several times a second at what the processes of one PID namespace have, and raises
:class:`LimitExceeded`; whoever runs them then ends the namespace, which the kernel does
at once for all in it.  So that a fork bomb leaves it the time to look, the namespace gets
few process numbers where the kernel can do that (since 6.14), and the watch real-time
priority where it may have that.  Looking is cheap; what is exact and dear (adding up
files, shared memory) is done only where the cheap figure is beyond the limit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from composer.errors import ComposerError

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEMORY = _PAGE * os.sysconf("SC_PHYS_PAGES")
_SHORTEST_PAUSE = 0.1
# Watching takes at most one part in this of a processor.
_SHARE = 25
# What the watched are given where the watch cannot have more.
_NICE = 5
# Stop before a file system or the memory of the machine is all used, by whomever.
_LEAST_SPACE = 256 << 20
_LEAST_MEMORY = _MEMORY // 32
# The options of a compose that set the limits.
TIME, PROCESSES = "--scriptlet-timeout", "--scriptlet-processes"
MEMORY, SPACE = "--scriptlet-memory", "--scriptlet-space"
# What is in memory although it looks like files.
_IN_MEMORY = ("tmp", "run", "dev", "dev/shm")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run in the sandbox may take.

    ``seconds`` until it must have ended; ``processes`` at one time, threads included;
    ``memory`` in bytes, that of files in /tmp and /run too; ``written`` in bytes, how
    much larger the writable directories may get.
    """

    seconds: float = 1800
    processes: int = 2000
    memory: int = field(default=_MEMORY * 3 // 4)
    written: int = 4 << 30


DEFAULTS = Limits()


class LimitExceeded(ComposerError):
    """A sandboxed program that was ended because it used too much."""

    def __init__(self, message: str, *, option: str, output: str = "") -> None:
        super().__init__(message, hint=f"allow it more with {option}" if option else "")
        self.tell(output)

    def tell(self, output: str) -> None:
        """Show the end of what the program had printed."""
        self.output = output
        self.details = tuple(output.strip().splitlines()[-12:]) or ("it printed nothing",)


class TimeLimitExceeded(LimitExceeded):
    """A sandboxed program that did not end in time."""

    def __init__(self, *, seconds: float, output: str = "") -> None:
        super().__init__(f"did not end within {seconds:g} seconds", option=TIME, output=output)
        self.seconds = seconds


class Clock:
    """The time that a program has left; ``restart`` when it begins with something else."""

    def __init__(self, seconds: float) -> None:
        self.restart(seconds)

    def restart(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """Raise TimeLimitExceeded when there is none left."""
        if time.monotonic() >= self._end:
            raise TimeLimitExceeded(seconds=self.seconds)

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())


class Watch:
    """Looks after the processes of the PID namespace that ``first`` is in.

    ``first`` is that process's number outside, ``writable`` the directories that it may
    write to.
    """

    def __init__(self, limits: Limits, first: int, writable: Sequence[Path]) -> None:
        self._limits, self._first = limits, first
        self._namespace = _namespace(first)
        self._space = [_Space(path, limits.written) for path in writable]
        self._next = 0.0
        # bubblewrap's first process begins with the root directory of this machine.
        own = (writable, map(Path, ("/", *(f"/{name}" for name in _IN_MEMORY))))
        self._devices = {path.stat().st_dev for path in chain(*own) if path.exists()}
        # Where the machine runs out of memory all the same, the kernel ends these first.
        for process in self._processes():
            _write(f"/proc/{process}/oom_score_adj", "800")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Make sure of being able to look, whatever they do, while the block runs."""
        _give_few_numbers(self._first, self._limits.processes)
        with _first_in_line() as first:
            if not first:
                # Nobody but root may raise one, so it starts from what they have by now.
                here = os.getpriority(os.PRIO_PROCESS, self._first)
                os.setpriority(os.PRIO_PROCESS, self._first, min(here + _NICE, 19))
            yield

    @property
    def pause(self) -> float:
        """Seconds until the next look is due."""
        return max(0.0, self._next - time.monotonic())

    def look(self) -> None:
        """Raise LimitExceeded for what is beyond its limit, if a look is due."""
        began = time.monotonic()
        if began < self._next:
            return
        processes = list(self._processes())
        self._count(processes)
        self._weigh(processes)
        for space in self._space:
            space.look()
        now = time.monotonic()
        self._next = now + max(_SHORTEST_PAUSE, _SHARE * (now - began))

    def _processes(self) -> Iterator[str]:
        if self._namespace:
            for name in os.listdir("/proc"):
                if name.isdecimal() and _namespace(name) == self._namespace:
                    yield name

    def _count(self, processes: Sequence[str]) -> None:
        most = self._limits.processes
        if len(processes) > most or sum(map(_threads, processes)) > most:
            raise LimitExceeded(f"had more than {most} processes and threads", option=PROCESSES)

    def _weigh(self, processes: Sequence[str]) -> None:
        most = self._limits.memory
        files = self._files_in_memory()
        if files + sum(map(_private, processes)) > most:
            # The estimate takes pages that forked processes still share for each one's own.
            if files + sum(map(_proportional, processes)) > most:
                raise LimitExceeded(f"used more than {_told(most)} of memory", option=MEMORY)
        elif _available_memory() < _LEAST_MEMORY:
            raise LimitExceeded(
                f"left less than {_told(_LEAST_MEMORY)} of memory on this machine", option=""
            )

    def _files_in_memory(self) -> int:
        used: dict[int, int] = {}
        for name in _IN_MEMORY:
            path = f"/proc/{self._first}/root/{name}"
            try:
                device, state = os.stat(path).st_dev, os.statvfs(path)
            except OSError:
                continue
            if device not in self._devices:
                used[device] = (state.f_blocks - state.f_bfree) * state.f_frsize
        return sum(used.values())


class _Space:
    """What is written below one directory, told from the free space of its file system."""

    def __init__(self, root: Path, most: int) -> None:
        self._root, self._most = root, most
        self._before = _free(root)
        self._least = min(_LEAST_SPACE, self._before // 20)
        self._since = _now_of_files()
        self._allowed = most

    def look(self) -> None:
        free = _free(self._root)
        if free < self._least:
            raise LimitExceeded(
                f"left only {_told(free)} free where the tree is being made", option=""
            )
        if self._before - free <= self._allowed:
            return
        # Others write to this file system too.
        written = _changed(self._root, self._since)
        if written > self._most:
            raise LimitExceeded(f"wrote more than {_told(self._most)}", option=SPACE)
        self._before, self._allowed = free, self._most - written


def _give_few_numbers(first: int, processes: int) -> None:
    """Let the namespace have little more than ``processes`` numbers, if the kernel can."""
    # Before 6.14 the same file is the whole machine's.
    if _kernel() < (6, 14) or shutil.which("nsenter") is None:
        return
    # When numbers begin anew, the kernel leaves out the first three hundred.
    command = f"echo {processes + 400} > /proc/sys/kernel/pid_max"
    argv = ["nsenter", "--target", str(first), "--pid", "--", "/bin/sh", "-c", command]
    subprocess.run(argv, capture_output=True, check=False)


def _kernel() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


@contextmanager
def _first_in_line() -> Iterator[bool]:
    """Give this process real-time priority, if it may have that, and tell whether."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:  # a plain user, or a kernel that gives real time to some groups only
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, policy, parameters)


def _namespace(process: int | str) -> str:
    try:
        return os.readlink(f"/proc/{process}/ns/pid")
    except OSError:  # it has ended, or is somebody else's
        return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as stream:
            stream.write(text)
    except OSError:
        return


def _threads(process: str) -> int:
    try:
        # A directory has a link from each of those below it; the others are not threads.
        return os.stat(f"/proc/{process}/task").st_nlink - 2
    except OSError:
        return 0


def _private(process: str) -> int:
    fields = _read(f"/proc/{process}/statm").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE if fields else 0


def _proportional(process: str) -> int:
    wanted = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")
    lines = _read(f"/proc/{process}/smaps_rollup").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))


def _available_memory() -> int:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return _MEMORY


def _free(path: Path) -> int:
    state = os.statvfs(path)
    return state.f_bfree * state.f_frsize


def _now_of_files() -> int:
    """The time that a file would get now: the kernel's own, which is a little behind."""
    descriptor = os.memfd_create("now")
    try:
        return os.fstat(descriptor).st_ctime_ns
    finally:
        os.close(descriptor)


def _changed(root: Path, since: int) -> int:
    """Bytes of what was changed below ``root`` since a time; a file's hard links count once."""
    seen: set[int] = set()
    total = 0
    left = [str(root)]
    while left:
        try:
            entries = list(os.scandir(left.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                state = entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
            except OSError:  # removed in the meantime
                continue
            if state.st_ctime_ns >= since and state.st_ino not in seen:
                seen.add(state.st_ino)
                total += state.st_blocks * 512
    return total


def _told(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
