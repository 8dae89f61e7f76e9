"""`mirror refresh` by a timer: units for the machine with the keys of timestamp and snapshot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from composer.errors import UsageError
from composer.system.files import write_bytes
from composer.system.templates import render

_CALENDAR = re.compile(r"[A-Za-z0-9 *,:./~_-]+\Z")
_PATH = re.compile(r"/[A-Za-z0-9_.,:@+/-]*\Z")
_PROGRAM = re.compile(r"/[A-Za-z0-9_.,:@+/ -]*\Z")
_USER = re.compile(r"[a-z_][a-z0-9_-]*\Z")
_UNIT = re.compile(r"[A-Za-z0-9_.-]+\Z")


@dataclass(frozen=True, slots=True)
class RefreshChoices:
    """What runs: ``program``, its words, for ``directory``, with the keys at ``keys``.

    ``user`` is who runs it, by default root; ``library`` the PKCS#11 one of a token, if a key
    is in one; ``calendar`` as systemd has it.
    """

    directory: Path
    keys: Path
    program: tuple[str, ...]
    passphrase: Path | None = None
    user: str = ""
    library: str = ""
    calendar: str = "daily"
    name: str = "jigdo-composer-refresh"


def write_refresh_units(into: Path, choices: RefreshChoices) -> tuple[Path, Path]:
    """Write a service and the timer that starts it; returns both.

    Raises UsageError for what cannot be written into a unit.
    """
    values = {
        "directory": str(choices.directory.absolute()),
        "keys": str(choices.keys.absolute()),
        "program": " ".join(choices.program),
        "passphrase": str(choices.passphrase.absolute()) if choices.passphrase else "",
        "user": choices.user,
        "library": choices.library,
    }
    for name, pattern in (
        *((name, _PATH) for name in ("directory", "keys", "passphrase", "library")),
        ("program", _PROGRAM),
        ("user", _USER),
    ):
        if values[name] and not pattern.match(values[name]):
            raise UsageError(
                f"{values[name]!r}: cannot be written into a unit",
                hint="letters, digits and / . , : @ + _ - in a path",
            )
    if not _CALENDAR.match(choices.calendar) or not _UNIT.match(choices.name):
        raise UsageError(f"{choices.calendar!r}, {choices.name!r}: cannot be written into a unit")
    service, timer = into / f"{choices.name}.service", into / f"{choices.name}.timer"
    write_bytes(service, render("jigdo-composer-refresh.service.j2", **values).encode())
    text = render(
        "jigdo-composer-refresh.timer.j2",
        calendar=choices.calendar,
        directory=values["directory"],
    )
    write_bytes(timer, text.encode())
    return service, timer
