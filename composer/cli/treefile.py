"""``jigdo-composer treefile``."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.console import Console, json_option
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.compose.explain import Explanation


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--basearch", default=platform.machine(), show_default=True, help="Architecture of the tree."
)
@click.option("--explain", "key", metavar="KEY", help="Say where the value of KEY comes from.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of treefiles.")
@json_option
@click.pass_obj
def treefile(
    console: Console, file: Path | None, basearch: str, key: str | None, schema: bool, as_json: bool
) -> None:
    """Parse FILE and its includes, validate, and print the flattened treefile."""
    if schema:
        from composer.compose.schema import schema as made

        console.json(made())
        return
    if file is None:
        raise UsageError("which treefile?", hint="jigdo-composer treefile FILE, or --schema")
    if key is not None:
        from composer.compose.explain import explain

        _explain(console, explain(file, key, basearch=basearch), as_json=as_json)
        return
    from composer.compose.document import dump
    from composer.compose.treefile import load

    loaded = load(file, basearch=basearch)
    for warning in loaded.warnings:
        console.warn(warning)
    if as_json:
        console.json(loaded.flattened())
        return
    console.result(dump(loaded.flattened()).rstrip("\n"))


def _explain(console: Console, found: Explanation, *, as_json: bool) -> None:
    if as_json:
        origins = [
            {
                "file": str(origin.file),
                "line": origin.line,
                "key": origin.key,
                "value": origin.value,
                "counts": origin.counts,
            }
            for origin in found.origins
        ]
        console.json({"key": found.key.name, "value": found.value, "origins": origins})
        return
    console.result(f"{found.key.name}: {found.key.merge.value}")
    if found.is_default:
        console.result(f"  no file says it; the default is {found.value!r}")
    for origin in found.origins:
        line = f" (line {origin.line})" if origin.line else ""
        mark = "" if origin.counts else "; overridden"
        console.result(f"  {origin.file}: {origin.key}{line}: {_short(origin.value)}{mark}")


def _short(value: object) -> str:
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    first, *more = text.strip().split("\n")
    return f"{first} ..." if more else first
