"""Which deployment boots next, and which goes."""

from __future__ import annotations

import re

from composer.errors import ComposerError, NotFound, UsageError
from composer.ostree.locking import Wait
from composer.sysroot.deployment import Deployment
from composer.sysroot.sysroot import Sysroot


class StillNeeded(ComposerError):
    """A deployment that cannot be removed."""


def roll_back(sysroot: Sysroot, wait: Wait | None = None) -> Deployment:
    """Make the previous deployment boot next; or, when another is to come, the one that runs.

    Returns it.  /etc and kernel arguments are those it had; /var is one for all.
    Raises NotFound where nothing is to go back to, SysrootBusy and Busy unless there is ``wait``.
    """
    with sysroot.changing(wait):
        found = sysroot.deployments()
        target = _target(found)
        if target is None:
            raise NotFound(
                f"{sysroot.path}: there is no deployment to go back to",
                hint="`jigdo-composer status` lists what there is",
            )
        raw = sysroot.raw()
        # libostree drops what is staged by itself when the order is written.
        rest = [
            raw[one.index] for one in found if one.index != target.index and one.role != "staged"
        ]
        sysroot.write([raw[target.index], *rest])
        sysroot.clean()
    name = (target.os, target.commit, target.serial)
    return next(d for d in sysroot.deployments() if (d.os, d.commit, d.serial) == name)


def _target(found: tuple[Deployment, ...]) -> Deployment | None:
    booted = next((one for one in found if one.role == "booted"), None)
    if booted is not None and booted.index > 0:
        return booted
    return next((one for one in found if one.role == "rollback"), None)


def undeploy(sysroot: Sysroot, which: str, wait: Wait | None = None) -> Deployment:
    """Remove a deployment, by index or commit, and what only it needed; returns what it was.

    Raises NotFound, UsageError where several have the commit, StillNeeded for the one that
    runs, that is pinned, or that is the last, SysrootBusy and Busy unless there is ``wait``.
    """
    with sysroot.changing(wait):
        found = sysroot.deployments()
        gone = _find(sysroot, found, which)
        if gone.role == "booted":
            raise StillNeeded(f"deployment {gone.index}, {gone.commit}, is what runs")
        if gone.pinned:
            raise StillNeeded(
                f"deployment {gone.index}, {gone.commit}, is pinned",
                hint=f"ostree admin pin --unpin {gone.index}",
            )
        if len(found) == 1:
            raise StillNeeded(f"deployment {gone.index}, {gone.commit}, is the only one")
        raw = sysroot.raw()
        sysroot.write([raw[one.index] for one in found if one is not gone])
        sysroot.clean()
    return gone


def _find(sysroot: Sysroot, found: tuple[Deployment, ...], which: str) -> Deployment:
    if re.fullmatch(r"[0-9]{1,3}", which):
        fitting = [one for one in found if one.index == int(which)]
    elif re.fullmatch(r"[0-9a-f]{4,64}(\.[0-9]+)?", which):
        fitting = [one for one in found if one.name.startswith(which)]
    else:
        raise UsageError(f"{which!r} is neither an index nor a commit")
    if not fitting:
        raise NotFound(
            f"{sysroot.path}: no deployment {which}",
            hint="`jigdo-composer status` lists what there is",
        )
    if len(fitting) > 1:
        raise UsageError(
            f"{which}: that is more than one deployment",
            details=[f"{one.index}: {one.os} {one.name}" for one in fitting],
            hint="say which by its index",
        )
    return fitting[0]
