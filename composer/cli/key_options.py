"""What the commands about keys share: their arguments, and what they tell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.config import key_directory
from composer.cli.console import Console

if TYPE_CHECKING:
    from composer.mirror.keys import KeyDirectory
    from composer.mirror.rotation import Change
    from composer.mirror.trust import Refreshed

REPOSITORY = click.argument(
    "repository",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
URIS = "gnupg:FINGERPRINT[?homedir=DIR], or hsm:NUMBER[?label=TOKEN]"


def opened_keys(keys: Path, passphrase_file: Path | None) -> KeyDirectory:
    found = key_directory(keys, passphrase_file)
    assert found is not None
    return found


def tell_change(
    console: Console, change: Change, refreshed: Refreshed | None, *, as_json: bool
) -> None:
    if as_json:
        document: dict[str, Any] = {
            "added": list(change.added),
            "removed": list(change.removed),
            "waiting": str(change.waiting) if change.waiting else None,
            "lacking": change.lacking,
        }
        console.json(document | (refreshed_document(refreshed) if refreshed else {}))
        return
    for key in change.added:
        console.result(f"new key {key}")
    for key in change.removed:
        console.result(f"old key {key}")
    if refreshed:
        show_refreshed(console, refreshed)
    else:
        console.result(f"{change.waiting} needs {change.lacking} more signatures")
        console.say("nothing was published: `mirror keys sign` it, then `mirror keys adopt` it")


def show_refreshed(console: Console, refreshed: Refreshed) -> None:
    for role, version in refreshed.signed.items():
        console.result(f"signed {role} {version}")
    console.result(f"holds until {refreshed.expires:%Y-%m-%d %H:%M} UTC")
    if refreshed.due:
        console.warn(f"to be signed soon, with keys that are not here: {', '.join(refreshed.due)}")


def refreshed_document(refreshed: Refreshed) -> dict[str, Any]:
    return {
        "signed": dict(refreshed.signed),
        "expires": refreshed.expires.isoformat(),
        "due": list(refreshed.due),
    }
