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
    """Read one object, in pieces."""
    header, size, pieces = repo.content(checksum)
    state = hashlib.sha256()
    for piece in pieces:
        state.update(piece)
    return ContentInfo(header, size, ContentDigest(state.digest()))


class DigestCache:
    """Looks objects up in an SQLite file, and reads those that are not there yet."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def lookup(
        self, repo: Repository, checksums: Sequence[ObjectChecksum], *, workers: int = 2
    ) -> Iterator[ContentInfo]:
        """Yield the info of each of ``checksums``, in order; new ones are read in parallel."""
        with closing(sqlite3.connect(self._path, isolation_level=None)) as database:
            database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + _SCHEMA)
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


class _Headers:
    """The header table, both ways, in memory: a tree has few distinct headers."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.by_id: dict[int, Header] = {}
        self._ids: dict[Header, int] = {}
        for number, uid, gid, mode, xattrs in database.execute("SELECT * FROM header"):
            self._remember(number, Header(uid, gid, mode, _unpack(xattrs)))

    def _remember(self, number: int, header: Header) -> None:
        self.by_id[number], self._ids[header] = header, number

    def number(self, header: Header) -> int:
        if header not in self._ids:
            values = (header.uid, header.gid, header.mode, _pack(header.xattrs))
            columns = "(uid, gid, mode, xattrs) VALUES (?, ?, ?, ?)"
            done = self._database.execute(f"INSERT INTO header {columns}", values)
            assert done.lastrowid is not None
            self._remember(done.lastrowid, header)
        return self._ids[header]


def _stored(
    database: sqlite3.Connection, headers: _Headers, checksums: Sequence[ObjectChecksum]
) -> Iterator[tuple[ObjectChecksum, ContentInfo]]:
    marks = ",".join("?" * len(checksums))
    rows = database.execute(f"SELECT * FROM content WHERE object IN ({marks})", list(checksums))
    for checksum, size, digest, header in rows:
        info = ContentInfo(headers.by_id[header], size, ContentDigest(digest))
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
