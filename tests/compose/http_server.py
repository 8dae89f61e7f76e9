"""A plain HTTP server of a directory, in a process of its own: libdnf keeps Python's lock.

``python -m tests.compose.http_server DIRECTORY`` prints its port, then a line per request.
"""

from __future__ import annotations

import os
import socketserver
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Binds without looking up its own name, which takes seconds without a network."""

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        # One write, so that the lines of two threads do not run into each other.
        os.write(1, f"{self.path}\n".encode())


@contextmanager
def served(directory: Path, log: Path) -> Iterator[str]:
    """Serve ``directory`` and yield its URL; requested paths are lines of ``log``."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.compose.http_server", str(directory)],
            stdout=subprocess.PIPE,
            stderr=stream,
        )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        log.write_bytes(process.stdout.read())
        process.wait()
        process.stdout.close()


def asked_packages(log: Path) -> list[str]:
    """Return the RPMs that were asked for while the server ran."""
    return [line for line in log.read_text().splitlines() if line.endswith(".rpm")]


if __name__ == "__main__":
    with Server(("127.0.0.1", 0), partial(Handler, directory=sys.argv[1])) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
