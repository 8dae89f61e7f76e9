"""A pull's transactions: what was written lands, flushed, every so many bytes.

That bounds what a power cut costs.  At risk are bytes that were handed over since the last landing,
and what lies on the disk as it came and is not flushed (composer.net.packages.WINDOW, and as much
of one RPM that is larger): together no more than 64 MB, unless a single content is larger.
"""

from __future__ import annotations

from typing import Any, Self

from composer.ostree.repo import Repository

BATCH_BYTES = 64 << 20
"""Bytes written after which a transaction lands, wherever they came from."""

FETCHED_BYTES = 16 << 20
"""Bytes handed over after which it lands, when they were fetched."""


class Batches:
    """One transaction after another: what was written lands every so many bytes."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._written = self._fetched = 0

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _begin(self) -> None:
        self._open = self._repo.transaction()
        self._open.__enter__()

    def wrote(self, size: int) -> None:
        """Count bytes that were written."""
        self._written += size

    def fetched(self, size: int) -> None:
        """Count bytes that were fetched, and are, or will be, nowhere but in objects."""
        self._fetched += size

    @property
    def is_full(self) -> bool:
        """Tell whether it is time to land."""
        return self._written >= BATCH_BYTES or self._fetched >= FETCHED_BYTES

    def land(self) -> None:
        """Commit the open transaction and begin another.  No writer may be at work."""
        self._open.__exit__(None, None, None)
        self._begin()
        self._written = self._fetched = 0
