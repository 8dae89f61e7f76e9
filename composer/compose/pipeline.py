"""The compose from end to end: treefile in, commit out.

:func:`compose` is the only door.  It opens nothing for writing before it knows that
there is something new, and moves the ref last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.compose.account_check import expected_accounts, known_accounts
from composer.compose.again import build_again
from composer.compose.build import Build, build
from composer.compose.commit import Previous, Signing, previous
from composer.compose.depsolve import Solution, solving
from composer.compose.layers import resolve_layers
from composer.compose.lockfile import read_lockfiles
from composer.compose.metadata import origin_of
from composer.compose.packages import ComposedPackage, fetch, lock
from composer.compose.phases import Stopwatch
from composer.compose.plan import Plan, make_plan
from composer.compose.postprocess import require_possible
from composer.compose.reproduce import require_same
from composer.compose.rpmdb import database_of
from composer.compose.treefile import Treefile, load
from composer.compose.values import Rojig
from composer.compose.workspace import workspace
from composer.errors import EXIT_BUSY, ComposerError, NothingNew, UsageError
from composer.ostree.digests import DIGESTS
from composer.ostree.locking import Holder, Wait, changing, composing, using
from composer.ostree.repo import Repository
from composer.progress import Report, Step
from composer.rpm.advisories import Advisory, fixed
from composer.rpm.changes import Changes, compare
from composer.rpm.package import Nevra
from composer.system.limits import DEFAULTS, Limits
from composer.system.sandbox import require_sandbox


@dataclass(frozen=True, slots=True)
class ComposeRequest:
    """What to compose, and where to.

    ``repositories`` maps ids to base URLs or directories.  ``lockfiles`` say which versions
    may be taken, later ones overriding earlier ones; with ``strict_lockfile``, nothing else
    may.  ``write_lockfile`` is where to write one of what was solved.  ``parent`` is whether the
    ref's current commit becomes the parent; ``force`` composes although nothing changed.
    ``gpg_key`` signs, instead of the treefile's; ``gpg_homedir`` "" is gpg's own.
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
    lockfiles: tuple[Path, ...] = ()
    strict_lockfile: bool = False
    write_lockfile: Path | None = None
    dry_run: bool = False
    force: bool = False
    check_reproducible: bool = False
    parent: bool = True
    gpg_key: str = ""
    gpg_homedir: str = ""
    is_published: Callable[[str, str], bool] = lambda ref, commit: True
    limits: Limits = DEFAULTS


@dataclass(frozen=True, slots=True)
class ComposeResult:
    """What came out.  ``commit`` is "" after a dry run, which also has no packages' paths.

    ``packages`` are sorted by NEVRA.  ``before`` are the NEVRAs of the ref's previous
    commit, ``fixed`` the advisories that came since; ``created`` is whether the repository
    was made; ``rojig`` is the treefile's.  ``varied`` is what a second compose had otherwise
    and still came to the same commit; empty where there was none.
    ``seconds`` are those of each phase; ``signing`` is what signed.  Where the ref's current
    commit only lacked being published, it is that commit, with its packages.
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
    rojig: Rojig | None = None
    signing: Signing | None = None
    fixed: tuple[Advisory, ...] = ()

    @property
    def changes(self) -> Changes:
        """What packages differ from the ref's previous commit."""
        after = (package.nevra for package in self.solution.packages)
        return compare(map(Nevra.parse, self.before), after)


class NotWritable(ComposerError):
    """A repository that the commit cannot be put into."""


class RefMoved(ComposerError):
    """A ref that is no longer where it was when its next commit was begun."""

    exit_status = EXIT_BUSY


def compose(
    request: ComposeRequest,
    report: Report,
    warn: Callable[[str], None] = lambda text: None,
    *,
    wait: Wait | None = None,
) -> ComposeResult:
    """Compose ``request.treefile`` and set its ref in ``request.repo``.

    ``warn`` is told what the person should know, as soon as it is known: a compose that ends in
    an error has warnings too.  A repository that does not exist is made, as bare-user.

    Others may change the repository meanwhile, but not compose this ref and not remove
    anything; for the commit, this takes its turn.  Raises Busy (unless there is ``wait``) where
    one of these is at work when it begins; once all is installed it waits, rather than throw
    that away.

    Raises NothingNew, having written nothing but a lockfile, when the ref's current commit came
    from the same input and is published; NotReproducible; RefMoved; else what the steps raise, with
    the ref as it was.
    """
    watch = Stopwatch(report)
    return replace(_compose(request, watch, warn, wait), seconds=watch.seconds())


def _compose(
    request: ComposeRequest, report: Report, warn: Callable[[str], None], wait: Wait | None
) -> ComposeResult:
    treefile = _required(request, warn)
    repository = Repository.open(request.repo) if _is_there(request.repo) else None
    if repository is None or request.dry_run:
        return _compose_into(repository, treefile, request, report, warn)
    with composing(repository, treefile.ref, wait), using(repository, wait):
        if wait is None:
            with changing(repository):
                pass  # who is at work there is told now, and not when all is installed
        return _compose_into(repository, treefile, request, report, warn)


def _required(request: ComposeRequest, warn: Callable[[str], None]) -> Treefile:
    """Read the treefile, and refuse what cannot work."""
    treefile = load(request.treefile, basearch=request.basearch)
    for warning in treefile.warnings:
        warn(warning)
    treefile.require_complete()
    require_possible(treefile)
    if database_of(treefile.rpmdb).is_other:
        place = ", ".join(treefile.places["rpmdb"])
        warn(
            f"{place}: librpm of this machine cannot write {treefile.rpmdb}; "
            "as with `target`, the database is what the tree's own rpm reads"
        )
    if request.strict_lockfile and not request.lockfiles:
        raise UsageError("a strict lockfile was asked for, but no lockfile given")
    if not request.dry_run:
        require_sandbox()
        _require_writable(request.repo)
    return treefile


def _compose_into(
    repository: Repository | None,
    treefile: Treefile,
    request: ComposeRequest,
    report: Report,
    warn: Callable[[str], None],
) -> ComposeResult:
    lockfile = read_lockfiles(request.lockfiles) if request.lockfiles else None
    database = database_of(treefile.rpmdb)
    before = previous(repository, treefile.ref) if repository else Previous()
    layers = resolve_layers(
        repository, treefile.ostree_layers, treefile.ostree_override_layers, treefile.places
    )
    cachedir = request.cachedir.absolute()
    with workspace(cachedir) as work:
        report(Step("solve", item=treefile.ref))
        with solving(
            treefile,
            overrides=request.repositories,
            cachedir=cachedir / "repos",
            scratch=work / "dnf",
            lockfile=lockfile,
            strict=request.strict_lockfile,
        ) as (solution, base):
            for warning in (*solution.warnings, *_without_package(treefile, solution)):
                warn(warning)
            plan = make_plan(treefile, before, solution, layers, database)
            again = request.force or request.check_reproducible
            unchanged = before.input_digest == plan.input_digest and not again
            is_done = unchanged and request.is_published(treefile.ref, before.commit)
            if request.write_lockfile and (is_done or request.dry_run):
                lock(request.write_lockfile, solution, ())
            if is_done:
                raise _nothing_new(plan)
            plan = replace(plan, origin=origin_of(base, before.nevras))
            if request.dry_run:
                return _result(request, plan, solution, (), commit="")
            packages = fetch(solution, base, report)
            if request.write_lockfile:
                lock(request.write_lockfile, solution, packages)
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


def _require_writable(repo: Path) -> None:
    """Refuse at once what would otherwise fail when all is installed; raises NotWritable."""
    place = repo.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise NotWritable(
            f"{repo}: cannot be written to", hint=f"{place} is read-only, or another user's"
        )


def _signing(request: ComposeRequest, treefile: Treefile) -> Signing | None:
    key = request.gpg_key or treefile.gpg_key
    return Signing(key, request.gpg_homedir) if key else None


def _nothing_new(plan: Plan) -> NothingNew:
    return NothingNew(
        f"{plan.treefile.ref}: nothing new: the same treefile and packages as "
        f"{plan.before.version or plan.before.commit}",
        details=[f"commit: {plan.before.commit}"],
        hint="--force-nocache composes all the same",
    )


def _build(
    request: ComposeRequest,
    plan: Plan,
    solution: Solution,
    packages: tuple[ComposedPackage, ...],
    repository: Repository | None,
    work: Path,
    report: Report,
) -> ComposeResult:
    """Build, once or twice, and move the ref when all is well."""
    treefile = plan.treefile
    checks = treefile.check_passwd, treefile.check_groups
    expected = expected_accounts(
        *checks,
        repository,
        plan.before,
        ignored_users=treefile.ignore_removed_users,
        ignored_groups=treefile.ignore_removed_groups,
    )
    preserve = treefile.preserve_passwd
    wanted = Build(
        treefile=treefile,
        packages=packages,
        known=known_accounts(expected, *checks, repository, plan.before, preserve=preserve),
        expected=expected,
        parent=plan.before.commit if request.parent else "",
        version=plan.version,
        timestamp=plan.timestamp,
        input_digest=plan.input_digest,
        origin=plan.origin,
        database=plan.database,
        layers=plan.layers,
        layered=request.repo.absolute() if plan.layers else None,
        limits=request.limits,
        digests=str(request.cachedir.absolute() / DIGESTS),
        again=repository is not None,
    )
    created = repository is None

    def tell(holder: Holder) -> None:
        report(Step("wait", item=str(holder)))

    varied: tuple[str, ...] = ()
    with ExitStack() as kept, ExitStack() as turn:

        def target() -> Repository:
            into = repository or Repository.create(request.repo, mode="bare-user")
            if repository is None:
                kept.enter_context(composing(into, treefile.ref, tell))
                kept.enter_context(using(into, tell))
            turn.enter_context(changing(into, tell))
            return into

        started = time.time()
        checksum = build(wanted, target, work, report, signing=_signing(request, plan.treefile))
        into = repository or Repository.open(request.repo)
        if request.check_reproducible:
            turn.close()  # it takes its time; nobody removes the commit meanwhile
            again = build_again(wanted, work / "again", report)
            require_same(into, checksum, again, wanted, started=started, work=work)
            varied = again.varied
            turn.enter_context(changing(into, tell))
        _set_ref(into, plan, checksum)
    report(Step("clean up", item=plan.treefile.ref))
    result = _result(request, plan, solution, packages, commit=str(checksum), created=created)
    return replace(result, varied=varied)


def _set_ref(into: Repository, plan: Plan, checksum: ObjectChecksum) -> None:
    """Move the ref, which must be where it was when the compose began."""
    ref = plan.treefile.ref
    now = into.resolve(ref)
    if str(now or "") != plan.before.commit:
        raise RefMoved(
            f"{ref}: another process has moved it to {now} while this was composed",
            details=[f"at the beginning it was {plan.before.commit or 'not there'}"],
            hint="run the same command again: it goes on from that commit",
        )
    with into.transaction():
        into.set_ref(ref, checksum)


def _fixed(plan: Plan, solution: Solution) -> tuple[Advisory, ...]:
    changes = compare(plan.before.nevras, (package.nevra for package in solution.packages))
    came = sorted((*plan.origin.advisories, *plan.origin.passed))
    return fixed(plan.before.advisories, came, changes.brought)


def _result(
    request: ComposeRequest,
    plan: Plan,
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
        signing=_signing(request, plan.treefile),
        fixed=_fixed(plan, solution),
        rojig=plan.treefile.rojig,
    )


def _without_package(treefile: Treefile, solution: Solution) -> list[str]:
    """Say which of ``remove-from-packages`` have no effect; a shared treefile may have such."""
    names = {package.nevra.name for package in solution.packages}
    return [
        f"{removal.where}: the tree has no package {removal.package}"
        for removal in treefile.remove_from_packages
        if removal.package not in names
    ]
