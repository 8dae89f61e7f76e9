"""Look at contents before patches of them are made: what is inside, and what moved in all.

In processes of their own, or on a farm, for the contents are large and there are many.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from composer.checksum import ObjectChecksum
from composer.jigdo.delta.columns import Base, HeldFile
from composer.jigdo.delta.linking import Learning, Moved, moves_of
from composer.jigdo.repack import Recipe, analyse, may_open, opened, reproduces, unpack
from composer.ostree.repo import Repository
from composer.progress import Report, Step
from composer.system.executors import LARGEST, TASK_BYTES, TASK_PAIRS, Farm, Work, spread

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
    repo: Path, asked: Sequence[Inside], report: Report, workers: int, farm: Farm | None = None
) -> list[tuple[bytes, bytes]]:
    """Return the recipes of target and base, where the delta is to be made inside; else empty.

    On all cores, or on ``farm``; both are empty where there is no base.
    """
    found: list[tuple[bytes, bytes]] = []
    with closing(_answers(_INSIDE, repo, asked, workers, farm)) as answers:
        for answer in answers:
            found.append(answer)
            item = str(asked[len(found) - 1][1])
            report(Step("look inside", len(found), len(asked), "objects", item))
    return found


def learn(
    repo: Path, asked: Sequence[Inside], report: Report, workers: int, farm: Farm | None = None
) -> bytes:
    """Return what the modules among these pairs have in common, to be given to ``Linked``."""
    learning = Learning()
    with closing(_answers(_MOVES, repo, asked, workers, farm)) as answers:
        for done, found in enumerate(answers, 1):
            learning.add(found)
            report(Step("learn", done, len(asked), "objects"))
    return learning.shared()


_Contents = tuple[bytes, bytes]
"""Of base and target."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of two contents, in another process or on another machine.

    ``load`` reads them, None where the answer is ``nothing`` anyway; ``judge`` returns the answer
    of another machine, or raises anything where it cannot be right.
    """

    load: Callable[[Path, Inside], _Contents | None]
    ask: Callable[[bytes, bytes], Any]
    judge: Callable[[_Contents, Any], Any]
    nothing: Any = None


def _answers(
    question: _Question, repo: Path, asked: Sequence[Inside], workers: int, farm: Farm | None
) -> Generator[Any, None, None]:
    """Yield an answer for each pair, in order."""
    if farm is None:
        with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
            yield from pool.map(partial(_answer, question, repo), asked, chunksize=16)
        return
    work = Work(_ask_all, partial(_sent, question), partial(_judge_all, question),
                partial(_here, question))  # fmt: skip
    for answers in spread(farm, work, _batches(question, repo, asked), workers=workers):
        yield from answers


def _answer(question: _Question, repo: Path, asked: Inside) -> Any:
    contents = question.load(repo, asked)
    return question.nothing if contents is None else question.ask(*contents)


_Batch = list[_Contents | None]


def _batches(question: _Question, repo: Path, asked: Sequence[Inside]) -> Iterator[_Batch]:
    batch: _Batch = []
    size = count = 0
    for one in asked:
        contents = question.load(repo, one)
        batch.append(contents)
        if contents is not None:
            size, count = size + len(contents[0]) + len(contents[1]), count + 1
        if size > TASK_BYTES or count == TASK_PAIRS:
            yield batch
            batch, size, count = [], 0, 0
    if batch:
        yield batch


def _sent(question: _Question, batch: _Batch) -> tuple[tuple[Any, ...], int] | None:
    contents = [one for one in batch if one is not None]
    size = sum(len(base) + len(target) for base, target in contents)
    return ((question.ask, contents), size) if contents and size <= LARGEST else None


def _ask_all(ask: Callable[[bytes, bytes], Any], contents: Sequence[_Contents]) -> list[Any]:
    return [ask(*one) for one in contents]


def _judge_all(question: _Question, batch: _Batch, args: tuple[Any, ...], result: Any) -> list[Any]:
    contents = args[1]
    judged = (question.judge(*one) for one in zip(contents, result, strict=True))
    return [question.nothing if one is None else next(judged) for one in batch]


def _here(question: _Question, batch: _Batch) -> list[Any]:
    return [question.nothing if one is None else question.ask(*one) for one in batch]


def _load_containers(repo: Path, asked: Inside) -> _Contents | None:
    old, new = asked
    if old is None or max(_size(repo, old), _size(repo, new)) > _LARGEST_CONTAINER:
        return None
    target = read_content(repo, new)
    return (read_content(repo, old), target) if may_open(target) else None


def _containers(old: bytes, new: bytes) -> tuple[bytes, bytes]:
    """Inside pays only where both can be opened."""
    recipe = analyse(new)
    if recipe is None or not recipe.repackable:
        return b"", b""
    base = opened(old)
    return (recipe.dump(), base.dump()) if base is not None else (b"", b"")


def _judge_containers(contents: _Contents, answer: Any) -> tuple[bytes, bytes]:
    target, base = answer
    if not target and not base:
        return b"", b""
    ours = opened(contents[0])
    recipe = Recipe.parse(target)
    if ours is None or ours.dump() != base or recipe.dump() != target:
        raise ValueError("a recipe that is another one here")
    if not (recipe.repackable and reproduces(contents[1], recipe)):
        raise ValueError("a recipe that does not give the target")
    return target, base


def _load_modules(repo: Path, asked: Inside) -> _Contents | None:
    old, new = asked
    if old is None or max(_size(repo, old), _size(repo, new)) > _LARGEST_MODULE:
        return b"", b""
    return read_content(repo, old), read_content(repo, new)


def _moves(old: bytes, new: bytes) -> tuple[Moved, Moved]:
    contents = []
    for data in (old, new):
        recipe = opened(data, inner_limit=_LARGEST_MODULE)
        contents.append(b"".join(unpack(data, recipe)) if recipe else data)
    return moves_of(*contents)


def _judge_moves(contents: _Contents, answer: Any) -> tuple[Moved, Moved]:
    """Patches are right whatever was learned: it makes them small."""
    types, names = (_rows(*moved) for moved in answer)
    return types, names


def _rows(changes: Any, counts: Any) -> Moved:
    import numpy

    for one, shape in ((changes, (len(counts), 2)), (counts, (len(counts),))):
        if type(one) is not numpy.ndarray or one.dtype != numpy.int64 or one.shape != shape:
            raise ValueError("moves of another form")
    return changes, counts


_INSIDE = _Question(_load_containers, _containers, _judge_containers, (b"", b""))
_MOVES = _Question(_load_modules, _moves, _judge_moves)


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
