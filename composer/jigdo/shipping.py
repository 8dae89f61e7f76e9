"""Contents that a set ships whole: those that no RPM holds, and those of packages that are named.

docs/format/jigdo.md section 7 is what is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import VerificationFailed
from composer.jigdo.manifest import Contents, make_contents
from composer.ostree.digests import ContentInfo
from composer.ostree.objects import Header
from composer.ostree.repo import Repository

_TARGET = 1 << 20
_MOST = 1 << 22  # readers hold a frame at a time
_NO_PACKAGE = -1


@dataclass(frozen=True, slots=True)
class Shipped:
    """What is shipped: per content the ordinal of an object that has it.

    ``starts`` are the contents that begin a frame: nobody who wants what is in no package
    fetches what is in some.
    """

    contents: Contents
    order: tuple[int, ...]
    starts: frozenset[int]


def choose_contents(
    infos: Sequence[ContentInfo],
    entries: Sequence[Sequence[tuple[int, int]]],
    headers: Mapping[Header, int],
    full: Collection[int],
) -> Shipped:
    """List what no package holds but those whose numbers are in ``full``.

    ``entries`` are (file index, ordinal) pairs by package number; ``headers`` gives ids.
    """
    group = [_NO_PACKAGE] * len(infos)
    for number in sorted(full, reverse=True):
        for _, ordinal in entries[number]:
            group[ordinal] = number
    held = {o for n, package in enumerate(entries) if n not in full for _, o in package}
    wanted = sorted((group[o], o) for o in range(len(infos)) if o not in held)
    numbers: dict[ContentDigest, int] = {}
    order: list[int] = []
    starts: set[int] = set()
    objects = []
    last = _NO_PACKAGE
    for package, ordinal in wanted:
        info = infos[ordinal]
        if info.digest not in numbers:
            if package != last:
                starts.add(len(order))
                last = package
            numbers[info.digest] = len(order)
            order.append(ordinal)
        objects.append((ordinal, numbers[info.digest], headers[info.header]))
    contents = make_contents([infos[o].size for o in order], objects)
    return Shipped(contents, tuple(order), frozenset(starts))


def data_frames(
    repo: Repository, checksums: Iterable[ObjectChecksum], starts: Collection[int]
) -> Iterator[bytes]:
    """Cut the stream of contents into frames, between contents where they are small."""
    frame = bytearray()
    for number, checksum in enumerate(checksums):
        _, size, pieces = repo.content(checksum)
        if frame and (number in starts or len(frame) + size > _TARGET):
            yield bytes(frame)
            frame.clear()
        read = 0
        for piece in pieces:
            frame += piece
            read += len(piece)
            while len(frame) >= _MOST:
                yield bytes(frame[:_MOST])
                del frame[:_MOST]
        if read != size:
            raise VerificationFailed(f"object {checksum}: {read} bytes instead of {size}")
    if frame:
        yield bytes(frame)


def count_data_frames(shipped: Shipped) -> int:
    """Return how many frames :func:`data_frames` makes of these contents."""
    count = held = 0
    for number, (earlier, later) in enumerate(pairwise(shipped.contents.offsets)):
        size = later - earlier
        if held and (number in shipped.starts or held + size > _TARGET):
            count, held = count + 1, 0
        held += size
        count, held = count + held // _MOST, held % _MOST
    return count + bool(held)
