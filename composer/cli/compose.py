"""``jigdo-composer compose``."""

from __future__ import annotations

import platform
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.config import cachedir_option
from composer.cli.console import Console, human_bytes, json_option
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.compose.pipeline import ComposeRequest, ComposeResult
    from composer.mirror.making import MadeSet
    from composer.progress import Report


def parse_repositories(pairs: tuple[str, ...]) -> dict[str, str]:
    """Read ``ID=URL`` pairs; raises UsageError."""
    found: dict[str, str] = {}
    for pair in pairs:
        ident, equals, url = pair.partition("=")
        if not (ident and equals and url):
            raise UsageError(f"--repository: expected ID=URL, got {pair!r}")
        found[ident] = url
    return found


@click.command()
@click.argument("treefile", type=click.Path(path_type=Path))
@click.option(
    "--repo", required=True, type=click.Path(path_type=Path), help="OSTree repository to commit to."
)
@click.option(
    "--rpm-repo",
    type=click.Path(path_type=Path),
    help="Also build the jigdo set, into this rpm-md repository.",
)
@cachedir_option
@click.option(
    "--repository",
    "repositories",
    multiple=True,
    metavar="ID=URL",
    help="Where a repository is: URL or directory.  Repeatable.",
)
@click.option(
    "--basearch",
    default=platform.machine(),
    show_default="this machine's",
    help="Architecture of the tree.",
)
@click.option("--dry-run", is_flag=True, help="Only solve; print the packages.")
@click.option("--force-nocache", is_flag=True, help="Compose although nothing changed.")
@click.option(
    "--check-reproducible",
    is_flag=True,
    help="Compose twice, in different circumstances; fail if the commits differ.",
)
@click.option(
    "--parent/--no-parent",
    default=True,
    show_default=True,
    help="Make the ref's current commit the parent.",
)
@click.option("--gpg-sign", metavar="KEYID", help="Sign the commit with this GPG key.")
@click.option(
    "--gpg-homedir", type=click.Path(path_type=Path), help="GPG home directory with that key."
)
@click.option(
    "--scriptlet-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="How long a scriptlet or script may run.",
)
@click.option(
    "--scriptlet-processes",
    type=click.IntRange(min=10),
    default=2000,
    show_default=True,
    metavar="NUMBER",
    help="How many processes and threads may be there at once.",
)
@click.option(
    "--scriptlet-memory",
    type=click.IntRange(min=1),
    show_default="three quarters of this machine's",
    metavar="MB",
    help="How much memory they may use together.",
)
@click.option(
    "--scriptlet-space",
    type=click.IntRange(min=1),
    default=4096,
    show_default=True,
    metavar="MB",
    help="How much they may write, beside what packages hold.",
)
@json_option
@click.pass_obj
def compose(
    console: Console,
    treefile: Path,
    repo: Path,
    rpm_repo: Path | None,
    cachedir: Path,
    repositories: tuple[str, ...],
    basearch: str,
    dry_run: bool,
    force_nocache: bool,
    check_reproducible: bool,
    parent: bool,
    gpg_sign: str | None,
    gpg_homedir: Path | None,
    scriptlet_timeout: float,
    scriptlet_processes: int,
    scriptlet_memory: int | None,
    scriptlet_space: int,
    as_json: bool,
) -> None:
    """Compose TREEFILE into an OSTree commit; with --rpm-repo, its jigdo set too."""
    from composer.compose import pipeline
    from composer.compose.commit import Signing
    from composer.compose.reproduce import NotReproducible
    from composer.mirror.publish import is_published
    from composer.system import seccomp
    from composer.system.limits import Limits

    limits = Limits(
        seconds=scriptlet_timeout, processes=scriptlet_processes, written=scriptlet_space << 20
    )
    if scriptlet_memory:
        limits = replace(limits, memory=scriptlet_memory << 20)
    request = pipeline.ComposeRequest(
        treefile=treefile,
        repo=repo,
        cachedir=cachedir,
        basearch=basearch,
        repositories=parse_repositories(repositories),
        dry_run=dry_run,
        force=force_nocache,
        check_reproducible=check_reproducible,
        parent=parent,
        signing=Signing(gpg_sign, str(gpg_homedir or "")) if gpg_sign else None,
        is_published=partial(is_published, rpm_repo) if rpm_repo else lambda ref, commit: True,
        limits=limits,
    )
    if not dry_run and not seccomp.is_available():
        console.warn(
            "scriptlets run without a filter of system calls: Python's libseccomp is missing"
            " (apt-get install python3-seccomp, or dnf install python3-libseccomp)"
        )
    try:
        with console.progress(as_json=as_json) as report:
            result = pipeline.compose(request, report)
            made = _publish(result, request, rpm_repo, gpg_homedir, report) if rpm_repo else None
    except NotReproducible as error:
        if as_json:
            console.json(error.document())
        raise
    show(console, result, made, as_json=as_json)


def _publish(
    result: ComposeResult,
    request: ComposeRequest,
    rpm_repo: Path,
    gpg_homedir: Path | None,
    report: Report,
) -> MadeSet | None:
    from composer.jigdo.build import LocalPackage
    from composer.mirror.making import SetRequest, make_set
    from composer.ostree.repo import Repository

    if not result.commit:  # a dry run
        return None
    wanted = SetRequest(
        ref=result.ref,
        output=rpm_repo,
        cachedir=request.cachedir,
        gpg_key=request.signing.key if request.signing else "",
        gpg_homedir=gpg_homedir,
    )
    packages = [LocalPackage(package.ref, package.path) for package in result.packages]
    return make_set(Repository.open(request.repo), packages, wanted, report)


def show(console: Console, result: ComposeResult, made: MadeSet | None, *, as_json: bool) -> None:
    """Print the outcome; after a dry run, the packages and what changes."""
    packages = [str(package.nevra) for package in result.solution.packages]
    if as_json:
        console.json(
            {
                "ref": result.ref,
                "commit": result.commit or None,
                "version": result.version or None,
                "parent": result.parent or None,
                "packages": packages,
                "reproducible": True if result.varied else None,
                "varied": list(result.varied),
                "seconds": dict(result.seconds),
                "set": made.summary() if made else None,
            }
        )
        return
    if not result.commit:
        _show_dry_run(console, result, packages)
        return
    if result.created:
        console.say("made the repository, as bare-user")
    console.result(f"{result.ref} {result.version}".rstrip())
    console.result(f"commit {result.commit}")
    console.result(f"packages {len(packages)}")
    if result.varied:
        console.result(f"reproducible, with another {', '.join(result.varied)}")
    if console.verbose:
        for phase, seconds in result.seconds.items():
            console.say(f"{phase}: {seconds:.1f} s")
    if made:
        console.result(f"set {made.rpm}, {human_bytes(made.entry.length)}")


def _show_dry_run(console: Console, result: ComposeResult, packages: list[str]) -> None:
    before = set(result.before)
    for name in sorted(before.union(packages)):
        mark = " " if name in before and name in packages else "+" if name in packages else "-"
        console.result(f"{mark} {name}" if before else name)
    size = sum(package.size for package in result.solution.packages)
    console.say(f"{len(packages)} packages, {size} bytes; nothing was written")
