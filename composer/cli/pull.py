"""``jigdo-composer pull``: a ref from its remote into a repository."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.changes import advisory_lines, change_lines
from composer.cli.config import (
    config_dir_option,
    parse_bundle,
    parse_ref,
    wait_option,
    waiver_options,
)
from composer.cli.console import Console, json_option
from composer.cli.events import lost_rows, replaced_rows, transfers_document
from composer.cli.network import (
    limit_rate_option,
    limited,
    mirror_lines,
    mirror_rows,
    wrong_lines,
    wrong_rows,
)
from composer.cli.plan import (
    KINDS,
    lost_lines,
    max_memory_option,
    prefer_option,
    probe_option,
    replaced_lines,
    show_plan,
    source_options,
)
from composer.cli.text import human_bytes, human_seconds
from composer.cli.text import plain as plain_text
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.client import Event, PullPlan, PullResult, Replanned, Sources, Waivers
    from composer.ostree.locking import Wait

# So many of each kind of change are shown before the question; `plan` shows all.
_MOST = 20


@click.command()
@click.argument("ref", metavar="[REMOTE:]REF[@VERSION]|[REMOTE:]BUNDLE")
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
@click.option(
    "--ref",
    "refs",
    multiple=True,
    metavar="REF",
    help="Of a BUNDLE pull this; by default what REPO has of it, or the only one.  Repeatable.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask before anything large moves.")
@waiver_options
@limit_rate_option
@wait_option
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
    refs: tuple[str, ...],
    yes: bool,
    waivers: Waivers,
    limit_rate: str | None,
    wait: Wait | None,
    config_dir: Path | None,
    as_json: bool,
) -> None:
    """Reassemble the newest commit of REF, or VERSION, from its jigdo set and RPM mirrors.

    VERSION may also be a commit's checksum, and older than what is here.  REF comes from
    REMOTE, or from the only remote there is.  Only what REPO lacks is fetched; an
    interrupted pull is continued by running it again.  On a terminal it says what would
    change, and asks.  BUNDLE is a file that `bundle` made: its newest versions are pulled
    from it alone, by the keys of REMOTE.
    """
    from composer.client import Choices, Prefer, Repository, find_remote, open_bundle
    from composer.client import pull as pull_ref

    if probe and not dry_run:
        raise UsageError("--probe goes with --dry-run", hint="a pull finds out by itself")
    bundle = parse_bundle(ref)
    if refs and not bundle:
        raise UsageError("--ref goes with a BUNDLE", hint="write [REMOTE:]REF")
    name, plain, version = (bundle[0], "", "") if bundle else parse_ref(ref)
    remote = limited(find_remote(name, config_dir), limit_rate)
    repo = Repository.open(repository)
    choices = Choices(max_memory=max_memory * 1_000_000, prefer=Prefer(prefer))
    remote, wanted = open_bundle(bundle[1], remote, repo, refs) if bundle else (remote, [plain])
    if dry_run:
        for one in wanted:
            show_plan(
                console,
                remote,
                one,
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
    quiet = yes or as_json or not (sys.stdin.isatty() and sys.stderr.isatty())
    with console.progress(as_json=as_json, whole=True) as show:
        done = [
            pull_ref(
                remote,
                one,
                repo,
                version=version,
                choices=choices,
                sources=sources,
                waivers=waivers,
                approve=(lambda plan: True) if quiet else _ask,
                report=show if as_json else _telling(console, show),
                workers=workers,
                wait=wait,
            )
            for one in wanted
        ]
    for result in done:
        _show(console, result, as_json=as_json)


def _ask(plan: PullPlan) -> bool:
    """Ask whether what was shown of a plan shall be done."""
    return click.confirm("Go on?", default=True, err=True)


def _telling(console: Console, show: Callable[[Event], None]) -> Callable[[Event], None]:
    """Pass events on to ``show``, and say those that matter as text."""

    def report(event: Event) -> None:
        show(event)
        _tell(console, event)

    return report


def _tell(console: Console, event: Event) -> None:
    """Say, on standard error, what will be done, and what of that came to nothing."""
    from composer.client import PullPlan, Replanned

    if isinstance(event, PullPlan):
        for line in _plan_lines(event):
            console.say(line)
    elif isinstance(event, Replanned):
        for line in _replanned_lines(event):
            console.say(line)


def _plan_lines(plan: PullPlan) -> Iterator[str]:
    yield plain_text(f"{plan.ref}: {plan.version} {plan.commit}")
    if plan.changes is not None:
        yield from change_lines(plan.changes, _MOST)
        yield from advisory_lines(plan.advisories, _MOST)
    total, read = plan.total, plan.set
    line = f"To move: {human_bytes(total.bytes - read.bytes)} in {total.requests - read.requests}"
    line += f" requests; on disk: up to {human_bytes(plan.disk_bytes)}"
    if plan.seconds is not None:
        line += f"; about {human_seconds(plan.seconds)}"
    yield line


def _show(console: Console, done: PullResult, *, as_json: bool) -> None:
    """Say what the pull did and what it moved."""
    for line in wrong_lines(done.wrong):
        console.warn(plain_text(line))
    if as_json:
        console.json(
            {
                "ref": done.ref,
                "version": done.version,
                "commit": str(done.commit),
                "previous": str(done.previous) if done.previous else None,
                "updated": done.updated,
                "packages": done.packages,
                "moved": transfers_document(done.moved),
                "new_content_bytes": done.new_content_bytes,
                "delta_bytes": done.delta_bytes,
                "object_bytes": done.object_bytes,
                "packing": {
                    "cpu_seconds": round(done.packing_cpu, 3),
                    "seconds": round(done.packing_seconds, 3),
                },
                "seeds": {"objects": done.seeds, "bytes": done.seed_bytes},
                "lost": lost_rows(done.lost),
                "replaced": replaced_rows(done.replaced),
                "mirrors": mirror_rows(done.mirrors),
                "wrong": wrong_rows(done.wrong),
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
    again = done.moved["again"]
    if again.bytes or again.requests:
        text = f"{human_bytes(again.bytes)} in {again.requests} requests"
        console.result(f"  again, or in vain: {text}")
    for line in mirror_lines(done.mirrors, all_of_them=console.verbose):
        console.result(plain_text(line))
    if done.seeds:
        console.result(f"  from seeds: {done.seeds} objects, {human_bytes(done.seed_bytes)}")


def _replanned_lines(what: Replanned) -> Iterator[str]:
    for line in lost_lines(what.lost):
        yield plain_text(line)
    yield "planned anew, for what came to nothing here:"
    names = dict(KINDS)
    for kind, part in what.transfers.items():
        yield f"  {names[kind]}: {human_bytes(part.bytes)} in {part.requests} requests"
