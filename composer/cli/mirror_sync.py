"""``jigdo-composer mirror sync``: mirror the mirror, as far as chosen versions need it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.console import Console, json_option
from composer.cli.mirror_verify import all_packages_option, repository_option, root_option, way_of
from composer.cli.network import connection_options
from composer.cli.text import human_bytes, plain

if TYPE_CHECKING:
    from composer.mirror.sync_plan import SyncPlan
    from composer.mirror.syncing import Synced


@click.command()
@click.argument("source", metavar="URL|DIR")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--ref",
    "refs",
    multiple=True,
    metavar="REF[@VERSION]",
    help="Only what this ref, or this version, needs.  Repeatable.",
)
@click.option(
    "--newest",
    default=0,
    type=click.IntRange(min=0),
    metavar="N",
    help="Only the N newest versions of each ref.",
)
@all_packages_option
@repository_option
@root_option
@click.option("--allow-older", is_flag=True, help="Go back, where the origin has older versions.")
@click.option("--dry-run", is_flag=True, help="Say what it would take; nothing is written.")
@connection_options
@json_option
@click.pass_obj
def sync(
    console: Console,
    source: str,
    directory: Path,
    refs: tuple[str, ...],
    newest: int,
    all_packages: bool,
    repositories: tuple[str, ...],
    tuf_root: Path | None,
    allow_older: bool,
    dry_run: bool,
    connection: dict[str, object],
    as_json: bool,
) -> None:
    """Copy what published versions need from a mirror to DIR, which then serves by itself.

    What is there is not fetched again.  RPMs are verified before they are seen; rpm-md and
    signed statements are copied as they are, and come last.
    """
    from composer.mirror.needs import Place, parse_repositories
    from composer.mirror.sync_plan import SyncOptions
    from composer.mirror.syncing import sync as sync_mirror

    options = SyncOptions(
        refs=refs,
        newest=newest,
        all_packages=all_packages,
        repositories=parse_repositories(repositories),
        root=tuf_root.read_bytes() if tuf_root else None,
        allow_older=allow_older,
        way=way_of(connection),
    )

    def announce(plan: SyncPlan) -> None:
        for line in _lines(plan):
            (console.result if dry_run and not as_json else console.say)(plain(line))

    with console.progress(as_json=as_json) as report:
        done = sync_mirror(
            Place.of(source),
            directory,
            options,
            dry_run=dry_run,
            announce=(lambda plan: None) if as_json else announce,
            report=report,
        )
    if as_json:
        console.json(_document(done, dry_run=dry_run))
    elif not dry_run:
        console.result(plain(f"{directory}: {_said(done)}"))


def _said(done: Synced) -> str:
    if not done.changed:
        return "nothing new"
    count = len(done.plan.fetch)
    linked = f", {done.linked} of them linked" if done.linked else ""
    return f"{count} RPMs came{linked}; {human_bytes(done.moved)} moved"


def _lines(plan: SyncPlan) -> list[str]:
    refs: dict[str, list[str]] = {}
    for entry in plan.entries:
        refs.setdefault(entry.ref, []).append(entry.version or str(entry.commit))
    lines = [f"{ref}: {', '.join(versions)}" for ref, versions in refs.items()]
    sets, packages = len(plan.sets), len(plan.fetch) - len(plan.sets)
    set_bytes = sum(one.size for one in plan.sets)
    return [
        *lines,
        f"to fetch: {sets} sets, {human_bytes(set_bytes)}; {packages} packages, "
        f"{human_bytes(plan.fetch_bytes - set_bytes)}; metadata of "
        f"{human_bytes(plan.origin.metadata_bytes)}",
        f"there already: {len(plan.here)} RPMs, {human_bytes(plan.here_bytes)}",
    ]


def _document(done: Synced, *, dry_run: bool) -> dict[str, Any]:
    plan = done.plan
    return {
        "origin": plan.origin.place.url,
        "signed": plan.origin.signed is not None,
        "versions": [
            {"ref": entry.ref, "version": entry.version, "commit": str(entry.commit)}
            for entry in plan.entries
        ],
        "fetch": {
            "sets": len(plan.sets),
            "packages": len(plan.fetch) - len(plan.sets),
            "bytes": plan.fetch_bytes,
        },
        "here": {"rpms": len(plan.here), "bytes": plan.here_bytes},
        "metadata_bytes": plan.origin.metadata_bytes,
        "dry_run": dry_run,
        "changed": done.changed,
        "linked": done.linked,
        "moved_bytes": done.moved,
    }
