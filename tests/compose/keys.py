"""GPG keys and signed RPMs, made while the tests run."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composer.mirror.set_rpm import sign_rpm


class Signer:
    """Keys in a GPG home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def gpg(self, *argv: str, time: str = "") -> bytes:
        """Run gpg there, with the clock at ``time`` (such as 20200101T000000) if one is given."""
        clock = ["--faked-system-time", time] if time else []
        base = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--passphrase", ""]
        command = [*base, "--pinentry-mode", "loopback", *clock, *argv]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def make(
        self,
        name: str,
        *,
        kind: str = "rsa2048",
        usage: str = "sign",
        expires: str = "never",
        time: str = "",
    ) -> str:
        """Make a key for ``name``; returns its fingerprint."""
        user = f"{name} <{name}@example.org>"
        self.gpg("--quick-gen-key", user, kind, usage, expires, time=time)
        listed = self.gpg("--with-colons", "--list-keys", f"{name}@example.org").decode()
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))

    def export(self, name: str, path: Path) -> Path:
        """Write the public key of ``name`` to ``path``, armored."""
        path.write_bytes(self.gpg("--armor", "--export", f"{name}@example.org"))
        return path

    def sign(self, rpm: Path, name: str) -> None:
        """Sign an RPM in place."""
        sign_rpm(rpm, key=f"{name}@example.org", homedir=self.home)

    def sign_file(self, path: Path, name: str) -> None:
        """Write ``path``.asc."""
        user = f"{name}@example.org"
        self.gpg("--yes", "--local-user", user, "--armor", "--detach-sign", str(path))


@contextmanager
def signer() -> Iterator[Signer]:
    """Make an empty GPG home, and end its agent afterwards."""
    # A short path: gpg-agent's socket has to fit into 108 bytes.
    with tempfile.TemporaryDirectory(prefix="gpg-", dir="/tmp") as home:
        try:
            yield Signer(Path(home))
        finally:
            command = ["gpgconf", "--homedir", home, "--kill", "gpg-agent"]
            subprocess.run(command, check=True)
