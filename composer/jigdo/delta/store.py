"""Patches that were made before, kept by what they are from and what they make.

A patch is fixed by the two contents and the way it was looked for, so nothing here can
be stale; it is an SQLite file that may be deleted at any time.  An interrupted build
finds in it what it had made, and the next set what did not change.

The parts of a patch are rows of their own: a content that is shipped whole may be larger
than what SQLite takes in one value, and a builder lays parts out without reading them.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.checksum import ContentDigest
from composer.errors import ComposerError

# A file of an older form has none of these tables; what is in it is made again.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS made (key BLOB PRIMARY KEY, estimate INTEGER, recipe BLOB);
CREATE TABLE IF NOT EXISTS part (
    key BLOB, number INTEGER, codec INTEGER, length INTEGER, size INTEGER,
    digest BLOB, data BLOB, PRIMARY KEY (key, number));
DROP TABLE IF EXISTS patch;
"""


@dataclass(frozen=True, slots=True)
class StoredPatch:
    """How one content is made: parts are (codec, bytes made, patch).

    ``recipe`` is that of the content when the patch is of what is inside, else empty;
    ``estimate`` is about what it takes compressed.
    """

    recipe: bytes
    parts: tuple[tuple[int, int, bytes], ...]
    estimate: int


@dataclass(frozen=True, slots=True)
class PatchOutline:
    """A stored patch without its bytes: parts are (codec, bytes made, bytes of the patch)."""

    recipe: bytes
    parts: tuple[tuple[int, int, int], ...]


class PatchStore:
    """Patches by key; see :func:`patch_key`.

    Every method raises ComposerError when the file, ``name``, fails it.
    """

    def __init__(self, database: sqlite3.Connection, name: str = "") -> None:
        self._database, self._name = database, name

    def __contains__(self, key: bytes) -> bool:
        return self.estimate(key) is not None

    def estimate(self, key: bytes) -> int | None:
        """Return about what a patch takes compressed, or None if it is not here."""
        rows = self._rows("SELECT estimate FROM made WHERE key = ?", key)
        return int(rows[0][0]) if rows else None

    def outline(self, key: bytes) -> PatchOutline:
        """Return all of a patch that is here but its bytes."""
        [(recipe,)] = self._rows("SELECT recipe FROM made WHERE key = ?", key)
        query = "SELECT codec, length, size FROM part WHERE key = ? ORDER BY number"
        return PatchOutline(recipe, tuple(self._rows(query, key)))

    def part(self, key: bytes, number: int) -> bytes:
        """Return the bytes of one part of a patch that is here."""
        query = "SELECT digest, data FROM part WHERE key = ? AND number = ?"
        [(digest, data)] = self._rows(query, key, number)
        if _digest(data) != digest:
            raise self._unusable("a patch in it is not what was saved")
        return bytes(data)

    def save(self, key: bytes, patch: StoredPatch) -> None:
        """Keep a patch, all of it or nothing."""
        self._rows("BEGIN IMMEDIATE")
        try:
            self._rows("DELETE FROM part WHERE key = ?", key)
            for number, (codec, length, data) in enumerate(patch.parts):
                row = (key, number, codec, length, len(data), _digest(data), data)
                self._rows("INSERT INTO part VALUES (?, ?, ?, ?, ?, ?, ?)", *row)
            made = (key, patch.estimate, patch.recipe)
            self._rows("INSERT OR REPLACE INTO made VALUES (?, ?, ?)", *made)
            self._rows("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._rows("ROLLBACK")
            raise

    def _rows(self, query: str, *values: bytes | int) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, why: str) -> ComposerError:
        return ComposerError(
            f"{self._name}: the store of patches cannot be used: {why}",
            hint="it may be deleted: what was in it is made again",
        )


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def patch_key(base: ContentDigest | None, target: ContentDigest, how: Sequence[str]) -> bytes:
    """Return the key of a patch; ``how`` is all else that decides what it is."""
    state = hashlib.sha256((base or b"") + target)
    for word in how:
        state.update(b"\0" + word.encode())
    return state.digest()


@contextmanager
def opened_store(path: Path | None) -> Iterator[PatchStore]:
    """Open the store at ``path`` (None: in memory); a damaged one is begun anew."""
    if path is None:
        with closing(_database(":memory:")) as database:
            yield PatchStore(database)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        database = _database(path)
    except sqlite3.OperationalError as error:
        raise ComposerError(f"{path}: the store of patches cannot be opened: {error}") from error
    except sqlite3.DatabaseError:  # damaged: it is only a cache
        # A journal that was left would be played into the new file.
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        database = _database(path)
    with closing(database):
        yield PatchStore(database, str(path))


def _database(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=60)
    try:
        database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + _SCHEMA)
    except BaseException:
        database.close()
        raise
    return database
