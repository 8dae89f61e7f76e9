"""Public GPG keys from files: one binary keyring, and the fingerprints of what is in it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from composer.errors import CommandFailed, UsageError
from composer.system.command import require_program, run


def read_keys(files: Sequence[Path]) -> tuple[bytes, tuple[str, ...]]:
    """Return a keyring of the keys in ``files``, and the fingerprints of its primary keys.

    Raises UsageError for a file with none.
    """
    if not files:
        return b"", ()
    require_program("gpg", package="gnupg")
    with tempfile.TemporaryDirectory(prefix="jigdo-keys.") as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--no-autostart"]
        for key in files:
            try:
                run([*gpg, "--import", str(key.resolve())])
            except CommandFailed as error:
                raise UsageError(f"{key}: no GPG key in it", details=error.details) from error
        listing = run([*gpg, "--with-colons", "--list-keys"]).decode()
        return run([*gpg, "--export"]), tuple(_fingerprints(listing))


def _fingerprints(listing: str) -> Iterable[str]:
    primary = False
    for line in listing.splitlines():
        fields = line.split(":")
        if fields[0] in ("pub", "sub"):
            primary = fields[0] == "pub"
        elif fields[0] == "fpr" and primary:
            yield fields[9]
            primary = False
