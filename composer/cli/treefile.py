"""``jigdo-composer treefile``."""

from __future__ import annotations

import platform
from pathlib import Path

import click

from composer.cli.console import Console, json_option


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--basearch", default=platform.machine(), show_default=True, help="Architecture of the tree."
)
@json_option
@click.pass_obj
def treefile(console: Console, file: Path, basearch: str, as_json: bool) -> None:
    """Parse FILE and its includes, validate, and print the flattened treefile."""
    from composer.compose.treefile import load

    loaded = load(file, basearch=basearch)
    for warning in loaded.warnings:
        console.warn(warning)
    flattened = loaded.flattened()
    if as_json:
        console.json(flattened)
        return
    import yaml

    text = yaml.safe_dump(flattened, sort_keys=False, allow_unicode=True)
    console.result(text.rstrip("\n"))
