"""Which packages, by dnf's solver over the treefile's repositories and nothing else.

Rules kept here: nothing but rpm-md is downloaded; the outcome is a sorted value.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.compose.repositories import add_repositories, configuration, unusable
from composer.compose.treefile import Treefile
from composer.errors import ComposerError
from composer.rpm.package import Nevra

_NEAR = 3


class SolveFailed(ComposerError):
    """Packages that are not there, or that cannot be installed together."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A package that the solver chose.

    ``checksum`` is the repository's, of the type that ``algorithm`` names; ``path`` is
    where the RPM is (a ``file://`` repository) or will be once it is fetched.
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

    @property
    def is_local(self) -> bool:
        return self.url.startswith("file:")


@dataclass(frozen=True, slots=True)
class Solution:
    """All packages, sorted by NEVRA."""

    packages: tuple[Chosen, ...]

    @property
    def newest_build_time(self) -> int:
        return max((package.build_time for package in self.packages), default=0)


@contextmanager
def solving(
    treefile: Treefile, *, overrides: Mapping[str, str], cachedir: Path, scratch: Path
) -> Iterator[tuple[Solution, Any]]:
    """Solve ``treefile`` and yield the solution with dnf's base, which fetches from it.

    ``overrides`` maps repository ids to base URLs or directories.  rpm-md is kept below
    ``cachedir``; ``scratch`` is an empty directory.  Raises RepositoryUnusable and SolveFailed.
    """
    import dnf
    import dnf.exceptions

    _silence()
    scratch.mkdir(parents=True, exist_ok=True)
    base = dnf.Base(configuration(treefile, cachedir, scratch))
    try:
        try:
            add_repositories(base, treefile, overrides, scratch)
            base.fill_sack(load_system_repo=False, load_available_repos=True)
        except (dnf.exceptions.RepoError, dnf.exceptions.ConfigError) as error:
            raise unusable(error) from error
        _mark(base, treefile)
        yield _resolve(base), base
    finally:
        base.close()


def _silence() -> None:
    # dnf logs what it also raises.
    for name in ("dnf", "librepo"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False


def _mark(base: Any, treefile: Treefile) -> None:
    """Ask for what the treefile lists; raises SolveFailed for all that is unknown at once."""
    import dnf.exceptions

    unknown = []
    if any(spec.startswith("@") for spec in treefile.packages):
        base.read_comps()
    for spec in treefile.packages:
        try:
            if spec.startswith("@"):
                _mark_group(base, spec[1:])
            else:
                base.install(spec)
        except (dnf.exceptions.MarkingError, dnf.exceptions.CompsError):
            unknown.append(spec)
    if unknown:
        names = {package.name for package in base.sack.query()}
        raise SolveFailed(
            f"{treefile.path}: packages: no repository has {', '.join(unknown)}",
            details=[_near(spec, names) for spec in unknown],
            hint=f"repositories asked: {', '.join(r.id for r in base.repos.iter_enabled())}",
        )


def _mark_group(base: Any, name: str) -> None:
    import dnf.exceptions

    group = base.comps.group_by_pattern(name) if base.comps else None
    if group is None:
        raise dnf.exceptions.CompsError(f"no group {name}")
    for package in (*group.mandatory_packages, *group.default_packages):
        # A group may list what only other architectures or releases have.
        with contextlib.suppress(dnf.exceptions.MarkingError):
            base.install(package.name, strict=False)


def _near(spec: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(spec, sorted(names), _NEAR, 0.6)
    return f"{spec}: did you mean {' or '.join(near)}?" if near else f"{spec}: nothing like it"


def _resolve(base: Any) -> Solution:
    import dnf.exceptions

    try:
        base.resolve(allow_erasing=False)
    except dnf.exceptions.DepsolveError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise SolveFailed(
            "these packages cannot be installed together", details=lines or [str(error)]
        ) from error
    chosen = [_chosen(package) for package in base.transaction.install_set]
    return Solution(tuple(sorted(chosen, key=lambda package: package.nevra)))


def _chosen(package: Any) -> Chosen:
    import hawkey

    algorithm, checksum = package.chksum
    return Chosen(
        nevra=Nevra(package.name, package.epoch, package.version, package.release, package.arch),
        repository=package.repoid,
        location=package.location,
        url=package.remote_location() or "",
        path=Path(package.localPkg()),
        size=package.downloadsize,
        algorithm=hawkey.chksum_name(algorithm),
        checksum=checksum.hex(),
        build_time=package.buildtime,
    )
