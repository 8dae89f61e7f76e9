"""A pull over a slow line against curl for the same requests: ``make bench-line``.

nginx, behind a delay of half the round trip each way (tests/line.py), and the client are in
network namespaces of their own; the kernel (tbf) holds the rate.  curl gets the very requests
of the pull, by its log: in sequence over one connection, and as many at once as the pull
makes; the better one counts.  Takes root.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.net.network import Limits
from tests.bench.measure import measure

_SERVER, _CLIENT = "10.231.77.1", "10.231.77.2"
_PORT, _BEHIND = 8080, 8081
_NGINX = """\
daemon off; worker_processes 1; user root; pid {state}/pid; error_log {state}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format asked '$status $body_bytes_sent $http_range $uri';
    access_log {state}/access.log asked; sendfile on; keepalive_requests 100000;
    client_body_temp_path {state}/b; proxy_temp_path {state}/p; fastcgi_temp_path {state}/f;
    uwsgi_temp_path {state}/u; scgi_temp_path {state}/s;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""
_JIGDO = [sys.executable, "-m", "composer", "--quiet"]


@dataclass(frozen=True, slots=True)
class Slow:
    """A line: its round trip in seconds, its rate in bits per second."""

    rtt: float
    bits: int


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the log."""

    path: str
    range: str
    sent: int


class Namespaces:
    """A server and a client, and the line between them, while the ``with`` block runs."""

    def __init__(self, line: Slow, root: Path, state: Path) -> None:
        self._line, self._root, self._state = line, root, state
        self._names = (f"line-s{os.getpid()}", f"line-c{os.getpid()}")
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Namespaces:
        server, client = self._names
        rate = ["tbf", "rate", f"{self._line.bits}bit", "burst", "32kb", "latency", "100ms"]
        for words in (
            ["ip", "netns", "add", server],
            ["ip", "netns", "add", client],
            ["ip", "link", "add", "veth0", "netns", server, "type", "veth",
             "peer", "name", "veth0", "netns", client],
            ["ip", "-n", server, "addr", "add", f"{_SERVER}/30", "dev", "veth0"],
            ["ip", "-n", client, "addr", "add", f"{_CLIENT}/30", "dev", "veth0"],
            *(["ip", "-n", name, "link", "set", device, "up"]
              for name in self._names for device in ("lo", "veth0")),
            ["tc", "-n", server, "qdisc", "add", "dev", "veth0", "root", *rate],
        ):  # fmt: skip
            subprocess.run(words, check=True)
        config = self._state / "nginx.conf"
        config.write_text(_NGINX.format(state=self._state, root=self._root, port=_BEHIND))
        self._start("nginx", "-e", "stderr", "-c", str(config))
        delay = ["--host", _SERVER, "--delay", str(self._line.rtt / 2)]
        self._start(sys.executable, "-m", "tests.line", str(_PORT), f"127.0.0.1:{_BEHIND}", *delay)
        self._await()
        return self

    def _start(self, *words: str) -> None:
        argv = ["ip", "netns", "exec", self._names[0], *words]
        self._running.append(subprocess.Popen(argv))

    def _await(self) -> None:
        probe = [*self.inside(), "curl", "-s", "-o", os.devnull, self.url]
        deadline = time.monotonic() + 20
        while subprocess.run(probe, check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError("the server behind the slow line does not answer")
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            process.terminate()
            process.wait(20)
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False)

    @property
    def url(self) -> str:
        """Base URL as the client sees it."""
        return f"http://{_SERVER}:{_PORT}/"

    def inside(self) -> list[str]:
        """What a command begins with that runs where the client is."""
        return ["ip", "netns", "exec", self._names[1]]

    @contextmanager
    def logged(self) -> Iterator[list[Asked]]:
        """Collect the requests that are made while the block runs."""
        log = self._state / "access.log"
        before = log.stat().st_size if log.exists() else 0
        found: list[Asked] = []
        yield found
        time.sleep(0.3)  # the last line is written a moment after the last byte
        with log.open() as stream:
            stream.seek(before)
            for line in stream:
                _, sent, span, path = line.rstrip("\n").split(" ", 3)
                found.append(Asked(path, span.removeprefix("bytes="), int(sent)))


def curl_seconds(here: Namespaces, asked: Sequence[Asked], work: Path, *, parallel: int) -> float:
    """Let curl make the same requests; returns the seconds that it takes."""
    lines = []
    for one in asked:
        lines += [f'url = "{here.url}{one.path.lstrip("/")}"', f'output = "{os.devnull}"']
        lines += [f'range = "{one.range}"'] if one.range not in ("", "-") else []
        lines += ["next"]
    config = work / "curl.conf"
    config.write_text("\n".join(lines[:-1]) + "\n")
    words: list[object] = [*here.inside(), "curl", "-sS", "--fail"]
    if parallel > 1:
        words += ["--parallel", "--parallel-immediate", "--parallel-max", parallel]
    words += ["-K", config]
    return measure(words).wall


def compare(
    line: Slow, root: Path, pull: Sequence[str], remote: Sequence[str], start: Path | None,
    rounds: int,
) -> dict[str, Any]:  # fmt: skip
    """Pull over the line into a copy of ``start``, and let curl fetch the same, in turn."""
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="line.") as place:
        work = Path(place)
        with Namespaces(line, root, work) as here:
            config = work / "config"
            add = [word.replace("{url}", here.url) for word in remote]
            words = [*_JIGDO, "remote", "add", "line", *add, "--trust", "none"]
            subprocess.run([*words, "--config-dir", config], check=True, stdout=subprocess.DEVNULL)
            for _ in range(rounds):
                repo = work / "repo"
                _fresh(repo, start)
                argv = [*here.inside(), *_JIGDO, "pull", f"line:{pull[0]}", *pull[1:]]
                argv += ["--repo", str(repo), "--config-dir", str(config), "--json"]
                with here.logged() as asked:
                    ours = measure(argv, stdout=work / "out.json").wall
                ways = {"sequential": 1, "parallel": Limits().parallel}
                theirs = {
                    name: curl_seconds(here, asked, work, parallel=n) for name, n in ways.items()
                }
                rows.append({"ours": ours, **theirs})
                moved = json.loads((work / "out.json").read_text())["moved"]
                shutil.rmtree(repo)
    seconds = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    best = min(seconds["sequential"], seconds["parallel"])
    size = sum(one.sent for one in asked)
    return {
        "rounds": rows,
        "requests": len(asked),
        "bytes": size,
        "announced": sum(part["bytes"] for part in moved.values()),
        "seconds": seconds,
        "line_seconds": size * 8 / line.bits,
        "ratio": round(best / seconds["ours"], 3),
    }


def _fresh(repo: Path, start: Path | None) -> None:
    if start is None:
        subprocess.run(["ostree", f"--repo={repo}", "init", "--mode=bare-user"], check=True)
    else:
        shutil.copytree(start, repo, symlinks=True)


def main() -> None:
    """Measure what the arguments say, or the fixture's refs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="directory to serve; the fixture by default")
    parser.add_argument("--ref", help="what to pull")
    parser.add_argument("--start", type=Path, help="repository to begin with; an empty one")
    parser.add_argument("--base", default="", help="where in ROOT the sets are")
    parser.add_argument("--repository", action="append", default=[], metavar="ID=PLACE-IN-ROOT")
    parser.add_argument("--rtt", type=float, default=0.1)
    parser.add_argument("--bits", type=int, default=20_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    line = Slow(given.rtt, given.bits)
    found: dict[str, Any] = {}
    if given.root:
        remote = [f"{{url}}{given.base}"]
        for text in given.repository:
            key, _, place = text.partition("=")
            remote += ["--repository", f"{key}={{url}}{place}"]
        root = given.root.resolve()
        found["given"] = compare(line, root, [given.ref], remote, given.start, given.rounds)
    else:
        found = _fixture(line, given.rounds)
    text = json.dumps(found, indent=1)
    if given.out:
        given.out.write_text(text)
    print(text)


def _fixture(line: Slow, rounds: int) -> dict[str, Any]:
    from fixtures.rpms.build import build
    from tests.client.published import BASE, MINIMAL, publish

    sources = Path(".cache/fixtures").resolve()
    build(sources, jobs=2)
    with tempfile.TemporaryDirectory(prefix="published.") as place:
        made = publish(Path(place) / "p", {1: sources / "gen1", 2: sources / "gen2"})
        mirror = made.mirror(2, Path(place) / "mirror")
        cases = {"fresh": (BASE, None), "update": (MINIMAL, made.root / "client")}
        return {
            name: compare(line, mirror, [ref], ["{url}"], start, rounds)
            for name, (ref, start) in cases.items()
        }


if __name__ == "__main__":
    main()
