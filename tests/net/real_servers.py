"""nginx and Apache from the distribution, serving a directory on a free loopback port.

``tests/net/conftest.py`` shows how to get the fixtures; each is a function::

    def test_something(nginx_server, tmp_path):
        server = nginx_server(tmp_path)
        fetch(server.url + "file")
        assert server.sent("file") == 100
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

StartServer = Callable[[Path], "RealServer"]

_NGINX = """\
daemon off;
worker_processes 1;
{user}
pid {state}/pid;
error_log {state}/error.log;
events {{ worker_connections 4096; }}
http {{
    log_format moved '$request_method {uri} $status $body_bytes_sent';
    access_log {state}/access.log moved;
    client_body_temp_path {state}/body; proxy_temp_path {state}/proxy;
    fastcgi_temp_path {state}/fastcgi; uwsgi_temp_path {state}/uwsgi; scgi_temp_path {state}/scgi;
    sendfile on;
    server {{ listen 127.0.0.1:{port}{how}; root {directory}; {tls} {more} }}
}}
"""

_APACHE = """\
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
ServerName localhost
Listen 127.0.0.1:{port}
DefaultRuntimeDir {state}
PidFile {state}/pid
ErrorLog {state}/error.log
LogFormat "%m %U %>s %B" moved
CustomLog {state}/access.log moved
DocumentRoot {directory}
<Directory {directory}>
    Require all granted
</Directory>
"""


@dataclass(frozen=True, slots=True)
class RealServer:
    """A running server; ``url`` ends with a slash."""

    url: str
    state: Path

    def requests(self) -> list[tuple[str, str, int, int]]:
        """Method, path, status and body bytes of every answered request, in order."""
        time.sleep(0.05)  # a line is written just after the last byte has left
        lines = (self.state / "access.log").read_text().splitlines()
        rows = (line.rsplit(" ", 2) for line in lines)
        return [
            (head.split(" ", 1)[0], head.split(" ", 1)[1].lstrip("/"), int(status), int(sent))
            for head, status, sent in rows
        ]

    def sent(self, path: str | None = None) -> int:
        """Body bytes sent for ``path``, or for everything."""
        return sum(sent for _, name, _, sent in self.requests() if path in (None, name))


@contextmanager
def nginx(directory: Path, *, tls: str = "", more: str = "") -> Iterator[RealServer]:
    """Serve ``directory`` with nginx while the block runs; skips the test without it.

    With settings for ``tls`` it speaks that, and HTTP/2, and the paths of its log are
    CONNECTION PROTOCOL CLIENT/PATH.
    """
    program = _program("nginx", "nginx-light")
    user = "user root;" if os.geteuid() == 0 else ""
    with _running(
        lambda config: [program, "-e", "stderr", "-c", config],
        _NGINX,
        directory,
        user=user,
        tls=tls,
        more=more,
        how=" ssl http2" if tls else "",
        uri="$connection $server_protocol $ssl_client_s_dn$uri" if tls else "$uri",
    ) as server:
        yield server


@contextmanager
def apache(directory: Path) -> Iterator[RealServer]:
    """Serve ``directory`` with Apache while the block runs; skips the test without it."""
    program = _program("apache2", "apache2-bin")
    prefix: list[str] = []
    if os.geteuid() == 0:
        # Apache refuses to serve as root, and others cannot look into pytest's directories.
        capability = "+dac_override"
        prefix = ["setpriv", "--reuid=nobody", "--clear-groups"]
        prefix += [f"--inh-caps={capability}", f"--ambient-caps={capability}"]
    with _running(
        lambda config: [*prefix, program, "-DFOREGROUND", "-f", config], _APACHE, directory
    ) as server:
        yield server


def _program(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install {package})")
    return found


@contextmanager
def _running(
    command: Callable[[str], list[str]], config: str, directory: Path, **values: str
) -> Iterator[RealServer]:
    with tempfile.TemporaryDirectory(prefix="web.") as place:
        state = Path(place)
        port = _free_port()
        path = state / "server.conf"
        path.write_text(config.format(state=state, directory=directory, port=port, **values))
        with (state / "output").open("wb") as output:
            process = subprocess.Popen(command(str(path)), stdout=output, stderr=output)
        try:
            _await(port, process, state)
            scheme = "https" if values.get("tls") else "http"
            yield RealServer(f"{scheme}://127.0.0.1:{port}/", state)
        finally:
            process.terminate()
            process.wait(timeout=20)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _await(port: int, process: subprocess.Popen[bytes], state: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    logs = "".join(path.read_text() for path in state.glob("*") if path.name[:3] in ("err", "out"))
    raise AssertionError(f"the server does not answer: {logs}")


@pytest.fixture
def nginx_server() -> Iterator[StartServer]:
    """A function that serves a directory with nginx until the test ends."""
    with ExitStack() as stack:
        yield lambda directory: stack.enter_context(nginx(directory))


@pytest.fixture
def apache_server() -> Iterator[StartServer]:
    """A function that serves a directory with Apache until the test ends."""
    with ExitStack() as stack:
        yield lambda directory: stack.enter_context(apache(directory))
