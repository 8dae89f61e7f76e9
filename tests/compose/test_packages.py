"""Fetching: from directories in place, over HTTP once, and never anything else than promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from composer.compose.depsolve import solving
from composer.compose.packages import ComposedPackage, fetch
from composer.compose.treefile import load
from composer.errors import ChecksumMismatch, NotFound
from composer.progress import silent
from tests.compose.http_server import asked_packages, served
from tests.compose.rpms import Spec, repository


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repository(tmp_path / "repo", [Spec("one"), Spec("two")])


def get(tmp_path: Path, url: str) -> tuple[ComposedPackage, ...]:
    path = tmp_path / "treefile.yaml"
    path.write_text("ref: a\nrepos: [base]\npackages: [one, two]\n")
    with solving(
        load(path, basearch="x86_64"),
        overrides={"base": url},
        cachedir=tmp_path / "cache",
        scratch=tmp_path / "scratch",
    ) as (solution, base):
        return fetch(solution, base, silent)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def test_local_packages_are_used_in_place_and_proven(tmp_path: Path, repo: Path) -> None:
    one, two = get(tmp_path, str(repo))
    assert one.path == repo / "one-1-1.noarch.rpm"
    assert one.ref.pkgid == ContentDigest.of(one.path.read_bytes())
    assert (one.ref.repository, one.ref.location) == ("base", "one-1-1.noarch.rpm")
    assert two.ref.size == two.path.stat().st_size
    assert not list((tmp_path / "cache").rglob("*.rpm"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "replace"])
def test_local_package_with_another_digest_is_refused(
    tmp_path: Path, repo: Path, damage: str
) -> None:
    path = repo / "one-1-1.noarch.rpm"
    if damage == "flip":
        flip(path)
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-100])
    else:  # the same NEVRA with a different payload
        other = repository(tmp_path / "other", [Spec("one", headers=["URL: http://other"])])
        path.write_bytes((other / path.name).read_bytes())
    with pytest.raises(ChecksumMismatch) as caught:
        get(tmp_path, str(repo))
    assert caught.value.exit_status == 3
    assert caught.value.what == "one-1-1.noarch"
    assert caught.value.source == path.as_uri()


def test_missing_local_package_is_named(tmp_path: Path, repo: Path) -> None:
    (repo / "two-1-1.noarch.rpm").unlink()
    with pytest.raises(NotFound, match="two-1-1"):
        get(tmp_path, str(repo))


def test_packages_are_downloaded_once(tmp_path: Path, repo: Path) -> None:
    log = tmp_path / "log"
    with served(repo, log) as url:
        first = get(tmp_path, url)
        assert get(tmp_path, url) == first
    assert len(asked_packages(log)) == 2


def test_spoilt_download_of_an_earlier_run_is_fetched_again(tmp_path: Path, repo: Path) -> None:
    log = tmp_path / "log"
    with served(repo, log) as url:
        one, two = get(tmp_path, url)
        flip(one.path)
        two.path.write_bytes(two.path.read_bytes()[:50])
        again = get(tmp_path, url)
    assert again == (one, two)
    assert len(asked_packages(log)) == 4


def test_mirror_with_another_package_is_refused(tmp_path: Path, repo: Path) -> None:
    flip(repo / "one-1-1.noarch.rpm")
    with served(repo, tmp_path / "log") as url, pytest.raises(ChecksumMismatch) as caught:
        get(tmp_path, url)
    assert "one-1-1.noarch" in caught.value.message
    assert caught.value.expected != caught.value.actual


def test_package_missing_from_the_mirror_is_named(tmp_path: Path, repo: Path) -> None:
    (repo / "one-1-1.noarch.rpm").unlink()
    with served(repo, tmp_path / "log") as url, pytest.raises(NotFound, match="one-1-1") as caught:
        get(tmp_path, url)
    assert any(url in line for line in caught.value.details)
