"""Which packages, by dnf's solver over the treefile's repositories and nothing else.

Rules kept here: nothing but rpm-md is downloaded; the outcome is a sorted value.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from composer.compose.arguments import (
    LocalRpm,
    add_local,
    enable_modules,
    exclude,
    mark,
    mark_from,
    read_local,
)
from composer.compose.lockfile import Lockfile, LockfileError
from composer.compose.locking import Locks, apply_locks, nevra_of
from composer.compose.problems import SolveFailed, Why, shortened, unsolvable
from composer.compose.repositories import add_repositories, configuration, unusable
from composer.compose.treefile import Treefile
from composer.rpm.package import Nevra


@dataclass(frozen=True, slots=True)
class Chosen:
    """A package that the solver chose.

    ``checksum`` is the repository's, of the type that ``algorithm`` names; ``path`` is
    where the RPM is (a ``file://`` repository) or will be once it is fetched.  ``repository``
    is "" for a local RPM, whose ``location`` is in the repository that gets the set.
    ``source`` names its source package, and ``locked`` is a lockfile's digest of it ("": none).
    """

    nevra: Nevra
    repository: str
    location: str
    url: str
    path: Path
    size: int
    algorithm: str
    checksum: str
    build_time: int
    source: str = ""
    locked: str = ""

    @property
    def is_local(self) -> bool:
        return self.url.startswith("file:")


@dataclass(frozen=True, slots=True)
class Solution:
    """All packages, sorted by NEVRA.

    ``repositories`` are those that were asked, with the time of their metadata in seconds
    since 1970; sorted.  ``warnings`` are for the person.
    """

    packages: tuple[Chosen, ...]
    repositories: tuple[tuple[str, int], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def newest_build_time(self) -> int:
        return max((package.build_time for package in self.packages), default=0)

    @property
    def to_download(self) -> int:
        """Bytes that a fetch has to move: what is neither local nor here already."""
        missing = (p for p in self.packages if not p.is_local and not p.path.exists())
        return sum(package.size for package in missing)


@contextmanager
def solving(
    treefile: Treefile,
    *,
    overrides: Mapping[str, str],
    cachedir: Path,
    scratch: Path,
    lockfile: Lockfile | None = None,
    strict: bool = False,
) -> Iterator[tuple[Solution, Any]]:
    """Solve ``treefile`` and yield the solution with dnf's base, which fetches from it.

    ``overrides`` maps repository ids to base URLs or directories.  rpm-md is kept below
    ``cachedir``; ``scratch`` is an empty directory.  With ``strict``, only what ``lockfile``
    has can be taken.  Raises RepositoryUnusable, KeysUnusable, SolveFailed, LockfileError,
    LockedDigestMismatch.
    """
    problem = _Problem(treefile, overrides, cachedir, lockfile)
    try:
        with _solved(problem, scratch, strict=strict) as found:
            yield found
    except _Unsolved as error:
        if strict:
            _tell_unlocked(problem, scratch / "unlocked")
        raise error.reason from error.reason.__cause__


class _Unsolved(Exception):
    """There is no solution; ``reason`` is for people."""

    def __init__(self, reason: SolveFailed) -> None:
        super().__init__(reason.message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Problem:
    treefile: Treefile
    overrides: Mapping[str, str]
    cachedir: Path
    lockfile: Lockfile | None


@contextmanager
def _solved(problem: _Problem, scratch: Path, *, strict: bool) -> Iterator[tuple[Solution, Any]]:
    import dnf
    import dnf.exceptions

    _silence()
    scratch.mkdir(parents=True, exist_ok=True)
    treefile, lockfile = problem.treefile, problem.lockfile
    # Their packages are for those who lock; so without a lockfile they are not even asked.
    locked_only = treefile.lockfile_repos if lockfile else ()
    base = dnf.Base(configuration(treefile, problem.cachedir, scratch))
    try:
        try:
            add_repositories(base, treefile, problem.overrides, scratch, more=locked_only)
            base.fill_sack(load_system_repo=False, load_available_repos=True)
        except (dnf.exceptions.RepoError, dnf.exceptions.ConfigError) as error:
            raise unusable(error) from error
        try:
            solution = _solve(base, treefile, lockfile, locked_only, strict=strict)
        except SolveFailed as error:
            raise _Unsolved(error) from error
        yield solution, base
    finally:
        base.close()


def _solve(
    base: Any,
    treefile: Treefile,
    lockfile: Lockfile | None,
    locked_only: Sequence[str],
    *,
    strict: bool,
) -> Solution:
    asked = _placed(treefile, "packages")
    modules = treefile.modules
    enable_modules(
        base, modules.enable, modules.install, ", ".join(treefile.places.get("modules", ()))
    )
    local = read_local(asked.items())
    added = add_local(base, local)
    excluded = _placed(treefile, "exclude-packages")
    locks: Locks | None = None
    if lockfile is not None:
        locks = apply_locks(
            base, lockfile, excluded=excluded, lockfile_repos=locked_only, strict=strict
        )
    exclude(base, excluded, asked)

    def why(name: str) -> str:
        if name in excluded:
            return f"{excluded[name]} names it"
        return locks.reason(name) if locks else ""

    for entry in treefile.repo_packages:
        mark_from(base, entry.repo, entry.packages, entry.where)
    mark(base, list(asked.items()), added, why)
    return _with_locks(_resolve(base, why, local.values()), locks)


def _placed(treefile: Treefile, key: str) -> dict[str, str]:
    """Return the names of a list of packages, each with where it stands."""
    names = treefile.packages if key == "packages" else treefile.exclude_packages
    return dict(zip(names, treefile.item_places.get(key, ()), strict=True))


def _silence() -> None:
    # dnf logs what it also raises.
    for name in ("dnf", "librepo"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False


def _tell_unlocked(problem: _Problem, scratch: Path) -> None:
    """Raise LockfileError for what a solution would need beside the locked packages."""
    try:
        with _solved(problem, scratch, strict=False) as (solution, _):
            packages = solution.packages
    except _Unsolved:
        return
    assert problem.lockfile is not None
    names, sources = problem.lockfile.packages, problem.lockfile.sources
    unlocked = [
        str(package.nevra)
        for package in packages
        if package.nevra.name not in names and package.source not in sources
    ]
    if unlocked:
        raise LockfileError(
            f"{problem.treefile.path}: not in the lockfiles: {', '.join(shortened(unlocked, 3))}",
            details=shortened(unlocked),
            hint="lock them, or leave out --strict-lockfile to take what the repositories have",
        )


def _resolve(base: Any, why: Why, local: Iterable[LocalRpm]) -> Solution:
    import dnf.exceptions

    try:
        base.resolve(allow_erasing=False)
    except dnf.exceptions.DepsolveError as error:
        raise unsolvable(base._goal.problem_rules(), why) from error
    by_nevra = {one.nevra: one for one in local}
    chosen = [_chosen(package, by_nevra) for package in base.transaction.install_set]
    made = {one.id: max(one._repo.getMaxTimestamp(), 0) for one in base.repos.iter_enabled()}
    return Solution(
        tuple(sorted(chosen, key=lambda package: package.nevra)), tuple(sorted(made.items()))
    )


def _chosen(package: Any, local: Mapping[Nevra, LocalRpm]) -> Chosen:
    import hawkey

    nevra = nevra_of(package)
    if package.reponame == hawkey.CMDLINE_REPO_NAME:
        return _chosen_local(package, local[nevra])
    algorithm, checksum = package.chksum
    return Chosen(
        nevra=nevra,
        repository=package.repoid,
        location=package.location,
        url=package.remote_location() or "",
        path=Path(package.localPkg()),
        size=package.downloadsize,
        algorithm=hawkey.chksum_name(algorithm),
        checksum=checksum.hex(),
        build_time=package.buildtime,
        source=package.source_name or "",
    )


def _chosen_local(package: Any, rpm: LocalRpm) -> Chosen:
    return Chosen(
        nevra=rpm.nevra,
        repository="",
        location=rpm.location,
        url=rpm.path.as_uri(),
        path=rpm.path,
        size=rpm.path.stat().st_size,
        algorithm="sha256",
        checksum=str(rpm.pkgid),
        build_time=package.buildtime,
        source=package.source_name or "",
    )


def _with_locks(solution: Solution, locks: Locks | None) -> Solution:
    if locks is None:
        return solution
    packages = tuple(replace(one, locked=locks.digest(one.nevra)) for one in solution.packages)
    return replace(solution, packages=packages, warnings=locks.warnings())
