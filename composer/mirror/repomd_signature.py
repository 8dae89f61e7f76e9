"""The signature of repomd.xml, for dnf with ``repo_gpgcheck``: detached, armoured, by GPG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from composer.system.command import require_program, run

SIGNATURE = "repodata/repomd.xml.asc"


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


def _gpg(homedir: Path | None) -> list[str]:
    gpg = [require_program("gpg", package="gnupg"), "--batch", "--quiet", "--no-tty"]
    return [*gpg, "--homedir", str(homedir.resolve())] if homedir else gpg
