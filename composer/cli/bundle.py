"""``jigdo-composer bundle``: one file for machines without network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.config import config_dir_option, parse_ref, waiver_options
from composer.cli.console import Console, json_option
from composer.cli.plan import max_memory_option, prefer_option
from composer.cli.text import human_bytes, plain
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.client import Bundle, BundledRef, Waivers


@click.command()
@click.argument("refs", nargs=-1, required=True, metavar="[REMOTE:]REF...")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write the bundle.",
)
@click.option(
    "--from",
    "base",
    default="",
    metavar="VERSION|COMMIT|none",
    help="What the machines have already; by default what --repo has of each REF, or nothing.",
)
@click.option(
    "--repo",
    "repository",
    type=click.Path(path_type=Path),
    help="A repository that has what the machines have; else it is looked for on the remote.",
)
@click.option(
    "--inspect", is_flag=True, help="Say what is in the bundle REF instead of making one."
)
@max_memory_option
@prefer_option
@waiver_options
@config_dir_option
@json_option
@click.pass_obj
def bundle(
    console: Console,
    refs: tuple[str, ...],
    output: Path | None,
    base: str,
    repository: Path | None,
    inspect: bool,
    max_memory: int,
    prefer: str,
    waivers: Waivers,
    config_dir: Path | None,
    as_json: bool,
) -> None:
    """Make one file with all that pulling the newest of each REF would fetch.

    `pull FILE` applies it, with the same keys and checks as from the remote, whose mirrors
    are not asked.  Several refs share what is the same.
    """
    from composer.client import Bundle, Choices, Prefer, Repository, find_remote
    from composer.client import bundle as make

    if inspect:
        for name in refs:
            _inspect(console, Bundle.open(Path(name)), as_json=as_json)
        return
    if output is None:
        raise UsageError("--output FILE is needed")
    parsed = [parse_ref(ref) for ref in refs]
    names = {name for name, _, _ in parsed}
    if len(names) != 1:
        raise UsageError("all refs of a bundle come from one remote")
    if any(version for _, _, version in parsed):
        raise UsageError("a bundle has the newest version of a ref, not REF@VERSION")
    remote = find_remote(names.pop(), config_dir)
    with console.progress(as_json=as_json) as report:
        made = make(
            remote,
            [ref for _, ref, _ in parsed],
            output,
            base=base,
            repo=Repository.open(repository) if repository else None,
            choices=Choices(max_memory=max_memory * 1_000_000, prefer=Prefer(prefer)),
            waivers=waivers,
            report=report,
        )
    if as_json:
        rows = [_row(one) for one in made.refs]
        console.json(
            {"bundle": str(output), "refs": rows, "size": made.size, "fetched": made.fetched}
        )
        return
    for line in _ref_lines(made.refs):
        console.result(line)
    console.result(f"{output}: {human_bytes(made.size)}")


def _inspect(console: Console, opened: Bundle, *, as_json: bool) -> None:
    size = opened.path.stat().st_size
    if as_json:
        files = [
            {
                "repository": file.repository,
                "location": file.location,
                "bytes": sum(length for _, length in file.pieces),
                "whole": file.whole,
            }
            for file in opened.files
        ]
        rows = [_row(one) for one in opened.refs]
        console.json({"bundle": str(opened.path), "refs": rows, "size": size, "files": files})
        return
    for line in _ref_lines(opened.refs):
        console.result(line)
    console.result(f"{opened.path}: {human_bytes(size)}, pieces of {len(opened.files)} files")


def _row(one: BundledRef) -> dict[str, Any]:
    return {
        "ref": one.ref,
        "version": one.version,
        "commit": str(one.commit),
        "from": str(one.base) if one.base else None,
        "from_version": one.base_version or None,
    }


def _ref_lines(refs: tuple[BundledRef, ...]) -> Iterator[str]:
    for one in refs:
        base = f"from {one.base_version or one.base}" if one.base else "from nothing"
        yield plain(f"{one.ref}: {one.version} {one.commit}, {base}")
