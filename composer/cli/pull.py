"""``jigdo-composer pull``: a ref from its remote into a repository."""

from __future__ import annotations

from pathlib import Path

import click

from composer.cli.config import config_dir_option
from composer.cli.console import Console, human_bytes, json_option
from composer.cli.plan import KINDS, max_memory_option, prefer_option, rpm_cache_option, show_plan


@click.command()
@click.argument("ref", metavar="[REMOTE:]REF")
@click.option("--repo", "repository", required=True, type=click.Path(path_type=Path))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64))
@max_memory_option
@rpm_cache_option
@click.option(
    "--strict-pkgid",
    is_flag=True,
    help="Refuse RPMs that were signed or compressed anew since the set was built.",
)
@click.option(
    "--disable-fsync", is_flag=True, help="Do not flush to disk; a power cut may lose the pull."
)
@prefer_option
@click.option("--dry-run", is_flag=True, help="Say what would move, as `plan` does; write nothing.")
@config_dir_option
@json_option
@click.pass_obj
def pull(
    console: Console,
    ref: str,
    repository: Path,
    workers: int,
    max_memory: int,
    rpm_caches: tuple[Path, ...],
    strict_pkgid: bool,
    disable_fsync: bool,
    prefer: str,
    dry_run: bool,
    config_dir: Path | None,
    as_json: bool,
) -> None:
    """Reassemble the newest commit of REF from its jigdo set and RPM mirrors.

    REF comes from REMOTE, or from the only remote there is.  Only what REPO lacks is
    fetched; an interrupted pull is continued by running it again.
    """
    from composer.client.pull import pull as pull_ref
    from composer.client.remote import find_remote
    from composer.jigdo.examine import Choices, Prefer
    from composer.ostree.repo import Repository

    name, _, plain = ref.rpartition(":")
    remote = find_remote(name or None, config_dir)
    repo = Repository.open(repository)
    choices = Choices(max_memory=max_memory << 20, prefer=Prefer(prefer))
    if dry_run:
        show_plan(
            console,
            remote,
            plain,
            repo,
            choices,
            rpm_caches=rpm_caches,
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
            choices=choices,
            rpm_caches=rpm_caches,
            strict_pkgid=strict_pkgid,
            report=report,
            workers=workers,
        )
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
            }
        )
        return
    if not done.updated:
        console.result(f"{done.ref}: already at {done.version} {done.commit}")
        return
    console.result(f"{done.ref}: {done.version} {done.commit}")
    for kind, text in KINDS:
        part = done.moved[kind]
        console.result(f"  {text}: {human_bytes(part.bytes)} in {part.requests} requests")
