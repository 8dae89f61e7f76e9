"""``jigdo-composer deploy``, ``rollback``, ``undeploy``: what boots next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.config import config_dir_option, wait_option
from composer.cli.console import Console, json_option
from composer.cli.sysroot_options import (
    deployment_document,
    kargs_options,
    os_option,
    remote_option,
    sysroot_option,
)
from composer.cli.text import plain

if TYPE_CHECKING:
    from composer.ostree.locking import Wait
    from composer.sysroot.deployment import Deployment
    from composer.sysroot.kernel_arguments import Edit


@click.command()
@click.argument("revision", metavar="[REF|COMMIT]", default="")
@sysroot_option
@os_option
@remote_option
@click.option("--stage", is_flag=True, help="Finish it at shutdown; until then nothing changes.")
@kargs_options
@click.option("--allow-downgrade", is_flag=True, help="Accept one that is older than what runs.")
@click.option("--retry-failed", is_flag=True, help="Accept one whose health check failed here.")
@config_dir_option
@wait_option
@json_option
@click.pass_obj
def deploy(
    console: Console,
    revision: str,
    place: Path,
    os_name: str,
    remote_name: str,
    stage: bool,
    kargs: Edit,
    allow_downgrade: bool,
    retry_failed: bool,
    config_dir: Path | None,
    wait: Wait | None,
    as_json: bool,
) -> None:
    """Make a commit of the sysroot's repository what boots next.

    By default the newest of the ref that is deployed.  /etc and kernel arguments come from the
    deployment that runs; what was changed in /etc stays changed.  The deployment that runs
    stays, to go back to.
    """
    from composer.sysroot.deploying import deploy as deploy_commit
    from composer.sysroot.deploying import prepare
    from composer.sysroot.sysroot import Sysroot

    sysroot = Sysroot.open(place)
    # A ref is looked up when it is our turn: whom we waited for may have moved it.
    with sysroot.changing(wait):
        order = prepare(
            sysroot,
            revision,
            os=os_name,
            remote=remote_name,
            config_dir=config_dir,
            kargs=kargs,
            stage=stage,
            allow_downgrade=allow_downgrade,
            retry_failed=retry_failed,
        )
        made = deploy_commit(sysroot, order)
    _show(console, made, as_json=as_json)


@click.command()
@sysroot_option
@wait_option
@json_option
@click.pass_obj
def rollback(console: Console, place: Path, wait: Wait | None, as_json: bool) -> None:
    """Make the previous deployment what boots next; or, if another was to come, the running one.

    Its /etc and kernel arguments are those it had.  Run again, it undoes itself.
    """
    from composer.sysroot.ordering import roll_back
    from composer.sysroot.sysroot import Sysroot

    _show(console, roll_back(Sysroot.open(place), wait), as_json=as_json)


@click.command()
@click.argument("which", metavar="INDEX|COMMIT")
@sysroot_option
@wait_option
@json_option
@click.pass_obj
def undeploy(console: Console, which: str, place: Path, wait: Wait | None, as_json: bool) -> None:
    """Remove a deployment, and what only it needed.

    INDEX is as `status` counts; of COMMIT the beginning is enough.  Not the one that runs, one
    that is pinned, or the last.
    """
    from composer.sysroot.ordering import undeploy as remove
    from composer.sysroot.sysroot import Sysroot

    gone = remove(Sysroot.open(place), which, wait)
    if as_json:
        console.json({"removed": deployment_document(gone)})
    else:
        console.result(plain(f"removed: {gone.os} {gone.commit}"))


def _show(console: Console, one: Deployment, *, as_json: bool) -> None:
    if as_json:
        console.json(deployment_document(one))
        return
    when = "when the machine has shut down" if one.role == "staged" else "next"
    if one.role == "booted":
        when = "next; it runs already"
    console.result(plain(f"{one.os} {one.commit} boots {when}"))
