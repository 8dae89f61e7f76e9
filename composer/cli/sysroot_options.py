"""Options and words that the commands of a sysroot share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from composer.sysroot.deployment import Deployment

sysroot_option = click.option(
    "--sysroot",
    "place",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Where the deployments are: this machine's, or a mounted disk.",
)

os_option = click.option(
    "--os", "os_name", default="", metavar="NAME", help="Which operating system, if not the first."
)

remote_option = click.option(
    "--remote",
    "remote_name",
    default="",
    metavar="NAME",
    help="Whose policy counts; by default that of what is deployed, or the only one.",
)


def kargs_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for kernel arguments; the command gets ``kargs`` of them."""

    @wraps(command)
    def with_kargs(
        *args: object,
        replace: tuple[str, ...],
        append: tuple[str, ...],
        delete: tuple[str, ...],
        **others: object,
    ) -> None:
        from composer.sysroot.kernel_arguments import Edit

        command(*args, kargs=Edit(replace, append, delete), **others)

    wrapped: Callable[..., None] = with_kargs
    for option in reversed(_KARGS_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


_KARGS_OPTIONS = (
    click.option(
        "--karg",
        "replace",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set a kernel argument, in the place of all of its key.  Repeatable.",
    ),
    click.option(
        "--karg-append",
        "append",
        multiple=True,
        metavar="KEY=VALUE",
        help="Add one, beside others of its key.  Repeatable.",
    ),
    click.option(
        "--karg-delete",
        "delete",
        multiple=True,
        metavar="KEY[=VALUE]",
        help="Remove one, or all of a key.  Repeatable.",
    ),
)


def deployment_document(one: Deployment) -> dict[str, Any]:
    """Describe a deployment for ``--json``."""
    return {
        "index": one.index,
        "os": one.os,
        "commit": str(one.commit),
        "serial": one.serial,
        "ref": one.ref,
        "remote": one.remote or None,
        "kargs": list(one.kargs),
        "role": one.role or None,
        "pinned": one.pinned,
    }
