"""What TUF's metadata says and what is wrong with it: judged from bytes, nothing is moved."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from composer.checksum import ContentDigest
from composer.errors import BoundExceeded, FormatError, NotFound, VerificationFailed
from composer.jigdo.pointer import PointerEntry, parse_entry
from composer.net.location import safe_location

if TYPE_CHECKING:
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Targets
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

STATEMENTS = "tuf"
"""The directory of signed statements, below a repository's base."""

CUSTOM = "jigdo"
CUSTOM_VERSIONS = "jigdo-versions"
MAX_REF = 200
MAX_ROOT = 64 << 10
_ROLE_PREFIX = "ref~"
STALE = (
    "the mirror is stale or damaged, or someone holds this machine back: add another mirror "
    "with `remote add`, or ask the publisher"
)


_REF = re.compile(r"[A-Za-z0-9._/+-]+\Z")


class Untrusted(VerificationFailed):
    """A statement about what is newest that is not to be believed."""


class Expired(Untrusted):
    """A statement whose time is over: nobody vouches any more that it is the newest."""


def late(role: str, expires: datetime, when: datetime) -> Expired:
    """Make the error for a statement that has expired before ``when``."""
    return Expired(
        f"{role}: expired on {_day(expires)}: nobody vouches any more that it is the newest",
        hint="the mirror is stale, or someone holds this machine back: try another mirror, or "
        f"ask the publisher.  If the clock is wrong (it says {_day(when)}), set it; "
        "--ignore-expiry goes on without (see docs/trust.md)",
    )


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def role_of(ref: str) -> str:
    """Return the name of the role that signs for ``ref``; "~" is in no ref, "/" in no file name."""
    return _ROLE_PREFIX + ref.replace("/", "~")


def ref_of(role: str) -> str | None:
    """Return the ref that a role signs for, or None for another role."""
    name = role.removeprefix(_ROLE_PREFIX)
    return name.replace("~", "/") if name != role else None


def start(root: bytes) -> TrustedMetadataSet:
    """Begin with a root that is trusted; raises Untrusted where it does not even sign itself."""
    from tuf.api.exceptions import RepositoryError
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
    from tuf.ngclient.config import EnvelopeType

    try:
        return TrustedMetadataSet(root, EnvelopeType.METADATA)
    except RepositoryError as error:
        raise explained("root", error) from error


@dataclass(frozen=True, slots=True)
class PinnedRoot:
    """A root that a person trusts, and what it says of itself."""

    data: bytes
    version: int
    digest: ContentDigest
    threshold: int
    keys: tuple[str, ...]
    expires: datetime


def read_root(path: Path) -> PinnedRoot:
    """Read a root from a file; raises Untrusted where it does not sign itself."""
    with path.open("rb") as stream:
        data = stream.read(MAX_ROOT + 1)
    if len(data) > MAX_ROOT:
        raise BoundExceeded(what=str(path), bound=MAX_ROOT)
    try:
        root = start(data).root
    except Untrusted as error:
        raise error.within(str(path)) from None
    role = root.roles["root"]
    return PinnedRoot(
        data,
        root.version,
        ContentDigest.of(data),
        role.threshold,
        tuple(sorted(role.keyids)),
        root.expires,
    )


def expiry_of(data: bytes) -> datetime:
    """Return until when a statement holds that has been read before."""
    from tuf.api.metadata import Metadata, Timestamp

    return Metadata[Timestamp].from_bytes(data).signed.expires


def explained(role: str, error: RepositoryError) -> Untrusted:
    """Say what python-tuf found wrong with the metadata of ``role``."""
    from tuf.api import exceptions
    from tuf.api.serialization import DeserializationError

    told = [str(error)]
    if isinstance(error, exceptions.BadVersionNumberError):
        return Untrusted(
            f"{role}: older than what this machine has seen, or than the rest",
            details=told,
            hint=STALE,
        )
    if isinstance(error, exceptions.LengthOrHashMismatchError):
        return Untrusted(f"{role}: not the one that belongs to the rest", details=told, hint=STALE)
    if isinstance(error, exceptions.UnsignedMetadataError):
        return Untrusted(
            f"{role}: not signed by enough of the keys that the publisher named",
            details=told,
            hint="another mirror may do better.  If the publisher began anew with other keys: "
            "`remote add --replace --tuf-root FILE`",
        )
    if isinstance(error, DeserializationError):
        return Untrusted(f"{role}: not readable", details=told, hint=STALE)
    return Untrusted(f"{role}: not to be believed", details=told, hint=STALE)


def delegated_refs(targets: Targets) -> list[str]:
    """List the refs that the publisher signs for; other roles are none of ours."""
    roles = (targets.delegations.roles if targets.delegations else None) or {}
    refs = [ref for role in roles if (ref := ref_of(role)) and role_of(ref) == role]
    return sorted(ref for ref in refs if _REF.match(ref))


def require_delegation(targets: Targets, ref: str) -> None:
    """Raise NotFound, listing what there is, unless the publisher signs for ``ref``."""
    roles = targets.delegations.roles if targets.delegations else None
    known = [found for role in roles or () if (found := ref_of(role))]
    if ref not in known:
        raise NotFound(
            f"{ref}: the publisher signs for no such ref",
            details=[f"there are: {', '.join(known[:20])}" if known else "there is none at all"],
            hint="check the spelling; or another remote has it: `remote list`",
        )


def entry_of(ref: str, targets: Targets, signed: Targets) -> PointerEntry:
    """Read the newest set of ``ref`` out of its role; raises Untrusted, or NotFound for none."""
    role = role_of(ref)
    if not signed.targets:
        raise NotFound(
            f"{ref}: the publisher has withdrawn it", hint="another ref: ask the publisher"
        )
    try:
        return _entry_of(ref, targets, signed)
    except FormatError as error:
        raise Untrusted(f"{role}: {error.message}", details=error.details, hint=STALE) from error


def versions_name(digest: object) -> str:
    """Return the name of the file that has the list of other versions with this digest."""
    return f"{digest}.versions.json"


def versions_of(signed: Targets) -> str:
    """Return the digest of the sets that are not the newest; "" where nothing is said of any."""
    custom = [target.custom for target in signed.targets.values()]
    said = custom[0].get(CUSTOM_VERSIONS) if custom and isinstance(custom[0], dict) else None
    return said if isinstance(said, str) else ""


def _entry_of(ref: str, targets: Targets, signed: Targets) -> PointerEntry:
    if len(signed.targets) != 1:
        raise FormatError(f"{len(signed.targets)} sets at once")
    [(path, target)] = signed.targets.items()
    delegations = targets.delegations
    assert delegations is not None
    assert delegations.roles is not None
    if not delegations.roles[role_of(ref)].is_delegated_path(path):
        raise FormatError(f"{path}: outside of what it may sign for")
    custom = target.custom
    entry = parse_entry(custom.get(CUSTOM) if isinstance(custom, dict) else None)
    safe_location(entry.location)
    if entry.ref != ref:
        raise FormatError(f"signs for {entry.ref}, another ref")
    told = (entry.location, entry.size, str(entry.pkgid))
    if told != (path, target.length, target.hashes.get("sha256")):
        raise FormatError(f"{path}: two descriptions that differ")
    return entry
