"""Running the programs that pack, and counting what packing takes.

A process that starts another shares its memory with it for a moment, so whoever is large
counts twice; and a start takes a millisecond of the large one's time.  A pull therefore has
its programs run by shells that it starts while it is small.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryFile
from typing import Any, Self

from composer.errors import VerificationFailed
from composer.jigdo.repack.streams import PIECE
from composer.system.files import explained


class PacksDifferently(VerificationFailed):
    """The packers of this machine do not give the bytes that they gave where the set was built."""


Run = Callable[[list[str], Iterator[bytes]], Iterator[bytes]]
"""Runs a program on a stream; raises PacksDifferently when it cannot, or fails."""


def _environment() -> dict[str, str]:
    # Nothing else: $GZIP can hold options.
    return {"PATH": os.environ.get("PATH", os.defpath)}


def through(argv: list[str], pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Run a program on a stream; a thread writes while this generator reads."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
    except OSError as error:
        raise PacksDifferently(
            f"cannot run {argv[0]}: {error.strerror}", hint=f"install {argv[0]}"
        ) from None
    assert process.stdin is not None
    assert process.stdout is not None
    failure: list[BaseException] = []

    def write(pipe: Any = process.stdin) -> None:
        try:
            with pipe:
                for piece in pieces:
                    pipe.write(piece)
        except BrokenPipeError:
            pass  # the reader stopped early, or the program failed: its status tells
        except BaseException as error:
            failure.append(error)

    writer = threading.Thread(target=write, name=argv[0])
    writer.start()
    try:
        while piece := process.stdout.read1(PIECE):  # type: ignore[attr-defined]
            yield piece
    finally:
        process.stdout.close()
        writer.join()
        status = process.wait()
    if failure:
        raise failure[0]
    if status:
        raise PacksDifferently(f"{argv[0]} failed with status {status}")


class Packers:
    """So many shells that run programs, and what packing took.  Enter it while memory is small.

    ``cpu`` and ``wall`` are seconds of opening and packing: ``cpu`` of programs too, once it is
    closed; ``wall`` is added up over all who work at once.
    """

    def __init__(self, count: int) -> None:
        self.cpu = self.wall = 0.0
        self._lock = threading.Lock()
        self._count = count
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._shells: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        for _ in range(self._count):
            shell = subprocess.Popen(
                ["/bin/sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
            )
            self._shells.append(shell)
            self._idle.put(shell)
        return self

    def __exit__(self, *error: object) -> None:
        for shell in self._shells:
            assert shell.stdin is not None
            assert shell.stdout is not None
            shell.stdin.close()
            shell.stdout.close()
            _, ended, usage = os.wait4(shell.pid, 0)
            shell.returncode = os.waitstatus_to_exitcode(ended)
            self.cpu += usage.ru_utime + usage.ru_stime

    def run(self, place: Path) -> Run:
        """Return what runs a program by a shell; its files, without a name, are in ``place``."""

        def run(argv: list[str], pieces: Iterator[bytes]) -> Iterator[bytes]:
            with (
                TemporaryFile(dir=place, buffering=0) as source,
                TemporaryFile(dir=place, buffering=0) as packed,
            ):
                for piece in pieces:
                    try:
                        source.write(piece)
                    except OSError as error:
                        raise explained(error, place) from error
                own = f"/proc/{os.getpid()}/fd"
                files = f"<{own}/{source.fileno()} >{own}/{packed.fileno()}"
                if status := self._ask(f"{shlex.join(argv)} {files} 2>/dev/null; echo $?\n"):
                    raise PacksDifferently(f"{argv[0]} failed with status {status}")
                while piece := packed.read(PIECE):
                    yield piece

        return run

    def _ask(self, line: str) -> str:
        """Have a shell do ``line``; returns its status, "" for success."""
        shell = self._idle.get()
        assert shell.stdin is not None
        assert shell.stdout is not None
        try:
            shell.stdin.write(line.encode())
            shell.stdin.flush()
            answer = shell.stdout.readline().decode().strip() or "of a shell that has ended"
        except OSError as error:
            answer = str(error)
        finally:
            self._idle.put(shell)
        return "" if answer == "0" else answer

    @contextmanager
    def timed(self, sign: int = 1) -> Iterator[None]:
        """Count the block's time, of this thread; with -1, take it off again."""
        cpu, wall = time.thread_time(), time.monotonic()
        try:
            yield
        finally:
            cpu, wall = time.thread_time() - cpu, time.monotonic() - wall
            with self._lock:
                self.cpu += sign * cpu
                self.wall += sign * wall

    def counted(self, pieces: Iterable[bytes], sign: int = 1) -> Iterator[bytes]:
        """Pass on pieces, and count the time that making them takes."""
        source = iter(pieces)
        while True:
            with self.timed(sign):
                piece = next(source, None)
            if piece is None:
                return
            yield piece
