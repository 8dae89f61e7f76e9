"""Remove the objects that no commit to be kept has.

Rules kept here: a commit goes before anything that it has, on disk too, so one that is there is
whole at any moment; bytes are those that the disk gets back: of a file with names elsewhere, none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.checksum import ObjectChecksum
from composer.errors import VerificationFailed
from composer.ostree.checking import ObjectName
from composer.ostree.library import RepositoryError
from composer.ostree.locking import Busy, Holder
from composer.ostree.objects import Commit
from composer.ostree.repo import Repository
from composer.progress import Report, Step, silent
from composer.system.files import sync_directory

_BINDING = "ostree.ref-binding"
_DEPLOYED = re.compile(r"([0-9a-f]{64})\.[0-9]+\Z")
# The order of removal; what is named comes after what names it.
_KINDS = ("commit", "dirtree", "dirmeta", "file")


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed, or would be: commits, how many objects (those too), bytes of the disk."""

    commits: tuple[ObjectChecksum, ...]
    objects: int
    bytes: int


def deployed(repo: Repository) -> dict[ObjectChecksum, str]:
    """Return the commits that are deployed from here, each with the name of a deployment.

    Only a system's own repository, ``ostree/repo`` beside ``ostree/deploy``, has any.
    """
    place = repo.path.resolve()
    if place.name != "repo":
        return {}
    found: dict[ObjectChecksum, str] = {}
    for path in sorted(place.parent.glob("deploy/*/deploy/*")):
        if path.is_dir() and (match := _DEPLOYED.match(path.name)):
            commit = ObjectChecksum.parse(match[1])
            found.setdefault(commit, f"{path.parts[-3]} {path.name}")
    return found


def versions(repo: Repository, *, keep: int) -> set[ObjectChecksum]:
    """Return each ref's commit, and of the others that are here the newest, ``keep`` in all.

    A ref's are those that were made for it, and those in its commit's history.
    """
    commits = dict(_commits(repo)) if keep > 1 else {}
    kept = set()
    for ref, head in repo.refs().items():
        name = ref.rpartition(":")[2]
        own = {head, *_history(commits, head)}
        for checksum, commit in commits.items():
            bound = commit.metadata.get(_BINDING)
            if isinstance(bound, list) and name in bound and not repo.is_partial(checksum):
                own.add(checksum)
        others = sorted(own - {head}, key=lambda one: (commits[one].timestamp, one), reverse=True)
        kept |= {head, *others[: keep - 1]}
    return kept


def _history(
    commits: dict[ObjectChecksum, Commit], head: ObjectChecksum
) -> Iterator[ObjectChecksum]:
    while head in commits and (parent := commits[head].parent) in commits:
        assert parent is not None
        yield (head := parent)


def _commits(repo: Repository) -> Iterator[tuple[ObjectChecksum, Commit]]:
    """Yield the commits that are here; what is no commit is none."""
    for name, _ in _objects(repo):
        if name.kind == "commit":
            try:
                yield name.checksum, repo.commit(name.checksum)
            except (RepositoryError, VerificationFailed):
                continue


def prune(
    repo: Repository,
    keep: Iterable[ObjectChecksum],
    *,
    dry_run: bool = False,
    report: Report = silent,
) -> Removed:
    """Remove all objects but those of the commits ``keep``.

    Raises VerificationFailed, and removes nothing, where what a commit needs cannot be known
    because some of its directories are damaged or missing.  Partial commits are kept as far as they
    are here.
    """
    with nullcontext() if dry_run else alone(repo):
        needed = _needed(repo, keep)
        found: _Found = {kind: [] for kind in _KINDS}
        for name, entry in _objects(repo):
            if name not in needed:
                found[name.kind].append((name, entry))
        removed = Removed(
            tuple(sorted(name.checksum for name, _ in found["commit"])),
            sum(map(len, found.values())),
            sum(_freed(entry.path) for entries in found.values() for _, entry in entries)
            + sum(_freed(entry.path + "meta") for _, entry in found["commit"]),
        )
        if not dry_run:
            _remove(repo, found, removed.objects, report)
    return removed


_Found = dict[str, list[tuple[ObjectName, os.DirEntry[str]]]]


def _remove(repo: Repository, found: _Found, total: int, report: Report) -> None:
    done = 0
    for kind, entries in found.items():
        places = set()
        for name, entry in entries:
            os.unlink(entry.path)
            places.add(os.path.dirname(entry.path))
            done += 1
            if kind == "commit":
                Path(entry.path + "meta").unlink(missing_ok=True)
                (repo.path / "state" / f"{name.checksum}.commitpartial").unlink(missing_ok=True)
            if done % 1000 == 0 or done == total:
                report(Step("prune", done, total, "objects"))
        if kind != "file":
            for place in sorted(places):
                sync_directory(Path(place))


@contextmanager
def alone(repo: Repository) -> Iterator[None]:
    """Keep other programs that use libostree out, as its own prune does.

    Raises Busy where one has its lock for longer than the repository's core.lock-timeout-secs.
    """
    try:
        with repo.libostree() as (ostree, own):
            own.lock_push(ostree.RepoLockType.EXCLUSIVE, None)
    except RepositoryError as error:
        if _would_block(error):
            raise Busy(repo.path, Holder()) from error
        raise
    try:
        yield
    finally:
        with repo.libostree() as (ostree, own):
            own.lock_pop(ostree.RepoLockType.EXCLUSIVE, None)


def _would_block(error: RepositoryError) -> bool:
    from gi.repository import Gio

    cause: Any = error.__cause__
    return bool(cause.matches(Gio.io_error_quark(), Gio.IOErrorEnum.WOULD_BLOCK))


def _needed(repo: Repository, keep: Iterable[ObjectChecksum]) -> set[ObjectName]:
    needed: set[ObjectName] = set()
    for checksum in sorted(keep):
        if not repo.has("commit", checksum):
            continue  # a ref that leads nowhere keeps nothing
        try:
            _add_needed(repo, checksum, needed)
        except (RepositoryError, VerificationFailed) as error:
            raise VerificationFailed(
                f"{repo.path}: what commit {checksum} needs cannot be known: {error.message}",
                hint="mend it with `repo fsck --repair`; nothing was removed",
            ) from error
    return needed


def _add_needed(repo: Repository, checksum: ObjectChecksum, needed: set[ObjectName]) -> None:
    partial, commit = repo.is_partial(checksum), repo.commit(checksum)
    needed |= {ObjectName("commit", checksum), ObjectName("dirmeta", commit.meta)}
    stack = [commit.tree]
    while stack:
        name = ObjectName("dirtree", stack.pop())
        if name in needed or (partial and not repo.has("dirtree", name.checksum)):
            continue
        tree = repo.dirtree(name.checksum)
        needed.add(name)
        needed |= {ObjectName("file", file.checksum) for file in tree.files}
        needed |= {ObjectName("dirmeta", entry.meta) for entry in tree.directories}
        stack += [entry.tree for entry in tree.directories]


def _objects(repo: Repository) -> Iterator[tuple[ObjectName, os.DirEntry[str]]]:
    """Yield the objects that have landed, in no order."""
    kinds = {f".{kind}": kind for kind in _KINDS} | {".filez": "file"}
    for prefix in range(256):
        try:
            listing = os.scandir(repo.path / "objects" / f"{prefix:02x}")
        except FileNotFoundError:
            continue
        with listing:
            for entry in listing:
                kind = kinds.get(entry.name[62:])
                if kind is None:
                    continue
                try:
                    checksum = ObjectChecksum.parse(f"{prefix:02x}{entry.name[:62]}")
                except ValueError:
                    continue
                yield ObjectName(kind, checksum), entry


def _freed(path: str) -> int:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0
    return status.st_blocks * 512 if status.st_nlink == 1 else 0
