"""What a sysroot holds, and what would change with the next boot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from composer.compose.history import package_difference
from composer.errors import ComposerError
from composer.rpm.changes import Changes
from composer.sysroot.deployment import Deployment
from composer.sysroot.policy import Verdict, judge
from composer.sysroot.sysroot import Sysroot


@dataclass(frozen=True, slots=True)
class Described:
    """A deployment, and what its commit says of itself; "" and 0 where that is gone."""

    deployment: Deployment
    version: str
    timestamp: int
    signature: Verdict


@dataclass(frozen=True, slots=True)
class Status:
    """All deployments; ``changes`` from the one that runs (or is behind) to the next one.

    None where there are not two to compare, or one says nothing of its packages.
    """

    deployments: tuple[Described, ...]
    before: Deployment | None
    after: Deployment | None
    changes: Changes | None


def status(sysroot: Sysroot, config_dir: Path | None = None) -> Status:
    """Describe what is deployed in ``sysroot``; writes nothing."""
    found = sysroot.deployments()
    rows = tuple(_described(sysroot, one, config_dir) for one in found)
    before, after = _compared(found)
    return Status(rows, before, after, _changes(sysroot, before, after))


def _described(sysroot: Sysroot, one: Deployment, config_dir: Path | None) -> Described:
    if not sysroot.repo.has("commit", one.commit):
        return Described(one, "", 0, Verdict("unknown", "its commit is not in the repository"))
    commit = sysroot.repo.commit(one.commit)
    verdict = judge(one.remote, sysroot.repo, one.ref, one.commit, config_dir)
    return Described(one, commit.version, commit.timestamp, verdict)


def _compared(found: tuple[Deployment, ...]) -> tuple[Deployment | None, Deployment | None]:
    """What runs, or would be gone back to, and what boots next."""
    if not found:
        return None, None
    booted = next((one for one in found if one.role == "booted"), None)
    behind = next((one for one in found if one.role == "rollback"), None)
    if booted is not None and booted.index > 0:
        return booted, found[0]
    return behind, found[0]


def _changes(
    sysroot: Sysroot, before: Deployment | None, after: Deployment | None
) -> Changes | None:
    if before is None or after is None:
        return None
    try:
        old, new = before.commit, after.commit
        return package_difference(sysroot.repo, old, new, changelogs=False).changes
    except ComposerError:
        return None  # a status is told even where a commit is damaged
