"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.text import plain
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.cli.console import Console
    from composer.mirror.keys import KeyDirectory
    from composer.mirror.making import MadeSet
    from composer.ostree.locking import Holder


def _default_cachedir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jigdo-composer"


config_dir_option = click.option(
    "--config-dir",
    envvar="JIGDO_COMPOSER_CONFIG",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where remotes are kept, instead of the system's and the user's directories.",
)


def waiver_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that let something pass, once; the command gets ``waivers`` of them."""

    @wraps(command)
    def with_waivers(
        *args: object, allow_downgrade: bool, ignore_expiry: bool, **others: object
    ) -> None:
        from composer.client import Waivers

        command(*args, waivers=Waivers(allow_downgrade, ignore_expiry), **others)

    wrapped: Callable[..., None] = with_waivers
    for option in reversed(_WAIVER_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


_WAIVER_OPTIONS = (
    click.option(
        "--allow-downgrade", is_flag=True, help="Accept a commit that is older than what is here."
    ),
    click.option(
        "--ignore-expiry",
        is_flag=True,
        help="Accept signed statements whose time is over, for a machine without a clock.",
    ),
)


def wait_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option that waits for a repository; the command gets ``wait``, which says so."""

    @wraps(command)
    def with_wait(*args: object, wait: bool, **others: object) -> None:
        def tell(holder: Holder) -> None:
            console: Console = click.get_current_context().obj
            console.say(plain(f"waiting for {holder}"))

        command(*args, wait=tell if wait else None, **others)

    option = click.option(
        "--wait",
        is_flag=True,
        help="Wait for another process that is at work in the repository; without it: status 75.",
    )
    return option(with_wait)


def delta_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what deltas a set ships; the command gets ``deltas`` of them."""

    @wraps(command)
    def with_choice(
        *args: object,
        delta_bases: tuple[str, ...],
        rpm_deltas: str,
        delta_budget: int | None,
        effort: str,
        **others: object,
    ) -> None:
        from composer.mirror.making import DeltaChoice

        choice = DeltaChoice(_parse_bases(delta_bases), rpm_deltas, delta_budget, effort)
        command(*args, deltas=choice, **others)

    wrapped: Callable[..., None] = with_choice
    for option in reversed(_DELTA_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def parse_ref(text: str) -> tuple[str | None, str, str]:
    """Split [REMOTE:]REF[@VERSION]; the version may have any characters."""
    place, at, version = text.partition("@")
    if at and not version:
        raise UsageError(f"{text}: the version behind the @ is empty")
    name, _, ref = place.rpartition(":")
    return name or None, ref, version


def parse_bundle(text: str) -> tuple[str | None, Path] | None:
    """Split [REMOTE:]BUNDLE; None for what names no file that could be one."""
    from composer.client import is_bundle

    name, _, rest = text.partition(":")
    for remote, path in ((None, Path(text)), (name, Path(rest))):
        written_as_one = str(path).startswith(("/", "./", "../")) and path.is_file()
        if str(path) != "." and (written_as_one or is_bundle(path)):
            return remote, path
    return None


def warn_undescribed(console: Console, made: MadeSet) -> None:
    """Tell of versions from which a set has deltas, but no update of its metadata."""
    for commit in made.undescribed:
        console.warn(
            f"{commit}: neither its set nor all of its packages are here, so its clients "
            "read the new set's metadata as a whole"
        )


def _parse_bases(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the revisions that --from named; None where it was not given."""
    if "none" in names and len(names) > 1:
        raise UsageError("--from: either none or revisions")
    return tuple(name for name in names if name != "none") if names else None


_DELTA_OPTIONS = (
    click.option(
        "--from",
        "delta_bases",
        multiple=True,
        metavar="REV",
        help="Ship deltas from this commit or version, older or newer, or `none`; by default from "
        "the 3 before and the 3 after.  Repeatable.",
    ),
    click.option(
        "--rpm-deltas",
        type=click.Choice(["auto", "all", "none"]),
        default="auto",
        show_default=True,
        help="For which packages' content too: where it is well below the RPM, all, or none.",
    ),
    click.option(
        "--delta-budget",
        type=click.IntRange(0),
        metavar="BYTES",
        help="Ship about this much for packages' content at most.",
    ),
    click.option(
        "--effort",
        type=click.Choice(["low", "normal", "high"]),
        default="normal",
        show_default=True,
        help="How hard to look for small deltas.",
    ),
)


def keeping_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that keep packages for clients; the command gets ``keeping`` of them."""

    @wraps(command)
    def with_keeping(
        *args: object, retain: tuple[str, ...], full: tuple[str, ...], **others: object
    ) -> None:
        from composer.mirror.making import Keeping

        command(*args, keeping=Keeping(retain, full), **others)

    wrapped: Callable[..., None] = with_keeping
    for option in reversed(_KEEPING_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


_KEEPING_OPTIONS = (
    click.option(
        "--retain",
        multiple=True,
        metavar="PACKAGE",
        help="Keep this RPM (a name, a NEVRA or `all`) in the set's repository, for clients "
        "whose mirrors have dropped it.  Repeatable.",
    ),
    click.option(
        "--full",
        multiple=True,
        metavar="PACKAGE",
        help="Ship what this package has in the set itself, too.  Repeatable.",
    ),
)


def tuf_keys_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name keys for signed statements; the command gets ``tuf_keys``."""

    @wraps(command)
    def with_keys(
        *args: object, keys: Path | None, passphrase_file: Path | None, **others: object
    ) -> None:
        command(*args, tuf_keys=key_directory(keys, passphrase_file), **others)

    wrapped: Callable[..., None] = with_keys
    for option in (passphrase_option, keys_option(required=False)):
        wrapped = option(wrapped)
    return wrapped


def keys_option(*, required: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option that names the directory of keys for signed statements."""
    return click.option(
        "--tuf-keys",
        "keys",
        envvar="JIGDO_COMPOSER_TUF_KEYS",
        required=required,
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Keys that sign what is newest (see `mirror keys`); what is not needed need not "
        "be there.",
    )


passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Its first line opens the encrypted keys among them.",
)


def key_directory(path: Path | None, passphrase_file: Path | None) -> KeyDirectory | None:
    """Make what these options name; None where no directory was given."""
    from composer.mirror.keys import KeyDirectory

    if path is None:
        return None
    lines = passphrase_file.read_bytes().splitlines() if passphrase_file else []
    if passphrase_file and not (lines and lines[0]):
        raise UsageError(f"{passphrase_file}: its first line is empty")
    return KeyDirectory(path, lines[0] if lines else None)


def warn_unsigned(console: Console, repository: Path, keys: KeyDirectory | None) -> None:
    """Say so where a repository has signed statements and nothing will sign the new one."""
    from composer.mirror.trust import is_signed

    if keys is None and is_signed(repository):
        console.warn(
            f"{repository} has signed statements: clients that want them see the new set only "
            "after `mirror refresh` (or with --tuf-keys here)"
        )


cachedir_option = click.option(
    "--cachedir",
    envvar="JIGDO_COMPOSER_CACHE",
    type=click.Path(file_okay=False, path_type=Path),
    default=_default_cachedir,
    help="Where downloads and digests are kept between runs.",
)
