"""Commands with a fault at the N-th call that changes a file, and quickly so.

faults.c, preloaded, counts calls below a directory over all threads, and kills, fails, tears or
pauses at the N-th.  The command runs in a fork of a process that has imported everything
(:mod:`tests.crash.forked`), which saves most of its time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import pytest

_SOURCE = Path(__file__).with_name("faults.c")
_FIELDS = struct.Struct("=12I")
_SCOPE, _LOGGED, _NAME = 464, 16384, 16
_SIZE = _FIELDS.size + _SCOPE + _LOGGED * _NAME
_ARMED, _CALLS, _FIRST, _LAST, _ACTION, _ERROR, _READS, _HITS, _PID, _PAUSED, _RESUMED = range(11)
EVER = 0xFFFFFFFF


class _Action(IntEnum):
    """As in faults.c."""

    COUNT = 0
    KILL = 1
    FAIL = 2
    TEAR = 3
    PAUSE = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens.  ``lasting``: at every later call, too.  ``reads``: of calls that read."""

    name: str
    action: _Action
    error: int = 0
    lasting: bool = False
    reads: bool = False


COUNTED = Fault("counted", _Action.COUNT)
KILL = Fault("SIGKILL", _Action.KILL)
TEAR = Fault("SIGKILL after the call, half of a write", _Action.TEAR)
NO_SPACE = Fault("ENOSPC from there on", _Action.FAIL, errno.ENOSPC, lasting=True)
IO_ERROR = Fault("EIO", _Action.FAIL, errno.EIO)
READ_COUNTED = Fault("counted", _Action.COUNT, reads=True)
READ_ERROR = Fault("EIO of a read", _Action.FAIL, errno.EIO, reads=True)
_PAUSES = Fault("pause", _Action.PAUSE)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: status, minus the signal where one ended it; what it said; its calls.

    ``calls`` has the names of the calls that were counted, in order; ``hits`` how many were hit.
    """

    status: int
    out: str
    err: str
    calls: tuple[str, ...]
    hits: int

    @property
    def was_killed(self) -> bool:
        """Tell whether the fault killed it."""
        return self.status == -signal.SIGKILL


def built() -> Path:
    """Return the layer, compiled if need be."""
    name = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    made = Path(tempfile.gettempdir()) / f"jigdo-composer-{os.geteuid()}-faults-{name}.so"
    if not made.exists():
        words = ["cc", "-shared", "-fPIC", "-O1", "-fno-builtin", "-o", f"{made}.{os.getpid()}"]
        try:
            subprocess.run([*words, str(_SOURCE), "-ldl"], check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("no C compiler for the layer of faults")
        os.replace(f"{made}.{os.getpid()}", made)
    return made


class Runner:
    """Runs commands of this program; each with at most one fault."""

    def __init__(self, place: Path, env: Mapping[str, str]) -> None:
        self._place, self._env = place, env
        self._out, self._err = place / "out", place / "err"

    def __enter__(self) -> Self:
        self._place.mkdir(exist_ok=True)
        path = self._place / "state"
        path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as stream:
            self._state = mmap.mmap(stream.fileno(), _SIZE)
        env = {**os.environ, **self._env, "LD_PRELOAD": str(built()), "CRASH_STATE": str(path)}
        # Counting what a coverage report needs is not the program's work.
        for name in [name for name in env if name.startswith("COVERAGE")]:
            del env[name]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.forked"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()
        self._state.close()

    def run(
        self,
        words: Sequence[str],
        scope: Path,
        fault: Fault = COUNTED,
        number: int = 0,
        *,
        setting: Mapping[str, Any] | None = None,
    ) -> Ended:
        """Run to the end; ``fault`` is at the ``number``-th call (from 1) below ``scope``.

        ``setting`` gives attributes of modules, "module:name", other values.
        """
        self._begin(words, scope, fault, number, setting)
        return self._end()

    def run_cut(
        self,
        words: Sequence[str],
        scope: Path,
        cut: Callable[[int, str], object],
        *,
        setting: Mapping[str, Any] | None = None,
    ) -> Ended:
        """Run to the end, and call ``cut`` with the number and name of each call before it is."""
        self._begin(words, scope, _PAUSES, 0, setting)
        try:
            return self._until_the_end(cut)
        except BaseException:
            os.kill(self._get(_PID), signal.SIGKILL)
            self._end()
            raise

    def _until_the_end(self, cut: Callable[[int, str], object]) -> Ended:
        seen = 0
        while True:
            paused = self._get(_PAUSED)
            if paused != seen:
                cut(paused, _name(self._state, paused))
                seen = paused
                self._set(_RESUMED, paused)
            elif self._ready(0.0):
                return self._end()
            else:
                time.sleep(0.0002)

    @staticmethod
    def counted(
        argv: Sequence[str], env: Mapping[str, str], scope: Path, place: Path
    ) -> tuple[str, ...]:
        """Run any program to its end, which must be a good one; returns its calls."""
        path = place / "state"
        fields = _FIELDS.pack(1, *[0] * 11)
        path.write_bytes((fields + str(scope).encode()).ljust(_SIZE, b"\0"))
        layer = {"LD_PRELOAD": str(built()), "CRASH_STATE": str(path)}
        done = subprocess.run(
            argv, env={**os.environ, **env, **layer}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        data = path.read_bytes()
        calls = int.from_bytes(data[_CALLS * 4 : _CALLS * 4 + 4], sys.byteorder)
        return tuple(_name(data, number) for number in range(1, calls + 1))

    def _begin(
        self,
        words: Sequence[str],
        scope: Path,
        fault: Fault,
        number: int,
        setting: Mapping[str, Any] | None,
    ) -> None:
        last = EVER if fault.lasting and number else number
        place = str(scope).encode()
        assert len(place) < _SCOPE
        fields = [1, 0, number, last, fault.action, fault.error, fault.reads, 0, 0, 0, 0, 0]
        self._state[: _FIELDS.size] = _FIELDS.pack(*fields)
        self._state[_FIELDS.size : _FIELDS.size + _SCOPE] = place.ljust(_SCOPE, b"\0")
        request = {
            "words": list(words),
            "out": str(self._out),
            "err": str(self._err),
            "setting": dict(setting or {}),
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()

    def _ready(self, seconds: float) -> bool:
        assert self._server.stdout is not None
        return bool(select.select([self._server.stdout], [], [], seconds)[0])

    def _end(self) -> Ended:
        if not self._ready(120):
            os.kill(self._get(_PID), signal.SIGKILL)
            pytest.fail("a command hangs")
        assert self._server.stdout is not None
        status = os.waitstatus_to_exitcode(int(self._server.stdout.readline()))
        calls = min(self._get(_CALLS), _LOGGED)
        names = tuple(_name(self._state, number) for number in range(1, calls + 1))
        out, err = self._out.read_text(), self._err.read_text()
        return Ended(status, out, err, names, self._get(_HITS))

    def _get(self, field: int) -> int:
        return int.from_bytes(self._state[field * 4 : field * 4 + 4], sys.byteorder)

    def _set(self, field: int, value: int) -> None:
        self._state[field * 4 : field * 4 + 4] = value.to_bytes(4, sys.byteorder)


def _name(state: bytes | mmap.mmap, number: int) -> str:
    start = _FIELDS.size + _SCOPE + (number - 1) * _NAME
    return state[start : start + _NAME].rstrip(b"\0").decode()
