"""The compose from end to end: treefile in, commit out.

:func:`compose` is the only door.  It opens nothing for writing before it knows that
there is something new, and moves the ref last.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from composer.compose.account_check import expected_accounts, known_accounts
from composer.compose.again import build_again
from composer.compose.build import Build, build
from composer.compose.commit import Previous, Signing, previous
from composer.compose.depsolve import Solution, solving
from composer.compose.layers import Layer, resolve_layers
from composer.compose.lockfile import read_lockfiles
from composer.compose.metadata import Origin, origin_of
from composer.compose.packages import ComposedPackage, fetch, lock
from composer.compose.phases import Stopwatch
from composer.compose.postprocess import require_possible
from composer.compose.reproduce import require_same
from composer.compose.rpmdb import Database, database_of
from composer.compose.treefile import Treefile, load
from composer.compose.values import Rojig
from composer.compose.version import next_version
from composer.compose.workspace import workspace
from composer.errors import ComposerError, NothingNew, UsageError
from composer.ostree.digests import DIGESTS
from composer.ostree.repo import Repository
from composer.progress import Report, Step
from composer.rpm.advisories import Advisory, fixed
from composer.rpm.changes import Changes, compare
from composer.rpm.package import Nevra
from composer.system.limits import DEFAULTS, Limits
from composer.system.sandbox import require_sandbox

# Part of the input digest: another number where the same input gives another tree.
_FORMAT = 3
_SECONDS = re.compile(r"[0-9]{1,10}\Z")
# rpm's times have 32 bits.
_NO_TIME = 1 << 32


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


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known before anything is fetched."""

    treefile: Treefile
    before: Previous
    version: str
    input_digest: str
    timestamp: int
    layers: tuple[Layer, ...]
    database: Database
    origin: Origin = field(default_factory=Origin)


def compose(
    request: ComposeRequest, report: Report, warn: Callable[[str], None] = lambda text: None
) -> ComposeResult:
    """Compose ``request.treefile`` and set its ref in ``request.repo``.

    ``warn`` is told what the person should know, as soon as it is known: a compose that ends in
    an error has warnings too.  A repository that does not exist is made, as bare-user.

    Raises NothingNew, having written nothing but a lockfile, when the ref's current commit came
    from the same input and is published; NotReproducible; else what the steps raise, with the
    ref as it was.
    """
    watch = Stopwatch(report)
    return replace(_compose(request, watch, warn), seconds=watch.seconds())


def _compose(request: ComposeRequest, report: Report, warn: Callable[[str], None]) -> ComposeResult:
    treefile = load(request.treefile, basearch=request.basearch)
    for warning in treefile.warnings:
        warn(warning)
    treefile.require_complete()
    require_possible(treefile)
    database = database_of(treefile.rpmdb)
    if database.is_other:
        place = ", ".join(treefile.places["rpmdb"])
        warn(
            f"{place}: librpm of this machine cannot write {treefile.rpmdb}; "
            "as with `target`, the database is what the tree's own rpm reads"
        )
    if request.strict_lockfile and not request.lockfiles:
        raise UsageError("a strict lockfile was asked for, but no lockfile given")
    lockfile = read_lockfiles(request.lockfiles) if request.lockfiles else None
    if not request.dry_run:
        require_sandbox()
        _require_writable(request.repo)
    repository = Repository.open(request.repo) if _is_there(request.repo) else None
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
            plan = _plan(treefile, before, solution, layers, database)
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


def _plan(
    treefile: Treefile,
    before: Previous,
    solution: Solution,
    layers: tuple[Layer, ...],
    database: Database,
) -> _Plan:
    state = hashlib.sha256(f"{_FORMAT} {treefile.digest()}\n".encode())
    for package in solution.packages:
        state.update(f"{package.nevra} {package.algorithm}:{package.checksum}\n".encode())
    for layer in layers:
        state.update(f"{layer.described()}\n".encode())
    return _Plan(
        treefile=treefile,
        before=before,
        layers=layers,
        database=database,
        version=_version(treefile, before),
        input_digest=state.hexdigest(),
        timestamp=_given_time(solution.newest_build_time),
    )


def _version(treefile: Treefile, before: Previous) -> str:
    if isinstance(given := treefile.add_commit_metadata.get("version"), str):
        return given
    return next_version(
        treefile.automatic_version_prefix,
        before.version,
        suffix=treefile.automatic_version_suffix,
        now=_given_time(int(time.time())),
    )


def _signing(request: ComposeRequest, treefile: Treefile) -> Signing | None:
    key = request.gpg_key or treefile.gpg_key
    return Signing(key, request.gpg_homedir) if key else None


def _given_time(otherwise: int) -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return otherwise
    if not _SECONDS.match(given) or int(given) >= _NO_TIME:
        raise UsageError(
            f"SOURCE_DATE_EPOCH: expected seconds since 1970, of 32 bits, got {given[:80]!r}"
        )
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

    def target() -> Repository:
        return repository or Repository.create(request.repo, mode="bare-user")

    started = time.time()
    checksum = build(wanted, target, work, report, signing=_signing(request, plan.treefile))
    into = target()
    varied: tuple[str, ...] = ()
    if request.check_reproducible:
        again = build_again(wanted, work / "again", report)
        require_same(into, checksum, again, wanted, started=started, work=work)
        varied = again.varied
    with into.transaction():
        into.set_ref(plan.treefile.ref, checksum)
    report(Step("clean up", item=plan.treefile.ref))
    result = _result(request, plan, solution, packages, commit=str(checksum), created=created)
    return replace(result, varied=varied)


def _fixed(plan: _Plan, solution: Solution) -> tuple[Advisory, ...]:
    changes = compare(plan.before.nevras, (package.nevra for package in solution.packages))
    came = sorted((*plan.origin.advisories, *plan.origin.passed))
    return fixed(plan.before.advisories, came, changes.brought)


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
