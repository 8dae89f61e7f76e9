"""``jigdo-composer plan``, and what ``pull --dry-run`` shares with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.changes import advisory_lines, change_lines
from composer.cli.config import config_dir_option, parse_ref, waiver_options
from composer.cli.console import Console, json_option
from composer.cli.events import amounts_document, lost_rows, plan_document, replaced_rows
from composer.cli.network import limit_rate_option, limited
from composer.cli.text import human_bytes, human_seconds, plain

if TYPE_CHECKING:
    from composer.client import (
        Choices,
        Explanation,
        LostPackage,
        PullPlan,
        Remote,
        Replaced,
        Repository,
        Sources,
        Waivers,
    )

KINDS = (
    ("rpm", "RPMs"),
    ("set", "set metadata"),
    ("new", "non-RPM content"),
    ("delta", "deltas"),
)
"""Kinds of transfers and how people call them."""

max_memory_option = click.option(
    "--max-memory",
    default=200,
    show_default=True,
    type=click.IntRange(64),
    metavar="MB",
    help="Memory that a pull may take, all processes; deltas that need more come another way.",
)
prefer_option = click.option(
    "--prefer",
    default="balanced",
    show_default=True,
    type=click.Choice(["bytes", "balanced", "cpu"]),
    help="What to spare when compressed contents can be made of older ones and packed again: "
    "only bytes; a second of CPU as much as 500 kB; all CPU that can be spared.",
)
_SOURCE_OPTIONS = (
    click.option(
        "--rpm-cache",
        "rpm_caches",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Use RPM files in DIR and below instead of fetching them; repeatable.",
    ),
    click.option(
        "--seed",
        "seeds",
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Take contents from the files below PATH, the root of a system (/ or a mounted "
        "image); repeatable.",
    ),
    click.option(
        "--archive",
        "archives",
        multiple=True,
        metavar="URL",
        help="Ask here, after the remote's own archives, for RPMs that mirrors dropped; as in "
        "`remote add`.  Repeatable.",
    ),
    click.option(
        "--strict-pkgid",
        is_flag=True,
        help="Refuse RPMs that were signed or compressed anew since the set was built.",
    ),
)


def source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what to take from where; the command gets ``sources`` of them."""

    @wraps(command)
    def with_sources(
        *args: object,
        rpm_caches: tuple[Path, ...],
        archives: tuple[str, ...],
        strict_pkgid: bool,
        seeds: tuple[Path, ...],
        **others: object,
    ) -> None:
        from composer.client import Sources, parse_archives

        sources = Sources(rpm_caches, parse_archives(archives), strict_pkgid, seeds)
        command(*args, sources=sources, **others)

    wrapped: Callable[..., None] = with_sources
    for option in reversed(_SOURCE_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


probe_option = click.option(
    "--probe",
    is_flag=True,
    help="Ask the mirrors whether they have the RPMs, and plan without those that are lost.",
)


@click.command()
@click.argument("ref", metavar="[REMOTE:]REF[@VERSION]")
@click.option("--repo", "repository", required=True, type=click.Path(path_type=Path))
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64))
@max_memory_option
@prefer_option
@source_options
@probe_option
@click.option(
    "--explain",
    "question",
    default="",
    metavar="PATH|PACKAGE",
    help="Say which sources have it, what they cost and which was chosen; a PATH begins with /.",
)
@waiver_options
@limit_rate_option
@config_dir_option
@json_option
@click.pass_obj
def plan(
    console: Console,
    ref: str,
    repository: Path,
    workers: int,
    max_memory: int,
    prefer: str,
    sources: Sources,
    probe: bool,
    question: str,
    waivers: Waivers,
    limit_rate: str | None,
    config_dir: Path | None,
    as_json: bool,
) -> None:
    """Say what pulling REF, or VERSION of it, would move, by source, and what it would take here.

    Reads the set's metadata, as the pull does, and writes nothing.
    """
    from composer.client import Choices, Prefer, Repository, find_remote

    name, plain_ref, version = parse_ref(ref)
    remote = limited(find_remote(name, config_dir), limit_rate)
    repo = Repository.open(repository)
    choices = Choices(max_memory=max_memory * 1_000_000, prefer=Prefer(prefer))
    show_plan(
        console,
        remote,
        plain_ref,
        repo,
        choices,
        version=version,
        workers=workers,
        question=question,
        sources=sources,
        probe=probe,
        waivers=waivers,
        as_json=as_json,
    )


def show_plan(
    console: Console,
    remote: Remote,
    ref: str,
    repo: Repository,
    choices: Choices,
    *,
    workers: int,
    as_json: bool,
    sources: Sources,
    probe: bool,
    waivers: Waivers,
    version: str = "",
    question: str = "",
) -> None:
    """Plan a pull and print it."""
    from composer.client import plan as plan_pull

    with console.progress(as_json=as_json) as report:
        found = plan_pull(
            remote,
            ref,
            repo,
            version=version,
            choices=choices,
            sources=sources,
            probe=probe,
            waivers=waivers,
            report=report,
            workers=workers,
            question=question,
        )
    if as_json:
        console.json(_document(found, probe=probe))
        return
    for line in _lines(found):
        console.result(plain(line))


def _document(found: PullPlan, *, probe: bool) -> dict[str, Any]:
    document = plan_document(found)
    document["alternatives"] = {
        name: amounts_document(other) for name, other in found.alternatives.items()
    }
    if probe:
        document["lost"] = lost_rows(found.lost)
        document["replaced"] = replaced_rows(found.replaced)
    if found.explanation:
        document["explanation"] = _explanation(found.explanation)
    return document


def lost_lines(packages: Sequence[LostPackage]) -> Iterator[str]:
    """Say which packages are lost, in lines."""
    for lost in packages:
        yield f"lost: {lost.reason}; what it has comes another way"


def replaced_lines(packages: Sequence[Replaced]) -> Iterator[str]:
    """Say which packages an RPM made anew serves for, in lines."""
    for one in packages:
        size = human_bytes(one.size)
        yield f"made anew: {one.package.nevra}: the RPM at {one.url} serves, {size}"


def _explanation(found: Explanation) -> dict[str, Any]:
    return {
        "subject": found.subject,
        "objects": found.objects,
        "missing": found.missing,
        "taken": found.taken,
        "ways": [
            {
                "kind": way.kind,
                "name": way.name,
                "bytes": way.bytes,
                "cpu_seconds": round(way.seconds, 3),
                "objects": way.objects,
                "chosen": way.chosen,
                "obstacle": way.obstacle,
            }
            for way in found.ways
        ],
    }


def _lines(found: PullPlan) -> Iterator[str]:
    if not found.needed:
        yield f"{found.ref}: already at {found.version} {found.commit}"
        return
    yield f"{found.ref}: {found.version} {found.commit}"
    if found.changes is not None:
        yield from change_lines(found.changes)
        yield from advisory_lines(found.advisories)
    yield from lost_lines(found.lost)
    yield from replaced_lines(found.replaced)
    transfers = {**found.chosen.transfers, "set": found.set}
    for kind, text in KINDS:
        part = transfers[kind]
        yield f"  {text + ':':17}{human_bytes(part.bytes):>10} in {part.requests} requests"
    total = found.total
    yield f"  {'together:':17}{human_bytes(total.bytes):>10} ({total.bytes} bytes)"
    yield f"  {'objects:':17}{found.objects:>10}, {human_bytes(found.object_bytes)}"
    if found.seeds:
        yield f"  {'from seeds:':17}{found.seeds:>10}, {human_bytes(found.seed_bytes)}"
    yield f"  {'disk space:':17}{human_bytes(found.disk_bytes):>10}"
    yield f"  {'memory, about:':17}{human_bytes(found.chosen.memory):>10}"
    yield f"  {'packing, about:':17}{found.chosen.cpu_seconds:>8.1f} s of CPU"
    if found.seconds is not None:
        yield f"  {'time, about:':17}{human_seconds(found.seconds):>10}"
    yield "Other ways (set metadata apart):"
    for name, other in found.alternatives.items():
        words = "no deltas" if name == "no-deltas" else f"--prefer {name}"
        mark = "  <- this one" if name == found.prefer.value else ""
        size = human_bytes(other.bytes)
        yield f"  {words + ':':19}{size:>10}, {other.cpu_seconds:.1f} s of CPU{mark}"
    if found.explanation:
        yield from _explained(found.explanation)


def _explained(found: Explanation) -> Iterator[str]:
    taken = ", ".join(
        f"{found.taken[kind]} from {text}" for kind, text in KINDS if kind in found.taken
    )
    if not found.missing:
        yield f"{found.subject}: nothing of it is fetched, all of it is here"
        return
    yield f"{found.subject}: {found.missing} of {found.objects} objects are fetched: {taken}"
    names = dict(KINDS)
    for way in found.ways:
        state = "chosen" if way.chosen else way.obstacle or "not chosen"
        seconds = f" and {way.seconds:.1f} s of CPU" if way.seconds else ""
        yield (
            f"  {names[way.kind]}, {way.name}: {human_bytes(way.bytes)}{seconds}, "
            f"for {way.objects} missing objects: {state}"
        )
