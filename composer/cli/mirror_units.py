"""``jigdo-composer mirror units``: have `mirror refresh` run by a timer."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from composer.cli.config import keys_option, passphrase_option
from composer.cli.console import Console, json_option
from composer.cli.text import plain


@click.command()
@click.argument(
    "repository", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@keys_option(required=True)
@passphrase_option
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where systemd finds them: /etc/systemd/system.",
)
@click.option(
    "--calendar",
    default="daily",
    show_default=True,
    metavar="WHEN",
    help="When to sign, as systemd's OnCalendar= has it.",
)
@click.option("--user", default="", help="Who signs: to whom DIR and the keys belong; root.")
@click.option(
    "--pkcs11",
    "library",
    default="",
    envvar="PYKCS11LIB",
    metavar="FILE",
    help="The PKCS#11 library of the token, where a key is in one.",
)
@click.option(
    "--name",
    default="jigdo-composer-refresh",
    show_default=True,
    help="Name of the units, where there are several trees.",
)
@json_option
@click.pass_obj
def units(
    console: Console,
    repository: Path,
    keys: Path,
    passphrase_file: Path | None,
    output: Path,
    calendar: str,
    user: str,
    library: str,
    name: str,
    as_json: bool,
) -> None:
    """Write a systemd service that runs `mirror refresh DIR`, and its timer.

    `systemctl enable --now NAME.timer` starts it.  The machine needs the keys of timestamp and
    snapshot alone.
    """
    from composer.mirror.refresh_units import RefreshChoices, write_refresh_units

    choices = RefreshChoices(
        repository,
        keys,
        _program(),
        passphrase=passphrase_file,
        user=user,
        library=library,
        calendar=calendar,
        name=name,
    )
    made = write_refresh_units(output, choices)
    if as_json:
        console.json({"files": [str(path) for path in made]})
        return
    for path in made:
        console.result(plain(str(path)))


def _program() -> tuple[str, ...]:
    """Return the words that run this program."""
    path = Path(sys.argv[0]).absolute()
    if path.name == "__main__.py":
        return sys.executable, "-m", "composer"
    return (str(path),)
