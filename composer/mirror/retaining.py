"""RPMs that their repositories have dropped, kept beside the sets that need them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from composer.jigdo.build import LocalPackage
from composer.mirror.known import KnownFiles
from composer.mirror.needs import Place
from composer.mirror.placing import Placer
from composer.mirror.space import Needs
from composer.mirror.verifying import Options, verify
from composer.rpm.package import PackageRef, retained_location


def lost_packages(
    repository: Path, versions: Sequence[Needs], repositories: Mapping[str, Place]
) -> list[PackageRef]:
    """Return the packages of ``versions`` that clients find nowhere, by ``mirror verify``'s means.

    Raises what is wrong with a repository that cannot be asked.
    """
    names = [f"{one.entry.ref}@{one.entry.commit}" for one in versions]
    found = verify(Place.of(str(repository)), Options(repositories=repositories, refs=names))
    if found.error is not None:
        raise found.error
    bad = {(one.repository, one.location) for one in found.problems}
    packages = {package.pkgid: package for one in versions for package in one.packages}
    return [
        one
        for one in packages.values()
        if (one.repository if one.repository in repositories else "", one.location) in bad
    ]


def retain(
    repository: Path,
    packages: Iterable[PackageRef],
    available: Sequence[LocalPackage],
    known: KnownFiles,
) -> None:
    """Put RPMs of ``available`` where clients of ``repository`` look at last.

    Raises ChecksumMismatch for a file that is not the RPM that it should be.
    """
    paths = {one.ref.pkgid: one.path for one in available}
    placer = Placer(repository, known)
    placer.begin()
    for package in packages:
        location = retained_location(package)
        path = repository / location
        if path.exists() and known.hash(location) != package.pkgid:
            path.unlink()  # it has the name of what it is not: damaged
        placer.place(paths[package.pkgid], location, package.pkgid)
    placer.end()
