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

from composer.compose.account_check import known_accounts
from composer.compose.again import build_again
from composer.compose.build import Build, build
from composer.compose.commit import Previous, Signing, previous
from composer.compose.depsolve import Solution, solving
from composer.compose.packages import ComposedPackage, fetch
from composer.compose.phases import Stopwatch
from composer.compose.reproduce import require_same
from composer.compose.treefile import Treefile, load
from composer.compose.version import next_version
from composer.compose.workspace import workspace
from composer.errors import NothingNew, UsageError
from composer.ostree.repo import Repository
from composer.progress import Report, Step
from composer.system.limits import DEFAULTS, Limits
from composer.system.sandbox import require_sandbox

# Part of the input digest: another number where the same input gives another tree.
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ComposeRequest:
    """What to compose, and where to.

    ``repositories`` maps ids to base URLs or directories.  ``parent`` is whether the
    ref's current commit becomes the parent; ``force`` composes although nothing changed.
    ``check_reproducible`` composes a second time, also when nothing changed, and moves the
    ref only when both commits are the same.
    ``is_published`` says of a ref and its commit whether all that is made of it is there:
    an earlier run may have ended between the commit and its set.  ``limits`` are those of
    each program that runs in the tree.
    """

    treefile: Path
    repo: Path
    cachedir: Path
    basearch: str
    repositories: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False
    force: bool = False
    check_reproducible: bool = False
    parent: bool = True
    signing: Signing | None = None
    is_published: Callable[[str, str], bool] = lambda ref, commit: True
    limits: Limits = DEFAULTS


@dataclass(frozen=True, slots=True)
class ComposeResult:
    """What came out.  ``commit`` is "" after a dry run, which also has no packages' paths.

    ``packages`` are sorted by NEVRA.  ``before`` are the NEVRAs of the ref's previous
    commit; ``created`` is whether the repository was made.  ``varied`` is what a second
    compose had otherwise and still came to the same commit; empty where there was none.
    ``seconds`` are those of each phase.  Where the ref's current commit only lacked being
    published, it is that commit, with its packages.
    """

    ref: str
    commit: str
    version: str
    parent: str
    packages: tuple[ComposedPackage, ...]
    solution: Solution
    before: tuple[str, ...]
    created: bool = False
    varied: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


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
    published; NotReproducible; else what the steps raise, with the ref as it was.
    """
    watch = Stopwatch(report)
    return replace(_compose(request, watch), seconds=watch.seconds())


def _compose(request: ComposeRequest, report: Report) -> ComposeResult:
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
            again = request.force or request.check_reproducible
            unchanged = before.input_digest == plan.input_digest and not again
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
        version=next_version(treefile.automatic_version_prefix, before.version),
        input_digest=state.hexdigest(),
        timestamp=_timestamp(solution),
    )


def _timestamp(solution: Solution) -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return solution.newest_build_time
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
    """Build, once or twice, and move the ref when all is well."""
    wanted = Build(
        treefile=plan.treefile,
        packages=packages,
        known=known_accounts(plan.treefile.check_passwd, repository, plan.before),
        parent=plan.before.commit if request.parent else "",
        version=plan.version,
        timestamp=plan.timestamp,
        input_digest=plan.input_digest,
        limits=request.limits,
    )
    created = repository is None

    def target() -> Repository:
        return repository or Repository.create(request.repo, mode="bare-user")

    started = time.time()
    checksum = build(wanted, target, work, report, signing=request.signing)
    into = target()
    varied: tuple[str, ...] = ()
    if request.check_reproducible:
        again = build_again(wanted, work / "again", report)
        require_same(into, checksum, again, wanted, started=started, work=work)
        varied = again.varied
    with into.transaction():
        into.set_ref(plan.treefile.ref, checksum)
    result = _result(request, plan, solution, packages, commit=str(checksum), created=created)
    return replace(result, varied=varied)


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
    )
