"""``jigdo-composer repo``: local repositories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.config import config_dir_option, wait_option
from composer.cli.console import Console, json_option
from composer.cli.plan import max_memory_option, prefer_option, source_options
from composer.cli.text import human_bytes, plain
from composer.errors import EXIT_DAMAGED

if TYPE_CHECKING:
    from composer.client.repairing import Checked
    from composer.client.sources import Sources
    from composer.ostree.checking import Fault
    from composer.ostree.locking import Wait


@click.group("repo")
def repo() -> None:
    """Local repositories: import RPMs, prove and mend them, make room."""


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


@repo.command()
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option("--repo", "repository", required=True, type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Fetch what is damaged or missing again.")
@click.option(
    "--remote", metavar="NAME", help="Where from; without it, from the only remote there is."
)
@source_options
@prefer_option
@max_memory_option
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64))
@wait_option
@config_dir_option
@json_option
@click.pass_obj
def fsck(
    console: Console,
    refs: tuple[str, ...],
    repository: Path,
    repair: bool,
    remote: str | None,
    sources: Sources,
    prefer: str,
    max_memory: int,
    workers: int,
    wait: Wait | None,
    config_dir: Path | None,
    as_json: bool,
) -> None:
    """Prove every object that REF, or any ref, needs by its checksum.

    The exit status is 5 when something is damaged or missing, and 0 after all of it was
    repaired.  What is damaged keeps its place until a good object takes it.
    """
    from composer.client.remote import find_remote
    from composer.client.repairing import Means
    from composer.client.repairing import fsck as check
    from composer.jigdo.examine import Choices, Prefer
    from composer.ostree.repo import Repository

    means = None
    if repair:
        choices = Choices(max_memory=max_memory * 1_000_000, prefer=Prefer(prefer))
        means = Means(find_remote(remote, config_dir), sources, choices)
    place = Repository.open(repository)
    with console.progress(as_json=as_json) as report:
        found = check(place, refs, means=means, report=report, workers=workers, wait=wait)
    if as_json:
        console.json(_checked_document(found))
    else:
        _show_checked(console, found, repair=repair)
    if not found.sound:
        raise click.exceptions.Exit(EXIT_DAMAGED)


def _checked_document(found: Checked) -> dict[str, object]:
    def row(fault: Fault) -> dict[str, object]:
        return {
            "object": str(fault.name),
            "state": "missing" if fault.missing else "damaged",
            "commit": str(fault.commit),
            "path": fault.path,
            "detail": fault.detail,
            "links": fault.links,
        }

    return {
        "commits": found.commits,
        "objects": found.objects,
        "sound": found.sound,
        "faults": [row(fault) for fault in found.faults],
        "repaired": [row(fault) for fault in found.repaired],
        "partial": [str(commit) for commit in found.partial],
        "moved": {"bytes": found.moved.bytes, "requests": found.moved.requests},
        "reasons": list(found.reasons),
    }


def _show_checked(console: Console, found: Checked, *, repair: bool) -> None:
    console.result(f"{found.objects} objects of {found.commits} commits are sound")
    for fault in found.repaired:
        console.result(plain(f"repaired: {_fault_line(fault)}"))
        if fault.links:
            console.warn(
                f"{fault.name}: {fault.links} other names of its file keep the damage: check out, "
                "or deploy, again what was made of it"
            )
    if found.repaired:
        moved = f"{human_bytes(found.moved.bytes)} in {found.moved.requests} requests"
        console.result(f"{len(found.repaired)} objects repaired; moved: {moved}")
    for fault in found.faults:
        console.result(plain(f"{'missing' if fault.missing else 'damaged'}: {_fault_line(fault)}"))
    for commit in found.partial:
        console.result(f"marked as not completely fetched: {commit}")
    for reason in found.reasons if found.faults else ():
        console.say(plain(f"not to be had: {reason}"))
    if found.faults:
        what = "could not be repaired" if repair else "are not sound; --repair fetches them again"
        console.result(f"{len(found.faults)} objects {what}")


def _fault_line(fault: Fault) -> str:
    detail = f": {fault.detail}" if fault.detail else ""
    return f"{fault.name} ({fault.path or 'the commit'} in {fault.commit}){detail}"


@repo.command()
@click.option("--repo", "repository", required=True, type=click.Path(path_type=Path))
@click.option(
    "--keep",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Keep this many versions of each ref, its own commit among them.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go; remove nothing.")
@wait_option
@json_option
@click.pass_obj
def prune(
    console: Console,
    repository: Path,
    keep: int,
    dry_run: bool,
    wait: Wait | None,
    as_json: bool,
) -> None:
    """Remove what no ref and no deployment needs, and what interrupted pulls left.

    Bytes are those that the disk gets back.  An interrupted pull begins again.
    """
    from composer.client.pruning import prune_repository
    from composer.ostree.repo import Repository

    place = Repository.open(repository)
    with console.progress(as_json=as_json) as report:
        done = prune_repository(place, keep=keep, dry_run=dry_run, report=report, wait=wait)
    if as_json:
        console.json(
            {
                "dry_run": dry_run,
                "bytes": done.bytes,
                "commits": [str(commit) for commit in done.removed.commits],
                "objects": done.removed.objects,
                "object_bytes": done.removed.bytes,
                "leftovers": done.leftovers,
                "leftover_bytes": done.leftover_bytes,
                "kept": [str(commit) for commit in done.kept],
                "deployed": {str(commit): name for commit, name in done.deployed.items()},
            }
        )
        return
    for commit in done.removed.commits:
        console.result(f"commit {commit}")
    would = "would be " if dry_run else ""
    console.result(
        f"{done.removed.objects} objects and {done.leftovers} leftovers {would}removed, "
        f"{done.bytes} bytes ({human_bytes(done.bytes)}) {would}freed; {len(done.kept)} commits "
        f"kept, {len(done.deployed)} of them deployed"
    )
