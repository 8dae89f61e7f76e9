"""`mirror serve`: ranges, nothing outside, a line per request, a quiet end."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest

from composer.errors import ComposerError
from composer.mirror.serve import is_loopback, serve
from composer.net.fetch import Fetcher
from composer.net.location import Mirrors

DATA = Random(1).randbytes(1_000_000)


@dataclass
class Served:
    """The running command."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def get(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=names | {"Connection": "close"})
        response = connection.getresponse()
        response.data = response.read()  # type: ignore[attr-defined]
        connection.close()
        return response


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("top")
    (top / "secret").write_text("secret")
    directory = top / "served"
    (directory / "sub dir").mkdir(parents=True)
    (directory / "sub dir/a+b").write_bytes(DATA)
    (directory / "site").mkdir()
    (directory / "site/index.html").write_text("<!DOCTYPE html>")
    (directory / "inner").symlink_to("sub dir/a+b")
    (directory / "outer").symlink_to("../secret")
    return directory


@pytest.fixture(scope="module")
def served(directory: Path) -> Iterator[Served]:
    log = directory.parent / "access.log"
    argv = [sys.executable, "-m", "composer", "mirror", "serve", str(directory), "--port", "0"]
    with subprocess.Popen(
        [*argv, "--json", "--access-log", str(log)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield Served(process, json.loads(process.stdout.readline())["url"], log)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0


def test_our_client_gets_ranges_and_the_log_counts_them(served: Served) -> None:
    served.log.write_text("")
    with Fetcher(Mirrors.parse(served.url)) as fetcher:
        assert fetcher.fetch_range("sub dir/a+b", first=10, length=100) == DATA[10:110]
        assert fetcher.fetch_small("sub dir/a+b", limit=1_000_000) == DATA
        moved = fetcher.traffic.bytes()
    # A line is written when the last byte has left, which may be after it was read here.
    deadline = time.monotonic() + 10
    while len(lines := [line.split(" ") for line in served.log.read_text().splitlines()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [line[:3] for line in lines] == [
        ["GET", "/sub%20dir/a%2Bb", "206"],
        ["GET", "/sub%20dir/a%2Bb", "200"],
    ]
    assert sum(int(line[3]) for line in lines) == moved


def test_range_answers_say_what_they_are(served: Served) -> None:
    part = served.get("/sub%20dir/a+b", Range="bytes=5-9")
    assert (part.status, part.headers["Content-Range"]) == (206, "bytes 5-9/1000000")
    beyond = served.get("/sub%20dir/a+b", Range="bytes=1000000-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */1000000")
    tail = served.get("/sub%20dir/a+b", Range="bytes=-10")
    assert tail.headers["Content-Range"] == "bytes 999990-999999/1000000"


def test_conditional_requests_are_honoured(served: Served) -> None:
    head = served.get("/sub%20dir/a+b", "HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, "1000000")
    tag = head.headers["ETag"]
    assert head.headers["Last-Modified"]
    assert served.get("/sub%20dir/a+b", If_None_Match=tag).status == 304
    assert served.get("/sub%20dir/a+b", Range="bytes=5-9", If_Range=tag).status == 206
    assert served.get("/sub%20dir/a+b", Range="bytes=5-9", If_Range='"old"').status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/%2e%2e/secret",
        "/sub%20dir/../../secret",
        "/sub%20dir/..%2f..%2fsecret",
        "/outer",
        "/sub%20dir",
        "/",
        "/missing",
        "//etc/passwd",
    ],
)
def test_nothing_outside_is_served(served: Served, path: str) -> None:
    assert served.get(path).status == 404


def test_symlink_within_is_served(served: Served) -> None:
    assert served.get("/inner", "HEAD").headers["Content-Length"] == "1000000"


def test_a_directory_is_its_index_where_it_has_one(served: Served) -> None:
    index = served.get("/site/")
    assert (index.status, index.data) == (200, b"<!DOCTYPE html>")  # type: ignore[attr-defined]
    assert index.headers["Content-Type"].startswith("text/html")
    assert urlsplit(served.get("/site").headers["Location"]).path == "/site/"
    assert served.get("/sub%20dir/").status == 404


def test_only_reading_is_allowed(served: Served) -> None:
    assert served.get("/inner", "PUT").status == 405


def test_taken_port_is_explained(served: Served, directory: Path) -> None:
    port = urlsplit(served.url).port
    assert port is not None
    with pytest.raises(ComposerError, match=f"port {port}") as caught:
        serve(directory, port=port)
    assert "--port 0" in caught.value.hint


def test_other_hosts_than_this_one_are_told_apart() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "mirror.example"))


def test_missing_extra_is_named(directory: Path) -> None:
    program = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from composer.__main__ import main\n"
        f"sys.argv = ['jigdo-composer', 'mirror', 'serve', {str(directory)!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "jigdo-composer[serve]" in done.stderr
