"""``jigdo-composer check``: is there something new?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.config import config_dir_option, waiver_options
from composer.cli.console import Console, json_option
from composer.cli.network import limit_rate_option, limited
from composer.cli.text import plain
from composer.errors import EXIT_NOTHING_NEW

if TYPE_CHECKING:
    from composer.client import Checked, Waivers


@click.command()
@click.argument("ref", metavar="[REMOTE:]REF")
@click.option("--repo", "repository", required=True, type=click.Path(path_type=Path))
@waiver_options
@limit_rate_option
@config_dir_option
@json_option
@click.pass_obj
def check(
    console: Console,
    ref: str,
    repository: Path,
    waivers: Waivers,
    limit_rate: str | None,
    config_dir: Path | None,
    as_json: bool,
) -> None:
    """Say whether a pull would bring something new for REF.

    The exit status is 0 when there is something new, 77 when not, and as for `pull`
    when the remote cannot be asked or is not to be believed.
    """
    from composer.client import Repository, find_remote
    from composer.client import check as check_ref

    name, _, wanted = ref.rpartition(":")
    remote = limited(find_remote(name or None, config_dir), limit_rate)
    found = check_ref(remote, wanted, Repository.open(repository), waivers=waivers)
    _show(console, found, as_json=as_json)
    if not found.new:
        raise click.exceptions.Exit(EXIT_NOTHING_NEW)


def _show(console: Console, found: Checked, *, as_json: bool) -> None:
    entry, statement = found.newest.entry, found.newest.statement
    if as_json:
        console.json(_document(found))
    elif found.new:
        day = f"{datetime.fromtimestamp(entry.timestamp, UTC):%Y-%m-%d}"
        console.result(plain(f"{entry.ref}: new: {entry.version} of {day}, {entry.commit}"))
    else:
        console.result(plain(f"{entry.ref}: nothing newer than {entry.version} {entry.commit}"))
    if statement is not None and statement.clock_behind:
        console.warn(
            "this machine's clock is before the time of the commit; so nobody can tell whether "
            "something newer is held back.  Set the clock"
        )


def _document(found: Checked) -> dict[str, Any]:
    entry, statement = found.newest.entry, found.newest.statement
    return {
        "ref": entry.ref,
        "new": found.new,
        "version": entry.version,
        "commit": str(entry.commit),
        "timestamp": entry.timestamp,
        "here": str(found.here) if found.here else None,
        "signed": statement is not None,
        "mirror": statement.mirror if statement else None,
        "expires": statement.expires.isoformat() if statement else None,
        "clock_behind": statement.clock_behind if statement else None,
        "moved": {"bytes": found.bytes, "requests": found.requests},
    }
