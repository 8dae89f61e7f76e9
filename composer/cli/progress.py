"""How progress looks: bars on a terminal, else lines, plain or as JSON (docs/events.md)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from composer.cli.text import human_bytes, human_seconds, plain
from composer.progress import Step

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from composer.client import Event, Progress

Show = Callable[["Event"], None]

_LINE_SECONDS = 2.0
# What is in the progress of the whole already.
_WITHIN = ("packages", "content", "import")


@contextmanager
def shown(*, quiet: bool, as_json: bool, whole: bool) -> Iterator[Show]:
    """Show events while the block runs; ``whole`` shows one progress instead of each phase's."""
    if quiet:
        yield lambda event: None
    elif sys.stderr.isatty():
        with _bars(whole=whole) as show:
            yield show
    elif as_json:
        yield _Paced(_json_line)
    else:
        yield _Paced(_whole_line if whole else _plain_line)


class _Paced:
    """Passes on the first step of a phase, one every few seconds, and the one that ends it."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._last: dict[str, float] = {}
        self._ended: set[str] = set()

    def __call__(self, event: Event) -> None:
        name, done, total = _measure(event)
        if not name:
            self._show(event)
            return
        now = time.monotonic()
        ended = bool(total) and done >= total
        if ended and name in self._ended:
            return
        if not ended and now - self._last.get(name, -_LINE_SECONDS) < _LINE_SECONDS:
            return
        self._last[name] = now
        if ended:
            self._ended.add(name)
        self._show(event)


def _measure(event: Event) -> tuple[str, float, float]:
    """Give what is told in paces: a name, how much is done, and of how much."""
    if isinstance(event, Step):
        return event.phase, event.done, event.total
    fraction = getattr(event, "fraction", None)
    return ("", 0, 0) if fraction is None else ("\0whole", fraction, 1.0)


def _json_line(event: Event) -> None:
    from composer.cli.events import document

    click.echo(json.dumps(document(event)), err=True)


def _whole_line(event: Event) -> None:
    if isinstance(event, Step):
        if event.phase not in _WITHIN:
            _plain_line(event)
    elif _measure(event)[0]:
        click.echo(_whole_text(event), err=True)


def _whole_text(event: Any) -> str:
    told: Progress = event
    left = "" if told.seconds_left is None else f", about {human_seconds(told.seconds_left)} left"
    if told.fraction >= 1:
        left = ""
    return f"{human_bytes(told.done)} of {human_bytes(told.total)} moved, {told.fraction:.0%}{left}"


def _plain_line(event: Event) -> None:
    if isinstance(event, Step):
        text = f"{event.phase}: {_amount(event)} {event.item}".replace("  ", " ").rstrip()
        click.echo(plain(text), err=True)


def _amount(step: Step) -> str:
    if step.unit == "bytes":
        done, total = human_bytes(step.done), human_bytes(step.total)
        return f"{done} of {total}" if step.total else done
    if not step.total and not step.done:
        return ""
    return f"{step.done} of {step.total} {step.unit}" if step.total else f"{step.done} {step.unit}"


@contextmanager
def _bars(*, whole: bool) -> Iterator[Show]:
    from rich.console import Console as RichConsole

    bars = _Whole if whole else _Phases
    made = bars(RichConsole(stderr=True))
    try:
        yield made
    finally:
        made.stop()


class _Phases:
    """A bar per phase."""

    def __init__(self, console: RichConsole) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress: RichProgress = Progress(
            TextColumn("{task.description:12}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[item]}", markup=False),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def stop(self) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Step):
            return
        if event.phase not in self._tasks:
            self._tasks[event.phase] = self._progress.add_task(event.phase, amount="", item="")
        self._progress.update(
            self._tasks[event.phase],
            completed=event.done,
            total=event.total or None,
            amount=_amount(event),
            item=plain(event.item[:48]),
        )


class _Whole:
    """What is being looked at; then one bar for all that is moved and written."""

    def __init__(self, console: RichConsole) -> None:
        self._console = console
        self._progress: RichProgress | None = None
        self._task: TaskID | None = None

    def stop(self) -> None:
        """Leave the terminal to others; the next event begins anew."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None

    def __call__(self, event: Event) -> None:
        from composer.client import PullPlan, Replanned

        if isinstance(event, Step):
            if self._task is None and event.phase not in _WITHIN:
                self._update(None, f"{event.phase} {event.item}")
        elif isinstance(event, PullPlan):
            self.stop()  # a question may follow
        elif not isinstance(event, Replanned):
            left = event.seconds_left
            text = f"{human_bytes(event.done)} of {human_bytes(event.total)}"
            self._update(event.fraction, text if left is None else f"{text}, {human_seconds(left)}")

    def _update(self, fraction: float | None, text: str) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        if self._progress is None:
            words = TextColumn("{task.description}", markup=False)
            columns = (SpinnerColumn(), words) if fraction is None else (BarColumn(), words)
            transient = fraction is None
            self._progress = Progress(*columns, console=self._console, transient=transient)
            self._progress.start()
        if self._task is None:
            self._task = self._progress.add_task("", total=1.0)
        self._progress.update(self._task, completed=fraction or 0.0, description=plain(text[:70]))
