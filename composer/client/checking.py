"""Whether a remote has something new: one small file where it has not, and signed statements.

Nothing is written but what was seen of the statements.
"""

from __future__ import annotations

from dataclasses import dataclass

from composer.checksum import ObjectChecksum
from composer.client.acceptance import (
    NO_WAIVERS,
    Newest,
    Waivers,
    require_newer,
)
from composer.client.remote import Remote
from composer.client.session import session
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

    Raises what :func:`composer.client.pulling.pull` raises for statements that are not to be
    believed, and for a commit that is older than the one in ``repo``.
    """
    with session(remote, waivers=waivers) as asked:
        newest = asked.newest(ref)
    here = repo.resolve(ref)
    require_newer(repo, here, newest.entry.timestamp, waivers)
    return Checked(newest, here, asked.traffic.bytes(), asked.traffic.requests())
