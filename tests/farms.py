"""A real Dask cluster for tests: a scheduler and workers, processes of their own on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from composer.system.executors import Farm, opened_executor

pytest.importorskip("distributed", reason="distributed is not installed")

_ROOT = Path(__file__).parents[1]
_SOON = 60.0


@dataclass(slots=True)
class Cluster:
    """A scheduler and its workers; ``url`` is what --executor takes."""

    where: Path
    port: int
    host: str = "127.0.0.1"
    options: tuple[str, ...] = ()
    scheme: str = "tcp"
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"dask://{self.host}:{self.port}"

    def start(
        self,
        what: str,
        *args: str,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a scheduler or a worker; its output goes to a file."""
        log = self.where / f"{what}{len(self.processes)}.log"
        # They end with this process, however it ends.
        argv = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            *prefix,
            sys.executable,
            "-m",
            f"distributed.cli.dask_{what}",
            *args,
        ]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*argv, *self.options],
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=_ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(_ROOT),
                    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
                    **(environment or {}),
                },
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def add_worker(
        self,
        name: str,
        *,
        nanny: bool = False,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        more: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a worker with one thread."""
        directory = self.where / name
        directory.mkdir()
        return self.start(
            "worker",
            f"{self.scheme}://{self.host}:{self.port}",
            "--name",
            name,
            "--nthreads",
            "1",
            "--nworkers",
            "1",
            "--host",
            f"{self.scheme}://{host}",
            "--no-dashboard",
            "--local-directory",
            str(directory),
            "--nanny" if nanny else "--no-nanny",
            *more,
            prefix=prefix,
            environment=environment,
        )

    def wait_for(self, workers: int) -> None:
        """Wait until so many workers are there."""
        from distributed import Client

        give_up = time.monotonic() + _SOON
        with Client(  # type: ignore[no-untyped-call]
            f"{self.scheme}://{self.host}:{self.port}", timeout=_SOON, set_as_default=False
        ) as client:
            client.wait_for_workers(workers, timeout=max(1.0, give_up - time.monotonic()))

    def stop(self) -> None:
        """End all, whatever state they are in."""
        for process in reversed(self.processes):
            for number in (signal.SIGCONT, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    break
            process.wait()


@contextmanager
def cluster(
    where: Path,
    *,
    host: str = "127.0.0.1",
    environment: Mapping[str, str] | None = None,
    tls: tuple[str, ...] = (),
) -> Iterator[Cluster]:
    """Run a scheduler without workers; ``tls`` are its and their options for that."""
    with socket.socket() as free:
        free.bind((host, 0))
        port = free.getsockname()[1]
    made = Cluster(where, port, host, tls, "tls" if tls else "tcp")
    place = ("--host", f"{made.scheme}://{host}", "--port", str(port))
    made.start("scheduler", *place, "--no-dashboard", environment=environment)
    try:
        give_up = time.monotonic() + _SOON
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((host, port)) == 0:
                    break
            assert time.monotonic() < give_up, (where / "scheduler0.log").read_text()
            time.sleep(0.05)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def farm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two workers that is well."""
    where = tmp_path_factory.mktemp("farm")
    with cluster(where) as made:
        for number in range(2):
            made.add_worker(f"w{number}")
        made.wait_for(2)
        yield made
    shutil.rmtree(where, ignore_errors=True)


@pytest.fixture
def farm(farm_cluster: Cluster) -> Iterator[Farm]:
    """A connection to it."""
    with opened_executor(farm_cluster.url) as opened:
        assert opened is not None
        yield opened


@contextmanager
def machines(count: int) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """Make network namespaces on one bridge, as machines on a net: root alone can.

    Yields this machine's address on it, and of each other one its address and what a command
    that runs there begins with.
    """
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces take root and ip")
    net, tag = f"10.91.{os.getpid() % 250}", f"jf{os.getpid()}"
    names = [f"{tag}h", *(f"{tag}m{number}" for number in range(count))]
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        hub = names[0]
        _ip("-n", hub, "link", "add", "name", "net0", "type", "bridge")
        _ip("-n", hub, "link", "set", "net0", "up")
        _ip("link", "add", tag, "type", "veth", "peer", "name", "p", "netns", hub)
        _ip("addr", "add", f"{net}.254/24", "dev", tag)
        _ip("link", "set", tag, "up")
        _ip("-n", hub, "link", "set", "p", "master", "net0", "up")
        made = []
        for number, name in enumerate(names[1:], 1):
            ends = ("peer", "name", "eth", "netns", name)
            _ip("link", "add", f"p{number}", "netns", hub, "type", "veth", *ends)
            _ip("-n", hub, "link", "set", f"p{number}", "master", "net0", "up")
            _ip("-n", name, "addr", "add", f"{net}.{number}/24", "dev", "eth")
            _ip("-n", name, "link", "set", "eth", "up")
            made.append((f"{net}.{number}", ["ip", "netns", "exec", name]))
        yield f"{net}.254", made
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no network namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")
