"""By what way mirrors are reached: proxies, TLS, certificates, HTTP/2, redirects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from composer.client.remote import add_remote, load_remote
from composer.errors import FormatError, UsageError
from composer.net.fetch import Fetcher
from composer.net.job import FetchFailed
from composer.net.location import Mirrors
from composer.net.network import Limits, Network, Way, origin
from tests.client.pulling import run_here
from tests.net.authority import Authority
from tests.net.lying_mirror import LyingMirror
from tests.net.proxy import Proxy

QUICK = Limits(stall_seconds=2, backoff_seconds=0.01, attempts=1)
DATA = Random(5).randbytes(300_000)
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.found(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    place = tmp_path / "published"
    place.mkdir()
    (place / "a.rpm").write_bytes(DATA)
    return place


@pytest.fixture
def mirror(directory: Path) -> Iterator[LyingMirror]:
    with LyingMirror(directory) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _PROXIES:
        monkeypatch.delenv(name, raising=False)


def _fetch(url: str, way: Way, *, first: int = 0, length: int = len(DATA)) -> bytes:
    with Fetcher(Mirrors.parse(url), network=Network.by(way, QUICK)) as fetcher:
        return fetcher.fetch_range("a.rpm", first=first, length=length)


def _refusal(url: str, way: Way) -> str:
    with pytest.raises(FetchFailed) as caught:
        _fetch(url, way)
    return "\n".join(caught.value.details)


# Proxies


def test_the_environment_names_the_proxy_and_who_needs_none(
    mirror: LyingMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.place}")
        assert _fetch(mirror.url, Way()) == DATA
        assert proxy.asked == [f"GET {mirror.url}a.rpm"]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert _fetch(mirror.url, Way()) == DATA
        assert len(proxy.asked) == 1


def test_the_remotes_proxy_comes_before_that_of_the_environment(
    mirror: LyingMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert _fetch(mirror.url, Way(proxy=f"http://{proxy.place}")) == DATA
        assert len(proxy.asked) == 1
        assert _fetch(mirror.url, Way(proxy="none")) == DATA
        assert len(proxy.asked) == 1


def test_a_proxys_password_is_used_and_never_shown(mirror: LyingMirror, tmp_path: Path) -> None:
    with Proxy("me:sesame") as proxy:
        url = f"http://me:sesame@{proxy.place}"
        added = add_remote(
            "os", [mirror.url], trust="none", connection={"proxy": url}, config_dir=tmp_path
        )
        assert _fetch(mirror.url, added.way) == DATA
        path = tmp_path / "remotes.d/os.toml"
        assert path.stat().st_mode & 0o777 == 0o600
        for words in (["list"], ["list", "--json"]):
            done = run_here("remote", *words, "--config-dir", tmp_path)
            assert f"http://me:***@{proxy.place}" in done.out
            assert "sesame" not in done.out + done.err
        told = _refusal(mirror.url, Way(proxy=f"http://me:wrong@{proxy.place}"))
        assert "the proxy wants a user and password" in told
        assert "wrong" not in told
    told = _refusal(mirror.url, Way(proxy="http://me:sesame@127.0.0.1:1"))
    assert "sesame" not in told


def test_tls_goes_through_a_proxy(
    directory: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with authority.serving(directory) as server, Proxy("me:sesame") as proxy:
        way = Way(ca_cert=authority.root, proxy=f"http://me:sesame@{proxy.place}")
        assert _fetch(server.url, way) == DATA
        assert proxy.asked[-1] == f"CONNECT {server.url.split('/')[2]}"


# TLS


def test_an_authority_of_the_remotes_own_is_believed(directory: Path, authority: Authority) -> None:
    with authority.serving(directory) as server:
        assert _fetch(server.url, Way(ca_cert=authority.root)) == DATA
        assert "TLS" in _refusal(server.url, Way())


def test_old_tls_is_refused(directory: Path, authority: Authority) -> None:
    with authority.serving(directory, protocols="TLSv1 TLSv1.1") as server:
        assert _refusal(server.url, Way(ca_cert=authority.root))


def test_a_client_shows_its_certificate_to_those_that_a_person_named(
    directory: Path, authority: Authority
) -> None:
    certificate, key = authority.client
    with authority.serving(directory, demand="on") as server:
        way = Way(ca_cert=authority.root, client_cert=certificate, client_key=key)
        assert "HTTP status 400" in _refusal(server.url, way)  # a mirror of a list, say
        own = Way(way.proxy, certificate, key, authority.root, own=frozenset([origin(server.url)]))
        assert _fetch(server.url, own) == DATA
        assert "CN=client" in server.requests()[-1][1]


def test_a_redirect_does_not_take_the_certificate_elsewhere(
    mirror: LyingMirror, directory: Path, authority: Authority
) -> None:
    certificate, key = authority.client
    with authority.serving(directory, demand="optional") as server:
        mirror.redirect("a.rpm", server.url + "a.rpm")
        own = frozenset([origin(mirror.url)])
        way = Way("", certificate, key, authority.root, own=own)
        assert _fetch(mirror.url, way) == DATA
        assert "CN=client" not in server.requests()[-1][1]


def test_a_redirect_never_leaves_tls(
    mirror: LyingMirror, directory: Path, authority: Authority, tmp_path: Path
) -> None:
    downgrade = f"return 302 {mirror.url}a.rpm;"
    with authority.serving(directory, more=f"location /a.rpm {{ {downgrade} }}") as server:
        assert "less trusted" in _refusal(server.url, Way(ca_cert=authority.root))
    assert mirror.log == []


def test_http_2_carries_all_on_one_connection(directory: Path, authority: Authority) -> None:
    with authority.serving(directory) as server:
        network = Network.by(Way(ca_cert=authority.root), QUICK)
        with Fetcher(Mirrors.parse(server.url), network=network) as fetcher:
            ranges = [(n * 1000, 1000) for n in range(50)]
            got = list(fetcher.fetch_ranges("a.rpm", ranges))
        assert got == [DATA[first : first + length] for first, length in ranges]
        seen = {path.split()[0:2][0] for _, path, _, _ in server.requests()}
        assert all("HTTP/2.0" in path for _, path, _, _ in server.requests())
        assert len(seen) == 1
        assert server.sent() == network.traffic.bytes() == 50_000


# The file of a remote


_KEYS = """\
urls = ["http://a/"]
trust = "none"
proxy = "socks5h://127.0.0.1:1080"
tls-client-cert = "{cert}"
tls-client-key = "{key}"
tls-ca-cert = "{root}"
limit-rate = "2M"
connect-timeout = 5
stall-time = 7
stall-rate = 2000
attempts = 9
connections = 2
"""


def test_every_key_of_the_file_counts(tmp_path: Path, authority: Authority) -> None:
    path = tmp_path / "os.toml"
    certificate, key = authority.client
    path.write_text(_KEYS.format(cert=certificate, key=key, root=authority.root))
    network = load_remote(path).network()
    assert network.way == Way(
        "socks5h://127.0.0.1:1080", certificate, key, authority.root, 2_000_000,
        frozenset(["http://a:80"]),
    )  # fmt: skip
    limits = network.limits
    assert (limits.connect_seconds, limits.stall_seconds, limits.stall_rate) == (5, 7, 2000)
    assert (limits.attempts, limits.parallel, network.throttle.rate) == (9, 2, 2_000_000)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('proxy = "ftp://a:secret@b"', "proxy"),
        ('proxy = "http://:secret@"', "proxy"),
        ('limit-rate = "fast"', "bytes per second"),
        ('limit-rate = "10"', "limit-rate"),
        ('tls-ca-cert = "/nowhere/root.pem"', "no such file"),
        ('tls-client-cert = "relative.pem"', "absolute"),
        ('tls-client-key = "/dev/null"', "tls-client-key"),
        ("stall-time = 0", "stall-time"),
        ("connections = 1000", "connections"),
        ("tls_ca_cert = 'a'", "unknown key; there are urls"),
    ],
)
def test_a_wrong_key_is_named(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "os.toml"
    path.write_text(f'urls = ["http://a/"]\ntrust = "none"\n{line}\n')
    with pytest.raises(FormatError) as caught:
        load_remote(path)
    assert says in caught.value.message
    assert "secret" not in str(caught.value.message)


def test_remote_add_writes_how_mirrors_are_reached(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.client
    words = ["remote", "add", "os", "http://a", "--trust", "none", "--config-dir", tmp_path]
    words += ["--proxy", "none", "--limit-rate", "500k", "--tls-ca-cert", authority.root]
    words += ["--tls-client-cert", certificate, "--tls-client-key", key]
    done = run_here(*words)
    assert done.status == 0, done.err
    found = load_remote(tmp_path / "remotes.d/os.toml")
    assert found.way == Way("none", certificate, key, authority.root, 500_000)
    assert "limit-rate 500000" in done.out
    with pytest.raises(UsageError, match="tls-client-key"):
        add_remote(
            "b",
            ["http://a"],
            trust="none",
            connection={"tls-client-key": str(key)},
            config_dir=tmp_path,
        )
