"""What RPMs of a repository are: their pkgids, remembered from one change to the next.

``DIR/.jigdo-publish/files.json``.  Losing it costs that all RPMs are hashed once more.

Rule kept here: an RPM that was built anew under its old name, size and time is noticed.  Where
the inode was touched but neither size nor time changed (a link to the file was made or removed,
it came here with a copy of the tree, or somebody set the time back), its beginning tells: it has
the digests of an RPM's header and payload.  Bytes that rot behind it are for
`mirror verify --full`.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from composer.checksum import ContentDigest
from composer.errors import NotFound
from composer.system.files import write_bytes

STATE = ".jigdo-publish"
_FORMAT = 1
_BEGINNING = 64 << 10


@dataclass(frozen=True, slots=True)
class _File:
    """What a file was when it was hashed; times in nanoseconds."""

    pkgid: str
    size: int
    modified: int
    changed: int
    inode: int
    beginning: str

    @classmethod
    def of(cls, row: Any) -> Self:
        pkgid, size, modified, changed, inode, beginning = row
        ContentDigest.parse(pkgid)
        return cls(pkgid, int(size), int(modified), int(changed), int(inode), str(beginning))


class KnownFiles:
    """The RPMs of the repository at ``directory``; whoever has it is alone there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, _File] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            document: dict[str, Any] = json.loads((directory / STATE / "files.json").read_bytes())
            if document["format"] == _FORMAT:
                self._files = {str(key): _File.of(row) for key, row in document["files"].items()}
        self._written = dict(self._files)

    def pkgid(self, location: str) -> ContentDigest:
        """Return what the RPM at ``location`` is, and hash it if need be; raises NotFound."""
        known = self._files.get(location)
        try:
            found = (self._directory / location).stat()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{self._directory / location}: no such file") from None
        if known is not None and self._is(known, location, found):
            return ContentDigest.parse(known.pkgid)
        return self.hash(location)

    def hash(self, location: str) -> ContentDigest:
        """Hash the RPM at ``location``, whatever is known of it."""
        path = self._directory / location
        with path.open("rb") as stream:
            before = os.fstat(stream.fileno())
            pkgid = ContentDigest.of_stream(stream)
        self._note(location, pkgid, before)
        return pkgid

    def remember(self, location: str, pkgid: ContentDigest) -> None:
        """Take note of an RPM that was hashed as it was put there."""
        self._note(location, pkgid, (self._directory / location).stat())

    def write(self) -> None:
        """Keep it for the next time, without what has gone."""
        self._files = {
            location: file
            for location, file in sorted(self._files.items())
            if (self._directory / location).exists()
        }
        if self._files == self._written:
            return
        files = {
            location: [one.pkgid, one.size, one.modified, one.changed, one.inode, one.beginning]
            for location, one in self._files.items()
        }
        text = json.dumps({"format": _FORMAT, "files": files}, separators=(",", ":"))
        write_bytes(self._directory / STATE / "files.json", text.encode())

    def _is(self, known: _File, location: str, found: os.stat_result) -> bool:
        if (known.size, known.modified) != (found.st_size, found.st_mtime_ns):
            return False
        if (known.changed, known.inode) == (found.st_ctime_ns, found.st_ino):
            return True
        if known.beginning != self._beginning(location):
            return False
        self._note(location, ContentDigest.parse(known.pkgid), found)
        return True

    def _note(self, location: str, pkgid: ContentDigest, found: os.stat_result) -> None:
        self._files[location] = _File(
            str(pkgid),
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_ino,
            self._beginning(location),
        )

    def _beginning(self, location: str) -> str:
        with (self._directory / location).open("rb") as stream:
            return str(ContentDigest.of(stream.read(_BEGINNING)))
