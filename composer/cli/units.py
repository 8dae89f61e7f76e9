"""``jigdo-composer units``: what a machine runs by itself, for a treefile to include."""

from __future__ import annotations

from pathlib import Path

import click

from composer.cli.console import Console, json_option
from composer.cli.text import plain


@click.command()
@click.option(
    "--output",
    "directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Beside or below the treefile that is to include them.",
)
@click.option(
    "--update", default="", metavar="[REMOTE:]REF", help="Look for it by itself, and stage it."
)
@click.option(
    "--calendar",
    default="daily",
    show_default=True,
    metavar="WHEN",
    help="When to look, as systemd's OnCalendar= has it.",
)
@click.option(
    "--check-seconds",
    default=60,
    show_default=True,
    type=click.IntRange(1, 3600),
    help="What each health check may take.",
)
@click.option(
    "--after",
    default="multi-user.target",
    show_default=True,
    metavar="UNITS",
    help="What the health check waits for.",
)
@json_option
@click.pass_obj
def units(
    console: Console,
    directory: Path,
    update: str,
    calendar: str,
    check_seconds: int,
    after: str,
    as_json: bool,
) -> None:
    """Write systemd units, and a treefile that adds them to a tree.

    A health check runs the executables of health.d after each boot; when one fails in a
    deployment that has not been good yet, it boots the previous one.  With --update, a timer
    pulls what is new and stages it.  `include: DIR/units.yaml` adds all of it.
    """
    from composer.sysroot.units import Choices, write_units

    made = write_units(directory, Choices(update, calendar, check_seconds, after))
    if as_json:
        console.json({"treefile": str(made[-1]), "files": [str(path) for path in made]})
        return
    for path in made:
        console.result(plain(str(path)))
