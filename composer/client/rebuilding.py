"""A version from a mirror into a repository that is thrown away: the proof that it can be had.

It is a pull as any client's, from nothing, with nothing of this machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.client.pulling import pull
from composer.client.remote import Remote
from composer.net.network import Way
from composer.ostree.repo import Repository
from composer.progress import Report, silent


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
