"""What a commit says about itself, and what became of its packages in another one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.errors import BoundExceeded, ComposerError
from composer.ostree.repo import Repository
from composer.rpm.advisories import Advisory, fixed
from composer.rpm.advisories import read as read_advisories
from composer.rpm.changes import Changes, compare, compare_versions
from composer.rpm.listing import (
    DIRECTORIES,
    FILES,
    ChangelogEntry,
    Installed,
    listed,
    newer_entries,
    read_rpmdb,
)
from composer.rpm.package import Nevra

_LARGEST_RPMDB = 1 << 30
_ENTRIES = 1000
_MOST_COMMITS = 1000


@dataclass(frozen=True, slots=True)
class PackageDifference:
    """What became of the packages between two commits.

    ``changes`` is None where a commit says nothing of its packages; ``missing`` has a line
    for everything that could not be told, and why.  ``changelogs`` has the new entries of
    each package that was upgraded, the newest first.
    """

    changes: Changes | None
    changelogs: Mapping[Nevra, tuple[ChangelogEntry, ...]] = field(default_factory=dict)
    advisories: tuple[Advisory, ...] = ()
    missing: tuple[str, ...] = ()


def package_difference(
    repo: Repository, before: ObjectChecksum, after: ObjectChecksum, *, changelogs: bool = True
) -> PackageDifference:
    """Compare the packages of two commits, made by this program or by another.

    Raises FormatError for lists and databases that cannot be read, RepositoryError.
    """
    if before == after:
        return PackageDifference(Changes())
    old, new = packages_of(repo, before), packages_of(repo, after)
    missing = [
        f"{commit}: no list of packages in its metadata, and no rpm database"
        for commit, found in ((before, old), (after, new))
        if found is None
    ]
    if old is None or new is None:
        return PackageDifference(None, missing=tuple(missing))
    changes = compare(old, new)
    entries: dict[Nevra, tuple[ChangelogEntry, ...]] = {}
    if changelogs and changes.upgraded:
        try:
            entries = _changelogs(repo, before, after, changes)
        except ComposerError as error:
            missing.append(f"no changelogs: {error.message}")
    came = _advisories_between(repo, before, after, changes)
    advisories = fixed(advisories_of(repo, before), came, changes.brought)
    return PackageDifference(changes, entries, advisories, tuple(missing))


def _advisories_between(
    repo: Repository, before: ObjectChecksum, after: ObjectChecksum, changes: Changes
) -> list[Advisory]:
    """List the advisories of ``after``, and of the commits on the way to it from ``before``.

    Those of the latter are for older versions; they get the packages that came in the end.
    """
    found = {advisory.ident: advisory for advisory in advisories_of(repo, after)}
    newest = {(new.name, new.arch): new for new in changes.brought}
    for commit in _between(repo, before, after):
        for advisory in advisories_of(repo, commit):
            packages = tuple(sorted(set(_followed(advisory.packages, newest))))
            found.setdefault(advisory.ident, replace(advisory, packages=packages))
    return [found[ident] for ident in sorted(found)]


def _between(
    repo: Repository, before: ObjectChecksum, after: ObjectChecksum
) -> list[ObjectChecksum]:
    """Give the commits that lead from ``before`` to ``after``, both left out, if they are here."""
    found: list[ObjectChecksum] = []
    commit = repo.commit(after).parent
    while commit is not None and commit != before:
        if len(found) == _MOST_COMMITS or not repo.has("commit", commit):
            return []
        found.append(commit)
        commit = repo.commit(commit).parent
    return found if commit == before else []


def _followed(packages: Iterable[str], newest: Mapping[tuple[str, str], Nevra]) -> Iterator[str]:
    for text in packages:
        try:
            old = Nevra.parse(text)
        except ValueError:
            continue
        new = newest.get((old.name, old.arch))
        if new is not None and compare_versions(old, new) <= 0:
            yield str(new)


def packages_of(repo: Repository, commit: ObjectChecksum) -> tuple[Nevra, ...] | None:
    """List a commit's packages: from its metadata, or from its rpmdb; None without either."""
    try:
        found = listed(repo.commit(commit).metadata)
        if found is not None:
            return found
        with _rpmdb(repo, commit) as directory:
            if directory is None:
                return None
            return tuple(package.nevra for package in read_rpmdb(directory))
    except ComposerError as error:
        raise error.within(f"commit {commit}") from None


def advisories_of(repo: Repository, commit: ObjectChecksum) -> tuple[Advisory, ...]:
    """List the advisories that a commit or its detached metadata has."""
    detached = repo.detached_metadata(commit)
    found = {
        *read_advisories(repo.commit(commit).metadata),
        *(read_advisories(detached.unpack()) if detached is not None else ()),
    }
    return tuple(sorted(found))


def _changelogs(
    repo: Repository, before: ObjectChecksum, after: ObjectChecksum, changes: Changes
) -> dict[Nevra, tuple[ChangelogEntry, ...]]:
    newest: dict[Nevra, ChangelogEntry | None] = {}
    for package in _read(repo, before, (old for old, _ in changes.upgraded), entries=1):
        newest[package.nevra] = package.changelog[0] if package.changelog else None
    olds = {new: old for old, new in changes.upgraded}
    found = {}
    for package in _read(repo, after, olds, entries=_ENTRIES):
        old = olds.get(package.nevra)
        # Without the old version's entries, all of the new one's would look new.
        if old in newest and (entries := newer_entries(package.changelog, newest[old])):
            found[package.nevra] = entries
    return found


def _read(
    repo: Repository, commit: ObjectChecksum, packages: Iterable[Nevra], *, entries: int
) -> list[Installed]:
    with _rpmdb(repo, commit) as directory:
        if directory is None:
            raise ComposerError(f"commit {commit} has no rpm database")
        try:
            return read_rpmdb(directory, names={p.name for p in packages}, entries=entries)
        except ComposerError as error:
            raise error.within(f"commit {commit}") from None


@contextmanager
def _rpmdb(repo: Repository, commit: ObjectChecksum) -> Iterator[Path | None]:
    """Copy a commit's rpmdb into a private directory; yields None where it has none."""
    found = _find(repo, commit)
    if found is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="rpmdb-") as place:
        for name, checksum in found.items():
            _, size, pieces = repo.content(checksum)
            if size > _LARGEST_RPMDB:
                raise BoundExceeded(what=f"the rpm database of {commit}", bound=_LARGEST_RPMDB)
            with (Path(place) / name).open("wb") as stream:
                for piece in pieces:
                    stream.write(piece)
        yield Path(place)


def _find(repo: Repository, commit: ObjectChecksum) -> dict[str, ObjectChecksum] | None:
    for directory in DIRECTORIES:
        found = {name: repo.file_at(commit, f"{directory}/{name}") for name in FILES}
        present = {name: checksum for name, checksum in found.items() if checksum}
        if present:
            return present
    return None
