"""How things look: progress and messages on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

from composer.errors import ComposerError

if TYPE_CHECKING:
    from composer.client import Event


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``: the result as one JSON document, progress as JSON lines."""
    return click.option("--json", "as_json", is_flag=True, help="Report as JSON.")(command)


class Console:
    """What a command says.  One for a process, made by the root command."""

    def __init__(
        self, *, verbose: bool = False, quiet: bool = False, as_json: bool = False
    ) -> None:
        self.verbose, self.quiet, self.as_json = verbose, quiet, as_json

    def say(self, text: str) -> None:
        """Tell the person something, on standard error; silent with ``--quiet``."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Tell the person of something that needs care; not silenced by ``--quiet``."""
        click.echo(f"warning: {text}", err=True)

    def result(self, text: str) -> None:
        """Print a result on standard output."""
        click.echo(text)

    def json(self, document: object) -> None:
        """Print a result as JSON on standard output, with sorted keys."""
        click.echo(json.dumps(document, indent=2, sort_keys=True))

    def json_stream(
        self, document: Mapping[str, object], name: str, rows: Iterable[object] | None
    ) -> None:
        """Print ``document`` as JSON, and in it, as ``name``, rows of which each is printed
        as it comes; None for no such member.
        """
        text = json.dumps(document, indent=2, sort_keys=True).removesuffix("\n}")
        if rows is not None:
            text += f',\n  "{name}": ['
            separator = "\n    "
            for row in rows:
                click.echo(f"{text}{separator}{json.dumps(row, sort_keys=True)}", nl=False)
                text, separator = "", ",\n    "
            text += "\n  ]"
        click.echo(f"{text}\n}}")

    def fail(self, error: ComposerError) -> int:
        """Print ``error`` with its details and hint; returns its exit status."""
        if self.verbose:
            traceback.print_exception(error, file=sys.stderr)
        if self.as_json:
            from composer.cli.events import error_document

            click.echo(json.dumps(error_document(error)), err=True)
        click.echo(f"error: {error.message}", err=True)
        for line in error.details:
            click.echo(f"  {line}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        return error.exit_status

    def progress(
        self, *, as_json: bool = False, whole: bool = False
    ) -> AbstractContextManager[Callable[[Event], None]]:
        """Show what happens while the block runs (composer.cli.progress).

        ``whole`` shows one progress of everything instead of each phase's.
        """
        from composer.cli.progress import shown

        return shown(quiet=self.quiet, as_json=as_json, whole=whole)
