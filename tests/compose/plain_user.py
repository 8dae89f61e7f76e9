"""Programs as a plain user of this machine who has subordinate ids, or has not.

The user exists in a private copy of /etc only, so that nothing of the machine is changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compose.rpms import needs_root

CHECKOUT = Path(__file__).parents[2]
NAME, NUMBER = "jigdo-plain", 41234
GRANTED = f"{NAME}:700000:65536\n"


@dataclass(frozen=True)
class PlainUser:
    """A user, with a directory of its own; ``home`` can be entered by everybody."""

    home: Path
    etc: Path

    def grant(self, users: str | None, groups: str | None) -> None:
        """Write /etc/subuid and /etc/subgid, or with None have no such file."""
        for name, text in (("subuid", users), ("subgid", groups)):
            path = self.etc / name
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)

    def run(
        self, argv: Sequence[str], *, before: str = "true", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in ``home``; ``before`` is a shell command as root, with mounts."""
        become = ["/usr/bin/setpriv", f"--reuid={NUMBER}", f"--regid={NUMBER}", "--clear-groups"]
        script = f'mount --bind "$0" /etc && {before} && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, str(self.etc), *become]
        variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.home), **env}
        command += ["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in variables.items()), *argv]
        return subprocess.run(command, cwd=self.home, capture_output=True, text=True, check=False)

    def call(
        self, *argv: str, before: str = "true", **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Call this program."""
        command = [sys.executable, "-m", "composer", *argv]
        return self.run(command, before=before, PYTHONPATH=str(CHECKOUT), **env)


@contextmanager
def plain_user() -> Iterator[PlainUser]:
    """Make the user; skips where that cannot be tried."""
    # pytest's own directories can be entered by root alone.
    top = Path(tempfile.mkdtemp(prefix="jigdo-plain-", dir="/var/tmp"))
    try:
        top.chmod(0o755)
        user = PlainUser(top / "home", top / "etc")
        user.home.mkdir()
        os.chown(user.home, NUMBER, NUMBER)
        shutil.copytree("/etc", user.etc, symlinks=True)
        with (user.etc / "passwd").open("a") as stream:
            stream.write(f"{NAME}:x:{NUMBER}:{NUMBER}::{user.home}:/bin/sh\n")
        with (user.etc / "group").open("a") as stream:
            stream.write(f"{NAME}:x:{NUMBER}:\n")
        user.grant(GRANTED, GRANTED)
        tried = user.call("--version")
        if tried.returncode:
            pytest.skip(f"a plain user cannot run this checkout here: {tried.stderr.strip()}")
        yield user
    finally:
        shutil.rmtree(top)


needs_plain_user = [
    needs_root,
    pytest.mark.skipif(shutil.which("newuidmap") is None, reason="needs newuidmap"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv"),
]
