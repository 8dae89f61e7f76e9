"""From an RPM's payload into a repository's objects: the one path that every import takes.

Contents are written as they come out of the decompressor; a large one is never
held in memory, whatever the RPM's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.checksum import ObjectChecksum
from composer.errors import FormatError, VerificationFailed
from composer.ostree.repo import INLINE_LIMIT, ContentWriter, Repository
from composer.rpm.payload import Content, FileList, opened_payload


@dataclass(frozen=True, slots=True)
class Target:
    """An object to make of a content: who writes it, what it must be, bytes of the content.

    ``expected`` None takes whatever comes.
    """

    writer: ContentWriter
    expected: ObjectChecksum | None
    size: int


Targets = dict[int, list[Target]]
"""RPM file index -> the objects to make of that file."""

Wrote = Callable[[int, ObjectChecksum], object]
"""Called with a file index and the checksum of an object that was made of it."""


def write_payload(
    repo: Repository,
    path: Path,
    choose: Callable[[Any, FileList], Targets],
    wrote: Wrote = lambda index, checksum: None,
) -> None:
    """Write the objects that ``choose(header, files)`` asks for out of the RPM at ``path``.

    Stops reading after the last one.  Raises PackageRefused for a bad RPM and
    VerificationFailed when an object is not what was expected or a file is not there.
    """
    with opened_payload(path) as (header, files, contents):
        targets = choose(header, files)
        for index in [i for i in targets if i < len(files) and files.is_symlink(i)]:
            data = files.targets[index].encode(errors="surrogateescape")
            rows = targets.pop(index)
            _check(rows, len(data), symlink=True, path=files.paths[index])
            for target in rows:
                wrote(index, target.writer.write(data, target.expected))
        walk: Iterable[Content] = contents() if targets else ()
        for content in walk:
            rows_at = [(i, target) for i in content.indexes for target in targets.pop(i, ())]
            if rows_at:
                name = files.paths[content.indexes[0]]
                _check([t for _, t in rows_at], content.size, symlink=False, path=name)
                for index, checksum in _written(repo, content, rows_at):
                    wrote(index, checksum)
            if not targets:
                break
        if targets:
            index = min(targets)
            name = files.paths[index] if index < len(files) else f"file {index}"
            raise VerificationFailed(f"{name}: the RPM has no content for it")


def _check(rows: Sequence[Target], size: int, *, symlink: bool, path: str) -> None:
    for target in rows:
        if target.writer.is_symlink != symlink:
            raise FormatError(f"{path}: a symlink is wanted of a file, or the reverse")
        if target.size != size:
            raise VerificationFailed(f"{path}: it has {size} bytes; {target.size} are expected")


def _written(
    repo: Repository, content: Content, rows: Sequence[tuple[int, Target]]
) -> Iterator[tuple[int, ObjectChecksum]]:
    indexes, targets = zip(*rows, strict=True)
    pieces = content.pieces()
    return zip(indexes, write_content(repo, content.size, pieces, targets), strict=True)


def write_content(
    repo: Repository, size: int, pieces: Iterable[bytes], targets: Sequence[Target]
) -> Iterator[ObjectChecksum]:
    """Write one content as each of ``targets``; yields their checksums, in order.

    A large content is streamed into the first object, and the others from there.
    """
    if size <= INLINE_LIMIT:
        data = b"".join(pieces)
        for target in targets:
            yield target.writer.write(data, target.expected)
        return
    first = targets[0].writer.write_stream(size, pieces, targets[0].expected)
    yield first
    for target in targets[1:]:
        _, _, again = repo.content(first)
        yield target.writer.write_stream(size, again, target.expected)
