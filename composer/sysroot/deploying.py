"""Deploying a commit: the one entry through which a sysroot gets a new system.

Order: what can be refused is refused; /boot has room; libostree checks the tree out, merges
/etc and writes the boot loader's entries beside those that count; the step that makes them
count is its last.  Whatever happens before, the old deployments boot.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from composer.checksum import ObjectChecksum
from composer.errors import ComposerError, NotFound, NothingNew, UsageError, VerificationFailed
from composer.ostree.locking import Wait
from composer.ostree.revision import find_commit
from composer.sysroot.deployment import GROUP, Deployment
from composer.sysroot.first_process import (
    needs_first_process,
    provide_libraries,
    without_first_process,
)
from composer.sysroot.kernel import require_room
from composer.sysroot.kernel_arguments import NO_EDIT, Edit, edited
from composer.sysroot.policy import remote_for, require_trusted
from composer.sysroot.sysroot import Sysroot

FAILED = Path("var/lib/jigdo-composer/health/failed")
"""Commits whose health check failed, a line each; written by the health check."""


class Incomplete(VerificationFailed):
    """A commit of which only a part is here."""


class Older(VerificationFailed):
    """A commit that is older than the one it would replace."""


class FailedBefore(ComposerError):
    """A commit that this machine has been rolled back from."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be deployed, and how.

    ``ref`` and ``remote`` are kept as its origin.  ``stage``: libostree finishes it when the
    machine shuts down.
    """

    os: str
    commit: ObjectChecksum
    ref: str = ""
    remote: str = ""
    kargs: Edit = NO_EDIT
    stage: bool = False
    allow_downgrade: bool = False
    retry_failed: bool = False


def prepare(
    sysroot: Sysroot,
    revision: str = "",
    *,
    os: str = "",
    remote: str = "",
    config_dir: Path | None = None,
    kargs: Edit = NO_EDIT,
    stage: bool = False,
    allow_downgrade: bool = False,
    retry_failed: bool = False,
) -> Order:
    """Make an order of what a person says, and check that the remote's policy accepts it.

    ``revision`` is a ref or a commit, by default the ref of what is deployed.  Raises
    NotFound, UsageError, BadSignature, WrongRef.
    """
    name = sysroot.choose_os(os)
    merge = sysroot.merge_deployment(name)
    ref = revision or (merge.ref if merge else "")
    if not ref:
        raise UsageError(
            f"{sysroot.path}: {name} has no deployment yet, so say what to deploy",
            hint="deploy REF",
        )
    commit = find_commit(sysroot.repo, ref)
    if str(commit) == ref:
        ref = _ref_of(sysroot, commit, merge)
    believed = remote_for(remote, merge.remote if merge else "", config_dir)
    require_trusted(believed, sysroot.repo, ref, commit)
    return Order(
        name,
        commit,
        ref,
        believed.name if believed else "",
        kargs,
        stage=stage,
        allow_downgrade=allow_downgrade,
        retry_failed=retry_failed,
    )


def _ref_of(sysroot: Sysroot, commit: ObjectChecksum, merge: Deployment | None) -> str:
    """The ref that a commit given by its checksum goes on with: the deployed one, or its own."""
    if merge is not None and merge.ref:
        return merge.ref
    return next((ref for ref, tip in sysroot.repo.refs().items() if tip == commit), "")


def deploy(sysroot: Sysroot, order: Order, wait: Wait | None = None) -> Deployment:
    """Make ``order.commit``, which is in the sysroot's repository, what boots next.

    The deployment that runs, or was next, stays behind it; older ones go, unless pinned.
    Raises Incomplete, Older, FailedBefore, NotBootable, NothingNew, NoSpace, SysrootBusy, Busy.
    """
    with sysroot.changing(wait) as ostree:
        _deploy(sysroot, ostree, order)
    return sysroot.deployments()[0]


def _deploy(sysroot: Sysroot, ostree: Any, order: Order) -> None:
    merge = sysroot.merge_deployment(order.os)
    _require_whole(sysroot, order.commit)
    _require_something_new(sysroot, order)
    if merge is not None and not order.allow_downgrade:
        _require_not_older(sysroot, merge.commit, order.commit)
    if not order.retry_failed:
        _require_not_failed(sysroot, order)
    as_init = needs_first_process(sysroot.repo, order.commit)
    if order.stage and not sysroot.is_booted:
        raise UsageError(
            f"{sysroot.path}: this machine does not run from there, so nothing can be staged",
            hint="leave out --stage",
        )
    before = without_first_process(merge.kargs if merge else ())
    kargs = edited(before, order.kargs)
    here = [one.commit for one in sysroot.deployments() if one.os == order.os]
    require_room(sysroot.repo, sysroot.path / "boot", order.commit, here)
    origin = _origin(ostree, order)
    base = ostree.get_merge_deployment(order.os)
    words = (order.os, str(order.commit), origin, base, list(kargs), None)
    _, made = ostree.stage_tree(*words) if order.stage else ostree.deploy_tree(*words)
    if as_init:
        place = sysroot.path / ostree.get_deployment_dirpath(made)
        provide_libraries(place, sysroot.disk)
    if not order.stage:
        ostree.simple_write_deployment(order.os, made, base, _flags(), None)
        sysroot.clean()


def _flags() -> Any:
    from composer.ostree.library import library

    return library().SysrootSimpleWriteDeploymentFlags.NO_CLEAN


def _origin(ostree: Any, order: Order) -> Any:
    origin = ostree.origin_new_from_refspec(order.ref or str(order.commit))
    if order.remote:
        origin.set_string(GROUP, "remote", order.remote)
    return origin


def _require_whole(sysroot: Sysroot, commit: ObjectChecksum) -> None:
    if not sysroot.repo.has("commit", commit):
        raise NotFound(
            f"{sysroot.repo.path}: no commit {commit}",
            hint=f"pull it: jigdo-composer pull REF --repo {sysroot.repo.path}",
        )
    if sysroot.repo.is_partial(commit):
        raise Incomplete(
            f"commit {commit} is not here as a whole",
            hint=f"continue the pull: jigdo-composer pull REF --repo {sysroot.repo.path}",
        )


def _require_something_new(sysroot: Sysroot, order: Order) -> None:
    deployments = sysroot.deployments()
    if not deployments or order.kargs:
        return
    following = deployments[0]
    if (following.os, following.commit) == (order.os, order.commit):
        raise NothingNew(f"{order.os}: {order.commit} is what boots next already")


def _require_not_older(sysroot: Sysroot, here: ObjectChecksum, commit: ObjectChecksum) -> None:
    if not sysroot.repo.has("commit", here):
        return
    before, after = sysroot.repo.commit(here), sysroot.repo.commit(commit)
    if after.timestamp < before.timestamp:
        raise Older(
            f"commit {commit} is older than what it would replace",
            details=[
                f"{_day(after.timestamp)} {after.version}: {commit}",
                f"{_day(before.timestamp)} {before.version}: {here}",
            ],
            hint="to go back knowingly: --allow-downgrade, or `rollback`",
        )


def _day(timestamp: int) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"


def _require_not_failed(sysroot: Sysroot, order: Order) -> None:
    path = sysroot.path / "ostree/deploy" / order.os / FAILED
    try:
        failed = path.read_text(errors="replace").split()
    except OSError:
        return
    if str(order.commit) in failed:
        raise FailedBefore(
            f"commit {order.commit} failed its health check on this machine",
            details=[f"so says {path}"],
            hint="wait for a newer one; or try it again: --retry-failed",
        )
