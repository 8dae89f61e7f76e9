"""The fetcher against mirrors that lie."""

from __future__ import annotations

import io
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from random import Random

import pytest

from composer.checksum import ContentDigest
from composer.errors import (
    BoundExceeded,
    ChecksumMismatch,
    ComposerError,
    FormatError,
    NotFound,
    VerificationFailed,
)
from composer.net.fetch import Check, Fetcher
from composer.net.job import FetchFailed
from composer.net.location import Mirrors
from composer.net.network import Limits, Network
from tests.net.lying_mirror import LyingMirror

QUICK = Limits(stall_seconds=1, backoff_seconds=0.01, attempts=2)
NAME = "sub dir/a+b~ü.rpm"
DATA = Random(1).randbytes(3_000_000)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(DATA)
    return tmp_path


@pytest.fixture
def mirror(directory: Path) -> Iterator[LyingMirror]:
    with LyingMirror(directory) as mirror:
        yield mirror


@pytest.fixture
def second(directory: Path) -> Iterator[LyingMirror]:
    with LyingMirror(directory) as mirror:
        yield mirror


@pytest.fixture
def fetcher(mirror: LyingMirror) -> Iterator[Fetcher]:
    with Fetcher(Mirrors.parse(mirror.url), network=Network(limits=QUICK)) as fetcher:
        yield fetcher


@pytest.fixture
def both(mirror: LyingMirror, second: LyingMirror) -> Iterator[Fetcher]:
    with Fetcher(Mirrors.parse(mirror.url, second.url), network=Network(limits=QUICK)) as fetcher:
        yield fetcher


def _check(data: bytes) -> Check:
    expected = ContentDigest.of(data)

    def check(got: bytes) -> None:
        if (actual := ContentDigest.of(got)) != expected:
            raise ChecksumMismatch(what="frame", expected=str(expected), actual=str(actual))

    return check


def test_ranges_come_exactly_and_over_one_connection(fetcher: Fetcher, mirror: LyingMirror) -> None:
    for first, length in [(0, 1), (10, 20), (2_999_999, 1), (0, 3_000_000)]:
        assert fetcher.fetch_range(NAME, first=first, length=length) == DATA[first:][:length]
    assert mirror.connections == 1
    assert fetcher.traffic.bytes() == mirror.sent() == 3_000_022


def test_empty_range_asks_nobody(fetcher: Fetcher, mirror: LyingMirror) -> None:
    assert fetcher.fetch_range(NAME, first=5, length=0) == b""
    assert not mirror.log


def test_many_ranges_come_in_order_over_few_connections(
    fetcher: Fetcher, mirror: LyingMirror
) -> None:
    ranges = [(n * 1000, n % 7 * 100) for n in range(200)]
    got = list(fetcher.fetch_ranges(NAME, ranges))
    assert got == [DATA[first : first + length] for first, length in ranges]
    assert mirror.connections <= 4


def test_few_ranges_are_fetched_ahead_of_a_slow_reader(
    fetcher: Fetcher, mirror: LyingMirror
) -> None:
    arriving = fetcher.fetch_ranges(NAME, [(n * 1000, 1000) for n in range(200)])
    next(arriving)
    assert len(mirror.log) <= 16


def test_document_within_its_bound_comes_whole(fetcher: Fetcher, directory: Path) -> None:
    (directory / "empty").touch()
    assert fetcher.fetch_small(NAME, limit=3_000_000) == DATA
    assert fetcher.fetch_small("empty", limit=10) == b""


def test_document_above_its_bound_is_refused(fetcher: Fetcher, mirror: LyingMirror) -> None:
    with pytest.raises(BoundExceeded):
        fetcher.fetch_small(NAME, limit=2_999_999)
    mirror.endless(NAME)
    with pytest.raises(BoundExceeded):
        fetcher.fetch_small(NAME, limit=1_000_000)


def test_server_that_ignores_ranges_serves_within_the_bound(
    fetcher: Fetcher, mirror: LyingMirror
) -> None:
    mirror.ignore_ranges()
    assert fetcher.fetch_range(NAME, first=100_000, length=20) == DATA[100_000:100_020]
    assert fetcher.traffic.bytes() < 1_000_000  # the transfer was stopped
    assert fetcher.fetch_range(NAME, first=2_999_990, length=10) == DATA[-10:]


def test_endless_answer_to_a_range_is_cut(fetcher: Fetcher, mirror: LyingMirror) -> None:
    mirror.endless(NAME)
    assert len(fetcher.fetch_range(NAME, first=1_000_000, length=20)) == 20


@pytest.mark.parametrize("shift", [1, -1, 1000])
def test_wrong_part_is_refused(fetcher: Fetcher, mirror: LyingMirror, shift: int) -> None:
    mirror.wrong_content_range(shift)
    with pytest.raises(FetchFailed) as caught:
        fetcher.fetch_range(NAME, first=1000, length=100)
    assert "asked for bytes 1000-1099, answered with bytes" in caught.value.details[0]


def test_truncated_file_is_refused(fetcher: Fetcher, mirror: LyingMirror) -> None:
    mirror.truncate(NAME, to=1050)
    for first in (1000, 1050, 2000):
        with pytest.raises(FormatError):
            fetcher.fetch_range(NAME, first=first, length=100)


def test_html_page_is_not_content(fetcher: Fetcher, mirror: LyingMirror) -> None:
    mirror.html(NAME)
    with pytest.raises(FetchFailed) as caught:
        fetcher.fetch_small(NAME, limit=1000)
    assert "HTML page" in caught.value.details[0]


def test_missing_file_names_every_mirror(
    both: Fetcher, mirror: LyingMirror, second: LyingMirror
) -> None:
    with pytest.raises(NotFound) as caught:
        both.fetch_small("no such file", limit=10)
    assert [line.split(": ")[0] for line in caught.value.details] == [
        f"{mirror.url}no%20such%20file",
        f"{second.url}no%20such%20file",
    ]
    assert "remote add" in caught.value.hint
    assert len(mirror.log) == len(second.log) == 1


def test_next_mirror_continues_where_a_connection_broke(
    both: Fetcher, mirror: LyingMirror, second: LyingMirror
) -> None:
    mirror.cut(NAME, after=1_000_000)
    assert both.fetch_range(NAME, first=5, length=2_500_000) == DATA[5:2_500_005]
    assert mirror.sent() == 1_000_000
    assert second.sent() == 1_500_000


def test_only_mirror_that_breaks_off_is_asked_again(fetcher: Fetcher, mirror: LyingMirror) -> None:
    mirror.cut(NAME, after=1_100_000)
    assert fetcher.fetch_range(NAME, first=0, length=3_000_000) == DATA
    assert mirror.sent() == 3_000_000


def test_stalled_mirror_is_left_for_the_next(
    both: Fetcher, mirror: LyingMirror, second: LyingMirror
) -> None:
    mirror.stall(after=1000)
    assert both.fetch_range(NAME, first=0, length=5000) == DATA[:5000]
    assert second.sent() == 4000
    assert both.fetch_range(NAME, first=0, length=5000) == DATA[:5000]
    assert len(mirror.log) == 1  # asked last from then on


def test_busy_mirror_is_asked_again(fetcher: Fetcher, mirror: LyingMirror) -> None:
    mirror.fail(NAME, 503, times=1)
    assert fetcher.fetch_range(NAME, first=0, length=10) == DATA[:10]
    mirror.fail(NAME, 503, times=5)
    with pytest.raises(FetchFailed, match="could not be fetched"):
        fetcher.fetch_range(NAME, first=0, length=10)
    assert len(mirror.log) == 4


def test_small_document_that_broke_is_fetched_anew(fetcher: Fetcher, mirror: LyingMirror) -> None:
    mirror.cut(NAME, after=2_000_000)
    with pytest.raises(FetchFailed, match="could not be fetched"):
        fetcher.fetch_small(NAME, limit=3_000_000)
    assert all(not request.range for request in mirror.log)


def test_wrong_bytes_are_fetched_from_the_next_mirror(
    both: Fetcher, mirror: LyingMirror, second: LyingMirror
) -> None:
    mirror.flip_bit(NAME, 50)
    check = _check(DATA[:100])
    assert both.fetch_range(NAME, first=0, length=100, check=check) == DATA[:100]
    assert len(mirror.log) == len(second.log) == 1


def test_wrong_bytes_from_all_mirrors_name_each(
    both: Fetcher, mirror: LyingMirror, second: LyingMirror
) -> None:
    mirror.flip_bit(NAME, 50)
    second.flip_bit(NAME, 51)
    with pytest.raises(ChecksumMismatch) as caught:
        both.fetch_range(NAME, first=0, length=100, check=_check(DATA[:100]))
    assert caught.value.exit_status == 3
    told = "\n".join(caught.value.details)
    assert mirror.url in told
    assert second.url in told


def test_redirect_is_followed(fetcher: Fetcher, mirror: LyingMirror, second: LyingMirror) -> None:
    mirror.redirect("elsewhere", second.url + "sub%20dir/a+b~%C3%BC.rpm")
    assert fetcher.fetch_range("elsewhere", first=10, length=10) == DATA[10:20]


def test_redirect_loop_ends(fetcher: Fetcher, mirror: LyingMirror) -> None:
    mirror.redirect_loop(NAME)
    with pytest.raises(FetchFailed) as caught:
        fetcher.fetch_range(NAME, first=0, length=10)
    assert "more than 5 redirects" in caught.value.details[0]
    assert len(mirror.log) == 6


def test_redirect_to_a_local_file_is_refused(
    fetcher: Fetcher, mirror: LyingMirror, directory: Path
) -> None:
    mirror.redirect("elsewhere", (directory / NAME).as_uri())
    with pytest.raises(FetchFailed) as caught:
        fetcher.fetch_range("elsewhere", first=0, length=10)
    assert "less trusted" in caught.value.details[0]


def test_unreachable_mirror_is_explained() -> None:
    with (
        Fetcher(Mirrors.parse("http://127.0.0.1:1"), network=Network(limits=QUICK)) as fetcher,
        pytest.raises(FetchFailed) as caught,
    ):
        fetcher.fetch_small("a", limit=1)
    assert "127.0.0.1" in caught.value.details[0]
    assert "network" in caught.value.hint


def test_unsafe_location_asks_nobody(fetcher: Fetcher, mirror: LyingMirror) -> None:
    for location in ("../a", "/etc/passwd", "http://elsewhere/"):
        with pytest.raises(FormatError):
            fetcher.fetch_small(location, limit=1)
    assert not mirror.log


class _Broken(io.BytesIO):
    """A file that cannot be written."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def write(self, piece: object) -> int:
        raise self._error


def test_failing_writer_ends_the_transfer(fetcher: Fetcher) -> None:
    into = _Broken(OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space"):
        fetcher.fetch_file(NAME, length=100_000, into=into, check=lambda file: None)
    assert fetcher.fetch_range(NAME, first=0, length=9) == DATA[:9]


def test_interrupt_in_a_writer_is_not_swallowed(fetcher: Fetcher) -> None:
    with pytest.raises(KeyboardInterrupt):
        fetcher.fetch_file(
            NAME, length=100_000, into=_Broken(KeyboardInterrupt()), check=lambda file: None
        )


def test_file_urls_serve_ranges_with_the_same_bounds(directory: Path) -> None:
    with Fetcher(Mirrors.parse(directory.as_uri())) as fetcher:
        assert fetcher.fetch_range(NAME, first=10, length=20) == DATA[10:30]
        assert fetcher.fetch_small(NAME, limit=3_000_000) == DATA
        with pytest.raises(BoundExceeded):
            fetcher.fetch_small(NAME, limit=2_999_999)
        with pytest.raises(FormatError):
            fetcher.fetch_range(NAME, first=2_999_990, length=11)
        with pytest.raises(NotFound):
            fetcher.fetch_small("missing", limit=10)


def test_traffic_is_counted_by_mirror_and_kind(
    both: Fetcher, mirror: LyingMirror, second: LyingMirror
) -> None:
    mirror.drop(NAME)
    both.fetch_range(NAME, first=0, length=100, kind="new")
    mirror.honest()
    both.fetch_range(NAME, first=0, length=50)
    assert both.traffic.bytes() == mirror.sent() + second.sent()
    assert both.traffic.bytes("set") == 50
    assert both.traffic.bytes("new") == 100
    assert both.traffic.requests("new") == 1
    assert both.traffic.requests("again") == 1
    rows = {(row.mirror, row.kind): row for row in both.traffic.rows()}
    assert rows[second.url, "new"].bytes == 100


def test_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    argv = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
    )
    argv_files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*argv.split(), *argv_files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{server.server_address[1]}/"
        with (
            Fetcher(Mirrors.parse(url), network=Network(limits=QUICK)) as fetcher,
            pytest.raises(ComposerError) as caught,
        ):
            fetcher.fetch_small("a", limit=10)
        thread.join(timeout=5)
    assert not isinstance(caught.value, VerificationFailed)
    assert "TLS" in caught.value.details[0]


def test_a_closed_fetcher_does_not_wait_for_ever(fetcher: Fetcher, mirror: LyingMirror) -> None:
    fetcher.close()
    with pytest.raises(AssertionError, match="closed"):
        fetcher.fetch_range("any", first=0, length=1)
