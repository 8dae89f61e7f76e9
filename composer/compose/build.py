"""From packages to a commit that no ref names yet: everything that must be reproducible.

A :class:`Build` is the whole input, a plain value that can go to another process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.compose.account_check import require_agreement
from composer.compose.commit import CommitRequest, Signing, commit
from composer.compose.install import KnownAccounts, install
from composer.compose.packages import ComposedPackage
from composer.compose.postprocess import postprocess
from composer.compose.tree import Tree
from composer.compose.treefile import Treefile
from composer.ostree.repo import Repository
from composer.progress import Report, Step
from composer.system.limits import DEFAULTS, Limits


@dataclass(frozen=True, slots=True)
class Build:
    """What a commit is made of.  ``parent`` is "" for a commit without one.

    ``limits`` are those of each scriptlet, script and other program that runs for it.
    """

    treefile: Treefile
    packages: tuple[ComposedPackage, ...]
    known: KnownAccounts
    parent: str
    version: str
    timestamp: int
    input_digest: str
    limits: Limits = DEFAULTS


def build(
    wanted: Build,
    repository: Callable[[], Repository],
    work: Path,
    report: Report,
    *,
    signing: Signing | None = None,
) -> ObjectChecksum:
    """Install, postprocess, check and commit below the empty directory ``work``.

    Returns the commit, to which no ref leads.  ``repository`` is asked for only when there is
    something to commit.  Raises what the steps raise.
    """
    treefile, tree = wanted.treefile, Tree(work / "tree", wanted.limits)
    tree.root.mkdir()
    install(
        tree,
        wanted.packages,
        treefile,
        timestamp=wanted.timestamp,
        known=wanted.known,
        report=report,
    )
    kernel = postprocess(tree, treefile, scratch=work, timestamp=wanted.timestamp, report=report)
    require_agreement(tree, wanted.known)
    report(Step("commit", item=treefile.ref))
    return commit(
        repository(),
        tree,
        CommitRequest(
            parent=wanted.parent,
            version=wanted.version,
            timestamp=wanted.timestamp,
            input_digest=wanted.input_digest,
            kernel=kernel,
            packages=wanted.packages,
            selinux=treefile.selinux,
            signing=signing,
        ),
    )
