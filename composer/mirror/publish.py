"""A jigdo set into a repository: its RPM, rpm-md that lists it, the pointers to it.

Rule kept here: an RPM that a list names keeps its name and content; the new one gets
another name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ChecksumMismatch
from composer.jigdo.build import LocalPackage
from composer.jigdo.container import IndexPlace
from composer.jigdo.pointer import PointerEntry, UpdatePlace
from composer.mirror.keys import KeyDirectory
from composer.mirror.known import KnownFiles
from composer.mirror.lists import Lists, read_lists
from composer.mirror.placing import Placer
from composer.mirror.renewing import alone, renew
from composer.mirror.repomd_signature import RepomdSigner
from composer.mirror.set_rpm import locate_jigdo, set_identity
from composer.mirror.space import read_needs
from composer.mirror.trash import read_unlisted
from composer.mirror.trust import Refreshed, stated_locations
from composer.rpm.package import LOCAL_DIRECTORY, retained_location

DIRECTORY = "jigdo"


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
    if (actual := _digest(set_rpm)) != entry.pkgid:
        raise ChecksumMismatch(what=str(set_rpm), expected=str(entry.pkgid), actual=str(actual))
    repository.mkdir(parents=True, exist_ok=True)
    with alone(repository):
        known = KnownFiles(repository)
        placer = Placer(repository, known)
        placer.begin()
        entry = with_free_location(entry, known, repository)
        for package in packages:
            if is_ours(package):
                _place(placer, package, package.ref.location, entry)
        for package in retained:
            _place(placer, package, retained_location(package.ref), entry)
        placer.place(set_rpm, entry.location, entry.pkgid, time=entry.timestamp)
        placer.end()
        before = read_lists(repository)
        after = before.with_set(entry, newest=newest).existing(repository)
        settle(repository, before, after, known, keys=keys)
    return entry


def settle(
    repository: Path,
    before: Lists,
    after: Lists,
    known: KnownFiles,
    *,
    keys: KeyDirectory | None = None,
    signer: RepomdSigner | None = None,
) -> Refreshed | None:
    """Let the repository say ``after``, and remove sets that were replaced before ``before``."""
    replaced = outdated(repository, after)
    # Who has just read the old pointers may be reading those that they name; who goes by
    # statements, those that they name until they are signed anew.
    unread = replaced - before.locations - stated_locations(repository)
    without = replaced | _hidden(repository, before, after)
    refreshed = renew(repository, after, known=known, without=without, keys=keys, signer=signer)
    for location in unread:
        (repository / location).unlink()
    return refreshed


def _hidden(repository: Path, before: Lists, after: Lists) -> set[str]:
    """Return where RPMs are that a prune took from rpm-md, and that no new set needs."""
    unlisted = [one for one in read_unlisted(repository) if one.location not in after.locations]
    new = [one for one in after.entries if one not in before.entries] if unlisted else []
    wanted = {package.pkgid for needs in read_needs(repository, new) for package in needs.packages}
    return {one.location for one in unlisted if one.pkgid not in wanted}


def outdated(repository: Path, lists: Lists) -> set[str]:
    """Return the locations of sets whose commits have newer sets."""
    listed = {(one.ref, str(one.commit)) for one in lists.entries}
    rest = {
        path.relative_to(repository).as_posix()
        for path in (repository / DIRECTORY).glob("*.rpm")
        if path.relative_to(repository).as_posix() not in lists.locations
    }
    return {place for place in rest if set_identity(repository / place) in listed}


def _digest(path: Path) -> ContentDigest:
    with path.open("rb") as stream:
        return ContentDigest.of_stream(stream)


def with_free_location(entry: PointerEntry, known: KnownFiles, repository: Path) -> PointerEntry:
    """Return the entry of a set at a location that no other content has."""
    path = repository / entry.location
    if not path.exists() or known.pkgid(entry.location) == entry.pkgid:
        return entry
    name = f"{path.stem}.{str(entry.pkgid)[:12]}{path.suffix}"
    return replace(entry, location=path.with_name(name).relative_to(repository).as_posix())


def is_ours(package: LocalPackage) -> bool:
    """Tell whether a package came from no repository, so that the set's has to have it."""
    ref = package.ref
    return not ref.repository and ref.location.startswith(f"{LOCAL_DIRECTORY}/")


def _place(placer: Placer, package: LocalPackage, location: str, entry: PointerEntry) -> None:
    # rpm-md has the file's time.
    placer.place(package.path, location, package.ref.pkgid, time=entry.timestamp)
