"""``jigdo-composer mirror publish``: what `set build` wrote, and RPMs, into a published tree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.config import tuf_keys_option, wait_option, warn_unsigned
from composer.cli.console import Console, json_option
from composer.cli.text import human_bytes, plain
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.mirror.keys import KeyDirectory
    from composer.mirror.publishing import Publication, PublishedSet
    from composer.ostree.locking import Wait

_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("places", metavar="[SOURCE]... DIR", nargs=-1, required=True, type=_DIRECTORY)
@click.option(
    "--packages",
    multiple=True,
    metavar="RPM|DIR",
    type=click.Path(exists=True, path_type=Path),
    help="RPMs that DIR is to carry: those of a directory go to where they are in it, a file "
    "to Packages/.  Repeatable.",
)
@click.option("--rpmsign", default="", metavar="KEYID", help="Sign the RPMs of sets, with GPG.")
@click.option("--gpg-sign", default="", metavar="KEYID", help="Sign repomd.xml, with GPG.")
@click.option(
    "--gpg-homedir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the GPG keys are.",
)
@click.option(
    "--allow-older",
    is_flag=True,
    help="Let a SOURCE's newest set be the newest in DIR, though DIR has a newer one.",
)
@tuf_keys_option
@wait_option
@json_option
@click.pass_obj
def publish(
    console: Console,
    places: tuple[Path, ...],
    packages: tuple[Path, ...],
    rpmsign: str,
    gpg_sign: str,
    gpg_homedir: Path | None,
    allow_older: bool,
    tuf_keys: KeyDirectory | None,
    wait: Wait | None,
    as_json: bool,
) -> None:
    """Publish what SOURCEs have in DIR, which mirrors and clients read.

    A SOURCE is a repository that `set build --output` or `compose --rpm-repo` wrote: its sets,
    and all other RPMs that its rpm-md lists, come to DIR.  RPMs are linked or share their bytes
    where the file system can do that.  Clients see the old state or the new one, nothing
    between; whatever fails leaves the old one.
    """
    from composer.mirror.publishing import PublishOptions
    from composer.mirror.publishing import publish as publish_to

    *sources, directory = places
    if not sources and not packages:
        raise UsageError(
            "nothing to publish", hint="mirror publish SOURCE... DIR, or --packages RPM DIR"
        )
    options = PublishOptions(
        packages=packages,
        allow_older=allow_older,
        rpm_key=rpmsign,
        repomd_key=gpg_sign,
        homedir=gpg_homedir,
        keys=tuf_keys,
    )
    warn_unsigned(console, directory, tuf_keys)
    with console.progress(as_json=as_json) as report:
        done = publish_to(sources, directory, options, report, wait=wait)
    for one in done.sets:
        if one.is_new and not one.is_newest:
            console.say(plain(f"{one.entry.ref} {one.entry.version} is not the newest there"))
    if as_json:
        console.json(_document(done))
        return
    for line in _lines(done):
        console.result(plain(line))


def _lines(done: Publication) -> list[str]:
    placed = done.placed
    ways = {"linked": placed.linked, "cloned": placed.cloned, "copied": placed.copied}
    told = ", ".join(f"{count} {way}" for way, count in ways.items() if count)
    lines = [
        f"{'new' if one.is_new else 'there already'}: {one.entry.ref} {one.entry.version}, "
        f"{one.entry.location}"
        for one in done.sets
    ]
    copied = f", {human_bytes(placed.bytes)} copied" if placed.bytes else ""
    lines.append(f"RPMs: {placed.count} came ({told or 'none'}{copied}), {placed.here} were there")
    if done.refreshed:
        signed = ", ".join(f"{role} {number}" for role, number in done.refreshed.signed.items())
        lines.append(f"signed: {signed}; holds until {done.refreshed.expires:%Y-%m-%d %H:%M} UTC")
    return lines


def _document(done: Publication) -> dict[str, Any]:
    placed, refreshed = done.placed, done.refreshed
    return {
        "sets": [_set(one) for one in done.sets],
        "rpms": {
            "linked": placed.linked,
            "cloned": placed.cloned,
            "copied": placed.copied,
            "copied_bytes": placed.bytes,
            "here": placed.here,
        },
        "signed": dict(refreshed.signed) if refreshed else {},
        "expires": refreshed.expires.isoformat() if refreshed else None,
    }


def _set(one: PublishedSet) -> dict[str, Any]:
    entry = one.entry
    return {
        "ref": entry.ref,
        "version": entry.version,
        "commit": str(entry.commit),
        "location": entry.location,
        "pkgid": str(entry.pkgid),
        "new": one.is_new,
        "newest": one.is_newest,
    }
