"""An HTTP proxy on a free loopback port: forwards, tunnels, may want a password; keeps a log."""

from __future__ import annotations

import base64
import select
import socket
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit


class Proxy:
    """Runs while the ``with`` block does; ``login`` is USER:PASSWORD, or "" for anybody."""

    def __init__(self, login: str = "") -> None:
        self.login = login
        self.asked: list[str] = []
        self._server = _Server(self)

    def __enter__(self) -> Self:
        serve = self._server.serve_forever
        threading.Thread(target=serve, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def place(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: Proxy.asked has it."""

    def _may_pass(self) -> bool:
        assert isinstance(self.server, _Server)
        proxy = self.server.proxy
        proxy.asked.append(f"{self.command} {self.path}")
        want = "Basic " + base64.b64encode(proxy.login.encode()).decode()
        if not proxy.login or self.headers.get("Proxy-Authorization") == want:
            return True
        self.send_response(407)
        self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def do_GET(self) -> None:
        if not self._may_pass():
            return
        parts = urlsplit(self.path)
        connection = HTTPConnection(parts.hostname or "", parts.port)
        own = {k: v for k, v in self.headers.items() if not k.lower().startswith("proxy-")}
        connection.request("GET", parts.path, headers=own)
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name not in ("Server", "Date", "Connection"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        connection.close()

    def do_CONNECT(self) -> None:
        if not self._may_pass():
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as other:
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            self.close_connection = True
            ends = [self.connection, other]
            while True:
                for end in select.select(ends, [], [])[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        return
                    (other if end is self.connection else self.connection).sendall(data)
