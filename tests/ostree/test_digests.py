"""The cache of what is known of content objects."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError
from composer.ostree.digests import ContentInfo, DigestCache, read_info
from composer.ostree.objects import Header
from composer.ostree.repo import Repository

HEADERS = [
    Header(0, 0, 0o100644),
    Header(0, 0, 0o100644, ((b"user.a", b""), (b"user.b", b"\0\1"))),
    Header(7, 8, 0o104755),
]


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repo", mode="bare-user")


def _fill(repo: Repository, count: int) -> tuple[list[ObjectChecksum], list[ContentInfo]]:
    checksums, infos = [], []
    with repo.transaction():
        for number in range(count):
            header, data = HEADERS[number % 3], b"%d" % (number // 3)
            checksums.append(repo.writer(header).write(data, None))
            infos.append(ContentInfo(header, len(data), ContentDigest.of(data)))
        link = Header(0, 0, 0o120777)
        checksums.append(repo.writer(link).write(b"target", None))
        infos.append(ContentInfo(link, 6, ContentDigest.of(b"target")))
    return checksums, infos


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_infos_come_in_the_order_that_was_asked(
    repo: Repository, tmp_path: Path, workers: int
) -> None:
    checksums, infos = _fill(repo, 600)
    cache = DigestCache(tmp_path / "cache" / "digests")
    assert list(cache.lookup(repo, checksums, workers=workers)) == infos
    assert [read_info(repo, checksum) for checksum in checksums] == infos
    backwards = list(cache.lookup(repo, checksums[::-1], workers=workers))
    assert backwards == infos[::-1]


def test_known_objects_are_not_read_again(repo: Repository, tmp_path: Path) -> None:
    checksums, infos = _fill(repo, 20)
    cache = DigestCache(tmp_path / "digests")
    list(cache.lookup(repo, checksums))
    for path in repo.path.glob("objects/*/*.file"):
        path.unlink()
    assert list(DigestCache(tmp_path / "digests").lookup(repo, checksums)) == infos


def test_cache_that_was_deleted_is_made_again(repo: Repository, tmp_path: Path) -> None:
    checksums, infos = _fill(repo, 20)
    cache = DigestCache(tmp_path / "digests")
    list(cache.lookup(repo, checksums))
    for path in tmp_path.glob("digests*"):
        path.unlink()
    assert list(cache.lookup(repo, checksums)) == infos


def test_object_that_is_gone_is_our_error(repo: Repository, tmp_path: Path) -> None:
    checksums, _ = _fill(repo, 3)
    for path in repo.path.glob("objects/*/*.file"):
        path.unlink()
    with pytest.raises(ComposerError, match=str(checksums[0])):
        list(DigestCache(tmp_path / "digests").lookup(repo, checksums))


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100])
def test_cache_that_is_no_database_is_made_again(
    repo: Repository, tmp_path: Path, content: bytes
) -> None:
    checksums, infos = _fill(repo, 3)
    (tmp_path / "digests").write_bytes(content)
    assert list(DigestCache(tmp_path / "digests").lookup(repo, checksums)) == infos


def test_two_builders_may_share_a_cache(repo: Repository, tmp_path: Path) -> None:
    # Each learns a header that the other has not seen when it opened the cache.
    checksums, infos = _fill(repo, 3)
    first = DigestCache(tmp_path / "digests").lookup(repo, checksums[:1] * 300 + checksums[1:])
    next(first)
    assert list(DigestCache(tmp_path / "digests").lookup(repo, checksums)) == infos
    assert list(first)[-3:] == infos[1:]
    with sqlite3.connect(tmp_path / "digests") as database:
        assert database.execute("SELECT count(*) FROM sealed").fetchone() == (4,)
    database.close()


def test_objects_are_found_by_what_they_hold(repo: Repository, tmp_path: Path) -> None:
    checksums, infos = _fill(repo, 600)
    cache = DigestCache(tmp_path / "digests")
    cache.remember(dict(zip(checksums, infos, strict=True)))
    found = cache.objects([info.digest for info in infos[:6]])
    assert found == {
        (info.digest, info.size, info.header): checksum
        for info, checksum in zip(infos[:6], checksums[:6], strict=True)
    }
    assert cache.objects([ContentDigest.of(b"unknown")]) == {}


def test_row_whose_seal_does_not_fit_is_not_there(repo: Repository, tmp_path: Path) -> None:
    checksums, infos = _fill(repo, 3)
    cache = DigestCache(tmp_path / "digests")
    cache.remember({checksums[0]: infos[0], checksums[1]: infos[1]})
    with sqlite3.connect(tmp_path / "digests") as database:
        row = (checksums[2], checksums[0])
        database.execute("UPDATE sealed SET object = ? WHERE object = ?", row)
    database.close()
    assert set(cache.objects([infos[0].digest]).values()) == {checksums[1]}
    assert list(cache.lookup(repo, checksums)) == infos


def test_cache_in_the_place_of_a_directory_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "digests").mkdir()
    cache = DigestCache(tmp_path / "digests")
    cache.remember({ObjectChecksum(bytes(32)): ContentInfo(HEADERS[0], 0, ContentDigest.of(b""))})
    assert cache.objects([ContentDigest.of(b"")]) == {}
