"""``jigdo-composer repo``: local repositories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.config import wait_option
from composer.cli.console import Console, json_option

if TYPE_CHECKING:
    from composer.ostree.locking import Wait


@click.group("repo")
def repo() -> None:
    """Local repositories: import RPMs."""


@repo.command("import")
@click.argument("rpms", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RPM...")
@click.option("--repo", "repository", required=True, type=click.Path(path_type=Path))
@click.option(
    "--passwd",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="passwd file that says which uid an owner is; without it only root is known.",
)
@click.option(
    "--group",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="group file that says which gid a group is.",
)
@wait_option
@json_option
@click.pass_obj
def import_(
    console: Console,
    rpms: tuple[Path, ...],
    repository: Path,
    passwd: Path | None,
    group: Path | None,
    wait: Wait | None,
    as_json: bool,
) -> None:
    """Import RPM files, or all below directories, as objects of a repository.

    Each package gets the ref jigdo/pkg/<name>/<evr>.<arch>, its commit's metadata the
    pkgid.  What is here need not be fetched by a later pull.
    """
    from composer.client import Repository, import_rpms
    from composer.rpm.package import find_rpms
    from composer.system.accounts import AccountTable

    accounts = AccountTable.read(passwd, group)
    with console.progress(as_json=as_json) as report:
        paths, place = find_rpms(list(rpms)), Repository.open(repository)
        done = import_rpms(paths, place, accounts, report, wait=wait)
    for package in done:
        for path in package.left_out:
            console.warn(f"{package.nevra}: {path}: left out, OSTree cannot hold it")
    if as_json:
        rows = [
            {
                "nevra": str(package.nevra),
                "pkgid": str(package.pkgid),
                "ref": package.ref,
                "commit": str(package.commit),
                "left_out": list(package.left_out),
            }
            for package in done
        ]
        console.json({"imported": rows})
    else:
        for package in done:
            console.result(f"{package.ref} {package.commit}")
