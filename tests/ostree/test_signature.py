"""Signatures of `ostree sign`: libostree judges, by the keys that were pinned alone.

Debian's libostree has no ed25519; its "dummy" kind, where a signature is the key itself,
goes the same way through libostree.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from gi.repository import GLib

from composer.errors import MissingRequirement
from composer.ostree.signature import BadSignature, require_ed25519, require_key_signature

_COMMIT = b"a commit object"


@pytest.fixture(autouse=True)
def _dummy(monkeypatch: pytest.MonkeyPatch) -> None:
    # Read by libostree's getenv, which sees what Python puts there.
    monkeypatch.setenv("OSTREE_DUMMY_SIGN_ENABLED", "1")


def _detached(key: str, signatures: Sequence[bytes]) -> bytes:
    values = {key: GLib.Variant("aay", signatures)}
    return GLib.Variant("a{sv}", values).get_data_as_bytes().get_data() or b""


def _judge(signatures: Sequence[bytes], keys: Sequence[str]) -> None:
    detached = _detached("ostree.sign.dummy", signatures)
    require_key_signature(_COMMIT, detached, keys, kind="dummy")


def test_signature_by_a_pinned_key_is_enough() -> None:
    _judge([b"mine"], ["mine"])
    _judge([b"another", b"mine"], ["mine"])


@pytest.mark.parametrize("signatures", [[b"another"], [b""], [b"x" * 100_000]])
def test_signature_by_none_of_the_keys_is_refused(signatures: list[bytes]) -> None:
    with pytest.raises(BadSignature, match="no valid signature"):
        _judge(signatures, ["mine"])


def test_commit_without_such_a_signature_is_refused() -> None:
    for detached in (b"", _detached("ostree.gpgsigs", [b"mine"])):
        with pytest.raises(BadSignature, match="not signed by dummy"):
            require_key_signature(_COMMIT, detached, ["mine"], kind="dummy")


def _has_ed25519() -> bool:
    try:
        require_ed25519()
    except MissingRequirement:
        return False
    return True


@pytest.mark.skipif(_has_ed25519(), reason="this libostree has ed25519")
def test_libostree_without_ed25519_is_told() -> None:
    with pytest.raises(MissingRequirement, match="built without ed25519"):
        require_key_signature(_COMMIT, b"", ["key"])


@pytest.mark.skipif(not _has_ed25519(), reason="this libostree has no ed25519")
def test_ed25519_signature_counts_for_its_commit_alone() -> None:
    from base64 import b64encode

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public = b64encode(key.public_key().public_bytes_raw()).decode()
    detached = _detached("ostree.sign.ed25519", [key.sign(_COMMIT)])
    require_key_signature(_COMMIT, detached, [public])
    with pytest.raises(BadSignature):
        require_key_signature(b"another", detached, [public])
