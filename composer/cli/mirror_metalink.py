"""``jigdo-composer mirror metalink``: documents that lead clients to several mirrors."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from composer.cli.clock import now
from composer.cli.console import Console, json_option
from composer.cli.mirror_verify import repository_option, root_option, way_of
from composer.cli.network import connection_options
from composer.cli.text import plain
from composer.errors import UsageError


@click.command()
@click.argument(
    "repository",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--mirrors",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="TOML: [[mirror]] with url, and country, priority (1 to 100) and protocol as you like.",
)
@click.option(
    "--output",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the documents go; by default into the repository.",
)
@click.option(
    "--older",
    default=3,
    show_default=True,
    type=click.IntRange(0, 50),
    metavar="N",
    help="So many older repomd.xml count as well, for mirrors that lag.",
)
@click.option(
    "--treeinfo",
    metavar="NAME/VERSION/ARCH",
    help="Also write a .treeinfo, which calls the tree so.",
)
@click.option("--check", is_flag=True, help="Leave out mirrors that are stale, damaged or down.")
@click.option(
    "--max-lag",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="HOURS",
    help="With --check: how long a mirror may lack what DIR has.",
)
@repository_option
@root_option
@connection_options
@json_option
@click.pass_obj
def metalink(
    console: Console,
    repository: Path,
    mirrors: Path,
    output: Path | None,
    older: int,
    treeinfo: str | None,
    check: bool,
    max_lag: float,
    repositories: tuple[str, ...],
    tuf_root: Path | None,
    connection: dict[str, object],
    as_json: bool,
) -> None:
    """Write metalinks and lists of the mirrors of DIR, all in all and for each country.

    A metalink says which repomd.xml is right, and older ones that are: those that the one
    before it named.  Run it after each publication, and before mirrors copy it.
    """
    from composer.mirror.linking import Checking, write_links
    from composer.mirror.metalink import Family
    from composer.mirror.mirror_list import parse_mirrors
    from composer.mirror.needs import parse_repositories

    family = None
    if treeinfo is not None:
        parts = treeinfo.split("/")
        if len(parts) != 3 or not all(parts):
            raise UsageError(f"--treeinfo {treeinfo}: expected NAME/VERSION/ARCH")
        family = Family(*parts)
    checking = Checking(
        parse_repositories(repositories),
        tuf_root.read_bytes() if tuf_root else None,
        timedelta(hours=max_lag),
        way_of(connection),
    )
    with console.progress(as_json=as_json) as report:
        done = write_links(
            repository,
            parse_mirrors(mirrors.read_bytes(), str(mirrors)),
            output or repository,
            older=older,
            now=now(),
            family=family,
            checking=checking if check else None,
            report=report,
        )
    if as_json:
        console.json(
            {
                "files": list(done.files),
                "mirrors": [site.base for site in done.sites],
                "left_out": dict(done.left_out),
                "repomd": [
                    {"timestamp": one.timestamp, "size": one.size, "sha256": one.sha256}
                    for one in done.editions
                ],
            }
        )
        return
    for name in done.files:
        console.result(name)
    console.say(f"mirrors: {len(done.sites)}; repomd.xml that count: {len(done.editions)}")
    for url, reason in done.left_out.items():
        console.warn(plain(f"left out: {url}: {reason}"))
