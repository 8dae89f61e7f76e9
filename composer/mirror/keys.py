"""An operator's private keys: ed25519 in PEM files, encrypted or not, found by their key id.

Rule kept here: a key is only ever in a file that its owner alone may read, and never
below a directory that is published.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from composer.errors import ComposerError, UsageError
from composer.system.files import write_bytes

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Key

SUFFIX = ".pem"


@dataclass(frozen=True, slots=True)
class KeyDirectory:
    """Private keys, ``NAME.pem`` each.  ``passphrase`` is for those that are encrypted."""

    path: Path
    passphrase: bytes | None = None

    def make(self, name: str) -> Key:
        """Make a key and write it to a file of its own; returns its public half."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            NoEncryption,
            PrivateFormat,
        )
        from securesystemslib.signer import CryptoSigner

        path = self.path / f"{name}{SUFFIX}"
        if path.exists():
            raise UsageError(f"{path}: exists; a key is not written over")
        private = Ed25519PrivateKey.generate()
        hidden = BestAvailableEncryption(self.passphrase) if self.passphrase else NoEncryption()
        data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(path, data, mode=0o600)
        return CryptoSigner(private).public_key

    def free_name(self, role: str) -> str:
        """Return a name for the next key of ``role``: ROLE-1, ROLE-2 and so on."""
        number = 1
        while (self.path / f"{role}-{number}{SUFFIX}").exists():
            number += 1
        return f"{role}-{number}"

    def make_several(self, role: str, count: int) -> list[Key]:
        """Make keys for ``role``, under names that are free."""
        return [self.make(self.free_name(role)) for _ in range(count)]

    def signers(self) -> dict[str, CryptoSigner]:
        """Read all keys, by key id; raises ComposerError for a file that is none."""
        return {
            signer.public_key.keyid: signer
            for path in sorted(self.path.glob(f"*{SUFFIX}"))
            for signer in [self._read(path)]
        }

    def _read(self, path: Path) -> CryptoSigner:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.signer import CryptoSigner

        data = path.read_bytes()
        encrypted = b"ENCRYPTED" in data
        if encrypted and self.passphrase is None:
            raise ComposerError(
                f"{path}: the key is encrypted", hint="--passphrase-file FILE has its passphrase"
            )
        try:
            private = load_pem_private_key(data, self.passphrase if encrypted else None)
        except (ValueError, TypeError) as error:
            raise ComposerError(
                f"{path}: not a private key, or another passphrase",
                details=[str(error)],
                hint="only keys belong there; `mirror keys init` makes them",
            ) from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ComposerError(f"{path}: not an ed25519 key")
        return CryptoSigner(private)


def require_apart(keys: Path, published: Path) -> None:
    """Refuse to keep private keys where they would be published."""
    if keys.resolve().is_relative_to(published.resolve()):
        raise UsageError(
            f"{keys}: private keys must not lie below {published}, which is published",
            hint="keep them elsewhere, those of root and targets best on no machine that is online",
        )


def missing_keys(role: str, lacking: Iterable[str], number: int) -> ComposerError:
    """Make the error for a role of which ``number`` more of the keys ``lacking`` have to sign."""
    return ComposerError(
        f"{role}: cannot be signed with the keys that are here",
        details=[f"{number} more of these key ids: {', '.join(sorted(lacking))}"],
        hint="bring the keys to the directory of --tuf-keys, or do this where they are",
    )
