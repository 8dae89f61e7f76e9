"""``jigdo-composer mirror``: the mirror operator's side."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import click

from composer.cli.console import Console, json_option
from composer.cli.mirror_keys import keys, refresh
from composer.cli.mirror_metalink import metalink
from composer.cli.mirror_prune import pin, prune, tag
from composer.cli.mirror_publish import publish
from composer.cli.mirror_simulate import simulate
from composer.cli.mirror_site import site
from composer.cli.mirror_sync import sync
from composer.cli.mirror_units import units
from composer.cli.mirror_verify import verify


@click.group()
def mirror() -> None:
    """The mirror operator's side."""


mirror.add_command(keys)
mirror.add_command(metalink)
mirror.add_command(pin)
mirror.add_command(prune)
mirror.add_command(publish)
mirror.add_command(refresh)
mirror.add_command(site)
mirror.add_command(simulate)
mirror.add_command(sync)
mirror.add_command(tag)
mirror.add_command(units)
mirror.add_command(verify)


@mirror.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes any that is free.",
)
@click.option(
    "--access-log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append a line per request: method, path, status, bytes sent.",
)
@json_option
@click.pass_obj
def serve(
    console: Console,
    directory: Path,
    host: str,
    port: int,
    access_log: Path | None,
    as_json: bool,
) -> None:
    """Serve DIRECTORY over HTTP, with ranges, until Ctrl-C.

    When connections are accepted, one line with the URL is printed on standard
    output (with --json, one JSON object).
    """
    from composer.mirror.serve import is_loopback
    from composer.mirror.serve import serve as serve_directory

    def ready(url: str) -> None:
        document = {"directory": str(directory), "url": url}
        console.result(json.dumps(document) if as_json else f"serving {directory} at {url}")

    if not is_loopback(host):
        console.warn(f"everybody who reaches {host} can read {directory}")
    with ExitStack() as stack:
        log = stack.enter_context(access_log.open("a")) if access_log else None
        serve_directory(directory, host=host, port=port, access_log=log, ready=ready)
