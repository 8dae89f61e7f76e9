"""What a client has seen of a repository's signed metadata, kept between runs.

One directory per trusted root.  Rules kept here: a file is whole and on disk before
what it leads to is asked for, so that no kill and no power cut makes a client forget
how far it was; one process at a time.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import ComposerError
from composer.system.files import remove_tree, write_bytes

_LOCK = "lock"


class TrustStore:
    """The metadata last trusted, by role.  ``pinned`` is the root that was given by a person."""

    def __init__(self, place: Path, name: str, pinned: bytes) -> None:
        # Another root is another repository, or one that starts anew: what was seen of
        # the old one says nothing about it.
        self.directory = place / f"{name}.{str(ContentDigest.of(pinned))[:16]}"
        self.pinned = pinned

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other process reads or writes here."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = (self.directory / _LOCK).open("w")
        except (PermissionError, NotADirectoryError, FileExistsError) as error:
            raise ComposerError(
                f"{self.directory}: not writable; what has been seen of a remote is kept there",
                hint="run it as the user who owns that directory",
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read(self, role: str) -> bytes | None:
        """Return the metadata of ``role`` that was trusted last, if any was."""
        try:
            return self._path(role).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, role: str, data: bytes) -> None:
        """Keep metadata that has been verified."""
        write_bytes(self._path(role), data)

    def _path(self, role: str) -> Path:
        return self.directory / f"{role}.json"


def forget(place: Path, name: str) -> None:
    """Remove what has been seen of the remote ``name``, for whatever root."""
    (place / f"{name}.mirrors.json").unlink(missing_ok=True)
    for directory in place.glob(f"{name}.*"):
        if len(directory.name) == len(name) + 17:
            remove_tree(directory)
