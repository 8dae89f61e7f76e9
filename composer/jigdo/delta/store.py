"""Patches that were made before, kept by what they are from and what they make.

A patch is fixed by the two contents and the way it was looked for, so nothing here can
be stale; it is an SQLite file that may be deleted at any time.  An interrupted build
finds in it what it had made, and the next set what did not change.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ContentDigest
from composer.jigdo.encoding import Cursor, prefixed, uvarint

_SCHEMA = """
CREATE TABLE IF NOT EXISTS patch (key BLOB PRIMARY KEY, estimate INTEGER, data BLOB);
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

    @property
    def size(self) -> int:
        """Bytes of all patches."""
        return sum(len(patch) for _, _, patch in self.parts)


class PatchStore:
    """Patches by key; see :func:`patch_key`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __contains__(self, key: bytes) -> bool:
        return self.estimate(key) is not None

    def estimate(self, key: bytes) -> int | None:
        """Return about what a patch takes compressed, or None if it is not here."""
        row = self._database.execute("SELECT estimate FROM patch WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else None

    def load(self, key: bytes) -> StoredPatch:
        """Return a patch that is here."""
        row = self._database.execute(
            "SELECT estimate, data FROM patch WHERE key = ?", (key,)
        ).fetchone()
        cursor = Cursor(row[1], "stored patch")
        recipe = cursor.prefixed()
        parts = []
        while not cursor.at_end:
            codec, length = cursor.uvarints(2)
            parts.append((codec, length, cursor.prefixed()))
        return StoredPatch(recipe, tuple(parts), row[0])

    def save(self, key: bytes, patch: StoredPatch) -> None:
        """Keep a patch."""
        data = [prefixed(patch.recipe)]
        for codec, length, piece in patch.parts:
            data += [uvarint(codec), uvarint(length), prefixed(piece)]
        self._database.execute(
            "INSERT OR REPLACE INTO patch VALUES (?, ?, ?)", (key, patch.estimate, b"".join(data))
        )


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
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # damaged: it is only a cache
        path.unlink()
        database = _database(path)
    with closing(database):
        yield PatchStore(database)


def _database(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=60)
    try:
        database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + _SCHEMA)
    except BaseException:
        database.close()
        raise
    return database
