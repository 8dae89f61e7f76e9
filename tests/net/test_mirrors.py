"""Several mirrors, some slow, busy, broken or lying: who is asked, when, for what."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch
from composer.net.body import Body, Span
from composer.net.fetch import Check, Fetcher
from composer.net.job import FetchFailed, Unreachable
from composer.net.location import Mirrors
from composer.net.network import Limits, Network, Way
from composer.net.packages import Wanted, fetch_packages
from composer.rpm.package import Nevra, PackageRef
from tests.line import Line, Weather
from tests.net.lying_mirror import LyingMirror

QUICK = Limits(stall_seconds=1, backoff_seconds=0.01, attempts=3)
SIZE = 400_000
NAMES = [f"p{number}.rpm" for number in range(8)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    place = tmp_path / "published"
    place.mkdir()
    for number, name in enumerate(NAMES):
        (place / name).write_bytes(Random(number).randbytes(SIZE))
    return place


@pytest.fixture
def mirror(directory: Path) -> Iterator[LyingMirror]:
    with LyingMirror(directory) as made:
        yield made


@pytest.fixture
def second(directory: Path) -> Iterator[LyingMirror]:
    with LyingMirror(directory) as made:
        yield made


@contextmanager
def _both(
    mirror: LyingMirror, second: LyingMirror, limits: Limits = QUICK
) -> Iterator[tuple[Fetcher, Network]]:
    network = Network.by(Way(), limits)
    with Fetcher(Mirrors.parse(mirror.url, second.url), network=network) as fetcher:
        yield fetcher, network


def _wanted(directory: Path, into: Path, *bases: str) -> list[Wanted]:
    made = []
    for name in NAMES:
        data = (directory / name).read_bytes()
        nevra = Nevra.parse(f"{name.removesuffix('.rpm')}-1-1.noarch")
        ref = PackageRef(nevra, ContentDigest.of(data), len(data), "", name)
        made.append(Wanted(ref, into / name, Mirrors.parse(*bases)))
    return made


def _check(data: bytes) -> Check:
    def check(got: bytes) -> None:
        if got != data:
            raise ChecksumMismatch(what="frame", expected="right", actual="wrong")

    return check


# Liars


def test_a_mirror_that_served_wrong_bytes_is_named_and_left_for_the_run(
    mirror: LyingMirror, second: LyingMirror, directory: Path, tmp_path: Path
) -> None:
    mirror.flip_bit(NAMES[0], 50)
    data = (directory / NAMES[0]).read_bytes()
    with _both(mirror, second) as (fetcher, network):
        fetcher.fetch_range(NAMES[0], first=0, length=SIZE, check=_check(data))
        fetcher.fetch_range(NAMES[1], first=0, length=10)
    wanted = _wanted(directory, tmp_path / "into", mirror.url, second.url)
    assert len(list(fetch_packages(wanted, network=network))) == len(NAMES)
    assert len(mirror.log) == 1
    [wrong] = network.standing.wrong()
    assert (wrong.mirror, wrong.what) == (mirror.url, NAMES[0])
    assert network.traffic.bytes("again") == SIZE
    assert network.traffic.bytes("set") == SIZE + 10


def test_a_liar_serves_what_nobody_else_has(mirror: LyingMirror, second: LyingMirror) -> None:
    mirror.flip_bit(NAMES[0], 0)
    second.drop(NAMES[1])
    with _both(mirror, second) as (fetcher, network):
        data = (mirror.directory / NAMES[0]).read_bytes()
        fetcher.fetch_range(NAMES[0], first=0, length=SIZE, check=_check(data))
        assert fetcher.fetch_range(NAMES[1], first=0, length=9)
        assert network.standing.wrong()[0].mirror == mirror.url


@pytest.mark.parametrize("liar", [0, 1])
def test_of_two_that_sent_a_half_each_the_liar_is_found(
    liar: int, mirror: LyingMirror, second: LyingMirror, directory: Path, tmp_path: Path
) -> None:
    mirror.cut(NAMES[0], after=SIZE // 2)
    (mirror, second)[liar].flip_bit(NAMES[0], 100 if liar == 0 else SIZE - 100)
    network = Network.by(Way(), QUICK)
    [item] = _wanted(directory, tmp_path / "into", mirror.url, second.url)[:1]
    assert list(fetch_packages([item], network=network)) == [item]
    [wrong] = network.standing.wrong()
    assert wrong.mirror == (mirror, second)[liar].url
    # Every byte of the wrong assembly was moved in vain, and no other byte twice.
    moved = mirror.sent() + second.sent()
    assert network.traffic.bytes("rpm") == SIZE
    assert network.traffic.bytes("again") == moved - SIZE


def test_wrong_bytes_of_an_earlier_run_are_no_mirrors_fault(
    mirror: LyingMirror, directory: Path, tmp_path: Path
) -> None:
    network = Network.by(Way(), QUICK)
    [item] = _wanted(directory, tmp_path, mirror.url)[:1]
    (tmp_path / (NAMES[0] + ".part")).write_bytes(bytes(1000))
    assert list(fetch_packages([item], network=network)) == [item]
    assert network.standing.wrong() == ()


# Patience


def test_a_mirror_is_asked_again_after_longer_and_longer_pauses(mirror: LyingMirror) -> None:
    mirror.fail(NAMES[0], 503, times=3)
    limits = Limits(backoff_seconds=0.2, attempts=4)
    times: list[float] = []
    mirror.on_request = lambda: times.append(time.monotonic())
    with Fetcher(Mirrors.parse(mirror.url), network=Network.by(Way(), limits)) as fetcher:
        fetcher.fetch_range(NAMES[0], first=0, length=10)
    pauses = [after - before for before, after in pairwise(times)]
    for pause, longest in zip(pauses, (0.2, 0.4, 0.8), strict=True):
        assert longest / 2 <= pause < longest + 0.2


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(status: int, form: str, mirror: LyingMirror) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    mirror.fail(NAMES[0], status, retry_after="1" if form == "seconds" else when)
    began = time.monotonic()
    with Fetcher(Mirrors.parse(mirror.url), network=Network.by(Way(), QUICK)) as fetcher:
        fetcher.fetch_range(NAMES[0], first=0, length=10)
    assert 0.7 < time.monotonic() - began < 5


def test_a_mirror_that_wants_to_be_left_alone_is_asked_by_no_one(
    mirror: LyingMirror, second: LyingMirror
) -> None:
    mirror.fail(NAMES[0], 429, retry_after="30")
    with _both(mirror, second) as (fetcher, _):
        began = time.monotonic()
        for name in NAMES:
            fetcher.fetch_range(name, first=0, length=10)
        assert time.monotonic() - began < 5
    assert len(mirror.log) == 1


def test_a_mirror_that_wants_too_long_is_not_waited_for(mirror: LyingMirror) -> None:
    mirror.fail(NAMES[0], 503, times=9, retry_after="86400")
    began = time.monotonic()
    with (
        Fetcher(Mirrors.parse(mirror.url), network=Network.by(Way(), QUICK)) as fetcher,
        pytest.raises(FetchFailed) as caught,
    ):
        fetcher.fetch_range(NAMES[0], first=0, length=10)
    assert time.monotonic() - began < 2
    assert "asks to wait 86400 seconds" in caught.value.details[0]
    assert len(mirror.log) == 1


@pytest.mark.parametrize("text", ["", "soon", "-1", "Fri, 99 Foo 2026 00:00:00 GMT", "1e9"])
def test_nonsense_in_retry_after_is_no_wait(text: str) -> None:
    body = Body(Span(0, 10), "a")
    body.begin(503, {"retry-after": text})
    assert body.fault is not None
    assert body.fault.wait == 0


def test_a_missing_file_goes_to_the_next_mirror_at_once(
    mirror: LyingMirror, second: LyingMirror
) -> None:
    mirror.drop(NAMES[0])
    with _both(mirror, second, Limits(backoff_seconds=30)) as (fetcher, _):
        began = time.monotonic()
        fetcher.fetch_range(NAMES[0], first=0, length=10)
        assert time.monotonic() - began < 5
        fetcher.fetch_range(NAMES[1], first=0, length=10)
    assert len(mirror.log) == 2  # what it has not does not count against it


def test_a_trickling_mirror_has_an_end(mirror: LyingMirror) -> None:
    """Just fast enough not to stall, it would hold us for ever."""
    mirror.trickle(NAMES[0], 0.002)
    limits = Limits(stall_seconds=0, stall_rate=10**7, connect_seconds=0.5, attempts=1)
    began = time.monotonic()
    with (
        Fetcher(Mirrors.parse(mirror.url), network=Network.by(Way(), limits)) as fetcher,
        pytest.raises(Unreachable) as caught,
    ):
        fetcher.fetch_range(NAMES[0], first=0, length=SIZE)
    assert time.monotonic() - began < 5
    assert "stalled after" in caught.value.details[0]


# A bad line


def test_every_byte_arrives_once_over_a_line_that_breaks(
    mirror: LyingMirror, directory: Path, tmp_path: Path
) -> None:
    network = Network.by(Way(), QUICK)
    with Line.to(mirror.url, Weather(drop=0.05, seed=3)) as line:
        wanted = _wanted(directory, tmp_path / "into", line.url)
        assert len(list(fetch_packages(wanted, network=network))) == len(NAMES)
        assert line.broken > 3
        # No byte that had arrived was fetched again.
        assert line.moved < len(NAMES) * SIZE + 400 * (line.broken + len(NAMES))
    assert network.traffic.bytes("rpm") == len(NAMES) * SIZE
    assert network.traffic.bytes("again") == 0
    assert network.traffic.requests("rpm") == len(NAMES)
    assert network.traffic.requests("again") >= line.broken - len(NAMES)


def test_a_silent_line_is_left_and_continued(
    mirror: LyingMirror, directory: Path, tmp_path: Path
) -> None:
    network = Network.by(Way(), QUICK)
    with Line.to(mirror.url, Weather(stall=100_000, cuts=1)) as line:
        [item] = _wanted(directory, tmp_path, line.url)[:1]
        began = time.monotonic()
        assert list(fetch_packages([item], network=network)) == [item]
        assert time.monotonic() - began < 8
    first, then = mirror.log
    assert first.range == ""
    assert int(then.range.removeprefix("bytes=").partition("-")[0]) > 90_000
    assert network.traffic.bytes("rpm") == SIZE


# The fastest first


def test_the_fastest_mirror_gives_most(
    mirror: LyingMirror, second: LyingMirror, directory: Path, tmp_path: Path
) -> None:
    limits = Limits(slow_seconds=0.5, parallel=2)
    network = Network.by(Way(), limits)
    with Line.to(mirror.url, Weather(delay=0.05, rate=400_000)) as slow:
        wanted = _wanted(directory, tmp_path / "into", slow.url, second.url)
        began = time.monotonic()
        assert len(list(fetch_packages(wanted, network=network))) == len(NAMES)
        seconds = time.monotonic() - began
        assert slow.moved < 4 * SIZE
    assert seconds < len(NAMES) * SIZE / 400_000 / 2
    rows = {row.mirror: row.bytes for row in network.traffic.rows() if row.kind == "rpm"}
    assert rows[second.url] > rows[slow.url]
    assert sum(rows.values()) == len(NAMES) * SIZE
    assert network.traffic.bytes("again") == 0  # the fast one continued what the slow one began


def test_mirrors_that_are_as_fast_are_asked_in_their_order(
    mirror: LyingMirror, second: LyingMirror, directory: Path, tmp_path: Path
) -> None:
    wanted = _wanted(directory, tmp_path / "into", mirror.url, second.url)
    list(fetch_packages(wanted, network=Network.by(Way(), QUICK)))
    assert len(mirror.log) == len(NAMES)
    assert second.log == []


# The rate


def test_the_rate_holds_over_all_connections(
    mirror: LyingMirror, directory: Path, tmp_path: Path
) -> None:
    network = Network.by(Way(limit_rate=2_000_000))
    wanted = _wanted(directory, tmp_path / "into", mirror.url)
    began = time.monotonic()
    assert len(list(fetch_packages(wanted, network=network))) == len(NAMES)
    assert 0.8 < (time.monotonic() - began) / (len(NAMES) * SIZE / 2_000_000) < 2


# Nobody there


def test_all_mirrors_are_named_that_do_not_answer() -> None:
    with ExitStack() as stack:
        network = Network.by(Way(), QUICK)
        urls = ("http://127.0.0.1:1", "http://127.0.0.1:2")
        fetcher = stack.enter_context(Fetcher(Mirrors.parse(*urls), network=network))
        with pytest.raises(Unreachable) as caught:
            fetcher.fetch_range("a", first=0, length=1)
    told = "\n".join(caught.value.details)
    assert all(url in told for url in urls)
