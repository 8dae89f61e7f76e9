"""What a compose has to know of packages before librpm installs them, from their headers."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.compose.packages import ComposedPackage
from composer.rpm.package import Nevra, PackageRefused, opened
from composer.rpm.payload import opened_payload

_SYSUSERS = ("/usr/lib/sysusers.d/", "/etc/sysusers.d/")
_PASSWD = ("/etc/passwd", "/etc/group")
# Fresh file systems while the transaction runs, or emptied after it.
_VOLATILE = ("/dev/", "/proc/", "/run/", "/sys/", "/tmp/")
_GHOST = 1 << 6  # RPMFILE_GHOST


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """One package's header, as far as accounts go.

    ``owned`` are the files (path, user, group) that are not root's; ``accounts`` the
    user() and group() provides with their versions; ``sysusers`` and ``passwd`` the
    paths of such files in the package; ``devices`` those of device files, but not of
    overlayfs whiteouts; ``size`` what it says to take when installed, in bytes.
    """

    nevra: Nevra
    path: Path
    owned: tuple[tuple[str, str, str], ...]
    accounts: tuple[tuple[str, str], ...]
    sysusers: tuple[str, ...]
    passwd: tuple[str, ...]
    devices: tuple[str, ...] = ()
    size: int = 0


def read_facts(packages: Iterable[ComposedPackage]) -> tuple[PackageFacts, ...]:
    """Read the header of every package, in order.  Raises PackageRefused."""
    return tuple(_facts(package) for package in packages)


def _facts(package: ComposedPackage) -> PackageFacts:
    with opened(package.path) as (header, _):
        names = header["filenames"] or []
        nevra = Nevra.of_header(header)
        if nevra != package.ref.nevra:
            raise PackageRefused(
                f"{package.path.name}: its header says {nevra}, "
                f"its repository says {package.ref.nevra}"
            )
        provides = zip(header["providename"] or [], header["provideversion"] or [], strict=True)
        return PackageFacts(
            nevra=nevra,
            path=package.path,
            owned=_owned(header, names),
            accounts=tuple((n, v) for n, v in provides if n.startswith(("user(", "group("))),
            sysusers=tuple(n for n in names if n.startswith(_SYSUSERS) and n.endswith(".conf")),
            passwd=tuple(n for n in names if n in _PASSWD),
            devices=_devices(header, names),
            size=int(header["longsize"] or 0),
        )


def _devices(header: Any, names: list[str]) -> tuple[str, ...]:
    # librpm gives modes as 16 bits, with or without a sign.
    kinds = [stat.S_IFMT(mode & 0xFFFF) for mode in header["filemodes"] or ()]
    if stat.S_IFCHR not in kinds and stat.S_IFBLK not in kinds:
        return ()
    return tuple(
        name
        for name, kind, number, flag in zip(
            names, kinds, header["filerdevs"], header["fileflags"], strict=True
        )
        if kind in (stat.S_IFCHR, stat.S_IFBLK)
        and not (kind == stat.S_IFCHR and number == 0)
        and not flag & _GHOST
    )


def _owned(header: Any, names: list[str]) -> tuple[tuple[str, str, str], ...]:
    users, groups = header["fileusername"] or [], header["filegroupname"] or []
    if set(users) | set(groups) <= {"root"}:
        return ()
    flags = header["fileflags"]
    return tuple(
        (name, user, group)
        for name, user, group, flag in zip(names, users, groups, flags, strict=True)
        if (user != "root" or group != "root")
        and not flag & _GHOST
        and not name.startswith(_VOLATILE)
    )


def read_texts(facts: PackageFacts, wanted: Iterable[str]) -> dict[str, str]:
    """Read files of a package's payload as text, by path.  Raises PackageRefused."""
    left = set(wanted)
    found: dict[str, str] = {}
    with opened_payload(facts.path) as (_, files, contents):
        for content in contents():
            paths = [files.paths[index] for index in content.indexes]
            if not left.isdisjoint(paths):
                text = content.read().decode(errors="surrogateescape")
                found |= dict.fromkeys(paths, text)
                left.difference_update(paths)
            if not left:
                break
    return found
