"""Metalinks of a repository: written, with only those mirrors that hold, where that is asked.

Rule kept here: what an older metalink binds stays bound, so that mirrors that lag serve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import ComposerError, NotFound
from composer.mirror.lists import read_lists
from composer.mirror.metalink import (
    Edition,
    Family,
    make_metalink,
    make_mirrorlist,
    make_treeinfo,
    next_editions,
    read_editions,
)
from composer.mirror.mirror_list import MirrorSite, countries
from composer.mirror.needs import Place
from composer.mirror.verdicts import Verified, behind
from composer.mirror.verifying import Options, verify
from composer.net.fetch import Fetcher
from composer.net.network import Network, Way
from composer.net.repository import read_listing
from composer.progress import Report, Step, silent
from composer.rpm.rpmmd import MAX_REPOMD, REPOMD
from composer.system.files import write_bytes

METALINK, MIRRORLIST, TREEINFO = "metalink.xml", "mirrorlist", ".treeinfo"


@dataclass(frozen=True, slots=True)
class Checking:
    """How mirrors are checked: as `mirror verify` does, for what clients need."""

    repositories: Mapping[str, Place] = field(default_factory=dict)
    root: bytes | None = None
    max_lag: timedelta = timedelta(days=1)
    way: Way = field(default_factory=Way)


@dataclass(frozen=True, slots=True)
class Links:
    """What was written: ``files`` by name, ``editions`` that are bound, and which mirrors are
    left out, with the reasons.
    """

    files: tuple[str, ...]
    editions: tuple[Edition, ...]
    sites: tuple[MirrorSite, ...]
    left_out: Mapping[str, str]


def write_links(
    repository: Path,
    sites: Sequence[MirrorSite],
    output: Path,
    *,
    older: int,
    now: datetime,
    family: Family | None = None,
    checking: Checking | None = None,
    report: Report = silent,
) -> Links:
    """Write metalinks, lists of mirrors and, with ``family``, a ``.treeinfo`` into ``output``.

    Raises NotFound where no mirror is left, and nothing is written then.
    """
    data = _read_repomd(repository)
    editions = next_editions(Edition.of(data), _before(output), older)
    left_out = _left_out(repository, sites, editions, checking, now, report) if checking else {}
    kept = [site for site in sites if site.base not in left_out]
    if not any(site.serves_clients for site in kept):
        raise NotFound(
            "no mirror is left",
            details=[f"{url}: {reason}" for url, reason in left_out.items()],
            hint="the lists are as they were; `mirror verify` says more of each mirror",
        )
    files: dict[str, bytes] = {}
    for country in ["", *countries(kept)]:
        files[_name(METALINK, country)] = make_metalink(editions, kept, now=now, country=country)
        files[_name(MIRRORLIST, country)] = make_mirrorlist(kept, country)
    if family is not None:
        files[TREEINFO] = make_treeinfo(
            family,
            read_lists(repository).pointer.entries,
            {REPOMD: str(ContentDigest.of(data))},
            timestamp=editions[0].timestamp,
            links=[METALINK, MIRRORLIST],
        )
    stale = [
        path
        for pattern in ("metalink.??.xml", "mirrorlist.??")
        for path in sorted(output.glob(pattern))
        if path.name not in files
    ]
    for name, text in files.items():
        write_bytes(output / name, text)
    for path in stale:
        path.unlink()
    return Links(tuple(files), editions, tuple(kept), left_out)


def _name(name: str, country: str) -> str:
    stem, dot, suffix = name.partition(".")
    return f"{stem}.{country}{dot}{suffix}" if country else name


def _read_repomd(repository: Path) -> bytes:
    try:
        return (repository / REPOMD).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(
            f"{repository}: no rpm-md repository", hint="`set build --output` makes one"
        ) from None


def _before(output: Path) -> tuple[Edition, ...]:
    path = output / METALINK
    try:
        return read_editions(path.read_bytes())
    except FileNotFoundError:
        return ()
    except ComposerError as error:
        error.hint = "remove it: only the current repomd.xml is bound then"
        raise error.within(str(path)) from None


def _left_out(
    repository: Path,
    sites: Sequence[MirrorSite],
    editions: Sequence[Edition],
    checking: Checking,
    now: datetime,
    report: Report,
) -> dict[str, str]:
    options = Options(
        repositories=checking.repositories, root=checking.root, way=checking.way, now=None
    )
    own = verify(Place.of(str(repository)), options)
    bound = {one.sha256 for one in editions}
    found = {}
    for number, site in enumerate(sites):
        report(Step("mirrors", number, len(sites), "mirrors", site.base))
        if not site.serves_clients:
            continue
        place = Place.of(site.base)
        if reason := _wrong(place, options, own, bound, checking, now):
            found[site.base] = reason
    return found


def _wrong(
    place: Place,
    options: Options,
    own: Verified,
    bound: set[str],
    checking: Checking,
    now: datetime,
) -> str:
    """Say why a mirror is not to be named; nothing where it is."""
    try:
        with closing(Fetcher(place.mirrors, network=Network.by(checking.way))) as fetcher:
            data = read_listing(fetcher).data
    except ComposerError as error:
        return "; ".join([error.message, *error.details])
    if len(data) > MAX_REPOMD or Edition.of(data).sha256 not in bound:
        return "its repomd.xml is none of those that the metalink binds"
    verified = verify(place, options)
    if verified.error is not None:
        return verified.error.message
    if verified.problems:
        first = verified.problems[0]
        return f"{len(verified.problems)} problems, as {first.kind}: {first.location}"
    late = [one for one in behind(verified, [own, verified]) if now - one.since > checking.max_lag]
    return f"behind: lacks {late[0].newest.ref} {late[0].newest.version}" if late else ""
