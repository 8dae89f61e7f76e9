"""What a synced mirror remembers: RPMs that were proven, metadata that it has put there.

``DIR/.jigdo-sync/state.json``.  Losing it costs that RPMs are hashed once more.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from composer.checksum import ContentDigest
from composer.system.files import write_bytes

STATE = ".jigdo-sync"
_FORMAT = 1


@dataclass(slots=True)
class SyncState:
    """``files`` are by location: pkgid, size, time of change (ns); ``metadata`` and ``before``
    locations of metadata that this run, and the one before, put there.
    """

    files: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read what is remembered of a mirror; nothing where that is damaged or of another kind."""
        found = cls()
        with suppress(OSError, ValueError, KeyError, TypeError):
            document: dict[str, Any] = json.loads((directory / STATE / "state.json").read_bytes())
            if document["format"] == _FORMAT:
                files = {
                    str(location): (str(pkgid), int(size), int(time))
                    for location, (pkgid, size, time) in document["files"].items()
                }
                metadata, before = map(str, document["metadata"]), map(str, document["before"])
                found.files, found.metadata, found.before = files, [*metadata], [*before]
        return found

    def write(self, directory: Path) -> None:
        """Remember it."""
        document = {
            "format": _FORMAT,
            "files": self.files,
            "metadata": self.metadata,
            "before": self.before,
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        write_bytes(directory / STATE / "state.json", text.encode())

    def remember(self, directory: Path, location: str, pkgid: ContentDigest) -> None:
        """Take note that a file was proven."""
        found = (directory / location).stat()
        self.files[location] = (str(pkgid), found.st_size, found.st_mtime_ns)

    def pkgid(self, directory: Path, location: str) -> ContentDigest | None:
        """Return the digest of a file, if it is the one that was proven, by size and time."""
        known = self.files.get(location)
        try:
            found = (directory / location).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if known is None or known[1:] != (found.st_size, found.st_mtime_ns):
            return None
        return ContentDigest.parse(known[0])
