"""``--executor``: where work is done that can be done elsewhere, and what to say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.console import Console

if TYPE_CHECKING:
    from composer.system.executors import Farm, Tls

OpenedExecutor = Callable[[Console], "AbstractContextManager[Farm | None]"]
"""Connects to what --executor names; tells what its workers did not do."""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--executor",
        "url",
        envvar="JIGDO_COMPOSER_EXECUTOR",
        default="processes",
        show_default=True,
        metavar="processes|dask://HOST:PORT",
        help="Do the work on this machine or on a Dask cluster (see docs/executors.md).",
    ),
    click.option(
        "--executor-tls-ca",
        "tls_ca",
        type=_FILE,
        metavar="FILE",
        help="Certificates that the scheduler's must follow from.",
    ),
    click.option(
        "--executor-tls-cert",
        "tls_cert",
        type=_FILE,
        metavar="FILE",
        help="Certificate to show to the scheduler.",
    ),
    click.option(
        "--executor-tls-key", "tls_key", type=_FILE, metavar="FILE", help="Key of that certificate."
    ),
)


def executor_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --executor and its TLS files; the command gets ``opened``, to be called and entered."""

    @wraps(command)
    def with_executor(
        *args: object,
        url: str,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        **others: object,
    ) -> None:
        from composer.system.executors import Tls

        def opened(console: Console) -> AbstractContextManager[Farm | None]:
            return _opened(console, url, Tls(tls_ca, tls_cert, tls_key))

        command(*args, opened=opened, **others)

    wrapped: Callable[..., None] = with_executor
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


@contextmanager
def _opened(console: Console, url: str, tls: Tls) -> Iterator[Farm | None]:
    from composer.system.executors import opened_executor

    with opened_executor(url, tls) as farm:
        yield farm
        if farm is not None and farm.troubles:
            count = sum(farm.troubles.values())
            console.warn(f"{url}: {count} of {farm.tasks} tasks were done here instead")
            for reason, times in sorted(farm.troubles.items()):
                console.say(f"  {times} times: {reason}")
