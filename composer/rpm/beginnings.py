"""Beginnings of RPMs: as much of a package as its first files take.

A beginning is proven like the whole, by the digest of its bytes, before anything looks into
it.  A digest takes place, so there are a few to choose from and not one per file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from composer.checksum import ContentDigest
from composer.rpm.payload import read_ends

STEP, MOST = 1 << 17, 32
"""Beginnings are at least so many bytes apart, and of one RPM there are at most so many."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first ``size`` bytes of an RPM, and their digest.

    ``entries`` is how many of the files in question, counted from the first, end in it.
    """

    size: int
    entries: int
    digest: ContentDigest


NO_BEGINNINGS: Mapping[ContentDigest, Beginning] = MappingProxyType({})
"""For whole packages."""


def read_beginnings(path: Path, files: Sequence[int]) -> tuple[Beginning, ...]:
    """Choose beginnings of the RPM at ``path`` for the sorted file indexes ``files``.

    What is in no payload, a symlink, is in every beginning.  Raises PackageRefused.
    """
    size = path.stat().st_size
    step = max(STEP, -(-size // (MOST + 1)))
    if size < 2 * step or not files:
        return ()
    ends: dict[int, int] = {}
    for indexes, end in read_ends(path):
        ends.update(dict.fromkeys(indexes, end))
    cuts: list[tuple[int, int]] = []
    last = end = 0
    for entries, index in enumerate(files, 1):
        end = max(end, ends.get(index, 0))
        if cuts and cuts[-1][0] == end:
            cuts[-1] = end, entries
        elif end - last >= step and size - end >= step // 2:
            cuts.append((end, entries))
            last = end
    return _proven(path, cuts)


def _proven(path: Path, cuts: Sequence[tuple[int, int]]) -> tuple[Beginning, ...]:
    found, at, state = [], 0, hashlib.sha256()
    with path.open("rb") as stream:
        for size, entries in cuts:
            while at < size:
                piece = stream.read(min(_CHUNK, size - at))
                state.update(piece)
                at += len(piece)
            found.append(Beginning(size, entries, ContentDigest(state.digest())))
    return tuple(found)
