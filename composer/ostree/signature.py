"""GPG signatures on commits, checked by libostree against pinned keys only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.errors import ComposerError, VerificationFailed

if TYPE_CHECKING:
    from composer.ostree.repo import Repository

# Positions in what GpgVerifyResult.get_all() gives (ostree-gpg-verify-result.h).
_VALID, _EXPIRED, _KEY_EXPIRED, _REVOKED, _MISSING, _FINGERPRINT = 0, 1, 2, 3, 4, 5
_PRIMARY = 12


class BadSignature(VerificationFailed):
    """A commit without a valid signature by a trusted key."""


def require_signature(
    repo: Repository, commit: bytes, detached: bytes, *, keyring: Path, fingerprints: Sequence[str]
) -> str:
    """Require a valid GPG signature over the commit object by one of ``fingerprints``.

    ``detached`` is the commit's detached metadata (serialised ``a{sv}``), ``keyring``
    a binary GPG keyring.  Returns the fingerprint of the key that signed.  Keys that
    the repository or the system trust for other purposes do not count.  Raises
    BadSignature saying what is wrong with each signature.
    """
    signatures = _signatures(detached)
    if not signatures:
        raise BadSignature(
            "the commit is not signed",
            hint="ask its publisher for a signed one; `remote add --trust none` accepts unsigned",
        )
    wanted = {fingerprint.upper() for fingerprint in fingerprints}
    reasons = []
    for details in _checked(repo, commit, signatures, keyring):
        primary = str(details[_PRIMARY] or details[_FINGERPRINT]).upper()
        if details[_VALID] and primary in wanted:
            return primary
        reasons.append(f"signature by {details[_FINGERPRINT]}: {_reason(details, primary, wanted)}")
    raise BadSignature(
        "the commit has no valid signature by a key of this remote",
        details=reasons,
        hint="if the publisher changed keys, add the new one with `remote add --gpg-key`",
    )


def is_signed(detached: bytes) -> bool:
    """Tell whether detached metadata has a GPG signature, good or bad."""
    return bool(_signatures(detached))


def _checked(
    repo: Repository, commit: bytes, signatures: Sequence[bytes], keyring: Path
) -> Iterator[Any]:
    """Check each signature on its own: one that cannot be read does not spoil the others."""
    unreadable: list[str] = []
    for signature in signatures:
        try:
            yield from repo.check_signatures(commit, signature, keyring)
        except ComposerError as error:
            unreadable.append(error.message)
    if len(unreadable) == len(signatures):
        raise BadSignature(
            "the commit's signatures cannot be checked",
            details=unreadable[:20],
            hint="the mirror may be damaged: try another; or ask the publisher to sign again",
        )


def _reason(details: Any, primary: str, wanted: set[str]) -> str:
    if details[_MISSING] or (details[_VALID] and primary not in wanted):
        return "not one of the remote's keys"
    if details[_REVOKED]:
        return "the key is revoked"
    if details[_KEY_EXPIRED] or details[_EXPIRED]:
        return "expired"
    return "wrong"


def _signatures(detached: bytes) -> list[bytes]:
    from gi.repository import GLib

    if not detached:
        return []
    metadata = GLib.Variant.new_from_bytes(
        GLib.VariantType.new("a{sv}"), GLib.Bytes.new(detached), False
    )
    if not metadata.is_normal_form():
        raise BadSignature("the commit's signatures are not readable")
    found = metadata.lookup_value("ostree.gpgsigs", GLib.VariantType.new("aay"))
    if found is None:
        return []
    children = (found.get_child_value(index) for index in range(found.n_children()))
    return [child.get_data_as_bytes().get_data() or b"" for child in children]
