"""What is known of content objects: header, size and content digest, read once and kept.

An object's checksum fixes all three, so the cache can never be stale; it is an
SQLite file that may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ChecksumMismatch
from composer.ostree.objects import Header
from composer.ostree.repo import Repository

_SCHEMA = """
CREATE TABLE IF NOT EXISTS content (
    object BLOB PRIMARY KEY, size INTEGER, digest BLOB, header INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS header (
    id INTEGER PRIMARY KEY, uid INTEGER, gid INTEGER, mode INTEGER, xattrs BLOB,
    UNIQUE (uid, gid, mode, xattrs)
);
"""
_BATCH = 256


@dataclass(frozen=True, slots=True)
class ContentInfo:
    """A content object's header, size in bytes, and the digest of its bytes.

    A symlink's bytes are its target.
    """

    header: Header
    size: int
    digest: ContentDigest


def read_info(repo: Repository, checksum: ObjectChecksum) -> ContentInfo:
    """Read one object, in pieces; raises VerificationFailed when it is damaged."""
    header, size, pieces = repo.content(checksum)
    if header.is_symlink:
        target = b"".join(pieces)
        content, whole = hashlib.sha256(target), hashlib.sha256(header.serialized(target))
    else:
        content, whole = hashlib.sha256(), hashlib.sha256(header.serialized())
        for piece in pieces:
            content.update(piece)
            whole.update(piece)
    if whole.digest() != checksum:
        raise ChecksumMismatch(
            what=f"object {checksum}",
            expected=str(checksum),
            actual=whole.hexdigest(),
            source=str(repo.path),
            hint=f"the repository is damaged; see: ostree --repo={repo.path} fsck",
        )
    return ContentInfo(header, size, ContentDigest(content.digest()))


class DigestCache:
    """Looks objects up in an SQLite file, and reads those that are not there yet."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def _open(self) -> sqlite3.Connection:
        try:
            return _database(self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # damaged: it is only a cache
            self._path.unlink()
            return _database(self._path)

    def lookup(
        self, repo: Repository, checksums: Sequence[ObjectChecksum], *, workers: int = 2
    ) -> Iterator[ContentInfo]:
        """Yield the info of each of ``checksums``, in order; new ones are read in parallel."""
        with closing(self._open()) as database:
            headers = _Headers(database)
            with ThreadPoolExecutor(workers) as pool:
                for start in range(0, len(checksums), _BATCH):
                    batch = checksums[start : start + _BATCH]
                    known = dict(_stored(database, headers, batch))
                    new = [checksum for checksum in batch if checksum not in known]
                    infos = pool.map(lambda checksum: read_info(repo, checksum), new)
                    found = dict(zip(new, infos, strict=True))
                    _store(database, headers, found)
                    known.update(found)
                    yield from (known[checksum] for checksum in batch)


def _database(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=60)
    try:
        database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + _SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


class _Headers:
    """The header table, both ways, in memory: a tree has few distinct headers."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._by_id: dict[int, Header] = {}
        self._ids: dict[Header, int] = {}
        self._load()

    def _load(self) -> None:
        for number, uid, gid, mode, xattrs in self._database.execute("SELECT * FROM header"):
            self._remember(number, Header(uid, gid, mode, _unpack(xattrs)))

    def _remember(self, number: int, header: Header) -> None:
        self._by_id[number], self._ids[header] = header, number

    def header(self, number: int) -> Header:
        if number not in self._by_id:  # another process has added it
            self._load()
        return self._by_id[number]

    def number(self, header: Header) -> int:
        if header not in self._ids:
            values = (header.uid, header.gid, header.mode, _pack(header.xattrs))
            columns = "(uid, gid, mode, xattrs) VALUES (?, ?, ?, ?)"
            self._database.execute(f"INSERT OR IGNORE INTO header {columns}", values)
            self._load()
        return self._ids[header]


def _stored(
    database: sqlite3.Connection, headers: _Headers, checksums: Sequence[ObjectChecksum]
) -> Iterator[tuple[ObjectChecksum, ContentInfo]]:
    marks = ",".join("?" * len(checksums))
    rows = database.execute(f"SELECT * FROM content WHERE object IN ({marks})", list(checksums))
    for checksum, size, digest, header in rows:
        info = ContentInfo(headers.header(header), size, ContentDigest(digest))
        yield ObjectChecksum(checksum), info


def _store(
    database: sqlite3.Connection, headers: _Headers, found: dict[ObjectChecksum, ContentInfo]
) -> None:
    if not found:
        return
    database.execute("BEGIN")
    rows = [(c, i.size, i.digest, headers.number(i.header)) for c, i in found.items()]
    database.executemany("INSERT OR REPLACE INTO content VALUES (?, ?, ?, ?)", rows)
    database.execute("COMMIT")


def _pack(xattrs: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(len(part).to_bytes(4, "little") + part for pair in xattrs for part in pair)


def _unpack(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    parts, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return tuple(zip(parts[::2], parts[1::2], strict=True))
