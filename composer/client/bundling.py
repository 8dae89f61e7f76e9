"""Bundles: one file with all that a pull would fetch, and pulling from it.

Making one plans as a pull does, for a machine that has the base commit and nothing else,
fetches what the plan says and keeps it as it came; so a machine without network asks the
bundle what it would ask a mirror, and proves what it gets in the same way.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.client.acceptance import NO_WAIVERS, Waivers, find_newest, require_acceptable
from composer.client.bundle_parts import Rpms, Spool, write_bundle
from composer.client.events import Listener, Meter, unheard
from composer.client.imagined import Imagined, imagine
from composer.client.remote import Remote
from composer.client.remote_set import open_remote_set
from composer.client.session import Session, session
from composer.client.sources import RemotePackages, Sources, bytes_held
from composer.errors import (
    ComposerError,
    NotFound,
    UsageError,
)
from composer.jigdo.descriptions import Descriptions
from composer.jigdo.examine import DEFAULT_CHOICES, Choices, Wanted, examine
from composer.jigdo.lost import PackagesLost
from composer.jigdo.reader import JigdoSet
from composer.net.bundle import Bundle, BundledRef
from composer.net.fetch import Fetcher
from composer.net.repository import find_entry
from composer.net.statement import MAX_ROOT, STATEMENTS
from composer.ostree.repo import Repository
from composer.progress import Report

NOTHING = "none"
"""The base of a machine that has nothing."""


@dataclass(frozen=True, slots=True)
class Bundling:
    """What was put into a bundle: its refs, its size, and what was fetched for it."""

    refs: tuple[BundledRef, ...]
    size: int
    fetched: int


def bundle(
    remote: Remote,
    refs: Sequence[str],
    into: Path,
    *,
    base: str = "",
    repo: Repository | None = None,
    choices: Choices = DEFAULT_CHOICES,
    sources: Sources | None = None,
    waivers: Waivers = NO_WAIVERS,
    report: Listener = unheard,
    cancel: threading.Event | None = None,
) -> Bundling:
    """Make a bundle of the newest version of each of ``refs`` for machines that have ``base``.

    ``base`` is a version, a commit, or "none"; by default what ``repo`` has of each ref, and
    nothing without.  It is looked for in ``repo``, then on the remote.  Raises what a pull
    raises; ``into`` is then as it was.
    """
    meter = Meter(report, cancel=cancel)
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{into.name}.", dir=into.parent) as place:
        # What its machines have seen of the statements is not known: it has all of them.
        asked_anew = replace(remote, state=Path(place) / "state")
        with (Path(place) / "ranges").open("w+b") as spool:
            kept = Spool(spool)
            packages = Rpms(Path(place) / "packages")
            made: list[BundledRef] = []
            with session(
                asked_anew, sources=sources or Sources(), report=meter, waivers=waivers, keep=kept
            ) as asked:
                if remote.root is not None:
                    # It must not be older than what this machine has seen.
                    with Fetcher(remote.mirrors(), network=asked.network) as plain:
                        for ref in refs:
                            find_newest(plain, remote, ref, waivers)
                _keep_statements(asked, remote)
                for ref in dict.fromkeys(refs):
                    where = Path(place) / f"base{len(made)}"
                    imagined = _base(remote, ref, base, repo, where)
                    made.append(_keep_ref(asked, ref, imagined, choices, packages, meter))
                kept.fill(asked.fetcher)
            size = write_bundle(into, made, kept, packages)
            return Bundling(tuple(made), size, asked.traffic.bytes())


def open_bundle(
    path: Path, remote: Remote, repo: Repository, refs: Sequence[str] = ()
) -> tuple[Remote, Sequence[str]]:
    """Return ``remote`` as it is in a bundle, for check, plan and pull; and which refs to pull.

    Its keys and its policy hold; its mirrors are not asked.  Refs are by default those of the
    bundle that ``repo`` has, or the only one.  Raises FormatError for what is no whole bundle.
    """
    opened = Bundle.open(path)
    return remote.within(opened), _chosen(opened, repo, refs)


def _chosen(opened: Bundle, repo: Repository, refs: Sequence[str]) -> Sequence[str]:
    there = [one.ref for one in opened.refs]
    for ref in refs:
        if ref not in there:
            raise NotFound(
                f"{opened.path}: it has no {ref}", details=[f"it has: {', '.join(there)}"]
            )
    here = [ref for ref in there if repo.resolve(ref) is not None]
    if chosen := refs or here or (there if len(there) == 1 else ()):
        return chosen
    raise UsageError(
        f"{opened.path}: which ref?  It has {', '.join(there)}, and the repository none of them",
        hint="name one with --ref",
    )


def _base(
    remote: Remote, ref: str, base: str, repo: Repository | None, scratch: Path
) -> Imagined | None:
    """Find the commit that the machines have, where it is; None for nothing."""
    if base == NOTHING:
        return None
    if repo is not None:
        commit = repo.resolve(ref) if not base else _of_version(repo, ref, base)
        if commit is not None and not repo.is_partial(commit):
            return Imagined.having(repo, commit)
    if not base:
        return None
    with session(replace(remote, root=None)) as asked:
        return imagine(asked, ref, base, scratch)


def _of_version(repo: Repository, ref: str, base: str) -> ObjectChecksum | None:
    """Find a commit among a ref's and those before it, by version or checksum."""
    commit = repo.resolve(ref)
    while commit is not None and repo.has("commit", commit):
        found = repo.commit(commit)
        if base in (str(commit), found.version):
            return commit
        commit = found.parent
    if len(base) == 64 and repo.has("commit", known := ObjectChecksum.parse(base)):
        return known
    return None


def _keep_statements(asked: Session, remote: Remote) -> None:
    """Keep the chain of roots from the first, for machines that trust an older one."""
    if remote.root is None:
        return
    for version in range(2, remote.root.version + 1):
        with suppress(ComposerError):
            asked.fetcher.fetch_small(f"{STATEMENTS}/{version}.root.json", limit=MAX_ROOT)


def _keep_ref(
    asked: Session,
    ref: str,
    base: Imagined | None,
    choices: Choices,
    packages: Rpms,
    report: Report,
) -> BundledRef:
    """Fetch all that the machines need for a ref."""
    entry = asked.newest(ref).entry
    if asked.remote.root is not None:
        # For those who pull by the keys of the commit alone.
        with suppress(ComposerError):
            find_entry(asked.fetcher, ref)
    with tempfile.TemporaryDirectory(dir=packages.directory.parent) as empty:
        here = base or Imagined.empty(Path(empty))
        jigdo = open_remote_set(
            asked.fetcher,
            entry,
            Descriptions(Path(empty)),
            max_memory=choices.max_memory,
            heard=asked.arrivals,
        )
        wanted = examine(
            jigdo,
            here,
            base=here.base,
            check=lambda frame: require_acceptable(asked.remote, here, ref, frame),
            choices=choices,
            read_only=True,
        )
        plan = wanted.plan
        source = _rpm_source(asked, jigdo, wanted, packages.directory, report)
        while True:
            try:
                needed = [(jigdo.head.packages[p.number].ref, p.beginning) for p in plan.packages]
                packages.fetch(source, needed)
                break
            except PackagesLost as error:
                plan = wanted.again((), error.packages)
        for _ in jigdo.frames([*plan.deltas.frames, *plan.new.frames]):
            pass
    version = here.commit(here.base).version if here.base else ""
    return BundledRef(ref, entry.version, entry.commit, here.base, version)


def _rpm_source(
    asked: Session, jigdo: JigdoSet, wanted: Wanted, directory: Path, report: Report
) -> RemotePackages:
    # One that was made anew would not be the one that the machines ask for.
    strict = replace(asked.sources, strict_pkgid=True)
    holds = bytes_held(jigdo, wanted)
    return RemotePackages(
        asked.remote, directory, asked.cache, asked.network, strict, holds, report
    )
