"""What is deployed in a sysroot, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from composer.checksum import ObjectChecksum
from composer.sysroot.kernel_arguments import split

Role = Literal["staged", "pending", "booted", "rollback", ""]

GROUP = "jigdo-composer"
"""What we write into a deployment's origin file, beside libostree's own."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A commit that can be booted.  ``index`` 0 is what boots next.

    ``ref`` and ``remote`` say where it came from, "" where its origin does not.  ``kargs`` are
    the kernel's arguments without libostree's own.
    """

    index: int
    os: str
    commit: ObjectChecksum
    serial: int
    ref: str
    remote: str
    kargs: tuple[str, ...]
    role: Role
    pinned: bool

    @property
    def name(self) -> str:
        """As libostree names its directory."""
        return f"{self.commit}.{self.serial}"


def read_deployments(found: Sequence[Any], booted: Any) -> tuple[Deployment, ...]:
    """Make values of libostree's deployments, in their order."""
    place = next((i for i, one in enumerate(found) if booted and one.equal(booted)), None)
    return tuple(
        Deployment(
            index=index,
            os=one.get_osname(),
            commit=ObjectChecksum.parse(one.get_csum()),
            serial=one.get_deployserial(),
            ref=_origin(one, "origin", "refspec"),
            remote=_origin(one, GROUP, "remote"),
            kargs=tuple(w for w in _options(one) if not w.startswith("ostree=")),
            role=_role(one, index, place, found),
            pinned=one.is_pinned(),
        )
        for index, one in enumerate(found)
    )


def _role(one: Any, index: int, booted: int | None, found: Sequence[Any]) -> Role:
    if one.is_staged():
        return "staged"
    if index == booted:
        return "booted"
    # Where nothing is booted from this sysroot, what comes first is what will be.
    current = booted if booted is not None else 0
    if index < current or (booted is None and index == 0):
        return "pending"
    own = found[current].get_osname()
    behind = [i for i, other in enumerate(found) if i > current and other.get_osname() == own]
    return "rollback" if behind[:1] == [index] else ""


def _options(one: Any) -> tuple[str, ...]:
    bootconfig = one.get_bootconfig()
    return split((bootconfig.get("options") if bootconfig else None) or "")


def _origin(one: Any, group: str, key: str) -> str:
    from gi.repository import GLib

    origin = one.get_origin()
    if origin is None:
        return ""
    try:
        return str(origin.get_string(group, key))
    except GLib.Error:
        return ""
