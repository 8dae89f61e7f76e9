"""An operator's private keys, found by their key id: in PEM files, in GPG, or in a token.

``NAME.pem`` is an ed25519 key, encrypted or not.  ``NAME.key.json`` names one that is elsewhere, a
GPG agent's or one of a PKCS#11 token, by its URI, and has its public half; securesystemslib
signs with it.

Rule kept here: a key is only ever in a file that its owner alone may read, and never
below a directory that is published.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlparse

from composer.errors import ComposerError, FormatError, MissingRequirement, UsageError
from composer.system.files import write_bytes

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, Key, Signer
    from tuf.api.metadata import Metadata

SUFFIX = ".pem"
NAMED = ".key.json"
_SCHEMES = "gnupg:FINGERPRINT[?homedir=DIR] or hsm:NUMBER[?label=TOKEN]"


@dataclass(frozen=True, slots=True)
class KeyDirectory:
    """Private keys.  ``passphrase`` is for those that are encrypted, or a token's PIN."""

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

        path = self._free(name, SUFFIX)
        private = Ed25519PrivateKey.generate()
        hidden = BestAvailableEncryption(self.passphrase) if self.passphrase else NoEncryption()
        data = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(path, data, mode=0o600)
        return CryptoSigner(private).public_key

    def take(self, name: str, uri: str) -> Key:
        """Take note of a key of GPG or of a PKCS#11 token; returns its public half.

        Raises UsageError for another kind of URI, ComposerError where there is no such key.
        """
        path = self._free(name, NAMED)
        address, key = self._import(uri)
        document = {"uri": address, "keyid": key.keyid, "key": key.to_dict()}
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(document, indent=1, sort_keys=True)
        write_bytes(path, f"{text}\n".encode(), mode=0o600)
        return key

    def _import(self, uri: str) -> tuple[str, Key]:
        from securesystemslib.signer import GPGSigner, HSMSigner

        parsed = urlparse(uri)
        options = {name: values[-1] for name, values in parse_qs(parsed.query).items()}
        if parsed.scheme == "gnupg" and parsed.path and options.keys() <= {"homedir"}:
            with _explained(uri):
                return GPGSigner.import_(parsed.path, options.get("homedir"))
        if parsed.scheme == "hsm" and parsed.path.isdecimal() and options.keys() <= {"label"}:
            with _explained(uri):
                return HSMSigner.import_(int(parsed.path), options.get("label"), self._pin)
        raise UsageError(f"{uri}: not the URI of a key", hint=_SCHEMES)

    def _free(self, name: str, suffix: str) -> Path:
        taken = [one for one in (SUFFIX, NAMED) if (self.path / f"{name}{one}").exists()]
        if taken:
            raise UsageError(f"{self.path / name}{taken[0]}: exists; a key is not written over")
        return self.path / f"{name}{suffix}"

    def _pin(self, secret: str) -> str:
        if self.passphrase is None:
            raise ComposerError(
                f"{self.path}: a key of a token needs its {secret}",
                hint="--passphrase-file FILE has it",
            )
        return self.passphrase.decode()

    def free_name(self, role: str) -> str:
        """Return a name for the next key of ``role``: ROLE-1, ROLE-2 and so on."""
        number = 1
        while any((self.path / f"{role}-{number}{one}").exists() for one in (SUFFIX, NAMED)):
            number += 1
        return f"{role}-{number}"

    def make_several(self, role: str, count: int) -> list[Key]:
        """Make keys for ``role``, under names that are free."""
        return [self.make(self.free_name(role)) for _ in range(count)]

    def first(self, role: str, count: int, taken: Sequence[str]) -> list[Key]:
        """Take keys that are elsewhere for ``role``, and make others, until there are so many."""
        found = [self.take(self.free_name(role), uri) for uri in taken]
        return [*found, *self.make_several(role, count - len(found))]

    def signers(self) -> dict[str, Signer]:
        """Read all keys, by key id; raises ComposerError for a file that is none."""
        found: list[Signer] = [self._read(path) for path in sorted(self.path.glob(f"*{SUFFIX}"))]
        found += [self._named(path) for path in sorted(self.path.glob(f"*{NAMED}"))]
        return {signer.public_key.keyid: signer for signer in found}

    def _named(self, path: Path) -> Signer:
        from securesystemslib.signer import Key, Signer

        try:
            document = json.loads(path.read_bytes())
            key = Key.from_dict(document["keyid"], document["key"])
            uri = str(document["uri"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ComposerError(
                f"{path}: does not name a key",
                details=[str(error)],
                hint="only keys belong there; `mirror keys new --from URI` writes such a file",
            ) from error
        with _explained(uri):
            return Signer.from_priv_key_uri(uri, key, self._pin)

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


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Say of a key that is elsewhere what securesystemslib found wrong."""
    from securesystemslib.exceptions import Error, UnsupportedLibraryError

    try:
        yield
    except UnsupportedLibraryError as error:
        raise MissingRequirement(
            f"{what}: {error}",
            hint="keys in GPG need gpg, those in tokens the extra `hsm`: docs/install.md",
        ) from error
    except ComposerError:
        raise
    except (Error, ValueError, OSError, KeyError) as error:
        raise ComposerError(
            f"{what}: cannot be used: {str(error).strip() or type(error).__name__}",
            hint="for GPG: is the secret key there, and its agent unlocked?  For a token: is the "
            "PIN right, and does $PYKCS11LIB name the token's PKCS#11 library?",
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "pkcs11":
            raise
        raise ComposerError(
            f"{what}: the token refuses: {type(error).__name__} {error}".rstrip(),
            hint="is the PIN in --passphrase-file right?",
        ) from error


def sign_with(metadata: Metadata[Any], signer: Signer) -> None:
    """Add a signature; raises ComposerError where the key cannot be used."""
    from tuf.api.exceptions import UnsignedMetadataError

    with _explained(f"key {signer.public_key.keyid}"):
        try:
            metadata.sign(signer, append=True)
        except UnsignedMetadataError as error:
            raise error.__cause__ or error from None


def dump_public(key: Key) -> bytes:
    """Write the public half of a key."""
    document = {"keyid": key.keyid, "key": key.to_dict()}
    return f"{json.dumps(document, indent=1, sort_keys=True)}\n".encode()


def read_public(path: Path) -> Key:
    """Read the public half of a key; raises FormatError for another file."""
    from securesystemslib.signer import Key

    try:
        document = json.loads(path.read_bytes())
        return Key.from_dict(str(document["keyid"]), document["key"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path}: not the public half of a key", hint="`mirror keys new --public` writes one"
        ) from error


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
