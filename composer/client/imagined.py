"""A machine that is elsewhere, as a plan sees it: it has one commit, whole, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from composer.checksum import ObjectChecksum
from composer.client.acceptance import find_newest, require_acceptable
from composer.client.remote_set import open_remote_set
from composer.client.session import Session
from composer.jigdo import memory
from composer.jigdo.container import Kind
from composer.jigdo.descriptions import Descriptions
from composer.jigdo.tree import walk
from composer.ostree.repo import Repository


class Imagined(Repository):
    """A repository of which one commit counts, or nothing; its contents need not be there.

    Make one by :meth:`having` or :meth:`empty`.  ``base`` is the commit.
    """

    base: ObjectChecksum | None = None
    _present: frozenset[ObjectChecksum] = frozenset()

    @classmethod
    def having(cls, repo: Repository, commit: ObjectChecksum) -> Self:
        """One that has ``commit``, whose metadata objects are in ``repo``."""
        made = cls.open(repo.path)
        present = {commit}
        for visit in walk(repo.commit(commit).tree, lambda one: repo.metadata("dirtree", one)):
            present.add(visit.checksum)
            present.update(entry.checksum for entry in visit.tree.files)
        made.base, made._present = commit, frozenset(present)
        return made

    @classmethod
    def empty(cls, path: Path) -> Self:
        """One that has nothing; ``path`` is for an empty repository."""
        return cls.create(path, mode="archive")

    def has(self, kind: str, checksum: ObjectChecksum) -> bool:
        """Tell whether an object is part of the commit."""
        return checksum in self._present

    def missing_content(self, checksums: Iterable[ObjectChecksum]) -> set[ObjectChecksum]:
        """Return those that are not part of the commit."""
        return {checksum for checksum in checksums if checksum not in self._present}

    def staged_content(self) -> set[ObjectChecksum]:
        """Nothing is staged."""
        return set()

    def is_partial(self, commit: ObjectChecksum) -> bool:
        """The commit is whole."""
        return False


def imagine(asked: Session, ref: str, version: str, scratch: Path) -> Imagined:
    """Imagine a machine that has a version (or commit) which the remote still has a set of.

    Its metadata objects are written to a repository at ``scratch``.
    """
    entry = find_newest(asked.fetcher, asked.remote, ref, asked.waivers, version=version).entry
    repo = Repository.create(scratch, mode="archive")
    nothing_kept = Descriptions(scratch / "none")
    jigdo = open_remote_set(asked.fetcher, entry, nothing_kept, max_memory=memory.ALLOWED)
    frame = jigdo.read_commit()
    require_acceptable(asked.remote, repo, ref, frame)
    with repo.transaction():
        for checksum, data in jigdo.dirtrees(jigdo.index.of(Kind.TREE)):
            repo.write_metadata("dirtree", checksum, data)
        repo.write_metadata("commit", entry.commit, frame.data)
    return Imagined.having(repo, entry.commit)
