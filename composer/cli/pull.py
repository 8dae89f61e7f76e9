"""``jigdo-composer pull``: a ref from its remote into a repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.config import config_dir_option, parse_ref, waiver_options
from composer.cli.console import Console, human_bytes, json_option
from composer.cli.console import plain as plain_text
from composer.cli.plan import (
    KINDS,
    lost_lines,
    lost_rows,
    max_memory_option,
    prefer_option,
    probe_option,
    replaced_lines,
    replaced_rows,
    show_plan,
    source_options,
)
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.client.acceptance import Waivers
    from composer.client.pulling import PullResult, Replanned
    from composer.client.sources import Sources


@click.command()
@click.argument("ref", metavar="[REMOTE:]REF[@VERSION]")
@click.option("--repo", "repository", required=True, type=click.Path(path_type=Path))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64))
@max_memory_option
@source_options
@click.option(
    "--disable-fsync", is_flag=True, help="Do not flush to disk; a power cut may lose the pull."
)
@prefer_option
@click.option("--dry-run", is_flag=True, help="Say what would move, as `plan` does; write nothing.")
@probe_option
@waiver_options
@config_dir_option
@json_option
@click.pass_obj
def pull(
    console: Console,
    ref: str,
    repository: Path,
    workers: int,
    max_memory: int,
    sources: Sources,
    disable_fsync: bool,
    prefer: str,
    dry_run: bool,
    probe: bool,
    waivers: Waivers,
    config_dir: Path | None,
    as_json: bool,
) -> None:
    """Reassemble the newest commit of REF, or VERSION, from its jigdo set and RPM mirrors.

    VERSION may also be a commit's checksum, and older than what is here.  REF comes from
    REMOTE, or from the only remote there is.  Only what REPO lacks is fetched; an
    interrupted pull is continued by running it again.
    """
    from composer.client.pulling import pull as pull_ref
    from composer.client.remote import find_remote
    from composer.jigdo.examine import Choices, Prefer
    from composer.ostree.repo import Repository

    name, plain, version = parse_ref(ref)
    remote = find_remote(name, config_dir)
    repo = Repository.open(repository)
    choices = Choices(max_memory=max_memory << 20, prefer=Prefer(prefer))
    if probe and not dry_run:
        raise UsageError("--probe goes with --dry-run", hint="a pull finds out by itself")
    if dry_run:
        show_plan(
            console,
            remote,
            plain,
            repo,
            choices,
            version=version,
            sources=sources,
            probe=probe,
            waivers=waivers,
            workers=workers,
            as_json=as_json,
        )
        return
    if disable_fsync:
        repo.disable_fsync()
    with console.progress(as_json=as_json) as report:
        done = pull_ref(
            remote,
            plain,
            repo,
            version=version,
            choices=choices,
            sources=sources,
            replanned=lambda what: _show_replanned(console, what, as_json=as_json),
            waivers=waivers,
            report=report,
            workers=workers,
        )
    _show(console, done, as_json=as_json)


def _show(console: Console, done: PullResult, *, as_json: bool) -> None:
    """Say what the pull did and what it moved."""
    if as_json:
        moved = {kind: {"bytes": m.bytes, "requests": m.requests} for kind, m in done.moved.items()}
        console.json(
            {
                "ref": done.ref,
                "version": done.version,
                "commit": str(done.commit),
                "previous": str(done.previous) if done.previous else None,
                "updated": done.updated,
                "packages": done.packages,
                "moved": moved,
                "new_content_bytes": done.new_content_bytes,
                "delta_bytes": done.delta_bytes,
                "object_bytes": done.object_bytes,
                "seeds": {"objects": done.seeds, "bytes": done.seed_bytes},
                "lost": lost_rows(done.lost),
                "replaced": replaced_rows(done.replaced),
            }
        )
        return
    if not done.updated:
        console.result(f"{done.ref}: already at {done.version} {done.commit}")
        return
    console.result(f"{done.ref}: {done.version} {done.commit}")
    for line in replaced_lines(done.replaced):
        console.result(plain_text(line))
    also = (("trust", "signed statements"), ("mirrorlist", "list of mirrors"))
    for kind, text in (*KINDS, *(one for one in also if one[0] in done.moved)):
        part = done.moved[kind]
        console.result(f"  {text}: {human_bytes(part.bytes)} in {part.requests} requests")
    if done.seeds:
        console.result(f"  from seeds: {done.seeds} objects, {human_bytes(done.seed_bytes)}")


def _show_replanned(console: Console, what: Replanned, *, as_json: bool) -> None:
    """Say, on standard error, what came to nothing, and what moves in its stead."""
    if as_json:
        parts = {k: {"bytes": m.bytes, "requests": m.requests} for k, m in what.transfers.items()}
        document = {"phase": "replan", "lost": lost_rows(what.lost), "transfers": parts}
        console.say(json.dumps(document))
        return
    for line in lost_lines(what.lost):
        console.say(plain_text(line))
    console.say("planned anew, for what came to nothing here:")
    names = dict(KINDS)
    for kind, part in what.transfers.items():
        console.say(f"  {names[kind]}: {human_bytes(part.bytes)} in {part.requests} requests")
