"""A static HTTP server for a repository: demos, tests, a local network.

Ranges, conditional requests, HEAD, ``index.html`` of a directory that has one; nothing
outside the directory, also not through symlinks.  The HTTP of it is starlette's and
uvicorn's; a public mirror wants nginx, Apache or a CDN, and serves the same files.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from composer.errors import ComposerError, MissingRequirement

if TYPE_CHECKING:
    from starlette.types import ASGIApp

Message = MutableMapping[str, Any]
_CHUNK = 256 << 10
_LAST_TRANSFERS = 2


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    import ipaddress

    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def serve(
    directory: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    access_log: IO[str] | None = None,
    ready: Callable[[str], object] = lambda url: None,
) -> None:
    """Serve ``directory`` until SIGINT or SIGTERM; ``port`` 0 takes any free one.

    ``ready`` gets the URL when connections are accepted.  Each answered request
    becomes a line of ``access_log``: method, quoted path, status, bytes of the body
    that were sent.  Raises MissingRequirement without the extra ``serve``.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise _missing(error) from error
    app = make_app(directory, access_log)
    config = uvicorn.Config(
        app,
        # curl offers HTTP/2 at every request; uvicorn warns of each that it declines.
        log_level="error",
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_LAST_TRANSFERS,
    )
    with _listening(host, port) as listener, _ended_by_signal():
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listener.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listener])


def make_app(directory: Path, access_log: IO[str] | None = None) -> ASGIApp:
    """The ASGI application that serves ``directory``."""
    try:
        from starlette.applications import Starlette
        from starlette.responses import FileResponse
        from starlette.routing import Mount
        from starlette.staticfiles import StaticFiles
    except ImportError as error:
        raise _missing(error) from error

    class Files(StaticFiles):
        def file_response(self, *args: Any, **options: Any) -> Any:
            response = super().file_response(*args, **options)
            if isinstance(response, FileResponse):
                response.chunk_size = _CHUNK
            return response

    static = Files(directory=directory, html=True, follow_symlink=False)
    files = Starlette(routes=[Mount("/", static)])
    return files if access_log is None else _Logged(files, access_log)


class _Logged:
    """An ASGI application around another, that writes a line per answered request."""

    def __init__(self, app: ASGIApp, log: IO[str]) -> None:
        self._app, self._log = app, log

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        status, sent = 0, 0

        async def counted(message: Message) -> None:
            nonlocal status, sent
            await send(message)
            status = message.get("status", status)
            if scope["method"] != "HEAD":
                sent += len(message.get("body", b""))

        try:
            await self._app(scope, receive, counted)
        finally:
            path = scope.get("raw_path", b"").decode("latin-1")
            self._log.write(f"{scope['method']} {path} {status} {sent}\n")
            self._log.flush()


def _missing(error: ImportError) -> MissingRequirement:
    return MissingRequirement(
        f"`mirror serve` needs the Python package {error.name}",
        hint='install the extra "serve": pip install "jigdo-composer[serve]"',
    )


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ComposerError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            hint="another program may have it; --port 0 takes any that is free",
        ) from error


class _Ended(Exception):
    """SIGTERM."""


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """End the block quietly at SIGINT or SIGTERM, which uvicorn raises again after its own end."""

    def end(number: int, frame: object) -> None:
        raise _Ended

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except (_Ended, KeyboardInterrupt):
        return
    finally:
        signal.signal(signal.SIGTERM, before)
