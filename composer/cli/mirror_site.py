"""``jigdo-composer mirror site``: a static site of what is published."""

from __future__ import annotations

import os
from pathlib import Path

import click

from composer.cli.config import cachedir_option
from composer.cli.console import Console, json_option
from composer.cli.text import human_bytes, plain


@click.command()
@click.argument(
    "directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--title", default="", help="What the site is called; else the first ref's name.")
@click.option(
    "--base-url",
    default="",
    metavar="URL",
    help="Where clients reach DIR, for the commands that set one up and for the feed.",
)
@click.option(
    "--remote",
    default="mirror",
    show_default=True,
    metavar="NAME",
    help="What clients shall call the remote.",
)
@click.option(
    "--gpg-key",
    "keys",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public key that signs commits: it is offered, and signatures are checked by it.  "
    "Repeatable.",
)
@click.option(
    "--packages",
    "packages",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="An rpm-md repository with changelogs, descriptions and advisories of packages that "
    "are not in DIR.  Repeatable.",
)
@click.option(
    "--repository",
    "repositories",
    multiple=True,
    metavar="ID=URL",
    help="Base URL that clients shall use for another repository that sets name.  Repeatable.",
)
@cachedir_option
@json_option
@click.pass_obj
def site(
    console: Console,
    directory: Path,
    title: str,
    base_url: str,
    remote: str,
    keys: tuple[Path, ...],
    packages: tuple[Path, ...],
    repositories: tuple[str, ...],
    cachedir: Path,
    as_json: bool,
) -> None:
    """Build a static site of what is published in DIR, as DIR/site.

    It shows refs and versions, signatures, what changed between any two versions, what updates
    cost, and finds packages and files.  It loads nothing from elsewhere and mostly works without
    JavaScript.  Built again, it only renews what changed.  With SOURCE_DATE_EPOCH that is
    the time that its first page and its feed name, else the newest commit's.
    """
    from composer.mirror.site.building import SiteOptions, build_site
    from composer.mirror.site.building import parse_repositories as parse

    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    options = SiteOptions(
        cachedir=cachedir,
        human=human_bytes,
        title=title,
        base_url=base_url,
        remote=remote,
        keys=keys,
        packages=packages,
        repositories=parse(repositories),
        time=int(epoch) if epoch.isascii() and epoch.isdecimal() and len(epoch) < 12 else None,
    )
    with console.progress(as_json=as_json) as report:
        built = build_site(directory, options, report)
    written = built.written
    for location in built.missing:
        console.warn(plain(f"{location}: the pointers name it and it is not there: left out"))
    if as_json:
        document = {"site": str(built.directory), "refs": built.refs, "versions": built.versions}
        document |= {"files": written.files, "bytes": written.bytes, "changed": written.changed}
        console.json(document | {"removed": written.removed, "missing": list(built.missing)})
        return
    console.result(plain(f"{built.directory / 'index.html'}"))
    console.result(
        f"  {built.versions} versions of {built.refs} refs: {written.files} files, "
        f"{human_bytes(written.bytes)}; {written.changed} changed, {written.removed} removed"
    )
