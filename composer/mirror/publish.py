"""A jigdo set into a repository: its RPM, rpm-md that lists it, the pointers to it.

Rules kept here: at every moment the repository is the old one or the new one;
files that an old repomd.xml names stay until the publication after the next; what
others have put into rpm-md (comps, updateinfo, modules) stays; the same input gives
the same bytes.  A signature of repomd.xml does not outlive it: sign again.
"""

from __future__ import annotations

import fcntl
import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ChecksumMismatch, ComposerError
from composer.jigdo.build import LocalPackage
from composer.jigdo.container import IndexPlace
from composer.jigdo.pointer import (
    MAX_POINTER,
    MAX_VERSIONS,
    RECORD_TYPE,
    VERSIONS_TYPE,
    Pointer,
    PointerEntry,
    UpdatePlace,
    Versions,
    parse_pointer,
    parse_versions,
)
from composer.mirror.keys import KeyDirectory
from composer.mirror.set_rpm import locate_jigdo, set_identity
from composer.mirror.trust import open_ledger, refresh, stated_locations
from composer.rpm.package import LOCAL_DIRECTORY, retained_location
from composer.rpm.rpmmd import REPOMD, Record, Repomd, parse_repomd, unpack_small
from composer.system.command import require_program, run
from composer.system.files import sync_directory, write_bytes, writing

DIRECTORY = "jigdo"
_LOCK = ".jigdo-publish.lock"
_OWN_TYPES = frozenset(
    {RECORD_TYPE, VERSIONS_TYPE}
    | {
        f"{base}{variant}"
        for base in ("primary", "filelists", "other")
        for variant in ("", "_db", "_zck")
    }
)


def describe_set(
    set_rpm: Path,
    *,
    ref: str,
    version: str,
    commit: ObjectChecksum,
    timestamp: int,
    index: IndexPlace,
    updates: Sequence[UpdatePlace] = (),
) -> PointerEntry:
    """Make the pointer's entry for a set from its RPM, as it will be published."""
    offset, length = locate_jigdo(set_rpm)
    return PointerEntry(
        ref=ref,
        version=version,
        commit=commit,
        timestamp=timestamp,
        location=f"{DIRECTORY}/{set_rpm.name}",
        pkgid=_digest(set_rpm),
        size=set_rpm.stat().st_size,
        offset=offset,
        length=length,
        index=index,
        updates=tuple(updates),
    )


def publish_set(
    set_rpm: Path,
    entry: PointerEntry,
    repository: Path,
    *,
    packages: Sequence[LocalPackage] = (),
    retained: Sequence[LocalPackage] = (),
    newest: bool = True,
    keys: KeyDirectory | None = None,
) -> PointerEntry:
    """Put a set's RPM into the rpm-md repository at ``repository``, made if it is none.

    It becomes the newest of its ref, or without ``newest`` one of its other versions, unless
    it is of the newest's commit or the first of its ref.  Of ``packages``, the set's, those
    that came from no repository are put there too, and ``retained`` ones where clients look
    for what their repositories have no more.  With ``keys``, the repository's signed
    statements say what is newest too.  Returns ``entry`` as published: where
    another RPM of this name lies already, clients may be reading it, so the new one gets a
    name of its own.  Raises ChecksumMismatch when the RPM is not the one ``entry`` describes.
    """
    require_program("createrepo_c", package="createrepo-c (Debian) or createrepo_c (Fedora)")
    if (actual := _digest(set_rpm)) != entry.pkgid:
        raise ChecksumMismatch(what=str(set_rpm), expected=str(entry.pkgid), actual=str(actual))
    repository.mkdir(parents=True, exist_ok=True)
    with alone(repository):
        entry = _with_free_location(entry, repository)
        for package in packages:
            if is_ours(package):
                path = repository / package.ref.location
                _place(package.path, path, package.ref.pkgid, entry.timestamp)
        for package in retained:
            path = repository / retained_location(package.ref)
            _place(package.path, path, package.ref.pkgid, entry.timestamp)
        _place(set_rpm, repository / entry.location, entry.pkgid, entry.timestamp)
        old = _read_repomd(repository)
        before = _read_lists(repository, old)
        after = _with_set(before, entry, newest, repository)
        revision = max(one.timestamp for one in after.pointer.entries)
        outdated = _outdated(repository, after)
        # Who has just read the old pointers may be reading those that they name; who goes by
        # statements, those that they name until they are signed anew.
        for location in outdated - before.locations - stated_locations(repository):
            (repository / location).unlink()
        with tempfile.TemporaryDirectory(prefix=".repodata.", dir=repository) as place:
            new = _scan(repository, Path(place), revision, outdated)
            _add_lists(new, after, revision)
            _keep_others(repository, new)
            _switch(new, repository, old)
        if keys is not None:
            refresh(
                open_ledger(repository),
                after.pointer,
                keys,
                versions=after.versions,
                now=datetime.now(UTC),
            )
    return entry


def current_pointer(repository: Path) -> Pointer:
    """Return the pointer that the repository has; an empty one where it has none."""
    return _read_lists(repository, _read_repomd(repository)).pointer


def current_versions(repository: Path) -> Versions:
    """Return the list of sets that are not the newest."""
    return _read_lists(repository, _read_repomd(repository)).versions


def published(repository: Path, ref: str, commit: str) -> PointerEntry | None:
    """Return the pointer's entry that names ``commit`` as the newest of ``ref``, if one does."""
    entry = current_pointer(repository).get(ref)
    return entry if entry is not None and str(entry.commit) == commit else None


def published_sets(repository: Path) -> list[PointerEntry]:
    """List all sets that the pointers name."""
    lists = _read_lists(repository, _read_repomd(repository))
    return [*lists.pointer.entries, *lists.versions.entries]


@dataclass(frozen=True, slots=True)
class _Lists:
    """The newest sets, and the others."""

    pointer: Pointer
    versions: Versions

    @property
    def locations(self) -> set[str]:
        return {one.location for one in (*self.pointer.entries, *self.versions.entries)}


def _with_set(lists: _Lists, entry: PointerEntry, newest: bool, repository: Path) -> _Lists:
    """Return the lists with a set in its place, and without those whose RPMs were removed."""
    pointer, versions = lists.pointer, lists.versions
    current = pointer.get(entry.ref)
    if newest or current is None or current.commit == entry.commit:
        versions = versions.without(entry.ref, entry.commit)
        if current is not None and current.commit != entry.commit:
            versions = versions.with_entry(current)
        pointer = pointer.with_entry(entry)
    else:
        versions = versions.with_entry(entry)
    there = (one for one in versions.entries if (repository / one.location).is_file())
    return _Lists(pointer, Versions(tuple(there)))


def _outdated(repository: Path, lists: _Lists) -> set[str]:
    """Return the locations of sets whose commits have newer sets."""
    listed = {
        (one.ref, str(one.commit)) for one in (*lists.pointer.entries, *lists.versions.entries)
    }
    rest = {
        path.relative_to(repository).as_posix()
        for path in (repository / DIRECTORY).glob("*.rpm")
        if path.relative_to(repository).as_posix() not in lists.locations
    }
    return {place for place in rest if set_identity(repository / place) in listed}


@contextmanager
def alone(repository: Path) -> Iterator[None]:
    """Wait until no other process publishes there."""
    with (repository / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(path: Path) -> ContentDigest:
    with path.open("rb") as stream:
        return ContentDigest.of_stream(stream)


def _with_free_location(entry: PointerEntry, repository: Path) -> PointerEntry:
    path = repository / entry.location
    if not path.exists() or _digest(path) == entry.pkgid:
        return entry
    name = f"{path.stem}.{str(entry.pkgid)[:12]}{path.suffix}"
    return replace(entry, location=path.with_name(name).relative_to(repository).as_posix())


def is_ours(package: LocalPackage) -> bool:
    """Tell whether a package came from no repository, so that the set's has to have it."""
    ref = package.ref
    return not ref.repository and ref.location.startswith(f"{LOCAL_DIRECTORY}/")


def _place(rpm: Path, path: Path, pkgid: ContentDigest, timestamp: int) -> None:
    if not path.exists() or _digest(path) != pkgid:
        with rpm.open("rb") as source, writing(path) as destination:
            shutil.copyfileobj(source, destination, 1 << 20)
    # rpm-md has the file's time.
    os.utime(path, (timestamp, timestamp))


def _read_repomd(repository: Path) -> Repomd:
    path = repository / REPOMD
    return parse_repomd(path.read_bytes()) if path.exists() else Repomd("", ())


def _read_lists(repository: Path, repomd: Repomd) -> _Lists:
    return _Lists(
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


def _scan(repository: Path, place: Path, revision: int, outdated: Iterable[str]) -> Path:
    """Make rpm-md of the RPMs in ``repository`` below ``place``; returns its repodata."""
    argv = ["createrepo_c", "--quiet", "--update", "--outputdir", str(place)]
    argv += [f"--excludes={Path(location).name}" for location in sorted(outdated)]
    if (repository / REPOMD).exists():
        argv += ["--update-md-path", str(repository)]
    argv += ["--revision", str(revision), "--set-timestamp-to-revision"]
    argv += ["--no-database", "--checksum", "sha256", "--error-exit-val", str(repository)]
    run(argv, hint="createrepo_c names the file: a damaged RPM?  Remove it from the repository")
    return place / "repodata"


def _add_lists(repodata: Path, lists: _Lists, revision: int) -> None:
    records = [_record(repodata, RECORD_TYPE, lists.pointer.dump(), revision)]
    if lists.versions.entries:
        records.append(_record(repodata, VERSIONS_TYPE, lists.versions.dump(), revision))
    _edit(repodata / "repomd.xml", records)


def _record(repodata: Path, type: str, document: bytes, revision: int) -> Any:
    """Write a document of ours and return its record."""
    import createrepo_c

    path = repodata / f"{type}.json.gz"
    path.write_bytes(gzip.compress(document, mtime=0))
    record = createrepo_c.RepomdRecord(type, str(path))
    record.fill(createrepo_c.SHA256)
    record.set_timestamp(revision)
    record.rename_file()
    return record


def _keep_others(repository: Path, new: Path) -> None:
    """Take over the records that the old repomd.xml has of types that are not ours."""
    import createrepo_c

    if (repository / REPOMD).exists():
        old = createrepo_c.Repomd(str(repository / REPOMD))
        _edit(new / "repomd.xml", [one for one in old.records if one.type not in _OWN_TYPES])


def _edit(path: Path, records: list[Any]) -> None:
    import createrepo_c

    repomd = createrepo_c.Repomd(str(path))
    for record in records:
        repomd.set_record(record)
    repomd.sort_records()
    path.write_text(repomd.xml_dump())


def _switch(new: Path, repository: Path, old: Repomd) -> None:
    """Move new files in beside the old ones, then repomd.xml, then drop what is outdated."""
    repodata = repository / "repodata"
    repodata.mkdir(exist_ok=True)
    current = (new / "repomd.xml").read_bytes()
    for path in sorted(new.iterdir()):
        if path.name != "repomd.xml":
            _sync(path)
            path.replace(repodata / path.name)
    sync_directory(repodata)
    write_bytes(repository / REPOMD, current)
    named = {Path(one.location).name for one in (*parse_repomd(current).records, *old.records)}
    for path in repodata.iterdir():
        if path.name not in named | {"repomd.xml"} and not path.name.startswith("."):
            path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fchmod(descriptor, 0o644)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
