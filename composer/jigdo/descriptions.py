"""Descriptions of sets that were pulled or built: kept in a directory, for the next update.

A client keeps them in its repository, in ``extensions/jigdo``: the place that OSTree leaves
to other programs.  What is there saves bytes and nothing else: a description that is
missing, old or damaged means that the next one is read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import zstandard

from composer.checksum import ObjectChecksum
from composer.jigdo.description import MAX_DESCRIPTION
from composer.ostree.repo import Repository
from composer.system.files import write_bytes

_SUFFIX = ".description"


class Descriptions:
    """The descriptions kept in one directory, by commit."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def of(cls, repo: Repository) -> Self:
        """Those that a repository has."""
        return cls(repo.path / "extensions" / "jigdo")

    def commits(self) -> Iterator[ObjectChecksum]:
        """Yield the commits whose descriptions are here."""
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                yield ObjectChecksum.parse(path.name.removesuffix(_SUFFIX))
            except ValueError:
                continue

    def read(self, commit: ObjectChecksum) -> bytes | None:
        """Return a description, or None when it is not here or not readable."""
        try:
            packed = self.path(commit).read_bytes()
            return zstandard.ZstdDecompressor().decompress(packed, max_output_size=MAX_DESCRIPTION)
        except (OSError, zstandard.ZstdError):
            return None

    def keep(self, commit: ObjectChecksum, data: bytes) -> None:
        """Keep a description."""
        self._directory.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path(commit), zstandard.ZstdCompressor(level=3).compress(data))

    def keep_only(self, commits: Iterable[ObjectChecksum]) -> None:
        """Remove the descriptions of all other commits."""
        for other in set(self.commits()) - set(commits):
            self.path(other).unlink(missing_ok=True)

    def path(self, commit: ObjectChecksum) -> Path:
        """Return where a commit's description is, if it is here."""
        return self._directory / f"{commit}{_SUFFIX}"
