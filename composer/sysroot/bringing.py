"""Ways in which the commit of a new system gets into its repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.client.acceptance import NO_WAIVERS, Waivers
from composer.client.events import Listener, unheard
from composer.client.pulling import pull
from composer.client.remote import find_remote
from composer.errors import UsageError
from composer.ostree.locking import Wait, using
from composer.ostree.repo import Repository
from composer.ostree.revision import find_commit
from composer.progress import Report, Step, silent
from composer.sysroot.policy import remote_for, require_trusted


@dataclass(frozen=True, slots=True)
class Brought:
    """A commit that is in the new repository, its ref, and the remote whose policy it passed."""

    commit: ObjectChecksum
    ref: str
    remote: str


Bring = Callable[[Repository], Brought]
"""Brings a commit into a repository."""


def from_remote(
    name: str | None,
    ref: str,
    version: str = "",
    config_dir: Path | None = None,
    waivers: Waivers = NO_WAIVERS,
    report: Listener = unheard,
) -> Bring:
    """Pull it; raises, when asked to bring it, what a pull raises."""
    remote = find_remote(name, config_dir)

    def bring(repo: Repository) -> Brought:
        done = pull(remote, ref, repo, version=version, waivers=waivers, report=report)
        return Brought(done.commit, ref, remote.name)

    return bring


def from_repository(
    source: Path,
    name: str | None,
    ref: str,
    config_dir: Path | None = None,
    report: Report = silent,
    wait: Wait | None = None,
) -> Bring:
    """Copy it from the repository ``source``; a remote's policy counts if there is a remote.

    Nobody removes anything there meanwhile: asked to bring it, it raises Busy (unless there is
    ``wait``) where someone does.
    """
    origin = Repository.open(source)
    commit = find_commit(origin, ref)
    if origin.is_partial(commit):
        raise UsageError(f"{source}: commit {commit} is not there as a whole")
    remote = remote_for(name or "", "", config_dir)
    require_trusted(remote, origin, ref, commit)

    def bring(repo: Repository) -> Brought:
        report(Step("copy", item=str(commit)))
        with using(origin, wait):
            _copy(origin, commit, repo)
        with repo.transaction():
            repo.set_ref(ref, commit)
        return Brought(commit, ref, remote.name if remote else "")

    return bring


def _copy(origin: Repository, commit: ObjectChecksum, repo: Repository) -> None:
    from gi.repository import GLib

    options = {
        "refs": GLib.Variant("as", [str(commit)]),
        "gpg-verify": GLib.Variant("b", False),  # the remote's policy was asked already
        "gpg-verify-summary": GLib.Variant("b", False),
    }
    with repo.libostree() as (_, ostree):
        ostree.pull_with_options(
            origin.path.resolve().as_uri(), GLib.Variant("a{sv}", options), None, None
        )
