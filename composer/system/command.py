"""Other programs, always as argument lists, always through :func:`run`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from composer.errors import CommandFailed, MissingRequirement

# What a program may not learn from whoever called us: it would get into bytes on disk.
_LOCALE = {"LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "TZ": "UTC"}


def require_program(name: str, *, package: str, fedora: str = "") -> str:
    """Return the path of program ``name``; raises MissingRequirement naming ``package``.

    ``fedora`` is the package's name there, if it is another.
    """
    found = shutil.which(name)
    if found is None:
        raise MissingRequirement(
            f"the program {name} is not installed",
            hint=f"install it: apt-get install {package}, or dnf install {fedora or package}",
        )
    return found


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    hint: str = "",
) -> bytes:
    """Run ``argv`` to its end and return its standard output.

    Locale and time zone are fixed; ``env`` adds to the environment.  Raises
    CommandFailed with the quoted command and its last lines when it fails.
    """
    done = subprocess.run(
        list(argv),
        cwd=cwd,
        env={**os.environ, **_LOCALE, **(env or {})},
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        output = (done.stdout + done.stderr).decode(errors="replace")
        raise CommandFailed(argv=list(argv), status=done.returncode, output=output, hint=hint)
    return done.stdout
