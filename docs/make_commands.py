"""Write docs/commands.md from the commands' own help: ``python docs/make_commands.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from composer.cli.main import cli

INTRODUCTION = """\
# Commands

Made from `--help` by `docs/make_commands.py`; a test keeps it so.

Exit statuses are in [exit-status.md](exit-status.md). Results go to standard output,
progress and messages to standard error; `--json` makes both machine-readable.

Shell completion: `eval "$(_JIGDO_COMPOSER_COMPLETE=bash_source jigdo-composer)"` in
bash (or `zsh_source`, `fish_source`).
"""


def pages(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    """Yield a section for ``command`` and each of its subcommands."""
    context = click.Context(
        command, info_name=path.rsplit(" ", 1)[-1], parent=parent, max_content_width=88
    )
    context.terminal_width = 88
    yield f"## {path}\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from pages(child, f"{path} {name}", context)


def render() -> str:
    """Return the whole document."""
    return "\n".join([INTRODUCTION, *pages(cli, "jigdo-composer", None)])


if __name__ == "__main__":
    (Path(__file__).parent / "commands.md").write_text(render())
