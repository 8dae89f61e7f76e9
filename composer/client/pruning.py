"""Make room in a repository: old versions, and what this program left there.

What refs and deployments have is kept, and nothing else; so an interrupted pull begins again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.client.sources import package_directory
from composer.errors import UsageError
from composer.jigdo.descriptions import Descriptions
from composer.ostree.locking import Wait, removing
from composer.ostree.pruning import Removed, alone, deployed, prune, versions
from composer.ostree.repairing import side_directory
from composer.ostree.repo import Repository
from composer.progress import Report, silent
from composer.system.files import remove_tree


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune removed, or would; bytes are of the disk.

    ``leftovers`` are of pulls and repairs that did not end: RPMs, staged objects; and
    descriptions of sets whose commits are not here.
    """

    removed: Removed
    leftovers: int
    leftover_bytes: int
    kept: tuple[ObjectChecksum, ...]
    deployed: dict[ObjectChecksum, str]

    @property
    def bytes(self) -> int:
        """All bytes that become free."""
        return self.removed.bytes + self.leftover_bytes


def prune_repository(
    repo: Repository,
    *,
    keep: int = 1,
    dry_run: bool = False,
    report: Report = silent,
    wait: Wait | None = None,
) -> Pruned:
    """Remove what no ref and no deployment needs; of each ref keep the newest ``keep`` versions.

    Raises Busy (unless there is ``wait``) while another process is at work in ``repo``, and
    VerificationFailed where damage hides what is needed; nothing was removed then.
    """
    if keep < 1:
        raise UsageError("a ref keeps its commit at least")
    with removing(repo, wait):
        running = deployed(repo)
        kept = versions(repo, keep=keep) | running.keys()
        removed = prune(repo, kept, dry_run=dry_run, report=report)
        leftovers = sorted(_leftovers(repo, kept))
        size = sum(_size(path) for path in leftovers)
        if not dry_run:
            _remove(repo, leftovers)
        return Pruned(removed, len(leftovers), size, tuple(sorted(kept)), running)


def _leftovers(repo: Repository, kept: set[ObjectChecksum]) -> Iterator[Path]:
    for path in (package_directory(repo), side_directory(repo)):
        if path.is_dir():
            yield path
    # Of another boot, or of a run that was killed: nobody is at work.
    yield from repo.path.glob("tmp/staging-*")
    descriptions = Descriptions.of(repo)
    yield from (descriptions.path(one) for one in descriptions.commits() if one not in kept)


def _remove(repo: Repository, leftovers: list[Path]) -> None:
    with alone(repo):
        for path in leftovers:
            if path.is_dir():
                remove_tree(path)
            else:
                path.unlink()


def _size(path: Path) -> int:
    """Bytes of the disk that removing a file, or a directory with all in it, gives back."""
    sizes: dict[int, int] = {}
    paths = [str(path)]
    for directory, names, files in os.walk(path):
        paths += [os.path.join(directory, name) for name in (*names, *files)]
    for one in paths:
        status = os.lstat(one)
        if status.st_nlink == 1 or os.path.isdir(one):
            sizes[status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())
