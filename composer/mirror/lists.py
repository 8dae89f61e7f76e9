"""What a repository on this machine says of its sets, by the lists that its repomd.xml names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from composer.errors import ComposerError
from composer.jigdo.pointer import (
    MAX_POINTER,
    MAX_VERSIONS,
    RECORD_TYPE,
    VERSIONS_TYPE,
    Pointer,
    PointerEntry,
    Versions,
    parse_pointer,
    parse_versions,
)
from composer.rpm.rpmmd import REPOMD, Record, Repomd, parse_repomd, unpack_small


@dataclass(frozen=True, slots=True)
class Lists:
    """The newest sets, and the others."""

    pointer: Pointer
    versions: Versions

    @property
    def entries(self) -> tuple[PointerEntry, ...]:
        """All sets: the newest of each ref, then the others."""
        return (*self.pointer.entries, *self.versions.entries)

    @property
    def locations(self) -> set[str]:
        """Where the RPMs of all sets are."""
        return {one.location for one in self.entries}

    @property
    def revision(self) -> int:
        """The time of the newest commit, which is the rpm-md's."""
        return max((one.timestamp for one in self.entries), default=0)

    def with_set(self, entry: PointerEntry, *, newest: bool) -> Lists:
        """The same with a set, as the newest of its ref or as another version.

        It is the newest anyway where it is of the newest's commit, or the ref's first.
        """
        pointer, versions = self.pointer, self.versions
        current = pointer.get(entry.ref)
        if not newest and current is not None and current.commit != entry.commit:
            return Lists(pointer, versions.with_entry(entry))
        versions = versions.without(entry.ref, entry.commit)
        if current is not None and current.commit != entry.commit:
            versions = versions.with_entry(current)
        return Lists(pointer.with_entry(entry), versions)

    def existing(self, repository: Path) -> Lists:
        """The same without the other versions whose RPMs were removed."""
        there = (one for one in self.versions.entries if (repository / one.location).is_file())
        return Lists(self.pointer, Versions(tuple(there)))


def read_repomd(repository: Path) -> Repomd:
    """Read repomd.xml; an empty one where there is none."""
    path = repository / REPOMD
    return parse_repomd(path.read_bytes()) if path.exists() else Repomd("", ())


def read_lists(repository: Path, repomd: Repomd | None = None) -> Lists:
    """Read the lists of sets, empty where there are none; raises VerificationFailed and kin."""
    repomd = read_repomd(repository) if repomd is None else repomd
    return Lists(
        _read_list(repository, repomd.find(RECORD_TYPE), MAX_POINTER, parse_pointer) or Pointer(),
        _read_list(repository, repomd.find(VERSIONS_TYPE), MAX_VERSIONS, parse_versions)
        or Versions(),
    )


_List = TypeVar("_List")


def _read_list(
    repository: Path, record: Record | None, limit: int, parse: Callable[[bytes], _List]
) -> _List | None:
    if record is None:
        return None
    try:
        packed = (repository / record.location).read_bytes()
        return parse(unpack_small(packed, record, limit=limit))
    except ComposerError as error:
        raise error.within(str(repository / record.location)) from None


def published(repository: Path, ref: str, commit: str) -> PointerEntry | None:
    """Return the pointer's entry that names ``commit`` as the newest of ``ref``, if one does."""
    entry = read_lists(repository).pointer.get(ref)
    return entry if entry is not None and str(entry.commit) == commit else None
