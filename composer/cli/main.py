"""The command line's root: finds a command's file, runs it, turns errors into status and text.

Commands are imported only when they are called, so that ``--help`` and
completion are instant: the table below holds what the help page needs.
"""

from __future__ import annotations

import _thread
import importlib
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

import click

from composer import __version__
from composer.cli.console import Console
from composer.errors import EXIT_INTERRUPTED, ComposerError, UsageError, missing_library

_COMMANDS = {
    # name: (module, attribute, one line for the help page)
    "bundle": ("bundle", "bundle", "One file to update a machine without network from."),
    "check": ("check", "check", "Whether a remote has something new; costs one small file."),
    "compose": ("compose", "compose", "Compose a treefile into an OSTree commit."),
    "deploy": ("deploy", "deploy", "Make a commit what boots next."),
    "diff": ("diff", "diff", "What changed between two commits: packages, advisories, files."),
    "install": ("install", "install", "Make a disk that boots a ref, from a remote or repository."),
    "mirror": ("mirror", "mirror", "The mirror operator's side: serve, sync, verify, keys."),
    "os-init": ("install", "os_init", "Make the place of an operating system in a sysroot."),
    "plan": ("plan", "plan", "What a pull would move, use and write; why it is so."),
    "pull": ("pull", "pull", "Reassemble a commit from its jigdo set and RPM mirrors."),
    "remote": ("remote", "remote", "Where sets come from, and whom to trust: add, list, remove."),
    "repo": ("repo", "repo", "Local repositories: import RPMs, fsck and repair, prune."),
    "rollback": ("deploy", "rollback", "Make the previous deployment what boots next."),
    "set": ("jigdo_set", "jigdo_set", "Jigdo sets: build, inspect, verify."),
    "status": ("status", "status", "What is deployed, and what the next boot changes."),
    "treefile": ("treefile", "treefile", "Parse, flatten and validate a treefile."),
    "undeploy": ("deploy", "undeploy", "Remove a deployment, and what only it needed."),
    "units": ("units", "units", "What a machine runs by itself, for a treefile to include."),
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f"composer.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in sorted(_COMMANDS.items())])


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 error, 2 usage, 3 verification failed, 4 no space, 5 damaged, "
    "6 behind, 75 busy, 77 nothing new, 130 interrupted.  Shell completion: see docs/commands.md.",
)
@click.version_option(__version__, prog_name="jigdo-composer")
@click.option("-v", "--verbose", is_flag=True, help="Say more; tracebacks with errors.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors on standard error.")
@click.pass_context
def cli(ctx: click.Context, verbose: bool, quiet: bool) -> None:
    """Compose RPM packages into OSTree commits, and ship the commits as jigdo sets.

    A jigdo set holds what a client needs, beside RPMs that any ordinary mirror
    carries, to reassemble exactly the same commit, bit for bit.
    """
    ctx.obj = Console(verbose=verbose, quiet=quiet)


def main() -> NoReturn:
    """Entry point of the console script; ends the process with a documented status."""
    console = Console(
        verbose="-v" in sys.argv or "--verbose" in sys.argv, as_json="--json" in sys.argv
    )
    sys.unraisablehook = _unraisable
    sys.excepthook = _uncaught
    try:
        status = cli.main(prog_name="jigdo-composer", standalone_mode=False)
    except ComposerError as error:
        status = console.fail(error)
    except click.exceptions.Abort:
        status = _interrupted(console)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = error.exit_code
    except click.ClickException as error:
        status = console.fail(_from_click(error))
    except KeyboardInterrupt:
        status = _interrupted(console)
    except BrokenPipeError:
        status = 1
    except OSError as error:
        status = console.fail(_from_os(error))
    except ModuleNotFoundError as error:
        status = console.fail(_from_import(error))
    sys.exit(status if isinstance(status, int) else 0)


def _unraisable(said: sys.UnraisableHookArgs) -> None:
    """Python cannot raise Ctrl-C out of a destructor, of which PyGObject has many: do it later.

    A thread does it, for at once it would be raised here, where nobody gets it either.
    """
    if not isinstance(said.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(said)
        return
    with suppress(RuntimeError):  # Python itself is ending
        _thread.start_new_thread(_interrupt_soon, ())


def _interrupt_soon() -> None:
    time.sleep(0.01)
    _thread.interrupt_main()


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Stay silent of Ctrl-C: pycurl prints one that comes as it calls back, and then fails."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


def _interrupted(console: Console) -> int:
    console.say("interrupted; run the same command again to continue")
    return EXIT_INTERRUPTED


def _from_click(error: click.ClickException) -> ComposerError:
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
    return UsageError(
        error.format_message().rstrip("."), hint=f"see: {path or 'jigdo-composer'} --help"
    )


def _from_import(error: ModuleNotFoundError) -> ComposerError:
    library = (error.name or "").partition(".")[0]
    if library in ("", "composer"):
        raise error
    return missing_library(library)


def _from_os(error: OSError) -> ComposerError:
    from pathlib import Path

    from composer.system.files import explained

    told = explained(error, Path(error.filename or "."))
    if isinstance(told, ComposerError):
        return told
    where = f"{error.filename}: " if error.filename else ""
    return ComposerError(f"{where}{error.strerror or error}")
