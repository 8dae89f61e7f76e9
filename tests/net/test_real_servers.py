"""The client against nginx, Apache and our own server: same answers, same counts."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from composer.checksum import ContentDigest
from composer.errors import FormatError, NotFound
from composer.net.fetch import Fetcher
from composer.net.location import Mirrors
from composer.net.network import Network
from composer.net.packages import Wanted, fetch_packages
from composer.net.traffic import Traffic
from composer.rpm.package import Nevra, PackageRef
from tests.net.real_servers import RealServer, StartServer

DATA = Random(1).randbytes(2_000_000)
NAME = "sub dir/a+b~1.rpm"


@pytest.fixture(params=["nginx_server", "apache_server"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> RealServer:
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(DATA)
    start: StartServer = request.getfixturevalue(request.param)
    return start(tmp_path)


def test_ranges_are_exact_to_the_byte(server: RealServer) -> None:
    ranges = [(0, 1), (1_999_999, 1), (5, 100_000), (0, 2_000_000)]
    with Fetcher(Mirrors.parse(server.url)) as fetcher:
        got = list(fetcher.fetch_ranges(NAME, ranges))
        assert got == [DATA[first : first + length] for first, length in ranges]
        assert fetcher.fetch_small(NAME, limit=2_000_000) == DATA
        assert server.sent() == fetcher.traffic.bytes() == 4_100_002


def test_what_is_not_there_is_not_found(server: RealServer) -> None:
    with Fetcher(Mirrors.parse(server.url)) as fetcher:
        with pytest.raises(NotFound):
            fetcher.fetch_small("missing", limit=10)
        with pytest.raises(FormatError):
            fetcher.fetch_range(NAME, first=2_000_000, length=1)
        with pytest.raises(FormatError):
            fetcher.fetch_range(NAME, first=1_999_999, length=2)


def test_partial_rpm_is_continued(server: RealServer, tmp_path: Path) -> None:
    ref = PackageRef(Nevra("a", 0, "1", "1", "noarch"), ContentDigest.of(DATA), len(DATA), "", NAME)
    item = Wanted(ref, tmp_path / "into.rpm", Mirrors.parse(server.url))
    (tmp_path / "into.rpm.part").write_bytes(DATA[:1_500_000])
    traffic = Traffic()
    assert list(fetch_packages([item], network=Network(traffic=traffic))) == [item]
    assert item.destination.read_bytes() == DATA
    assert server.sent() == traffic.bytes("rpm") == 500_000
