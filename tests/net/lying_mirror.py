"""An HTTP mirror of a directory that lies on request.

A real server on a free loopback port, so that tests exercise the real client::

    with LyingMirror(directory) as mirror:
        mirror.flip_bit("Packages/a.rpm", offset=100)
        ...
        assert mirror.sent("Packages/a.rpm") < 2000

Every method that takes a path means it relative to the directory; a lie that
takes none is told about every file.  ``mirror.honest()`` ends all lies.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

_PIECE = 1 << 16
_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")
_HTML = b"<!DOCTYPE html>\n<title>Welcome</title>\n<p>Log in to use this network.\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was answered; ``sent`` counts bytes of the body that left."""

    method: str
    path: str
    range: str
    status: int
    sent: int


@dataclass(slots=True)
class _Lies:
    dropped: set[str] = field(default_factory=set)
    flipped: dict[str, list[int]] = field(default_factory=dict)
    truncated: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    redirected: dict[str, str] = field(default_factory=dict)
    html: set[str] = field(default_factory=set)
    failing: dict[str, list[int]] = field(default_factory=dict)
    retry_after: str = ""
    endless: set[str] = field(default_factory=set)
    trickling: dict[str, float] = field(default_factory=dict)
    ranges_ignored: bool = False
    content_range_shift: int = 0
    stall_after: int | None = None
    stall_path: str | None = None


class LyingMirror:
    """Serves ``directory`` while the ``with`` block runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._log: list[Request] = []
        self._answering = 0
        self._quiet = threading.Condition()
        self.connections = 0
        self.on_request: Callable[[], object] = lambda: None
        self._lies = _Lies()
        self._closing = threading.Event()
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        self._server = _Server(self)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._closing.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Base URL, with a slash at its end."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    # What can be asked about the past.

    @property
    def log(self) -> list[Request]:
        """All answered requests; waits for those whose last byte has just left."""
        with self._quiet:
            self._quiet.wait_for(lambda: self._answering == 0, timeout=5)
            return list(self._log)

    def requests(self, path: str | None = None) -> list[Request]:
        """The answered requests for ``path``, or all of them, in order."""
        return [one for one in self.log if path is None or one.path == path]

    def sent(self, path: str | None = None) -> int:
        """Bytes of bodies that left for ``path``, or for everything."""
        return sum(one.sent for one in self.requests(path))

    # The lies.

    def honest(self) -> None:
        """Tell no lies any more."""
        self._lies = _Lies()

    def drop(self, path: str) -> None:
        """Answer 404 for ``path``."""
        self._lies.dropped.add(path)

    def flip_bit(self, path: str, offset: int) -> None:
        """Serve ``path`` with the lowest bit of the byte at ``offset`` flipped."""
        self._lies.flipped.setdefault(path, []).append(offset)

    def truncate(self, path: str, to: int | None = None) -> None:
        """Serve only the first ``to`` bytes of ``path`` (half of it by default) as the file."""
        size = (self.directory / path).stat().st_size
        self._lies.truncated[path] = size // 2 if to is None else to

    def cut(self, path: str, after: int) -> None:
        """Declare all of ``path``, and hang up ``after`` bytes of each answer."""
        self._lies.cut[path] = after

    def ignore_ranges(self) -> None:
        """Answer every range request with 200 and the whole file."""
        self._lies.ranges_ignored = True

    def wrong_content_range(self, shift: int = 1) -> None:
        """Answer ranges with bytes, and a Content-Range, that are ``shift`` further on."""
        self._lies.content_range_shift = shift

    def stall(self, after: int, path: str | None = None) -> None:
        """Send nothing more after that many bytes of an answer, and keep the connection."""
        self._lies.stall_after, self._lies.stall_path = after, path

    def redirect(self, path: str, to: str) -> None:
        """Answer 302 to the URL ``to`` for ``path``."""
        self._lies.redirected[path] = to

    def redirect_loop(self, path: str) -> None:
        """Answer 302 to the same URL for ``path``."""
        self._lies.redirected[path] = ""

    def html(self, path: str) -> None:
        """Answer 200 with an HTML page for ``path``, as captive portals do."""
        self._lies.html.add(path)

    def fail(self, path: str, status: int = 503, times: int = 1, *, retry_after: str = "") -> None:
        """Answer ``path`` with ``status`` so many times, then rightly."""
        self._lies.failing[path] = [status] * times
        self._lies.retry_after = retry_after

    def endless(self, path: str) -> None:
        """Serve ``path`` in chunks, without a length, and never end it."""
        self._lies.endless.add(path)

    def trickle(self, path: str, seconds: float) -> None:
        """Serve ``path`` byte by byte, with a pause after each."""
        self._lies.trickling[path] = seconds

    def _begin(self, request: Request) -> int:
        self.on_request()
        with self._quiet:
            self._log.append(request)
            self._answering += 1
            return len(self._log) - 1

    def _end(self, number: int, request: Request) -> None:
        with self._quiet:
            self._log[number] = request
            self._answering -= 1
            self._quiet.notify_all()

    def _pause(self, out: Any, path: str) -> None:
        if path in self._lies.trickling:
            out.flush()
            self._closing.wait(self._lies.trickling[path])

    def _stall(self) -> None:
        with self._quiet:
            self._answering -= 1
            self._quiet.notify_all()
        self._closing.wait()
        with self._quiet:
            self._answering += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, mirror: LyingMirror) -> None:
        self.mirror = mirror
        self._open: set[socket.socket] = set()
        self._handlers: list[threading.Thread] = []
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self.mirror.connections += 1
            self._open.add(request)
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        self._handlers.append(thread)
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._lock:
            self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what the tests are about."""

    def hang_up(self) -> None:
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        for thread in self._handlers:
            thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave together; otherwise Nagle and delayed ACK cost 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: LyingMirror.log has it."""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        mirror = self._mirror()
        answer = _decide(mirror, path, self.headers.get("Range", ""))
        sent = 0
        number = mirror._begin(self._request(path, answer, 0))
        try:
            self._head(answer)
            for piece in answer.body() if with_body else ():
                self.wfile.write(piece)
                sent += len(piece)
                mirror._pause(self.wfile, path)
            self.wfile.flush()
            if answer.stalls:
                mirror._log[number] = self._request(path, answer, sent)
                mirror._stall()
            self.close_connection |= answer.hang_up or answer.stalls
        finally:
            mirror._end(number, self._request(path, answer, sent))

    def _mirror(self) -> LyingMirror:
        assert isinstance(self.server, _Server)
        return self.server.mirror

    def _request(self, path: str, answer: _Answer, sent: int) -> Request:
        return Request(self.command, path, self.headers.get("Range", ""), answer.status, sent)

    def _head(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()


@dataclass(slots=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: Callable[[], Iterator[bytes]]
    stalls: bool = False
    hang_up: bool = False


def _decide(mirror: LyingMirror, path: str, range_header: str) -> _Answer:
    lies = mirror._lies
    if lies.failing.get(path):
        answer = _page(lies.failing[path].pop(0), b"try again later\n")
        if lies.retry_after:
            answer.headers["Retry-After"] = lies.retry_after
        return answer
    if path in lies.redirected:
        target = lies.redirected[path] or mirror.url + quote(path)
        answer = _page(302, b"elsewhere\n")
        answer.headers["Location"] = target
        return answer
    file = mirror.directory / path
    if path in lies.dropped or not file.is_file():
        return _page(404, b"<html>not found</html>\n")
    if path in lies.html:
        return _page(200, _HTML)
    if path in lies.endless:
        return _Answer(200, {"Transfer-Encoding": "chunked"}, lambda: _endless(file))
    return _file(lies, path, file, range_header)


def _page(status: int, text: bytes) -> _Answer:
    headers = {"Content-Type": "text/html", "Content-Length": str(len(text))}
    return _Answer(status, headers, lambda: iter([text]))


def _file(lies: _Lies, path: str, file: Path, range_header: str) -> _Answer:
    size = lies.truncated.get(path, file.stat().st_size)
    first, end, status = 0, size, 200
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    match = _RANGE.match(range_header)
    if match and not lies.ranges_ignored:
        first = int(match[1]) + lies.content_range_shift
        end = min(size, int(match[2]) + 1 + lies.content_range_shift) if match[2] else size
        if first >= size:
            answer = _page(416, b"no such range\n")
            answer.headers["Content-Range"] = f"bytes */{size}"
            return answer
        status = 206
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - first)
    answer = _Answer(status, headers, lambda: _pieces(lies, path, file, first, sent_end))
    sent_end = end
    if path in lies.cut and end - first > lies.cut[path]:
        sent_end, answer.hang_up = first + lies.cut[path], True
    if lies.stall_after is not None and lies.stall_path in (None, path):
        answer.stalls = first + lies.stall_after < end
        sent_end = min(end, first + lies.stall_after)
    return answer


def _pieces(lies: _Lies, path: str, file: Path, first: int, end: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(first)
        while first < end:
            size = 1 if path in lies.trickling else _PIECE
            piece = bytearray(stream.read(min(size, end - first)))
            for offset in lies.flipped.get(path, []):
                if first <= offset < first + len(piece):
                    piece[offset - first] ^= 1
            yield bytes(piece)
            first += len(piece)


def _endless(file: Path) -> Iterator[bytes]:
    data = file.read_bytes()[:_PIECE] or b"?"
    while True:
        yield b"%x\r\n%s\r\n" % (len(data), data)
