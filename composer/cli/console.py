"""How things look: progress and messages on standard error, results on standard output."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from composer.errors import ComposerError
from composer.progress import Report, Step, silent

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_SECONDS = 2.0


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``: the result as one JSON document, progress as JSON lines."""
    return click.option("--json", "as_json", is_flag=True, help="Report as JSON.")(command)


def plain(text: str) -> str:
    """Make text of others fit for a terminal: what could command one is written out."""
    # Beside escape sequences this also catches characters that reverse what follows them.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Console:
    """What a command says.  One for a process, made by the root command."""

    def __init__(self, *, verbose: bool = False, quiet: bool = False) -> None:
        self.verbose, self.quiet = verbose, quiet

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
        click.echo(f"error: {error.message}", err=True)
        for line in error.details:
            click.echo(f"  {line}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        return error.exit_status

    @contextmanager
    def progress(self, *, as_json: bool = False) -> Iterator[Report]:
        """Show steps while the block runs: bars on a terminal, else lines, as JSON or plain."""
        if self.quiet:
            yield silent
        elif sys.stderr.isatty():
            with _bars() as report:
                yield report
        else:
            yield _Paced(_json_line if as_json else _plain_line)


class _Paced:
    """Passes on the first step of a phase, one every few seconds, and the one that ends it."""

    def __init__(self, show: Report) -> None:
        self._show = show
        self._last: dict[str, float] = {}
        self._ended: set[str] = set()

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        ended = bool(step.total) and step.done >= step.total
        if ended and step.phase in self._ended:
            return
        if not ended and now - self._last.get(step.phase, -_LINE_SECONDS) < _LINE_SECONDS:
            return
        self._last[step.phase] = now
        if ended:
            self._ended.add(step.phase)
        self._show(step)


def _json_line(step: Step) -> None:
    document = {
        "phase": step.phase,
        "done": step.done,
        "total": step.total,
        "unit": step.unit,
        "item": step.item,
    }
    click.echo(json.dumps(document), err=True)


def _plain_line(step: Step) -> None:
    click.echo(f"{step.phase}: {_amount(step)} {step.item}".replace("  ", " ").rstrip(), err=True)


def _amount(step: Step) -> str:
    if step.unit == "bytes":
        done, total = human_bytes(step.done), human_bytes(step.total)
        return f"{done} of {total}" if step.total else done
    if not step.total and not step.done:
        return ""
    return f"{step.done} of {step.total} {step.unit}" if step.total else f"{step.done} {step.unit}"


def human_bytes(count: float) -> str:
    """Format a number of bytes in decimal units: ``41.8 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


@contextmanager
def _bars() -> Iterator[Report]:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[item]}"),
    )
    with Progress(*columns, console=RichConsole(stderr=True)) as progress:
        yield _Bars(progress)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: Step) -> None:
        if step.phase not in self._tasks:
            self._tasks[step.phase] = self._progress.add_task(step.phase, amount="", item="")
        self._progress.update(
            self._tasks[step.phase],
            completed=step.done,
            total=step.total or None,
            amount=_amount(step),
            item=step.item[:48],
        )
