"""The command line as a person uses it, for tests: a process, its status and its words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as the JSON document that ``--json`` promises."""
        return json.loads(self.out)


def jigdo(*words: object, env: Mapping[str, str] | None = None, status: int = 0) -> Done:
    """Run jigdo-composer; fails the test, with what it said, when it ends otherwise."""
    done = subprocess.run(
        [sys.executable, "-m", "composer", *map(str, words)],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return Done(done.returncode, done.stdout, done.stderr)


def ostree(repo: Path, *words: object) -> str:
    """Run ostree on ``repo``; returns what it prints."""
    argv = ["ostree", f"--repo={repo}", *map(str, words)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def serving(directory: Path, access_log: Path) -> Iterator[str]:
    """Serve ``directory`` by ``mirror serve`` on a free port; yields the URL."""
    words = ["mirror", "serve", directory, "--port", "0", "--json", "--access-log", access_log]
    server = subprocess.Popen(
        [sys.executable, "-m", "composer", *map(str, words)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.terminate()
        server.wait(30)
        assert server.stdout is not None
        server.stdout.close()
