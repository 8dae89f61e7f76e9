"""Build the site of a published repository, below it, for whatever serves static files."""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import composer
from composer.errors import NotFound, UsageError
from composer.mirror.site.collecting import Collected, RefView, collect
from composer.mirror.site.naming import slug
from composer.mirror.site.overview import overview_pages, setup_block
from composer.mirror.site.packages import PackagePages
from composer.mirror.site.reading import Kept, code_digest
from composer.mirror.site.rendering import Pages
from composer.mirror.site.staging import Staging, Written
from composer.mirror.site.versions import version_pages
from composer.net.location import parse_base
from composer.ostree.keyring import read_keys
from composer.progress import Report, Step, silent
from composer.rpm.rpmmd import REPOMD

DIRECTORY = "site"
_REMOTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
_IN_URLS = {*"-._~:/?#[]@!*+,=%", *ascii_letters, *digits}
_LOCK = ".jigdo-site.lock"
_ASSETS = {"css": "site.css", "js": "site.js", "icon": "icon.svg"}


@dataclass(frozen=True, slots=True)
class SiteOptions:
    """What the operator wants.

    ``base_url`` is the repository's, not the site's; ``packages`` are directories of rpm-md
    repositories that say more of packages; ``repositories`` are base URLs, by id, that clients
    are told of.  ``human`` shows numbers of bytes; ``time`` is when the site is made.
    """

    cachedir: Path
    human: Callable[[float], str]
    title: str = ""
    base_url: str = ""
    remote: str = "mirror"
    keys: Sequence[Path] = ()
    packages: Sequence[Path] = ()
    repositories: Mapping[str, str] = field(default_factory=dict)
    time: int | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """The site as it is now; ``missing`` are sets that are named, but not there."""

    directory: Path
    written: Written
    refs: int
    versions: int
    missing: tuple[str, ...]


def build_site(repository: Path, options: SiteOptions, report: Report = silent) -> Built:
    """Build, or renew, the site of ``repository`` in its directory ``site``.

    When anything fails, the site is as it was.  Raises NotFound where no set is published.
    """
    _checked(options)
    if not (repository / REPOMD).is_file():
        raise NotFound(
            f"{repository}: no repository",
            hint="`set build --output` or `compose --rpm-repo` publish one",
        )
    pages, kept = Pages(options.human), Kept(options.cachedir)
    with _alone(repository):
        keyring, fingerprints = read_keys(options.keys)
        found = collect(repository, options.packages, keyring, kept, report)
        staging = Staging(repository / DIRECTORY, f"{pages.digest}{code_digest()}")
        try:
            site = _assets(staging, pages, options, found)
            keys = _keys(staging, options.remote, keyring)

            def setup(view: RefView) -> dict[str, Any]:
                return setup_block(
                    found,
                    view,
                    base_url=site["base_url"],
                    remote=options.remote,
                    fingerprints=fingerprints,
                    key_files=keys,
                    repositories=options.repositories,
                )

            for view in found.views:
                report(Step("pages", item=view.ref))
                version_pages(staging, pages, site, view, found.lists, setup(view), options.human)
            report(Step("pages", item="packages"))
            PackagePages(found, repository, kept).make(staging, pages, site)
            time = options.time if options.time is not None else found.time
            overview_pages(staging, pages, site, found, setup(found.latest), time)
            written = staging.publish()
        finally:
            staging.close()
    count = sum(len(view.versions) for view in found.views)
    return Built(repository / DIRECTORY, written, len(found.views), count, found.missing)


def parse_repositories(texts: Sequence[str]) -> dict[str, str]:
    """Read ``ID=URL`` options; raises UsageError."""
    found = {}
    for text in texts:
        ident, equals, url = text.partition("=")
        if not (ident and equals and url):
            raise UsageError(f"--repository {text}: expected ID=URL")
        found[ident] = url
    return found


def _checked(options: SiteOptions) -> None:
    """Require what becomes part of commands to be harmless in them."""
    if not _REMOTE.match(options.remote):
        raise UsageError(f"--remote {options.remote}: expected letters, digits, . _ and -")
    if options.base_url:
        try:
            parse_base(options.base_url)
        except ValueError as error:
            raise UsageError(f"--base-url: {error}") from None
        if set(options.base_url) - _IN_URLS:
            raise UsageError("--base-url: quote what is special in a URL, as %27")


def _assets(
    staging: Staging, pages: Pages, options: SiteOptions, found: Collected
) -> dict[str, Any]:
    """Stage what all pages load, under names that change with it; returns what all pages show."""
    names = {}
    for kind, name in _ASSETS.items():
        data = pages.asset(name)
        stem, _, suffix = name.rpartition(".")
        path = f"assets/{stem}-{hashlib.sha256(data).hexdigest()[:12]}.{suffix}"
        staging.group(path, name, lambda p=path, d=data: [(p, d)])  # type: ignore[misc]
        names[kind] = path
    base = options.base_url
    return {
        "title": options.title or found.views[0].ref,
        "base_url": base if not base or base.endswith("/") else f"{base}/",
        "program": composer.__version__,
        **names,
    }


def _keys(staging: Staging, remote: str, keyring: bytes) -> list[str]:
    """Stage the public keys as one file; returns where it is in the site."""
    if not keyring:
        return []
    name, digest = f"keys/{slug(remote)}.gpg", hashlib.sha256(keyring).hexdigest()
    staging.group(name, digest, lambda: [(name, keyring)])
    return [name]


@contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Wait until no other process builds this site."""
    with (repository / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
