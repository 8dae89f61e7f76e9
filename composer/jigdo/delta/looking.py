"""Look at contents before patches of them are made: what is inside, and what moved in all.

In processes of their own, for the contents are large and there are many.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryFile

from composer.checksum import ObjectChecksum
from composer.jigdo.delta.columns import Base, HeldFile
from composer.jigdo.delta.linking import Learning, Moved, moves_of
from composer.jigdo.repack import Recipe, analyse, opened, unpack
from composer.ostree.repo import Repository
from composer.progress import Report, Step

Inside = tuple[ObjectChecksum | None, ObjectChecksum]
"""Base, if there is one, and target."""

# Bytes of a container that is looked into; every worker holds two, and what is inside them.
_LARGEST_CONTAINER = 1 << 28
# Bytes of a content that is not held whole.
_LARGE = 1 << 26
# Bytes of modules that are learned from.
_LARGEST_MODULE = 1 << 26


@dataclass(frozen=True, slots=True)
class StoredContent:
    """The content of an object, or what is inside it, to be read in another process."""

    repo: Path
    checksum: str
    recipe: bytes = b""

    def __call__(self) -> Base:
        checksum = ObjectChecksum.parse(self.checksum)
        if not self.recipe and _size(self.repo, checksum) > _LARGE:
            return _file(self.repo, checksum)
        data = read_content(self.repo, checksum)
        if not self.recipe:
            return data
        return b"".join(unpack(data, Recipe.parse(self.recipe)))


def look_inside(
    repo: Path, asked: Sequence[Inside], report: Report, workers: int
) -> list[tuple[bytes, bytes]]:
    """Return the recipes of target and base, where the delta is to be made inside; else empty.

    On all cores; both are empty where there is no base.
    """
    found = []
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        for pair in pool.map(partial(_containers, repo), asked, chunksize=16):
            found.append(pair)
            report(
                Step(
                    "look inside", len(found), len(asked), "objects", str(asked[len(found) - 1][1])
                )
            )
    return found


def learn(repo: Path, asked: Sequence[Inside], report: Report, workers: int) -> bytes:
    """Return what the modules among these pairs have in common, to be given to ``Linked``."""
    learning = Learning()
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        for done, found in enumerate(pool.map(partial(_moves, repo), asked, chunksize=16), 1):
            learning.add(found)
            report(Step("learn", done, len(asked), "objects"))
    return learning.shared()


def _containers(repo: Path, asked: Inside) -> tuple[bytes, bytes]:
    """Inside pays only where both can be opened."""
    old, new = asked
    if old is None or max(_size(repo, old), _size(repo, new)) > _LARGEST_CONTAINER:
        return b"", b""
    recipe = analyse(read_content(repo, new))
    if recipe is None or not recipe.repackable:
        return b"", b""
    base = opened(read_content(repo, old))
    return (recipe.dump(), base.dump()) if base is not None else (b"", b"")


def _moves(repo: Path, asked: Inside) -> tuple[Moved, Moved]:
    contents = []
    for checksum in asked:
        if checksum is None or _size(repo, checksum) > _LARGEST_MODULE:
            return moves_of(b"", b"")
        data = read_content(repo, checksum)
        recipe = opened(data, inner_limit=_LARGEST_MODULE)
        contents.append(b"".join(unpack(data, recipe)) if recipe else data)
    return moves_of(*contents)


@lru_cache(maxsize=1)
def _repository(path: Path) -> Repository:
    return Repository.open(path)


def _size(path: Path, checksum: ObjectChecksum) -> int:
    _, size, _ = _repository(path).content(checksum)
    return size


def _file(path: Path, checksum: ObjectChecksum) -> Base:
    """Return a large content as a file: the object itself, or a copy of what is compressed."""
    repo = _repository(path)
    with repo.opened_content(checksum) as place:
        if place is not None:
            return HeldFile(os.fdopen(os.dup(place[0]), "rb"))
    copy = TemporaryFile(dir=path / "tmp")  # noqa: SIM115
    copy.writelines(repo.content(checksum)[2])
    copy.flush()
    return HeldFile(copy)


def read_content(path: Path, checksum: ObjectChecksum) -> bytes:
    """Return the content of an object of the repository at ``path``."""
    _, _, pieces = _repository(path).content(checksum)
    return b"".join(pieces)
