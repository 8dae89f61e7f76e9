"""A line between a client and a server: delay, rate, cuts, stalls, drops; TCP, whatever is in it.

In tests, towards any server::

    with Line.to(mirror.url, Weather(delay=0.05, rate=200_000)) as line:
        fetch(line.url + "file")

From a shell: ``python -m tests.line PORT HOST:PORT --delay 0.05 --rate 2500000``.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

_PIECE = 16 << 10
# What may be on its way in one direction; more than any line of interest holds.
_WINDOW = 8 << 20


@dataclass(frozen=True, slots=True)
class Weather:
    """What the line does.

    ``delay`` are seconds one way; ``rate`` bytes per second to the clients, all together
    (0: any).  A connection is closed ``cut`` bytes, or goes silent ``stall`` bytes, after it
    began to send to the client; ``cuts`` says how often that happens, -1 always.  Each piece
    of 16 KiB breaks its connection with the probability ``drop``, by ``seed``.
    """

    delay: float = 0.0
    rate: int = 0
    cut: int | None = None
    stall: int | None = None
    cuts: int = -1
    drop: float = 0.0
    seed: int = 0


@dataclass(slots=True)
class Line:
    """A line to one server; ``moved`` counts bytes to the clients, headers too."""

    target: tuple[str, int]
    weather: Weather
    host: str = "127.0.0.1"
    port: int = 0
    moved: int = 0
    connections: int = 0
    broken: int = 0
    _free_at: float = 0.0
    _left: int = 0
    _random: random.Random = field(default_factory=random.Random)

    @classmethod
    @contextmanager
    def to(cls, url: str, weather: Weather) -> Iterator[Self]:
        """Lay one to the server of ``url`` while the block runs."""
        parts = urlsplit(url)
        line = cls((parts.hostname or "", parts.port or 80), weather)
        loop, ready = asyncio.new_event_loop(), threading.Event()
        thread = threading.Thread(target=line._work, args=(loop, ready), daemon=True)
        thread.start()
        assert ready.wait(10)
        try:
            yield line
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://{self.host}:{self.port}/"

    def _work(self, loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(self.listen())
        ready.set()
        loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()

    async def listen(self) -> asyncio.Server:
        """Begin to take connections."""
        self._left, self._random = self.weather.cuts, random.Random(self.weather.seed)
        server = await asyncio.start_server(self._connect, self.host, self.port, limit=_PIECE)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, asyncio.CancelledError):
            out, back = await asyncio.open_connection(*self.target, limit=_PIECE)
            for one in (writer, back):
                sock = one.get_extra_info("socket")
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                one.transport.set_write_buffer_limits(0)  # what was moved has left
            opened = time.monotonic() + 2 * self.weather.delay  # as long as a handshake takes
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass_on(reader, back, opened, None))
                    group.create_task(self._pass_on(out, writer, 0, [0]))
            except* OSError:
                pass  # one end has hung up, or the weather did it
            finally:
                for one in (writer, back):
                    one.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        opened: float,
        sent: list[int] | None,
    ) -> None:
        """Move one direction; ``sent`` counts what goes to the client."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WINDOW // _PIECE)

        async def receive() -> None:
            while piece := await reader.read(_PIECE):
                await queue.put((max(time.monotonic(), opened) + self.weather.delay, piece))
            await queue.put((time.monotonic() + self.weather.delay, b""))

        async with asyncio.TaskGroup() as group:
            group.create_task(receive())
            group.create_task(self._deliver(queue, writer, sent))

    async def _deliver(
        self,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        sent: list[int] | None,
    ) -> None:
        while True:
            due, piece = await queue.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not piece:
                writer.write_eof()
                return
            if sent is not None:
                piece = await self._suffer(piece, sent)
            writer.write(piece)
            await writer.drain()
            if sent is not None and self._is_over(sent[0]):
                self.broken += 1
                raise ConnectionResetError

    async def _suffer(self, piece: bytes, sent: list[int]) -> bytes:
        """Hold what goes to the client back, and cut it where the connection ends."""
        weather = self.weather
        for limit in (weather.cut, weather.stall):
            if limit is not None and self._left:
                piece = piece[: max(0, limit - sent[0])]
        if weather.rate:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + len(piece) / weather.rate
            await asyncio.sleep(max(0.0, self._free_at - now))
        sent[0] += len(piece)
        self.moved += len(piece)
        if weather.stall is not None and self._left and sent[0] >= weather.stall:
            self._left -= 1
            self.broken += 1
            await asyncio.sleep(3600)
        return piece

    def _is_over(self, sent: int) -> bool:
        weather = self.weather
        if weather.cut is not None and self._left and sent >= weather.cut:
            self._left -= 1
            return True
        return bool(weather.drop) and self._random.random() < weather.drop


def main() -> None:
    """Lay a line until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.line", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds one way")
    parser.add_argument("--rate", type=int, default=0, help="bytes per second")
    parser.add_argument("--cut", type=int, help="bytes after which a connection is closed")
    parser.add_argument("--stall", type=int, help="bytes after which a connection goes silent")
    parser.add_argument("--drop", type=float, default=0.0, help="chance to break, each 16 KiB")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    host, _, port = given.target.partition(":")
    weather = Weather(
        given.delay, given.rate, given.cut, given.stall, drop=given.drop, seed=given.seed
    )
    line = Line((host, int(port)), weather, given.host, given.port)

    async def forever() -> None:
        async with await line.listen() as server:
            await server.serve_forever()

    asyncio.run(forever())


if __name__ == "__main__":
    main()
