"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path

import click


def _default_cachedir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jigdo-composer"


config_dir_option = click.option(
    "--config-dir",
    envvar="JIGDO_COMPOSER_CONFIG",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where remotes are kept, instead of the system's and the user's directories.",
)

cachedir_option = click.option(
    "--cachedir",
    envvar="JIGDO_COMPOSER_CACHE",
    type=click.Path(file_okay=False, path_type=Path),
    default=_default_cachedir,
    help="Where downloads and digests are kept between runs.",
)
