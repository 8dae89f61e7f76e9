"""The signature of repomd.xml, for dnf with ``repo_gpgcheck``: detached, armoured, by GPG.

A file may have several signatures, and a client that finds one of them good is content.  So
while repomd.xml is replaced, its signature file has those of both.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from composer.system.command import require_program, run

SIGNATURE = "repodata/repomd.xml.asc"
_TITLE = b"PGP SIGNATURE"


@dataclass(frozen=True, slots=True)
class RepomdSigner:
    """Signs with GPG key ``key`` of ``homedir``, by default the user's."""

    key: str
    homedir: Path | None = None

    def sign(self, repomd: Path) -> bytes:
        """Return a signature of the file; raises CommandFailed."""
        argv = [*_gpg(self.homedir), "--local-user", self.key, "--armor", "--detach-sign"]
        return run(
            [*argv, "--output", "-", str(repomd)],
            hint="is the secret key in that GPG home, without a passphrase or with an agent?",
        )


def joined(first: bytes, second: bytes) -> bytes:
    """Put the signatures of two armoured files into one."""
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        gpg = _gpg(Path(home))
        both = b"".join(run([*gpg, "--dearmor"], stdin=one) for one in (first, second))
        armoured = run([*gpg, "--enarmor"], stdin=both)
    lines = [line for line in armoured.splitlines() if not line.startswith(b"Comment: ")]
    return b"\n".join(lines).replace(b"PGP ARMORED FILE", _TITLE) + b"\n"


def _gpg(homedir: Path | None) -> list[str]:
    gpg = [require_program("gpg", package="gnupg"), "--batch", "--quiet", "--no-tty"]
    return [*gpg, "--homedir", str(homedir.resolve())] if homedir else gpg
