"""From packages to a commit that no ref names yet: everything that must be reproducible.

A :class:`Build` is the whole input, a plain value that can go to another process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.compose.account_check import ExpectedAccounts, require_agreement
from composer.compose.commit import CommitRequest, Signing, commit
from composer.compose.ima import read_signatures
from composer.compose.install import KnownAccounts, install
from composer.compose.layers import Layer, lay
from composer.compose.layout import arrange
from composer.compose.metadata import Origin
from composer.compose.packages import ComposedPackage
from composer.compose.postprocess import postprocess
from composer.compose.removal import remove_from_packages
from composer.compose.rpmdb import Database, convert_for_tree
from composer.compose.tree import Tree
from composer.compose.treefile import Treefile
from composer.compose.untouched import Untouched, can_tell
from composer.ostree.digests import DigestCache
from composer.ostree.repo import Repository
from composer.progress import Report, Step
from composer.system.limits import DEFAULTS, Limits


@dataclass(frozen=True, slots=True)
class Build:
    """What a commit is made of.

    ``parent`` is "" for a commit without one; ``layers`` are in the repository at ``layered``.
    ``limits`` are those of each scriptlet, script and other program that runs for it.
    ``digests`` is a :class:`DigestCache`'s file, "" for none.  With ``again``, the repository
    has objects of an earlier build, and what is known to be among them is not read.
    """

    treefile: Treefile
    packages: tuple[ComposedPackage, ...]
    known: KnownAccounts
    expected: ExpectedAccounts
    parent: str
    version: str
    timestamp: int
    input_digest: str
    origin: Origin = field(default_factory=Origin)
    database: Database = field(default_factory=Database)
    layers: tuple[Layer, ...] = ()
    layered: Path | None = None
    limits: Limits = DEFAULTS
    digests: str = ""
    again: bool = False


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
    untouched = Untouched(wanted.packages) if wanted.again and can_tell(tree.root) else None
    install(
        tree,
        wanted.packages,
        treefile,
        timestamp=wanted.timestamp,
        known=wanted.known,
        report=report,
        backend=wanted.database.backend,
        untouched=untouched,
    )
    signatures = read_signatures(tree, wanted.packages) if treefile.ima else {}
    report(Step("postprocess", item="layout"))
    remove_from_packages(tree, wanted.packages, treefile.remove_from_packages)
    overlaid = treefile.opt_usrlocal_overlays
    arrange(tree, opt_usrlocal="state-overlay" if overlaid else treefile.opt_usrlocal)
    if wanted.database.for_tree:
        convert_for_tree(tree, scratch=work, timestamp=wanted.timestamp)
    if wanted.layered is not None:
        lay(tree, Repository.open(wanted.layered), wanted.layers)
    kernel = postprocess(
        tree,
        treefile,
        version=wanted.version,
        scratch=work,
        timestamp=wanted.timestamp,
        report=report,
    )
    require_agreement(tree, wanted.expected)
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
            label_version=treefile.selinux_label_version,
            signing=signing,
            origin=wanted.origin,
            signatures=signatures,
            repo_metadata=treefile.repo_metadata,
            advisories_metadata=treefile.advisories_metadata,
            added=treefile.add_commit_metadata,
            ref=treefile.ref,
            container_cmd=treefile.container_cmd,
        ),
        cache=DigestCache(Path(wanted.digests)) if wanted.digests else None,
        unread=untouched.digest if untouched is not None else None,
    )
