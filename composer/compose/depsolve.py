"""Which packages, by dnf's solver over the treefile's repositories and nothing else.

Rules kept here: no configuration of the host is read (/etc/dnf, /etc/yum.repos.d,
plugins, variables); nothing but rpm-md is downloaded; the outcome is a sorted value.
"""

from __future__ import annotations

import configparser
import contextlib
import difflib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.compose.document import TreefileError
from composer.compose.treefile import Treefile
from composer.errors import ComposerError
from composer.rpm.package import Nevra

_NEAR = 3
_VARIABLE = re.compile(r"\$\{?[A-Za-z_]+\}?")


class SolveFailed(ComposerError):
    """Packages that are not there, or that cannot be installed together."""


class RepositoryUnusable(ComposerError):
    """A repository that nothing defines, or whose metadata cannot be read."""


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
    """All packages, sorted by NEVRA; ``unchecked`` are repositories that ask for gpgcheck."""

    packages: tuple[Chosen, ...]
    unchecked: tuple[str, ...] = ()

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
    base = dnf.Base(_configuration(treefile, cachedir, scratch))
    try:
        try:
            _add_repositories(base, treefile, overrides)
            base.fill_sack(load_system_repo=False, load_available_repos=True)
        except (dnf.exceptions.RepoError, dnf.exceptions.ConfigError) as error:
            raise _unusable(error) from error
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


def _configuration(treefile: Treefile, cachedir: Path, scratch: Path) -> Any:
    import dnf.conf

    conf = dnf.conf.Conf()
    conf.config_file_path = ""
    conf.reposdir = [str(treefile.directory.absolute())]
    conf.varsdir = []
    conf.plugins = False
    conf.installroot = str(scratch / "root")
    conf.persistdir = str(scratch / "persist")
    conf.logdir = str(scratch)
    conf.cachedir = str(cachedir)
    conf.system_cachedir = str(cachedir)
    conf.substitutions["basearch"] = treefile.basearch
    conf.substitutions["arch"] = treefile.basearch
    if treefile.releasever:
        conf.substitutions["releasever"] = treefile.releasever
    conf.ignorearch = True
    conf.arch = treefile.basearch
    conf.install_weak_deps = treefile.recommends
    conf.best = True
    conf.deltarpm = False
    conf.keepcache = True
    conf.skip_if_unavailable = False
    conf.retries = 3
    return conf


def _add_repositories(base: Any, treefile: Treefile, overrides: Mapping[str, str]) -> None:
    import dnf.repo

    _check_repo_files(treefile.directory)
    base.read_all_repos()
    for ident, url in sorted(overrides.items()):
        repository = base.repos.get(ident)
        if repository is None:
            repository = dnf.repo.Repo(ident, base.conf)
            base.repos.add(repository)
        repository.baseurl = [_as_url(url, base.conf.substitutions)]
        repository.metalink = repository.mirrorlist = None
    wanted = treefile.repos or _enabled(base, overrides)
    if not wanted:
        raise RepositoryUnusable(
            f"no repository: the treefile names none, and {treefile.directory} has no .repo file",
            hint="add the key repos, or --repository ID=URL",
        )
    for ident in wanted:
        if ident not in base.repos:
            raise _undefined(ident, treefile, base)
    for repository in base.repos.all():
        if repository.id in wanted:
            _require_no_variables(repository)
            repository.enable()
            # Asks for repomd.xml again; `metadata_expire = 0` would trust a fresh copy.
            repository._repo.expire()
        else:
            repository.disable()


def _enabled(base: Any, overrides: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted({repo.id for repo in base.repos.iter_enabled()} | set(overrides)))


def _check_repo_files(directory: Path) -> None:
    # dnf skips a .repo file that it cannot read, with a line in its log.
    for path in sorted(directory.glob("*.repo")):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(path.read_text(), str(path))
        except (configparser.Error, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise TreefileError(f"{path}: not a .repo file: {reason}") from error


def _as_url(text: str, substitutions: Mapping[str, str]) -> str:
    import libdnf.conf

    found = str(libdnf.conf.ConfigParser.substitute(text, substitutions))
    return found if "://" in found else Path(found).absolute().as_uri()


def _require_no_variables(repository: Any) -> None:
    for url in (*repository.baseurl, repository.metalink, repository.mirrorlist):
        if url and (match := _VARIABLE.search(url)):
            raise RepositoryUnusable(
                f"repository {repository.id}: {url}: {match[0]} is not set",
                hint="the key releasever sets $releasever; other variables are not known",
            )


def _undefined(ident: str, treefile: Treefile, base: Any) -> RepositoryUnusable:
    files = [path.name for path in sorted(treefile.directory.glob("*.repo"))]
    known = sorted(repository.id for repository in base.repos.all())
    return RepositoryUnusable(
        f"{treefile.path}: repos: nothing defines the repository {ident!r}",
        details=[
            f"looked for [{ident}] in: {treefile.directory}/*.repo ({', '.join(files) or 'none'})",
            f"defined there or by --repository: {', '.join(known) or 'none'}",
        ],
        hint=f"add --repository {ident}=URL, or a .repo file beside the treefile",
    )


def _unusable(error: Exception) -> RepositoryUnusable:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RepositoryUnusable(
        lines[0] if lines else "a repository's metadata cannot be read",
        details=lines[1:],
        hint="check its URL with --repository ID=URL; it must contain repodata/repomd.xml",
    )


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
    unchecked = sorted({p.repo.id for p in base.transaction.install_set if p.repo.gpgcheck})
    return Solution(tuple(sorted(chosen, key=lambda package: package.nevra)), tuple(unchecked))


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
