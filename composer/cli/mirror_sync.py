"""``jigdo-composer mirror sync``: mirror the mirror, as far as chosen versions need it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.console import Console, json_option
from composer.cli.mirror_verify import all_packages_option, repository_option, root_option, way_of
from composer.cli.network import connection_options
from composer.cli.text import human_bytes, plain
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.mirror.sync_plan import SyncPlan
    from composer.mirror.syncing import Synced


@click.command()
@click.argument("source", metavar="URL|DIR")
@click.argument("destination", metavar="DIR|s3://BUCKET/PREFIX")
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
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    metavar="HOURS",
    help="How long objects stay in a bucket that the directory has no more.  [default: 168]",
)
@click.option("--dry-run", is_flag=True, help="Say what it would take; nothing is written.")
@connection_options
@json_option
@click.pass_obj
def sync(
    console: Console,
    source: str,
    destination: str,
    refs: tuple[str, ...],
    newest: int,
    all_packages: bool,
    repositories: tuple[str, ...],
    tuf_root: Path | None,
    allow_older: bool,
    grace: float | None,
    dry_run: bool,
    connection: dict[str, object],
    as_json: bool,
) -> None:
    """Copy what published versions need from a mirror to DIR, which then serves by itself.

    What is there is not fetched again.  RPMs are verified before they are seen; rpm-md and
    signed statements are copied as they are, and come last.

    To a bucket the whole of a published directory goes, in the same order; URL may be one,
    too, that HTTP clients can read (see docs/object-storage.md).
    """
    from composer.mirror.bucket import is_bucket

    if is_bucket(destination):
        if refs or newest or all_packages or repositories or tuf_root or "://" in source:
            raise UsageError(
                "a bucket takes the whole of one directory",
                hint="sync what is wanted into a directory, and that to the bucket",
            )
        _sync_to_bucket(
            console,
            Path(source),
            destination,
            grace=grace,
            allow_older=allow_older,
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    if grace is not None:
        raise UsageError("--grace is for buckets")
    directory = Path(destination)
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


def _sync_to_bucket(
    console: Console,
    directory: Path,
    url: str,
    *,
    grace: float | None,
    allow_older: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from datetime import timedelta

    from composer.mirror.bucket_sync import UploadPlan, sync_to_bucket

    def announce(plan: UploadPlan) -> None:
        if not as_json:
            text = (
                f"to put: {len(plan.upload)} objects, {human_bytes(plan.upload_bytes)}; there "
                f"already: {plan.here}; to remove: {len(plan.remove)}, later: {plan.waiting}"
            )
            (console.result if dry_run else console.say)(text)

    if not directory.is_dir():
        raise UsageError(f"{directory}: no such directory")
    with console.progress(as_json=as_json) as report:
        plan = sync_to_bucket(
            directory,
            url,
            grace=timedelta(hours=168 if grace is None else grace),
            allow_older=allow_older,
            dry_run=dry_run,
            announce=announce,
            report=report,
        )
    changed = bool(plan.upload or plan.remove) and not dry_run
    if as_json:
        console.json(
            {
                "destination": url,
                "put": {"objects": len(plan.upload), "bytes": plan.upload_bytes},
                "here": plan.here,
                "removed": len(plan.remove),
                "waiting": plan.waiting,
                "dry_run": dry_run,
                "changed": changed,
            }
        )
    elif not dry_run:
        console.result(plain(f"{url}: {'up to date now' if changed else 'nothing new'}"))


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
