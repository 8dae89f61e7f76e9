"""The rpm-md repositories of a treefile, as dnf's base has them.

Rules kept here: no configuration of the host is read (/etc/dnf, /etc/yum.repos.d,
plugins, variables); repositories stand in an order that does not depend on the order in
which they were named, so that of equal packages the same one is always taken.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from composer.compose.document import TreefileError
from composer.compose.signatures import read_keyring
from composer.compose.treefile import Treefile
from composer.errors import ComposerError

_VARIABLE = re.compile(r"\$\{?[A-Za-z_][A-Za-z0-9_]*\}?")


class RepositoryUnusable(ComposerError):
    """A repository that nothing defines, or whose metadata cannot be read."""


def configuration(treefile: Treefile, cachedir: Path, scratch: Path) -> Any:
    """Make dnf's configuration for ``treefile``; all that dnf writes is below the two."""
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
    conf.substitutions.update(treefile.repovars)
    if treefile.releasever:
        conf.substitutions["releasever"] = treefile.releasever
    if treefile.platform_module:
        conf.module_platform_id = treefile.platform_module
    conf.ignorearch = True
    conf.arch = treefile.basearch
    conf.install_weak_deps = treefile.recommends
    conf.best = True
    conf.deltarpm = False
    conf.keepcache = True
    conf.skip_if_unavailable = False
    conf.retries = 3
    return conf


def add_repositories(
    base: Any,
    treefile: Treefile,
    overrides: Mapping[str, str],
    scratch: Path,
    *,
    more: Sequence[str] = (),
) -> None:
    """Define the repositories in dnf's ``base`` and enable those that are wanted.

    ``overrides`` maps ids to base URLs or directories; ``more`` are ids that are wanted
    beside the treefile's ``repos``.  Raises RepositoryUnusable,
    TreefileError for a ``.repo`` file, and KeysUnusable.
    """
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
    wanted = treefile.repos or _enabled(base, overrides, set(treefile.lockfile_repos))
    if not wanted:
        raise RepositoryUnusable(
            f"no repository: the treefile names none, and {treefile.directory} has no .repo file",
            hint="add the key repos, or --repository ID=URL",
        )
    for key, idents in (("repos", wanted), ("lockfile-repos", more)):
        for ident in idents:
            if ident not in base.repos:
                raise _undefined(ident, key, treefile, base)
    _enable(base, {*wanted, *more}, scratch)


def _enable(base: Any, wanted: set[str], scratch: Path) -> None:
    found = sorted(base.repos.all(), key=lambda one: (one.priority, one.cost, one.id))
    base.repos.clear()
    for repository in found:
        base.repos.add(repository)
        if repository.id in wanted:
            _require_no_variables(repository)
            repository.enable()
            if repository.repo_gpgcheck:
                _pin_keys(repository, scratch / "repository-keys")
            # Asks for repomd.xml again; `metadata_expire = 0` would trust a fresh copy.
            repository._repo.expire()
        else:
            repository.disable()


def _pin_keys(repository: Any, scratch: Path) -> None:
    """Let librepo check repomd.xml against the keys that gpgkey names now, and no others.

    It keeps the keys that it once trusted in its cache, and does not check again what is
    cached; so other keys mean another cache.
    """
    keyring = read_keyring(repository, scratch)
    repository.gpgkey = [keyring.armored.absolute().as_uri()]
    repository.basecachedir = f"{repository.basecachedir}/signed-{keyring.digest[:16]}"


def _enabled(base: Any, overrides: Mapping[str, str], locked_only: set[str]) -> tuple[str, ...]:
    enabled = {repository.id for repository in base.repos.iter_enabled()}
    return tuple(sorted((enabled | set(overrides)) - locked_only))


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
                hint="the key releasever sets $releasever, and repovars sets others",
            )


def _undefined(ident: str, key: str, treefile: Treefile, base: Any) -> RepositoryUnusable:
    files = [path.name for path in sorted(treefile.directory.glob("*.repo"))]
    known = sorted(repository.id for repository in base.repos.all())
    return RepositoryUnusable(
        f"{treefile.path}: {key}: nothing defines the repository {ident!r}",
        details=[
            f"looked for [{ident}] in: {treefile.directory}/*.repo ({', '.join(files) or 'none'})",
            f"defined there or by --repository: {', '.join(known) or 'none'}",
        ],
        hint=f"add --repository {ident}=URL, or a .repo file beside the treefile",
    )


def unusable(error: Exception) -> RepositoryUnusable:
    """Make the error for what dnf says of a repository."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RepositoryUnusable(
        lines[0] if lines else "a repository's metadata cannot be read",
        details=lines[1:],
        hint="check its URL with --repository ID=URL; it must contain repodata/repomd.xml",
    )
