"""Whether a remote has something new: one small file where it has not, and signed statements.

Nothing is written but what was seen of the statements.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from composer.checksum import ObjectChecksum
from composer.client.acceptance import (
    NO_WAIVERS,
    Newest,
    Waivers,
    find_newest,
    require_newer,
)
from composer.client.mirrors import with_listed_mirrors
from composer.client.remote import Remote
from composer.net.fetch import Fetcher
from composer.net.location import Mirrors
from composer.net.traffic import Traffic
from composer.ostree.repo import Repository


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: what is newest, the commit that is here, and what it cost."""

    newest: Newest
    here: ObjectChecksum | None
    bytes: int
    requests: int

    @property
    def new(self) -> bool:
        """Whether a pull would bring something."""
        return self.newest.entry.commit != self.here


def check(remote: Remote, ref: str, repo: Repository, *, waivers: Waivers = NO_WAIVERS) -> Checked:
    """Ask ``remote`` what is newest of ``ref``.

    Raises what :func:`composer.client.pull.pull` raises for statements that are not to be
    believed, and for a commit that is older than the one in ``repo``.
    """
    traffic = Traffic()
    remote = with_listed_mirrors(remote, traffic)
    with closing(Fetcher(Mirrors.parse(*remote.urls), traffic=traffic)) as fetcher:
        newest = find_newest(fetcher, remote, ref, waivers)
    here = repo.resolve(ref)
    require_newer(repo, here, newest.entry.timestamp, waivers)
    return Checked(newest, here, traffic.bytes(), traffic.requests())
