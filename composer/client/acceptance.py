"""Whether a commit is acceptable: what its remote demands, and nothing older than what is here.

Rules kept here: what is not signed as the remote demands is refused; a commit that says
which refs it is for is refused under another; an older commit does not take the place of
a newer one unless a person says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from composer.checksum import ObjectChecksum
from composer.client.remote import Remote
from composer.errors import VerificationFailed
from composer.jigdo.pointer import PointerEntry
from composer.net.fetch import Fetcher
from composer.net.repository import find_entry, find_signed_version
from composer.net.trust import Statement, find_signed_entry
from composer.ostree.repo import Repository
from composer.ostree.signature import BadSignature, require_key_signature, require_signature

if TYPE_CHECKING:
    from composer.jigdo.reader import CommitFrame

_BINDING = "ostree.ref-binding"


class Downgrade(VerificationFailed):
    """A commit that is older than the one it would replace."""


class WrongRef(VerificationFailed):
    """A commit that was made for another ref."""


@dataclass(frozen=True, slots=True)
class Waivers:
    """What a person lets pass, this once."""

    downgrade: bool = False
    expiry: bool = False


NO_WAIVERS = Waivers()


@dataclass(frozen=True, slots=True)
class Newest:
    """What a remote says is newest; ``statement`` is None where that is not signed."""

    entry: PointerEntry
    statement: Statement | None = None


def find_newest(
    fetcher: Fetcher,
    remote: Remote,
    ref: str,
    waivers: Waivers = NO_WAIVERS,
    *,
    version: str = "",
) -> Newest:
    """The newest set of ``ref`` by the remote's signed statements, or by its pointer without.

    With ``version``, the set of that version, or commit, which a statement vouches for too.
    Raises NotFound when there is none.
    """
    if remote.root is None:
        return Newest(find_entry(fetcher, ref, version))
    statement = find_signed_entry(
        fetcher.mirrors,
        ref,
        remote.store(),
        ignore_expiry=waivers.expiry,
        network=fetcher.network,
        keep=fetcher.keep,
    )
    entry = statement.entry
    if version not in ("", entry.version, str(entry.commit)):
        entry = find_signed_version(fetcher, entry, statement.versions, version)
    return Newest(entry, statement)


def is_good_here(remote: Remote, repo: Repository, ref: str, commit: ObjectChecksum) -> bool:
    """Tell whether a commit is here whole, and would be accepted from ``remote``.

    Another remote, or another program, may have put an unsigned one under the ref.
    """
    if repo.is_partial(commit):
        return False
    try:
        require_acceptable_here(remote, repo, ref, commit)
    except BadSignature:
        return False  # the set may have better ones
    return True


def require_acceptable_here(
    remote: Remote, repo: Repository, ref: str, commit: ObjectChecksum
) -> None:
    """As :func:`require_acceptable`, of a commit that is in ``repo`` with its signatures."""
    from composer.jigdo.reader import CommitFrame

    signatures = repo.detached_metadata(commit)
    detached = signatures.get_data_as_bytes().get_data() if signatures else None
    frame = CommitFrame(repo.metadata("commit", commit), detached or b"", repo.commit(commit))
    require_acceptable(remote, repo, ref, frame)


def require_acceptable(remote: Remote, repo: Repository, ref: str, frame: CommitFrame) -> None:
    """Raise BadSignature or WrongRef unless ``remote`` accepts a commit under ``ref``."""
    if remote.keyring is not None:
        require_signature(
            repo,
            frame.data,
            frame.detached,
            keyring=remote.keyring,
            fingerprints=remote.fingerprints,
        )
    if remote.ed25519_keys:
        require_key_signature(frame.data, frame.detached, remote.ed25519_keys)
    bound = frame.commit.metadata.get(_BINDING)
    if isinstance(bound, list) and ref not in bound:
        raise WrongRef(
            f"{ref}: the commit was made for {', '.join(map(str, bound[:20])) or 'no ref'}",
            hint="the mirror is damaged or lies: try another, or ask the publisher",
        )


def require_newer(
    repo: Repository, previous: ObjectChecksum | None, timestamp: int, waivers: Waivers
) -> None:
    """Raise Downgrade where a commit is older than the one that is here, unless that is waived."""
    if previous is None or waivers.downgrade or not repo.has("commit", previous):
        return
    before = repo.commit(previous).timestamp
    if timestamp < before:
        raise Downgrade(
            f"the remote has a commit of {_day(timestamp)}, older than the one that is here",
            details=[f"{previous} here is of {_day(before)}"],
            hint="the mirror is stale, or someone holds this machine back; to go back to the "
            "older one knowingly: --allow-downgrade",
        )


def _day(timestamp: int) -> str:
    return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M} UTC"
