"""RPMs that their repositories have dropped, kept beside the sets that need them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from composer.jigdo.build import LocalPackage
from composer.jigdo.local import require_pkgid
from composer.mirror.needs import Place
from composer.mirror.space import Needs
from composer.mirror.verifying import Options, verify
from composer.rpm.package import PackageRef, retained_location
from composer.system.files import writing


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
    repository: Path, packages: Iterable[PackageRef], available: Sequence[LocalPackage]
) -> None:
    """Copy RPMs of ``available`` to where clients of ``repository`` look at last.

    Raises ChecksumMismatch for a file that is not the RPM that it should be.
    """
    paths = {one.ref.pkgid: one.path for one in available}
    for package in packages:
        source = paths[package.pkgid]
        require_pkgid(package, source)
        place = repository / retained_location(package)
        with source.open("rb") as old, writing(place) as new:
            shutil.copyfileobj(old, new, 1 << 20)
        require_pkgid(package, place)
        # rpm-md has the file's time.
        time = source.stat().st_mtime
        os.utime(place, (time, time))
