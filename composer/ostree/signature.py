"""Signatures on commits, by GPG or ed25519, checked by libostree against pinned keys only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.errors import ComposerError, MissingRequirement, VerificationFailed

if TYPE_CHECKING:
    from composer.ostree.repo import Repository

# Positions in what GpgVerifyResult.get_all() gives (ostree-gpg-verify-result.h).
_VALID, _EXPIRED, _KEY_EXPIRED, _REVOKED, _MISSING, _FINGERPRINT = 0, 1, 2, 3, 4, 5
_TIME, _PRIMARY = 6, 12


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


@dataclass(frozen=True, slots=True)
class SignatureState:
    """A GPG signature as it stands: by which key (its fingerprint, or id), when, and how good.

    ``state`` is good, or what is wrong with it: unknown (no such key), expired, revoked, wrong.
    """

    key: str
    time: int
    state: str


def signature_states(
    repo: Repository, commit: bytes, detached: bytes, *, keyring: Path
) -> list[SignatureState]:
    """Look at the GPG signatures over a commit object, by the keys of ``keyring``.

    The arguments are as in :func:`require_signature`; a keyring may be empty.  Raises
    BadSignature where none can be read.
    """
    signatures = _signatures(detached)
    found = []
    for details in _checked(repo, commit, signatures, keyring) if signatures else ():
        primary = str(details[_PRIMARY] or details[_FINGERPRINT]).upper()
        state = "good" if details[_VALID] else _reason(details, primary, {primary})
        if details[_MISSING]:
            state = "unknown"
        state = state.removeprefix("the key is ")
        found.append(SignatureState(primary, int(details[_TIME]), state))
    return found


def require_ed25519() -> None:
    """Raise MissingRequirement unless this machine's libostree knows ed25519."""
    _engine("ed25519")


def require_key_signature(
    commit: bytes, detached: bytes, keys: Sequence[str], *, kind: str = "ed25519"
) -> None:
    """Require a valid signature, as `ostree sign` makes, over the commit object by one of ``keys``.

    They are as `ostree sign` takes them: 32 bytes in base64.  Raises BadSignature, and
    MissingRequirement where libostree was built without this ``kind``.
    """
    from gi.repository import GLib

    engine = _engine(kind)
    signatures = _array(detached, engine.metadata_key())
    if not signatures:
        raise BadSignature(
            f"the commit is not signed by {kind}",
            hint="the remote was added with such a key: ask the publisher to `ostree sign` it",
        )
    for key in keys:
        engine.add_pk(GLib.Variant("s", key))
    try:
        engine.data_verify(GLib.Bytes.new(commit), GLib.Variant("aay", signatures))
    except GLib.Error as error:
        raise BadSignature(
            f"the commit has no valid signature by an {kind} key of this remote",
            details=[error.message],
            hint="if the publisher changed keys, add the new one with `remote add --ed25519-key`",
        ) from error


def _engine(kind: str) -> Any:
    import gi

    gi.require_version("OSTree", "1.0")
    from gi.repository import GLib, OSTree

    try:
        return OSTree.Sign.get_by_name(kind)
    except GLib.Error as error:
        raise MissingRequirement(
            f"this machine's libostree was built without {kind} signatures",
            details=[error.message],
            hint="a libostree that `ostree --version` lists sign-ed25519 for; or GPG keys: "
            "`remote add --gpg-key`",
        ) from error


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
    return _array(detached, "ostree.gpgsigs")


def _array(detached: bytes, key: str) -> list[bytes]:
    from gi.repository import GLib

    if not detached:
        return []
    metadata = GLib.Variant.new_from_bytes(
        GLib.VariantType.new("a{sv}"), GLib.Bytes.new(detached), False
    )
    if not metadata.is_normal_form():
        raise BadSignature("the commit's signatures are not readable")
    found = metadata.lookup_value(key, GLib.VariantType.new("aay"))
    if found is None:
        return []
    children = (found.get_child_value(index) for index in range(found.n_children()))
    return [child.get_data_as_bytes().get_data() or b"" for child in children]
