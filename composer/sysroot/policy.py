"""Whom a machine believes about a commit that it is to boot: its remote's own policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from composer.checksum import ObjectChecksum
from composer.client.acceptance import require_acceptable_here
from composer.client.remote import Remote, find_remote, list_remotes
from composer.errors import ComposerError, VerificationFailed
from composer.ostree.repo import Repository

State = Literal["good", "bad", "not demanded", "unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says of a commit; ``why`` is a line for everything but "good"."""

    state: State
    why: str = ""


def remote_for(name: str, recorded: str, config_dir: Path | None) -> Remote | None:
    """The remote whose policy counts: ``name``, else the ``recorded`` one, else the only one.

    None where there is no remote at all: what is here was made here.  Raises NotFound for
    one that is gone, UsageError where it could be several.
    """
    if name or recorded:
        return find_remote(name or recorded, config_dir)
    return find_remote(None, config_dir) if list_remotes(config_dir) else None


def require_trusted(
    remote: Remote | None, repo: Repository, ref: str, commit: ObjectChecksum
) -> None:
    """Raise BadSignature or WrongRef unless ``remote`` accepts a commit that is here."""
    if remote is not None:
        require_acceptable_here(remote, repo, ref, commit)


def judge(
    name: str, repo: Repository, ref: str, commit: ObjectChecksum, config_dir: Path | None
) -> Verdict:
    """Say what the policy of the remote ``name`` makes of a commit that is here."""
    if not name:
        return Verdict("not demanded", "it came from no remote")
    try:
        remote = find_remote(name, config_dir)
        require_acceptable_here(remote, repo, ref, commit)
    except VerificationFailed as error:
        return Verdict("bad", error.message)
    except ComposerError as error:
        return Verdict("unknown", error.message)
    if remote.keyring is None and not remote.ed25519_keys:
        return Verdict("not demanded", f"trust of {name} is {remote.trust}")
    return Verdict("good")
