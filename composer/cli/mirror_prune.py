"""``jigdo-composer mirror prune``, ``mirror pin`` and ``mirror tag``: which versions stay."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.clock import now
from composer.cli.config import tuf_keys_option, wait_option
from composer.cli.console import Console, json_option
from composer.cli.mirror_verify import repository_option
from composer.cli.text import human_bytes, plain
from composer.errors import EXIT_DAMAGED, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from composer.jigdo.build import LocalPackage
    from composer.jigdo.pointer import PointerEntry
    from composer.mirror.keys import KeyDirectory
    from composer.mirror.pruning import Pruned, PrunePlan, Signing
    from composer.mirror.retention import Labels
    from composer.mirror.trash import Unlisted
    from composer.ostree.locking import Wait
    from composer.rpm.package import PackageRef

_REPOSITORY = click.argument(
    "repository",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)


@click.command()
@_REPOSITORY
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Keep the N newest of each ref.")
@click.option(
    "--keep-within", metavar="SPAN", help="Keep what was made within this time: 12h, 90d, 8w, 2y."
)
@click.option(
    "--keep-tag",
    "tags",
    multiple=True,
    metavar="TAG",
    help="Keep what has this tag (`mirror tag`).  Repeatable.",
)
@click.option(
    "--ref",
    "refs",
    multiple=True,
    help="The rules are for this ref; of others all is kept.  Repeatable.",
)
@click.option(
    "--packages",
    "places",
    multiple=True,
    metavar="[ID=]DIR",
    help="RPMs to retain what a version needs of, where its repository has dropped it.  "
    "Repeatable.",
)
@repository_option
@click.option(
    "--packages-too",
    is_flag=True,
    help="Also take away RPMs that were not put there for a set, of which there is a newer one "
    "and that no version needs.",
)
@click.option(
    "--grace",
    default="2d",
    show_default=True,
    metavar="SPAN",
    help="How long what is not listed any more stays where it is.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and what versions take.")
@click.option("--undo", is_flag=True, help="List again what was taken away and is still there.")
@click.option("--gpg-sign", default="", metavar="KEYID", help="Sign repomd.xml, with GPG.")
@click.option(
    "--gpg-homedir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the GPG keys are.",
)
@tuf_keys_option
@wait_option
@json_option
@click.pass_obj
def prune(
    console: Console,
    repository: Path,
    keep: int | None,
    keep_within: str | None,
    tags: tuple[str, ...],
    refs: tuple[str, ...],
    places: tuple[str, ...],
    repositories: tuple[str, ...],
    packages_too: bool,
    grace: str,
    dry_run: bool,
    undo: bool,
    gpg_sign: str,
    gpg_homedir: Path | None,
    tuf_keys: KeyDirectory | None,
    wait: Wait | None,
    as_json: bool,
) -> None:
    """Take old versions out of DIR, and RPMs that they alone needed.

    A version stays when any rule keeps it; the newest of each ref and what is pinned (`mirror
    pin`) always do.  Without a rule all stay.  What goes is not listed any more from now on,
    but stays where it is for a time of grace, for clients in the middle of a pull; a later run
    removes it.  Until then --undo brings it back.
    """
    from composer.mirror.making import find_packages
    from composer.mirror.needs import parse_repositories
    from composer.mirror.pruning import PruneOptions, Signing
    from composer.mirror.pruning import prune as prune_mirror
    from composer.mirror.repomd_signature import RepomdSigner
    from composer.mirror.retention import Rules, parse_span

    signing = Signing(tuf_keys, RepomdSigner(gpg_sign, gpg_homedir) if gpg_sign else None)
    if undo:
        if keep or keep_within or tags or dry_run:
            raise UsageError("--undo takes no rules")
        _undo(console, repository, signing, find_packages(places), wait, as_json=as_json)
        return
    options = PruneOptions(
        rules=Rules(
            keep or 0,
            parse_span(keep_within) if keep_within is not None else None,
            frozenset(tags),
            frozenset(refs),
        ),
        grace=parse_span(grace),
        packages=find_packages(places),
        repositories=parse_repositories(repositories),
        packages_too=packages_too,
        signing=signing,
        now=now(),
    )
    with console.progress(as_json=as_json) as report:
        done = prune_mirror(repository, options, dry_run=dry_run, report=report, wait=wait)
    if as_json:
        console.json(_document(done, dry_run=dry_run))
        return
    for line in _lines(done, dry_run=dry_run):
        console.result(plain(line))
    for entry in done.plan.gone:
        console.warn(plain(f"{entry.ref} {entry.version}: {entry.location} is not there any more"))
    for package in done.plan.lacking:
        console.warn(
            plain(f"{package.nevra} ({package.pkgid}): a version needs it, and nothing has it")
        )


def _undo(
    console: Console,
    repository: Path,
    signing: Signing,
    packages: list[LocalPackage],
    wait: Wait | None,
    *,
    as_json: bool,
) -> None:
    from composer.mirror.pruning import undo

    done = undo(repository, signing, packages, wait=wait)
    if as_json:
        rows = {name: _packages(own) for name, own in done.lacking.items()}
        console.json({"back": _rows(done.back), "lacking": rows})
    else:
        for one in done.back:
            console.result(plain(_name(one)))
        size = human_bytes(sum(one.size for one in done.back))
        told = f"{len(done.back)} RPMs, {size}, are listed again"
        console.result(told if done.back else "nothing to undo")
    for name, own in done.lacking.items():
        names = ", ".join(str(one.nevra) for one in own[:5])
        console.warn(plain(f"{name} is not: {len(own)} of its RPMs are gone, as {names}"))
    if done.lacking:
        console.say("--packages DIR takes them from there")
        raise click.exceptions.Exit(EXIT_DAMAGED)


def _lines(done: Pruned, *, dry_run: bool) -> Iterator[str]:
    plan = done.plan
    ref = None
    for verdict, space in zip(plan.verdicts, plan.space.versions, strict=True):
        entry = verdict.entry
        if entry.ref != ref:
            ref = entry.ref
            yield f"{ref}"
            head = ("version", "made", "own", "shared", "adds")
            yield "  {:20} {:10} {:>10} {:>10} {:>10}".format(*head)
        sizes = [human_bytes(size) for size in (space.own, space.shared, space.adds)]
        made = f"{datetime.fromtimestamp(entry.timestamp, UTC):%Y-%m-%d}"
        why = ", ".join([*verdict.reasons, *_tags(plan, entry)]) if verdict.stays else "goes"
        row = "  {:20} {:10} {:>10} {:>10} {:>10}  {}"
        yield row.format(_version(entry), made, *sizes, why)
        others = [one.entry for one in plan.verdicts if one.entry.ref == ref]
        if entry == others[-1] and ref in plan.one_more:
            yield f"  one more version costs about {human_bytes(plan.one_more[ref])}"
    yield f"all versions together: {human_bytes(plan.space.bytes)}"
    would = "would be " if dry_run else ""
    for text, rpms in (
        (f"{would}not listed any more", plan.unlist),
        (f"{would}listed again, for they are needed", plan.back),
        (f"{would}removed", plan.due),
        ("wait for the end of their grace", plan.waiting),
    ):
        if rpms:
            yield f"{len(rpms)} RPMs, {human_bytes(sum(one.size for one in rpms))}, {text}"
    if plan.retain:
        size = human_bytes(sum(one.size for one in plan.retain))
        yield f"{len(plan.retain)} RPMs, {size}, {would}retained: their repositories dropped them"


def _tags(plan: PrunePlan, entry: PointerEntry) -> list[str]:
    return [f"({tag})" for tag in sorted(plan.labels.tags_of(entry))]


def _version(entry: PointerEntry) -> str:
    return entry.version or str(entry.commit)[:12]


def _name(one: Unlisted) -> str:
    return f"{one.entry.ref} {_version(one.entry)}" if one.entry else one.nevra or one.location


def _rows(rpms: Iterable[Unlisted]) -> list[dict[str, Any]]:
    return [
        {
            "location": one.location,
            "size": one.size,
            "since": one.since,
            "nevra": one.nevra,
            "version": _identity(one.entry) if one.entry else None,
        }
        for one in rpms
    ]


def _identity(entry: PointerEntry) -> dict[str, str]:
    return {"ref": entry.ref, "version": entry.version, "commit": str(entry.commit)}


def _packages(packages: Iterable[PackageRef]) -> list[dict[str, Any]]:
    return [
        {
            "nevra": str(one.nevra),
            "pkgid": str(one.pkgid),
            "size": one.size,
            "repository": one.repository,
            "location": one.location,
        }
        for one in packages
    ]


def _document(done: Pruned, *, dry_run: bool) -> dict[str, Any]:
    plan = done.plan
    return {
        "dry_run": dry_run,
        "versions": [
            {
                **_identity(verdict.entry),
                "timestamp": verdict.entry.timestamp,
                "stays": verdict.stays,
                "reasons": list(verdict.reasons),
                "tags": sorted(plan.labels.tags_of(verdict.entry)),
                "set_bytes": verdict.entry.size,
                "own_bytes": space.own,
                "shared_bytes": space.shared,
                "added_bytes": space.adds,
            }
            for verdict, space in zip(plan.verdicts, plan.space.versions, strict=True)
        ],
        "bytes": plan.space.bytes,
        "one_more_bytes": dict(plan.one_more),
        "unlisted": _rows(plan.unlist),
        "listed_again": _rows(plan.back),
        "removed": _rows(plan.due),
        "waiting": _rows(plan.waiting),
        "gone": [entry.location for entry in plan.gone],
        "retained": _packages(plan.retain),
        "lacking": _packages(plan.lacking),
        "signed": dict(done.signed.signed) if done.signed else {},
    }


@click.command()
@_REPOSITORY
@click.argument("version", metavar="[REF@VERSION]", default="")
@click.option("--remove", is_flag=True, help="Let the rules decide again.")
@json_option
@click.pass_obj
def pin(console: Console, repository: Path, version: str, remove: bool, as_json: bool) -> None:
    """Keep a version of DIR whatever the rules of `mirror prune` say.

    VERSION is a commit's version or its checksum.  Without one, pins and tags are shown.
    """
    from composer.mirror.labels import label, read_labels

    labels = label(repository, version, pin=not remove) if version else read_labels(repository)
    _show_labels(console, labels, as_json=as_json)


@click.command()
@_REPOSITORY
@click.argument("version", metavar="REF@VERSION")
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Take these tags away from it.")
@json_option
@click.pass_obj
def tag(
    console: Console,
    repository: Path,
    version: str,
    tags: tuple[str, ...],
    remove: bool,
    as_json: bool,
) -> None:
    """Give a version of DIR tags, by which `mirror prune --keep-tag` keeps it."""
    from composer.mirror.labels import label

    add, gone = ((), tags) if remove else (tags, ())
    _show_labels(console, label(repository, version, add=add, remove=gone), as_json=as_json)


def _show_labels(console: Console, labels: Labels, *, as_json: bool) -> None:
    tags = labels.tags or {}
    rows = []
    for ref, commit in sorted({*labels.pins, *tags}):
        key = (ref, commit)
        own = sorted(tags.get(key, ()))
        pinned = key in labels.pins
        rows.append({"ref": ref, "commit": str(commit), "pinned": pinned, "tags": own})
        if not as_json:
            words = ", ".join([*(["pinned"] if pinned else []), *own])
            console.result(f"{ref} {commit}: {words}")
    if as_json:
        console.json(rows)
