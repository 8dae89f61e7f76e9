"""``jigdo-composer set``: build, inspect and verify jigdo sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.config import (
    cachedir_option,
    delta_options,
    keeping_options,
    tuf_keys_option,
    wait_option,
    warn_undescribed,
    warn_unsigned,
)
from composer.cli.console import Console, json_option
from composer.cli.executors import OpenedExecutor, executor_options
from composer.cli.text import human_bytes, plain

if TYPE_CHECKING:
    from composer.mirror.keys import KeyDirectory
    from composer.mirror.making import DeltaChoice, Keeping
    from composer.ostree.locking import Wait

_MOST_SHOWN = 20
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PACKAGES = click.option(
    "--packages",
    "places",
    multiple=True,
    required=True,
    metavar="[ID=]DIR",
    help="Directory of RPMs, best an rpm-md repository; ID is its repository id.  Repeatable.",
)


@click.group("set")
def jigdo_set() -> None:
    """Jigdo sets: build, inspect, verify."""


@jigdo_set.command()
@click.option("--repo", "repository", required=True, type=click.Path(path_type=Path))
@click.option("--ref", required=True)
@click.option(
    "--commit",
    "revision",
    default="",
    metavar="REV",
    help="Build the set of this commit or version of REF, not the newest.",
)
@_PACKAGES
@click.option("--output", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", default="", help="Name of the set and its RPM; derived from the ref.")
@click.option("--gpg-sign", default="", metavar="KEYID", help="Sign the RPM of the set.")
@click.option("--gpg-homedir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@delta_options
@keeping_options
@tuf_keys_option
@executor_options
@cachedir_option
@wait_option
@json_option
@click.pass_obj
def build(
    console: Console,
    repository: Path,
    ref: str,
    revision: str,
    places: tuple[str, ...],
    output: Path,
    name: str,
    gpg_sign: str,
    gpg_homedir: Path | None,
    deltas: DeltaChoice,
    keeping: Keeping,
    tuf_keys: KeyDirectory | None,
    opened: OpenedExecutor,
    cachedir: Path,
    wait: Wait | None,
    as_json: bool,
) -> None:
    """Build the jigdo set of REF and publish it in the rpm-md repository at --output.

    The directory gets NAME.jigdo's RPM, rpm-md that lists it beside what is already
    there, and the pointer that clients look for.  The sets of older versions stay there for
    clients that ask for one; `--commit` builds such a set again, for instance with deltas
    from newer versions (`--from`), which make downgrades small.

    With deltas, building an OS takes about 1 GB of memory, a worker up to 0.8 GB for a pair of
    large files.  Pairs that would take more than 256 MB together are made in turn.
    """
    from composer.mirror.making import (
        SetRequest,
        find_packages,
        make_set,
        select_packages,
    )
    from composer.mirror.others import find_commit
    from composer.ostree.repo import Repository

    repo = Repository.open(repository)
    available = find_packages(places)
    packages = select_packages(repo, find_commit(repo, ref, revision), available)
    request = SetRequest(
        ref=ref,
        revision=revision,
        output=output,
        name=name,
        gpg_key=gpg_sign,
        gpg_homedir=gpg_homedir,
        cachedir=cachedir,
        deltas=deltas,
        keeping=keeping,
        tuf_keys=tuf_keys,
    )
    warn_unsigned(console, output, tuf_keys)
    with opened(console) as farm, console.progress(as_json=as_json) as report:
        made = make_set(repo, packages, request, report, available=available, wait=wait, farm=farm)
    warn_undescribed(console, made)
    if as_json:
        console.json(made.summary())
    else:
        console.result(f"{made.rpm}")
        console.result(f"  commit {made.entry.commit}, {human_bytes(made.entry.length)}")


@jigdo_set.command()
@click.argument("file", type=_FILE)
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with bars for a browser; it loads nothing.",
)
@json_option
@click.pass_obj
def inspect(console: Console, file: Path, page: Path | None, as_json: bool) -> None:
    """Show what is in FILE, a .jigdo file or the RPM of a set, and where its bytes are.

    Patches of many packages are compressed together: each package's patch bytes are its
    share of that, by the size of its patches.
    """
    from composer.mirror.making import open_set, summarize
    from composer.system.files import write_bytes
    from composer.system.templates import render

    summary = summarize(open_set(file))
    if page:
        html = render("set-inspect.html.j2", set=summary, human=human_bytes)
        write_bytes(page, html.encode())
    if as_json:
        console.json(summary)
        return
    for key in ("name", "ref", "version", "commit", "timestamp"):
        console.result(f"{key + ':':12}{summary[key]}")
    console.result(f"{'signed:':12}{'yes' if summary['signed'] else 'no'}")
    console.result(f"{'packages:':12}{len(summary['packages'])}")
    for key, value in summary["totals"].items():
        console.result(f"  {key.replace('_', ' ') + ':':24}{value}")
    console.result("sections:       frames       bytes  uncompressed")
    for section in summary["sections"]:
        row = (section["frames"], section["bytes"], section["uncompressed"])
        console.result(f"  {section['kind']:10}" + "{:10} {:11} {:13}".format(*row))
    for line in _codec_lines(summary):
        console.result(line)
    for line in _package_lines(summary):
        console.result(line)


def _codec_lines(summary: dict[str, Any]) -> Iterator[str]:
    for title, key in (("codecs of frames", "frame_codecs"), ("codecs of patches", "patch_codecs")):
        for codec in summary[key]:
            row = (codec["count"], codec["bytes"], codec["uncompressed"])
            yield f"{title}: {codec['codec']:10}" + "{:10} {:11} {:13}".format(*row)
    for base in summary["bases"]:
        yield (
            f"deltas from {base['commit']} {base['version']}: {base['bytes']} bytes; contents: "
            f"{base['copied']} copied, {base['patched']} patched, {base['repacked']} packed again"
        )


def _package_lines(summary: dict[str, Any]) -> Iterator[str]:
    rows = [(row["map_bytes"] + row["patch_bytes"], row) for row in summary["packages"]]
    rows.sort(key=lambda pair: (-pair[0], pair[1]["nevra"]))
    yield "by package:  map     patches"
    for _, row in rows[:_MOST_SHOWN]:
        yield plain(f"{row['map_bytes']:12}{row['patch_bytes']:12}  {row['nevra']}")
    if left := [size for size, _ in rows[_MOST_SHOWN:]]:
        yield f"  and {sum(left)} bytes of {len(left)} others: see --json or --html"
    if summary["other"]["patches"]:
        yield f"{0:12}{summary['other']['patch_bytes']:12}  of no package"


@jigdo_set.command()
@click.argument("file", type=_FILE)
@_PACKAGES
@click.option(
    "--workdir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the throw-away repository is made; as large as the commit.",
)
@click.option(
    "--repo",
    "repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A repository with the older commits that the set has deltas from: proves these too.",
)
@json_option
@click.pass_obj
def verify(
    console: Console,
    file: Path,
    places: tuple[str, ...],
    workdir: Path | None,
    repository: Path | None,
    as_json: bool,
) -> None:
    """Prove that FILE and the given packages reassemble the commit, bit for bit.

    With --repo every delta of FILE is proven as well: each patch is applied to the content
    of the older commit, each container packed again, and the objects' checksums compared.
    """
    import tempfile

    from composer.jigdo.local import verify_set
    from composer.jigdo.proving import prove_deltas
    from composer.mirror.making import find_packages, open_set
    from composer.ostree.repo import Repository

    jigdo = open_set(file)
    repo = Repository.open(repository) if repository else None
    work = workdir or Path(tempfile.gettempdir())
    paths = {package.ref.pkgid: package.path for package in find_packages(places)}
    with console.progress(as_json=as_json) as report:
        wanted = verify_set(jigdo, paths, work, report)
        proofs = list(prove_deltas(jigdo, wanted, repo, work, report)) if repo else []
    if as_json:
        document = {"ref": jigdo.head.ref, "commit": str(jigdo.head.commit), "verified": True}
        deltas = [proof.document() for proof in proofs]
        console.json(document | ({"deltas": deltas} if repo else {}))
        return
    console.result(f"{jigdo.head.ref} {jigdo.head.version}: {jigdo.head.commit} reassembles")
    for proof in proofs:
        console.result(plain(proof.line()))
    if jigdo.head.bases and not repo:
        console.result(
            f"  deltas from {len(jigdo.head.bases)} older commits are not proven: "
            "--repo names a repository that has them"
        )
