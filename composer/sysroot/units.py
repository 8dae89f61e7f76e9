"""What a machine runs by itself: health check after boot, look for updates, as systemd units.

They are files for a treefile to add, rendered from templates.  The health check needs
nothing of this program in the tree; the update does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from composer.errors import UsageError
from composer.system.files import write_bytes
from composer.system.templates import render

TREEFILE = "units.yaml"

_UNITS = "/usr/lib/systemd/system"
_PROGRAMS = "/usr/libexec/jigdo-composer"
_HEALTH, _TIMER = "jigdo-composer-health.service", "jigdo-composer-update.timer"
_UPDATE = "jigdo-composer-update.service"
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:+-]*\Z")
_CALENDAR = re.compile(r"[A-Za-z0-9 *,:./~_-]+\Z")


@dataclass(frozen=True, slots=True)
class Choices:
    """``update``: [REMOTE:]REF that is looked for, by default none; ``calendar`` as systemd has it.

    ``check_seconds`` is what each health check may take, ``after`` the units it waits for.
    """

    update: str = ""
    calendar: str = "daily"
    check_seconds: int = 60
    after: str = "multi-user.target"


def write_units(directory: Path, choices: Choices) -> tuple[Path, ...]:
    """Write the files, and a treefile that adds and enables them; it comes last.

    Raises UsageError for a ref or a time that cannot be written into them.
    """
    if choices.update and not _REF.match(choices.update):
        raise UsageError(f"{choices.update!r}: not a ref", hint="REMOTE:REF")
    for text in (choices.calendar, choices.after):
        if not _CALENDAR.match(text):
            raise UsageError(f"{text!r}: cannot be written into a unit")
    health = render("health-check.sh.j2", check_seconds=choices.check_seconds)
    service = render(f"{_HEALTH}.j2", after=choices.after)
    made = [
        ("health-check", f"{_PROGRAMS}/health-check", health),
        (_HEALTH, f"{_UNITS}/{_HEALTH}", service),
        _wanted("multi-user.target", _HEALTH),
    ]
    if choices.update:
        script = render("update.sh.j2", ref=choices.update)
        made += [
            ("update", f"{_PROGRAMS}/update", script),
            (_UPDATE, f"{_UNITS}/{_UPDATE}", render(f"{_UPDATE}.j2", health=_HEALTH)),
            (_TIMER, f"{_UNITS}/{_TIMER}", render(f"{_TIMER}.j2", calendar=choices.calendar)),
            _wanted("timers.target", _TIMER),
        ]
    for name, target, text in made:
        mode = 0o755 if target.startswith(_PROGRAMS) else 0o644
        write_bytes(directory / name, text.encode(), mode=mode)
    files = [(name, target) for name, target, _ in made]
    write_bytes(directory / TREEFILE, render(f"{TREEFILE}.j2", files=files).encode())
    return tuple(directory / name for name in (*(name for name, _ in files), TREEFILE))


def _wanted(target: str, unit: str) -> tuple[str, str, str]:
    """Have ``target`` want a unit, in /usr: with `machineid-compat: false` there is no `units`."""
    name = f"{target.partition('.')[0]}-jigdo-composer.conf"
    place = f"{_UNITS}/{target}.d/jigdo-composer.conf"
    return name, place, render("wanted.conf.j2", unit=unit)
