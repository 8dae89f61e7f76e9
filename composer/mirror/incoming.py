"""What is to be published: a repository that `set build` wrote, or RPMs; read, not believed.

Rule kept here: nothing from outside of what was named, and nothing of which it is not certain
what it is: each RPM has a SHA-256 here that its bytes must have when they are put into
the tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import FormatError, NotFound, UsageError
from composer.jigdo.pointer import PointerEntry
from composer.mirror.lists import Lists, read_lists
from composer.mirror.needs import require_place
from composer.mirror.renewing import find_locations
from composer.rpm.package import (
    LOCAL_DIRECTORY,
    RETAINED_DIRECTORY,
    PackageRef,
    file_name,
    find_rpms,
    read_ref,
    verify_digests,
)
from composer.rpm.rpmmd import REPOMD, read_packages

PACKAGES = "Packages"
"""Where RPMs go that are named as files."""

_AGAIN = "its rpm-md is older than its RPMs, or damaged: run `createrepo_c --update` there"


@dataclass(frozen=True, slots=True)
class Incoming:
    """An RPM to be published: where its file is, what it is, where it goes (its location)."""

    path: Path
    ref: PackageRef


@dataclass(frozen=True, slots=True)
class Source:
    """A repository to be published: its sets, by where they are in it, and its other RPMs."""

    directory: Path
    lists: Lists
    sets: tuple[PointerEntry, ...]
    packages: tuple[Incoming, ...]


def read_source(directory: Path) -> Source:
    """Read a repository that `set build` or `compose --rpm-repo` wrote.

    Raises NotFound for what is none and for files that are missing, FormatError where its
    rpm-md does not fit its files.
    """
    if not (directory / REPOMD).is_file():
        raise NotFound(
            f"{directory}: no rpm-md repository",
            hint="`set build --output` writes one; RPMs alone are named with --packages",
        )
    lists = read_lists(directory)
    found = _listed(directory)
    by_location = {one.ref.location: one for one in found}
    for entry in lists.entries:
        listed = by_location.get(entry.location)
        if listed is None or (listed.ref.pkgid, listed.ref.size) != (entry.pkgid, entry.size):
            raise FormatError(
                f"{directory}: {entry.location}: the pointer and rpm-md do not agree about the "
                f"set of {entry.ref} {entry.version}",
                hint="build the set again: `set build --output`",
            )
    others = tuple(one for one in found if one.ref.location not in lists.locations)
    return Source(directory, lists, lists.entries, others)


def read_rpms(places: Iterable[Path]) -> list[Incoming]:
    """Read RPM files, and directories of them by their rpm-md if they have one.

    Raises NotFound, and PackageRefused for a damaged one.
    """
    found = []
    for place in places:
        if (place / REPOMD).is_file():
            found += _listed(place)
            continue
        for path in find_rpms([place]):
            location = path.relative_to(place).as_posix() if place.is_dir() else ""
            if location:
                _require_inside(place, path)
            verify_digests(path)
            ref = read_ref(path)
            location = location or f"{PACKAGES}/{file_name(ref)}"
            require_place(location, rpm=True)
            found.append(Incoming(path, PackageRef(ref.nevra, ref.pkgid, ref.size, "", location)))
    return found


def _listed(directory: Path) -> list[Incoming]:
    """List the RPMs of a repository by its rpm-md, which has to list them all."""
    found = []
    for ref in read_packages(directory):
        require_place(ref.location, rpm=True)
        path = directory / ref.location
        _require_inside(directory, path)
        if (size := path.stat().st_size) != ref.size:
            raise FormatError(f"{path}: {size} bytes, where rpm-md says {ref.size}", hint=_AGAIN)
        found.append(Incoming(path, ref))
    known = {one.ref.location for one in found}
    # A set that was built again stays for a while, and is not listed.
    unknown = [
        one
        for one in find_locations(directory)
        if one not in known and not one.startswith("jigdo/")
    ]
    if unknown:
        raise FormatError(
            f"{directory}: its rpm-md does not list {len(unknown)} RPMs that are there",
            details=unknown[:20],
            hint=_AGAIN,
        )
    return found


def _require_inside(directory: Path, path: Path) -> None:
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file, but rpm-md lists it", hint=_AGAIN) from None
    except (OSError, RuntimeError) as error:
        raise FormatError(f"{path}: leads nowhere: {error}") from error
    if not real.is_relative_to(directory.resolve()):
        raise FormatError(
            f"{path}: a symlink that leads out of {directory}, to {real}",
            hint="name the directory that it leads to, or copy the file",
        )
    if not real.is_file():
        raise FormatError(f"{path}: not a file")


def require_distinct(packages: Sequence[Incoming], there: Iterable[PackageRef]) -> None:
    """Refuse two RPMs of one name, among those to be published and with those that are there."""
    locations: dict[str, Incoming] = {}
    for one in packages:
        other = locations.setdefault(one.ref.location, one)
        if other.ref.pkgid != one.ref.pkgid:
            raise _twice(one, str(other.path), other.ref.pkgid)
    names = {ref.nevra: (ref.location, ref.pkgid) for ref in there if not _named_by_pkgid(ref)}
    for one in packages:
        if not _named_by_pkgid(one.ref):
            where, pkgid = names.setdefault(one.ref.nevra, (str(one.path), one.ref.pkgid))
            if pkgid != one.ref.pkgid:
                raise _twice(one, where, pkgid)


def _named_by_pkgid(ref: PackageRef) -> bool:
    return ref.location.startswith((f"{RETAINED_DIRECTORY}/", f"{LOCAL_DIRECTORY}/"))


def _twice(one: Incoming, where: str, pkgid: ContentDigest) -> UsageError:
    return UsageError(
        f"{one.ref.nevra}: two RPMs of one name, and they differ",
        details=[f"{where}: SHA-256 {pkgid}", f"{one.path}: SHA-256 {one.ref.pkgid}"],
        hint="dnf and clients take one for the other: give the new one another release",
    )
