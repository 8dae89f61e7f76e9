"""The compose from end to end: treefile in, commit out.

:func:`compose` is the only door.  It opens nothing for writing before it knows that
there is something new, and moves the ref last.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from composer.compose.account_check import known_accounts, require_agreement
from composer.compose.commit import CommitRequest, Previous, Signing, commit, previous
from composer.compose.depsolve import Solution, solving
from composer.compose.install import install
from composer.compose.packages import ComposedPackage, fetch
from composer.compose.postprocess import postprocess
from composer.compose.tree import Tree
from composer.compose.treefile import Treefile, load
from composer.compose.version import next_version
from composer.compose.workspace import workspace
from composer.errors import NothingNew, UsageError
from composer.ostree.repo import Repository
from composer.progress import Report, Step
from composer.system.sandbox import require_sandbox

# Part of the input digest: another number where the same input gives another tree.
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ComposeRequest:
    """What to compose, and where to.

    ``repositories`` maps ids to base URLs or directories.  ``parent`` is whether the
    ref's current commit becomes the parent; ``force`` composes although nothing changed.
    ``is_published`` says of a ref and its commit whether all that is made of it is there:
    an earlier run may have ended between the commit and its set.
    """

    treefile: Path
    repo: Path
    cachedir: Path
    basearch: str
    repositories: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False
    force: bool = False
    parent: bool = True
    signing: Signing | None = None
    is_published: Callable[[str, str], bool] = lambda ref, commit: True


@dataclass(frozen=True, slots=True)
class ComposeResult:
    """What came out.  ``commit`` is "" after a dry run, which also has no packages' paths.

    ``packages`` are sorted by NEVRA.  ``before`` are the NEVRAs of the ref's previous
    commit; ``created`` is whether the repository was made; ``warnings`` are the
    treefile's.  Where the ref's current commit only lacked being published, it is that
    commit, with its packages.
    """

    ref: str
    commit: str
    version: str
    parent: str
    packages: tuple[ComposedPackage, ...]
    solution: Solution
    before: tuple[str, ...]
    created: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known before anything is fetched."""

    treefile: Treefile
    before: Previous
    version: str
    input_digest: str
    timestamp: int


def compose(request: ComposeRequest, report: Report) -> ComposeResult:
    """Compose ``request.treefile`` and set its ref in ``request.repo``.

    A repository that does not exist is made, as bare-user.  Raises NothingNew, having
    written nothing, when the ref's current commit came from the same input and is
    published; else what the steps raise, with the ref as it was.
    """
    treefile = load(request.treefile, basearch=request.basearch)
    treefile.require_complete()
    if not request.dry_run:
        require_sandbox()
    repository = Repository.open(request.repo) if _is_there(request.repo) else None
    before = previous(repository, treefile.ref) if repository else Previous()
    cachedir = request.cachedir.absolute()
    with workspace(cachedir) as work:
        report(Step("solve", item=treefile.ref))
        with solving(
            treefile,
            overrides=request.repositories,
            cachedir=cachedir / "repos",
            scratch=work / "dnf",
        ) as (solution, base):
            plan = _plan(treefile, before, solution)
            unchanged = before.input_digest == plan.input_digest and not request.force
            if unchanged and request.is_published(treefile.ref, before.commit):
                raise _nothing_new(plan)
            if request.dry_run:
                return _result(request, plan, solution, (), commit="")
            packages = fetch(solution, base, report)
        if unchanged:
            plan = replace(plan, version=before.version)
            return _result(request, plan, solution, packages, commit=before.commit)
        return _build(request, plan, solution, packages, repository, work, report)


def _is_there(repo: Path) -> bool:
    if (repo / "config").is_file():
        return True
    if repo.exists() and (not repo.is_dir() or any(repo.iterdir())):
        raise UsageError(f"{repo}: not an OSTree repository, and not empty")
    return False


def _plan(treefile: Treefile, before: Previous, solution: Solution) -> _Plan:
    state = hashlib.sha256(f"{_FORMAT} {treefile.digest()}\n".encode())
    for package in solution.packages:
        state.update(f"{package.nevra} {package.algorithm}:{package.checksum}\n".encode())
    return _Plan(
        treefile=treefile,
        before=before,
        version=next_version(
            treefile.automatic_version_prefix,
            before.version,
            suffix=treefile.automatic_version_suffix,
            now=_given_time(int(time.time())),
        ),
        input_digest=state.hexdigest(),
        timestamp=_given_time(solution.newest_build_time),
    )


def _given_time(otherwise: int) -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return otherwise
    if not given.isdecimal():
        raise UsageError(f"SOURCE_DATE_EPOCH: expected seconds since 1970, got {given!r}")
    return int(given)


def _nothing_new(plan: _Plan) -> NothingNew:
    return NothingNew(
        f"{plan.treefile.ref}: nothing new: the same treefile and packages as "
        f"{plan.before.version or plan.before.commit}",
        details=[f"commit: {plan.before.commit}"],
        hint="--force-nocache composes all the same",
    )


def _build(
    request: ComposeRequest,
    plan: _Plan,
    solution: Solution,
    packages: tuple[ComposedPackage, ...],
    repository: Repository | None,
    work: Path,
    report: Report,
) -> ComposeResult:
    """Install, postprocess, check and commit."""
    treefile, tree = plan.treefile, Tree(work / "tree")
    tree.root.mkdir()
    known = known_accounts(treefile.check_passwd, repository, plan.before)
    install(tree, packages, treefile, timestamp=plan.timestamp, known=known, report=report)
    kernel = postprocess(tree, treefile, scratch=work, timestamp=plan.timestamp, report=report)
    require_agreement(tree, known)
    report(Step("commit", item=treefile.ref))
    created = repository is None
    repository = repository or Repository.create(request.repo, mode="bare-user")
    checksum = commit(
        repository,
        tree,
        CommitRequest(
            ref=treefile.ref,
            parent=plan.before.commit if request.parent else "",
            version=plan.version,
            timestamp=plan.timestamp,
            input_digest=plan.input_digest,
            kernel=kernel,
            packages=packages,
            selinux=treefile.selinux,
            signing=request.signing,
        ),
    )
    return _result(request, plan, solution, packages, commit=str(checksum), created=created)


def _result(
    request: ComposeRequest,
    plan: _Plan,
    solution: Solution,
    packages: tuple[ComposedPackage, ...],
    *,
    commit: str,
    created: bool = False,
) -> ComposeResult:
    return ComposeResult(
        ref=plan.treefile.ref,
        commit=commit,
        version=plan.version,
        parent=plan.before.commit if request.parent else "",
        packages=packages,
        solution=solution,
        before=plan.before.packages,
        created=created,
        warnings=plan.treefile.warnings,
    )
