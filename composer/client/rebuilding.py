"""A version from a mirror into a repository that is thrown away: the proof that it can be had.

It is a pull as any client's, from nothing, with nothing of this machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from composer.checksum import ObjectChecksum
from composer.client.pulling import pull
from composer.client.remote import Remote
from composer.errors import ComposerError
from composer.net.network import Way
from composer.ostree.repo import Repository
from composer.progress import Report, silent
from composer.system.executors import Farm, Work, spread

# Seconds after which a proof elsewhere is taken for lost.
_PATIENCE = 1800.0


def rebuild(
    url: str,
    ref: str,
    version: str,
    *,
    repositories: Mapping[str, str],
    way: Way,
    workdir: Path | None = None,
    report: Report = silent,
) -> ObjectChecksum:
    """Pull a version, or the commit of a checksum, of ``ref``; returns the commit's checksum.

    Signatures are left out: what is asked is whether the mirror has everything.  Raises what
    a pull raises.
    """
    remote = Remote(
        name="proof",
        urls=(url,),
        trust="none",
        repositories={name: (base,) for name, base in repositories.items()},
        way=way,
    )
    with tempfile.TemporaryDirectory(prefix="jigdo-proof.", dir=workdir) as place:
        repo = Repository.create(Path(place) / "repo", mode="bare-user")
        repo.disable_fsync()
        pull(remote, ref, repo, version=version, report=lambda event: None)
        return repo.require(ref)


def rebuild_all(
    url: str,
    versions: Iterable[tuple[str, str]],
    *,
    repositories: Mapping[str, str],
    way: Way,
    workdir: Path | None = None,
    farm: Farm | None = None,
) -> Iterator[ObjectChecksum | ComposerError]:
    """Rebuild (ref, commit) after (ref, commit); yields what came out of each, or why nothing did.

    On ``farm`` side by side, if the mirror is not a directory of this machine; what does not
    come out there is tried here.
    """

    def here(version: tuple[str, str]) -> ObjectChecksum | ComposerError:
        try:
            return rebuild(url, *version, repositories=repositories, way=way, workdir=workdir)
        except ComposerError as error:
            return error

    if farm is None:
        yield from map(here, versions)
        return
    # What files of this machine are needed for, stays here.
    local = bool(way.client_cert or way.client_key or way.ca_cert)
    local = local or "file" in {urlsplit(one).scheme for one in (url, *repositories.values())}

    def load(version: tuple[str, str]) -> tuple[tuple[Any, ...], int] | None:
        return None if local else ((url, *version, dict(repositories), way), 0)

    work = Work(_rebuilt, load, _judge, here, patience=_PATIENCE)
    yield from spread(farm, work, versions, workers=1)


def _rebuilt(url: str, ref: str, commit: str, repositories: dict[str, str], way: Way) -> str:
    """Rebuild a version on another machine; an error need not be one that can be pickled."""
    try:
        return str(rebuild(url, ref, commit, repositories=repositories, way=way))
    except ComposerError as error:
        raise RuntimeError("; ".join([error.message, *error.details])) from None


def _judge(version: tuple[str, str], args: tuple[Any, ...], result: Any) -> ObjectChecksum:
    if result != version[1]:
        raise ValueError("another commit came out")
    return ObjectChecksum.parse(result)
