"""Bundles and signed statements: they travel along, and expire."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.published import MINIMAL, Published, copy_of
from tests.client.pulling import REMOTE, Client, check_message
from tests.commands import Done, jigdo

_NOWHERE = "http://127.0.0.1:1/"


class Site:
    """A mirror with signed statements, and a machine that makes bundles of it."""

    def __init__(self, place: Path, published: Published) -> None:
        self.published, self.mirror, self.keys = published, place / "mirror", place / "keys"
        self.place = place
        published.mirror(1, self.mirror)
        words = ["mirror", "keys", "init", self.mirror, "--tuf-keys", self.keys, "--json"]
        self.root = Path(jigdo(*words).document["root"])
        self.env = {"JIGDO_COMPOSER_CONFIG": str(place / "maker")}
        jigdo("remote", "add", REMOTE, self.mirror, "--tuf-root", self.root, env=self.env)

    def update(self) -> None:
        words = ["set", "build", "--from", "none", "--repo", self.published.repo, "--ref", MINIMAL]
        words += ["--output", self.mirror, "--packages", self.published.packages(2)]
        copy_of(self.published.packages(2) / "Packages", self.mirror / "Packages")
        jigdo(*words, "--cachedir", self.place / "cache", "--tuf-keys", self.keys)

    def bundle(self, name: str, base: str = "none") -> Path:
        path = self.place / name
        jigdo("bundle", f"{REMOTE}:{MINIMAL}", "--from", base, "-o", path, env=self.env)
        return path

    def trusted_by(self, client: Client) -> None:
        words = ["remote", "add", REMOTE, _NOWHERE, "--tuf-root", self.root]
        jigdo(*words, env=client.env)


@pytest.fixture
def site(published: Published, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    yield Site(tmp_path / "site", published)
    shutil.rmtree(tmp_path / "site")


def _pull(client: Client, bundle: Path, *more: str, status: int = 0) -> Done:
    words = ["pull", f"{REMOTE}:{bundle}", "--repo", client.repo, "--disable-fsync", "--json"]
    return jigdo(*words, *more, env=client.env, status=status)


def test_statements_travel_in_the_bundle(site: Site, updatable: Client) -> None:
    site.trusted_by(updatable)
    site.update()
    _pull(updatable, site.bundle("new"))
    assert updatable.head() == site.published.commit(MINIMAL, 2)


def test_older_bundle_does_not_hold_the_machine_back(site: Site, client: Client) -> None:
    site.trusted_by(client)
    old = site.bundle("old")
    site.update()
    _pull(client, site.bundle("new"))
    done = _pull(client, old, status=3)
    check_message(done.err, "older than what this machine has seen")
    assert client.head() == site.published.commit(MINIMAL, 2)


def test_machine_that_trusts_a_later_root_takes_it_too(
    site: Site, updatable: Client, tmp_path: Path
) -> None:
    site.trusted_by(updatable)
    jigdo("mirror", "keys", "rotate", site.mirror, "timestamp", "--tuf-keys", site.keys)
    site.update()
    bundle = site.bundle("rotated")
    _pull(updatable, bundle)
    assert updatable.head() == site.published.commit(MINIMAL, 2)


def test_bundle_of_another_publisher_is_refused(
    site: Site, updatable: Client, published: Published, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other", published)
    other.update()
    site.trusted_by(updatable)
    before = updatable.head()
    _pull(updatable, other.bundle("other"), status=3)
    updatable.require_unchanged(before)


def test_expired_bundle_says_so_and_what_to_do(
    site: Site, updatable: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.trusted_by(updatable)
    site.update()
    bundle, before = site.bundle("late"), updatable.head()
    monkeypatch.setenv("FAKETIME", "+400d")
    monkeypatch.setenv("LD_PRELOAD", _faketime())
    done = _pull(updatable, bundle, status=3)
    check_message(done.err, "expired", "as old as the bundle", "--ignore-expiry")
    updatable.require_unchanged(before)
    _pull(updatable, bundle, "--ignore-expiry")
    assert updatable.head() == site.published.commit(MINIMAL, 2)


def _faketime() -> str:
    found = sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed")
    return str(found[0])
