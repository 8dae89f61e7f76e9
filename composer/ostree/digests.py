"""What is known of content objects: header, size and content digest, read once and kept.

An object's checksum fixes all three, so the cache can never be stale; it is an
SQLite file that may be deleted at any time.

Rule kept here: only what this program read itself goes in, and each row is sealed with a
digest of its own.  It is written without flushing, so a power cut may tear it: a row whose
seal does not fit is as if it were not there, and a file that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ChecksumMismatch
from composer.ostree.objects import Header
from composer.ostree.repo import Repository

DIGESTS = "digests.sqlite"
"""The cache's name below a cache directory."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sealed (
    object BLOB PRIMARY KEY, size INTEGER, digest BLOB, header INTEGER, seal BLOB
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sealed_digest ON sealed (digest);
CREATE TABLE IF NOT EXISTS header (
    id INTEGER PRIMARY KEY, uid INTEGER, gid INTEGER, mode INTEGER, xattrs BLOB,
    UNIQUE (uid, gid, mode, xattrs)
);
"""
_BATCH = 256
_SEAL = 8


@dataclass(frozen=True, slots=True)
class ContentInfo:
    """A content object's header, size in bytes, and the digest of its bytes.

    A symlink's bytes are its target.
    """

    header: Header
    size: int
    digest: ContentDigest


Content = tuple[ContentDigest, int, Header]
"""What a content object's checksum is over: the digest and size of the bytes, and the header."""


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
    """An SQLite file in which objects are looked up, by checksum or by what they hold."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def _open(self) -> sqlite3.Connection:
        try:
            return _database(self._path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # damaged: it is only a cache
            self._discard()
            return _database(self._path)

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def lookup(
        self, repo: Repository, checksums: Sequence[ObjectChecksum], *, workers: int = 2
    ) -> Iterator[ContentInfo]:
        """Yield the info of each of ``checksums``, in order; new ones are read in parallel."""
        with closing(self._open()) as database:
            headers = _Headers(database)
            with ThreadPoolExecutor(workers) as pool:
                for start in range(0, len(checksums), _BATCH):
                    batch = checksums[start : start + _BATCH]
                    known = dict(_stored(database, headers, "object", batch))
                    new = [checksum for checksum in batch if checksum not in known]
                    infos = pool.map(lambda checksum: read_info(repo, checksum), new)
                    found = dict(zip(new, infos, strict=True))
                    _store(database, headers, found)
                    known.update(found)
                    yield from (known[checksum] for checksum in batch)

    def objects(self, digests: Iterable[ContentDigest]) -> dict[Content, ObjectChecksum]:
        """Return the objects known to have one of these contents, whether or not they still exist.

        A cache that cannot be read knows none.
        """
        wanted = sorted(set(digests))
        found: dict[Content, ObjectChecksum] = {}
        with suppress(sqlite3.OperationalError):
            try:
                with closing(self._open()) as database:
                    headers = _Headers(database)
                    for start in range(0, len(wanted), _BATCH):
                        batch = wanted[start : start + _BATCH]
                        for checksum, info in _stored(database, headers, "digest", batch):
                            found[info.digest, info.size, info.header] = checksum
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._discard()
        return found

    def remember(self, found: Mapping[ObjectChecksum, ContentInfo]) -> None:
        """Keep what the caller has just computed from the bytes themselves, if that can be done."""
        with suppress(sqlite3.DatabaseError), closing(self._open()) as database:
            _store(database, _Headers(database), found)


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
        self._by_id: dict[int, tuple[Header, bytes]] = {}
        self._ids: dict[Header, int] = {}
        self._load()

    def _load(self) -> None:
        for number, uid, gid, mode, xattrs in self._database.execute("SELECT * FROM header"):
            with suppress(TypeError, ValueError):  # damaged
                header = Header(uid, gid, mode, _unpack(xattrs))
                self._by_id[number] = header, b"%d %d %d " % (uid, gid, mode) + xattrs
                self._ids[header] = number

    def header(self, number: int) -> Header | None:
        if number not in self._by_id:  # another process has added it
            self._load()
        found = self._by_id.get(number)
        return found[0] if found else None

    def packed(self, number: int) -> bytes:
        return self._by_id[number][1]

    def number(self, header: Header) -> int:
        if header not in self._ids:
            values = (header.uid, header.gid, header.mode, _pack(header.xattrs))
            columns = "(uid, gid, mode, xattrs) VALUES (?, ?, ?, ?)"
            self._database.execute(f"INSERT OR IGNORE INTO header {columns}", values)
            self._load()
        return self._ids[header]


def _stored(
    database: sqlite3.Connection, headers: _Headers, column: str, values: Sequence[bytes]
) -> Iterator[tuple[ObjectChecksum, ContentInfo]]:
    marks = ",".join("?" * len(values))
    rows = database.execute(f"SELECT * FROM sealed WHERE {column} IN ({marks})", list(values))
    for checksum, size, digest, number, seal in rows:
        header = headers.header(number)
        with suppress(TypeError):  # damaged: not even of the kind that was written
            if header and seal == _seal(checksum, size, digest, headers.packed(number)):
                yield ObjectChecksum(checksum), ContentInfo(header, size, ContentDigest(digest))


def _store(
    database: sqlite3.Connection,
    headers: _Headers,
    found: Mapping[ObjectChecksum, ContentInfo],
) -> None:
    if not found:
        return
    database.execute("BEGIN")
    rows = []
    for checksum, info in found.items():
        number = headers.number(info.header)
        seal = _seal(checksum, info.size, info.digest, headers.packed(number))
        rows.append((checksum, info.size, info.digest, number, seal))
    database.executemany("INSERT OR REPLACE INTO sealed VALUES (?, ?, ?, ?, ?)", rows)
    database.execute("COMMIT")


def _seal(checksum: bytes, size: int, digest: bytes, header: bytes) -> bytes:
    return hashlib.sha256(b"%b%b%d %b" % (checksum, digest, size, header)).digest()[:_SEAL]


def _pack(xattrs: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(len(part).to_bytes(4, "little") + part for pair in xattrs for part in pair)


def _unpack(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    parts, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return tuple(zip(parts[::2], parts[1::2], strict=True))
