"""How GPG signatures stand, by keys that need not be there, and the keys that are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gi.repository import GLib

from composer.errors import UsageError
from composer.ostree.keyring import read_keys
from composer.ostree.repo import Repository
from composer.ostree.signature import BadSignature, SignatureState, signature_states
from tests.client.published import Gpg

_COMMIT = b"a commit object"


@pytest.fixture(scope="module")
def gpg() -> Iterator[Gpg]:
    with Gpg.home() as home:
        yield home


def _signed(gpg: Gpg, key: str, place: Path, *, data: bytes = _COMMIT) -> bytes:
    """Detached metadata with a signature over ``data``."""
    (place / "data").write_bytes(data)
    words = ["--yes", "--local-user", key, "--faked-system-time", "1700000000!"]
    gpg.run(*words, "--output", place / "signature", "--detach-sign", place / "data")
    values = {"ostree.gpgsigs": GLib.Variant("aay", [(place / "signature").read_bytes()])}
    return GLib.Variant("a{sv}", values).get_data_as_bytes().get_data() or b""


def _states(detached: bytes, keyring: bytes, place: Path) -> list[SignatureState]:
    repo = Repository.create(place / "repo", mode="archive")
    (place / "ring.gpg").write_bytes(keyring)
    return signature_states(repo, _COMMIT, detached, keyring=place / "ring.gpg")


def _key(gpg: Gpg, name: str) -> str:
    # Made before it signs, by the clock that it signs by.
    address = f"{name} <{name}@example.org>"
    words = ["--passphrase", "", "--faked-system-time", "1600000000!"]
    gpg.run(*words, "--quick-gen-key", address, "ed25519", "sign", "never")
    listing = gpg.run("--list-keys", "--with-colons", address)
    return next(row.split(":")[9] for row in listing.splitlines() if row.startswith("fpr"))


def test_a_signature_is_good_wrong_or_by_an_unknown_key(gpg: Gpg, tmp_path: Path) -> None:
    key, other = _key(gpg, "publisher"), _key(gpg, "other")
    ring, fingerprints = read_keys([gpg.export(key, tmp_path / "key.gpg")])
    assert fingerprints == (key,)
    for place in ("good", "unknown", "wrong", "none"):
        (tmp_path / place).mkdir()
    detached = _signed(gpg, key, tmp_path)
    assert _states(detached, ring, tmp_path / "good") == [
        SignatureState(key, 1_700_000_000, "good")
    ]
    [unknown] = _states(_signed(gpg, other, tmp_path), ring, tmp_path / "unknown")
    assert (unknown.state, other.endswith(unknown.key)) == ("unknown", True)
    [wrong] = _states(_signed(gpg, key, tmp_path, data=b"other"), ring, tmp_path / "wrong")
    assert (wrong.state, wrong.key) == ("wrong", key)
    assert _states(b"", ring, tmp_path / "none") == []


def test_without_keys_every_signature_is_by_an_unknown_one(gpg: Gpg, tmp_path: Path) -> None:
    key = _key(gpg, "nobody")
    [found] = _states(_signed(gpg, key, tmp_path), b"", tmp_path)
    assert found.state == "unknown"


def test_what_is_no_signature_is_refused(tmp_path: Path) -> None:
    values = {"ostree.gpgsigs": GLib.Variant("aay", [b"nonsense"])}
    detached = GLib.Variant("a{sv}", values).get_data_as_bytes().get_data() or b""
    with pytest.raises(BadSignature, match="cannot be checked"):
        _states(detached, b"", tmp_path)


def test_a_secret_key_and_what_is_no_key_are_refused(gpg: Gpg, tmp_path: Path) -> None:
    gpg.run("--output", tmp_path / "secret", "--export-secret-keys", _key(gpg, "careless"))
    (tmp_path / "none").write_text("no key")
    for name in ("secret", "none"):
        with pytest.raises(UsageError, match="no GPG key"):
            read_keys([tmp_path / name])
    assert read_keys([]) == (b"", ())
