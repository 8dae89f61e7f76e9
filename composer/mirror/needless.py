"""Which RPMs of a repository nobody needs once some versions have gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from composer.checksum import ContentDigest
from composer.errors import FormatError, UsageError
from composer.mirror.needs import require_place
from composer.mirror.space import Needs
from composer.mirror.trash import Unlisted
from composer.rpm.package import LOCAL_DIRECTORY, RETAINED_DIRECTORY, Nevra, PackageRef
from composer.rpm.rpmmd import REPOMD, parse_repomd

_SETS = "jigdo"


@dataclass(frozen=True, slots=True)
class Needed:
    """What versions need: RPMs by pkgid, by place, and, for RPMs made anew, by name."""

    pkgids: frozenset[ContentDigest]
    locations: frozenset[str]
    nevras: frozenset[Nevra]

    @classmethod
    def by(cls, versions: Iterable[Needs]) -> Self:
        """Collect what ``versions`` need, their sets too."""
        pkgids, locations, nevras = set[ContentDigest](), set[str](), set[Nevra]()
        for version in versions:
            pkgids.add(version.entry.pkgid)
            locations.add(version.entry.location)
            for package in version.packages:
                pkgids.add(package.pkgid)
                locations.add(package.location)
                nevras.add(package.nevra)
        return cls(frozenset(pkgids), frozenset(locations), frozenset(nevras))

    def __call__(self, rpm: PackageRef | Unlisted) -> bool:
        """Tell whether an RPM is needed, by what it is or where it is."""
        return rpm.pkgid in self.pkgids or rpm.location in self.locations


def needless(
    repository: Path, listed: Sequence[PackageRef], needed: Needed, *, packages_too: bool
) -> Iterator[PackageRef]:
    """Yield RPMs that rpm-md lists and nobody needs, of those that were put there for versions.

    With ``packages_too`` also others, unless they are the newest of their name: dnf installs
    those.  Sets are not looked at.
    """
    ours = (RETAINED_DIRECTORY, LOCAL_DIRECTORY)
    for package in listed:
        if package.location.split("/")[0] in ours and _may_go(package, needed):
            yield package
    if packages_too:
        yield from _old_packages(repository, listed, needed)


def _may_go(package: PackageRef, needed: Needed) -> bool:
    if needed(package):
        return False
    try:
        require_place(package.location, rpm=True)
    except FormatError:
        return False
    return True


def _old_packages(
    repository: Path, listed: Sequence[PackageRef], needed: Needed
) -> Iterator[PackageRef]:
    if parse_repomd((repository / REPOMD).read_bytes()).find("modules"):
        raise UsageError(
            f"{repository}: has module streams, of which older packages may be the right ones",
            hint="without --packages-too only sets and what was put there for them go",
        )
    others = [
        one
        for one in listed
        if one.location.split("/")[0] not in (_SETS, RETAINED_DIRECTORY, LOCAL_DIRECTORY)
    ]
    newest: dict[tuple[str, str], PackageRef] = {}
    for one in others:
        key = (one.nevra.name, one.nevra.arch)
        if key not in newest or _compare(newest[key].nevra, one.nevra) < 0:
            newest[key] = one
    nested = _nested(repository)
    for one in others:
        top = newest[one.nevra.name, one.nevra.arch].nevra
        if (
            _compare(one.nevra, top) < 0
            and one.nevra not in needed.nevras
            and not one.location.startswith(nested)
            and _may_go(one, needed)
        ):
            yield one


def _compare(one: Nevra, other: Nevra) -> int:
    import rpm

    def label(nevra: Nevra) -> tuple[str, str, str]:
        return str(nevra.epoch), nevra.version, nevra.release

    return int(rpm.labelCompare(label(one), label(other)))


def _nested(repository: Path) -> tuple[str, ...]:
    """Return where repositories of their own lie in this one; their rpm-md lists their RPMs."""
    found = (path.parent.parent for path in repository.rglob(REPOMD))
    return tuple(
        f"{path.relative_to(repository).as_posix()}/" for path in found if path != repository
    )
