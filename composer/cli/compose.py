"""``jigdo-composer compose``."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.changes import change_lines
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
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.compose.pipeline import ComposeRequest, ComposeResult
    from composer.mirror.keys import KeyDirectory
    from composer.mirror.making import DeltaChoice, Keeping, MadeSet, SetRequest
    from composer.ostree.locking import Wait
    from composer.progress import Report
    from composer.system.executors import Farm
    from composer.system.limits import Limits


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
    help="Also build the jigdo set, into this rpm-md repository, its bill of materials beside it.",
)
@click.option(
    "--sbom",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the commit's bill of materials (CycloneDX JSON) to this file.",
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
@click.option(
    "--lockfile",
    "lockfiles",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Take locked packages in these versions only.  Repeatable; later ones override.",
)
@click.option("--strict-lockfile", is_flag=True, help="Take nothing that is not locked.")
@click.option(
    "--write-lockfile", type=click.Path(path_type=Path), help="Write a lockfile of the solution."
)
@click.option("--dry-run", is_flag=True, help="Only solve; print the packages and what changes.")
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
@click.option("--gpg-sign", metavar="KEYID", help="Sign with this GPG key, not the treefile's.")
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
@delta_options
@keeping_options
@tuf_keys_option
@executor_options
@wait_option
@json_option
@click.pass_obj
def compose(
    console: Console,
    treefile: Path,
    repo: Path,
    rpm_repo: Path | None,
    sbom: Path | None,
    deltas: DeltaChoice,
    keeping: Keeping,
    tuf_keys: KeyDirectory | None,
    opened: OpenedExecutor,
    cachedir: Path,
    repositories: tuple[str, ...],
    basearch: str,
    lockfiles: tuple[Path, ...],
    strict_lockfile: bool,
    write_lockfile: Path | None,
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
    wait: Wait | None,
    as_json: bool,
) -> None:
    """Compose TREEFILE into an OSTree commit; with --rpm-repo, its jigdo set too."""
    from composer.compose import pipeline
    from composer.compose.reproduce import NotReproducible
    from composer.system.userns import become_root

    if strict_lockfile and not lockfiles:
        raise UsageError("--strict-lockfile needs --lockfile FILE")
    request = pipeline.ComposeRequest(
        treefile=treefile,
        repo=repo,
        cachedir=cachedir,
        basearch=basearch,
        repositories=parse_repositories(repositories),
        lockfiles=lockfiles,
        strict_lockfile=strict_lockfile,
        write_lockfile=write_lockfile,
        dry_run=dry_run,
        force=force_nocache,
        check_reproducible=check_reproducible,
        parent=parent,
        gpg_key=gpg_sign or "",
        gpg_homedir=str(gpg_homedir or ""),
        is_published=_publication(rpm_repo, sbom),
        limits=_limits(scriptlet_timeout, scriptlet_processes, scriptlet_memory, scriptlet_space),
    )
    if rpm_repo or sbom:
        _require_sbom()
    if rpm_repo and not dry_run:
        warn_unsigned(console, rpm_repo, tuf_keys)
    if not dry_run:
        become_root()
        _warn_unfiltered(console)
    try:
        with console.progress(as_json=as_json) as report:
            result = pipeline.compose(request, report, console.warn, wait=wait)
            made = None
            if rpm_repo:
                wanted = _wanted(result, request, rpm_repo, gpg_homedir, deltas, keeping, tuf_keys)
                # Not before: a compose forks, and a connection has threads.
                with opened(console) as farm:
                    made = _publish(result, request, wanted, report, wait, farm)
            sboms = _write_sboms(result, repo, made, sbom, report)
    except NotReproducible as error:
        if as_json:
            console.json(error.document())
        raise
    if made:
        warn_undescribed(console, made)
    show(console, result, made, sboms, as_json=as_json)


def _limits(seconds: float, processes: int, memory: int | None, space: int) -> Limits:
    """Make the bounds of scriptlets; ``memory`` and ``space`` are in MB."""
    from composer.system.limits import Limits

    limits = Limits(seconds=seconds, processes=processes, written=space << 20)
    return replace(limits, memory=memory << 20) if memory else limits


def _warn_unfiltered(console: Console) -> None:
    from composer.system import seccomp

    if not seccomp.is_available():
        console.warn(
            "scriptlets run without a filter of system calls: Python's libseccomp is missing"
            " (Debian: python3-seccomp; Fedora 44 and newer: libseccomp-python)"
        )


def _publication(rpm_repo: Path | None, sbom: Path | None) -> Callable[[str, str], bool]:
    """Tell of a commit whether its set and its bills of materials are where they were wanted."""

    def is_there(ref: str, commit: str) -> bool:
        from composer.compose.sbom import SUFFIX, describes
        from composer.mirror.lists import published

        wanted = [sbom] if sbom else []
        if rpm_repo:
            entry = published(rpm_repo, ref, commit)
            if entry is None:
                return False
            wanted.append((rpm_repo / entry.location).with_suffix(SUFFIX))
        return all(describes(path, ref, commit) for path in wanted)

    return is_there


def _require_sbom() -> None:
    from composer.compose.sbom import require_library

    require_library()


def _write_sboms(
    result: ComposeResult, repo: Path, made: MadeSet | None, sbom: Path | None, report: Report
) -> list[Path]:
    from composer.checksum import ObjectChecksum
    from composer.compose.sbom import SUFFIX, write_sbom
    from composer.ostree.repo import Repository
    from composer.progress import Step

    wanted = [sbom] if sbom else []
    wanted += [made.rpm.with_suffix(SUFFIX)] if made else []
    if not result.commit:  # a dry run
        return []
    commit = ObjectChecksum.parse(result.commit)
    for path in wanted:
        report(Step("bill of materials", item=str(path)))
        write_sbom(Repository.open(repo), result.ref, commit, result.packages, path)
    return wanted


def _wanted(
    result: ComposeResult,
    request: ComposeRequest,
    rpm_repo: Path,
    gpg_homedir: Path | None,
    deltas: DeltaChoice,
    keeping: Keeping,
    tuf_keys: KeyDirectory | None,
) -> SetRequest:
    from composer.mirror.making import SetRequest
    from composer.mirror.set_rpm import About

    rojig = result.rojig
    return SetRequest(
        ref=result.ref,
        name=rojig.name if rojig else "",
        about=About(rojig.summary, rojig.license, rojig.description) if rojig else About(),
        output=rpm_repo,
        cachedir=request.cachedir,
        gpg_key=result.signing.key if result.signing else "",
        gpg_homedir=gpg_homedir,
        deltas=deltas,
        keeping=keeping,
        tuf_keys=tuf_keys,
    )


def _publish(
    result: ComposeResult,
    request: ComposeRequest,
    wanted: SetRequest,
    report: Report,
    wait: Wait | None,
    farm: Farm | None,
) -> MadeSet | None:
    from composer.jigdo.build import LocalPackage
    from composer.mirror.making import make_set
    from composer.ostree.repo import Repository

    if not result.commit:  # a dry run
        return None
    packages = [LocalPackage(package.ref, package.path) for package in result.packages]
    return make_set(Repository.open(request.repo), packages, wanted, report, wait=wait, farm=farm)


def show(
    console: Console,
    result: ComposeResult,
    made: MadeSet | None,
    sboms: list[Path],
    *,
    as_json: bool,
) -> None:
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
                "changes": result.changes.summary(),
                "download_bytes": result.solution.to_download,
                "reproducible": True if result.varied else None,
                "varied": list(result.varied),
                "seconds": dict(result.seconds),
                "advisories_fixed": [advisory.document() for advisory in result.fixed],
                "set": made.summary() if made else None,
                "sbom": [str(path) for path in sboms],
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
    if result.fixed:
        console.result(f"advisories {plain(', '.join(one.ident for one in result.fixed))}")
    if made:
        console.result(f"set {made.rpm}, {human_bytes(made.entry.length)}")
    for path in sboms:
        console.result(f"bill of materials {path}")


def _show_dry_run(console: Console, result: ComposeResult, packages: list[str]) -> None:
    for name in packages:
        console.result(name)
    if result.before:
        for line in change_lines(result.changes):
            console.result(line)
    size = sum(package.size for package in result.solution.packages)
    console.say(
        f"{len(packages)} packages, {human_bytes(size)}, of them"
        f" {human_bytes(result.solution.to_download)} to download; nothing was written"
    )
