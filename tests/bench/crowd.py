"""Many clients at once against one nginx: ``make bench-crowd``.

Each client is a process that pulls the fixture's update into a repository of its own; they
are forked from one that has imported everything, and begin together.  What nginx's workers
take of the CPU is compared with what they take for as many curls that fetch the same bytes
as plain whole files: for each file that a pull asked for, one file of as many bytes.  Takes
root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.client.published import MINIMAL, publish
from tests.net.real_servers import RealServer, nginx


def server_seconds(server: RealServer) -> float:
    """Return the CPU seconds that nginx has taken so far, all its processes."""
    main = (server.state / "pid").read_text().strip()
    workers = Path(f"/proc/{main}/task/{main}/children").read_text().split()
    total = 0
    for process in (main, *workers):
        # In nanoseconds, where /proc/PID/stat has hundredths of a second.
        total += int(Path(f"/proc/{process}/schedstat").read_text().split()[0])
    return total / 1e9


def crowd(count: int, work: Callable[[int], None]) -> tuple[int, float]:
    """Let ``count`` processes do ``work`` at once; returns how many failed, and the seconds."""
    gate, open_gate = os.pipe()
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            os.close(open_gate)
            os.read(gate, 1)  # until all are there
            status = 1
            try:
                work(number)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    os.close(gate)
    began = time.monotonic()
    os.close(open_gate)
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    return failed, time.monotonic() - began


def compare(count: int, rounds: int) -> dict[str, Any]:
    """Pull and fetch, in turn."""
    from fixtures.rpms.build import build

    sources = Path(".cache/fixtures").resolve()
    build(sources, jobs=2)
    with tempfile.TemporaryDirectory(prefix="crowd.") as name:
        place = Path(name)
        made = publish(place / "p", {1: sources / "gen1", 2: sources / "gen2"})
        mirror = made.mirror(2, place / "mirror")
        rows = []
        with nginx(mirror) as server:
            made.write_remote(place / "config", "crowd", server.url)
            for number in range(rounds):
                repos = place / f"clients{number}"
                for client in range(count):
                    made.client(repos / str(client))
                rows.append(_round(server, mirror, place, repos, count, made.commit(MINIMAL, 2)))
        return {"clients": count, "rounds": rows}


def _round(
    server: RealServer, mirror: Path, place: Path, repos: Path, count: int, commit: str
) -> dict[str, Any]:
    from composer.client import Repository, find_remote, pull

    remote = find_remote("crowd", place / "config")

    def update(number: int) -> None:
        repo = Repository.open(repos / str(number))
        repo.disable_fsync()
        done = pull(remote, MINIMAL, repo, workers=1)
        assert str(done.commit) == commit

    before, logged = server_seconds(server), len(server.requests())
    failed, seconds = crowd(count, update)
    ours = server_seconds(server) - before
    asked = server.requests()[logged:]
    plain = _plain_files(asked, mirror, count)
    urls = [server.url + path for path in plain]

    def fetch(number: int) -> None:
        words = [word for url in urls for word in ("-o", os.devnull, url)]
        subprocess.run(["curl", "-sS", "--fail", *words], check=True)

    before, logged = server_seconds(server), len(server.requests())
    curls_failed, curl_seconds = crowd(count, fetch)
    theirs = server_seconds(server) - before
    fetched = server.requests()[logged:]
    return {
        "failed": failed,
        "seconds": round(seconds, 2),
        "server_seconds": round(ours, 3),
        "requests": len(asked),
        "bytes": sum(sent for *_, sent in asked),
        "curl": {
            "failed": curls_failed,
            "seconds": round(curl_seconds, 2),
            "server_seconds": round(theirs, 3),
            "requests": len(fetched),
            "bytes": sum(sent for *_, sent in fetched),
        },
        "ratio": round(ours / theirs, 3) if theirs else None,
    }


def _plain_files(asked: Sequence[tuple[str, str, int, int]], mirror: Path, count: int) -> list[str]:
    """Make a file for each that was asked for, of the bytes that a client got of it."""
    sizes: Counter[str] = Counter()
    for _, path, _, sent in asked:
        sizes[path] += sent
    found = []
    for number, (path, size) in enumerate(sorted(sizes.items())):
        plain = mirror / "plain" / str(number)
        plain.parent.mkdir(exist_ok=True)
        plain.write_bytes((mirror / path).read_bytes()[: size // count])
        found.append(f"plain/{number}")
    return found


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    text = json.dumps(compare(given.clients, given.rounds), indent=1)
    if given.out:
        given.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
