"""What a machine that pulled one published version moves to get another: told from two sets.

Nothing is pulled and no content is read: sets say all that the planner needs, and it is the
planner that decides (:class:`composer.jigdo.examine.Planner`), for a machine that has the
older commit whole, its set's description, and nothing else.  So what is told is what
``plan`` announces there, by the preferences that are the default.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from composer.checksum import ContentDigest, ObjectChecksum
from composer.jigdo import memory
from composer.jigdo.container import Frame, Kind
from composer.jigdo.encoding import Cursor
from composer.jigdo.examine import DEFAULT_CHOICES, Deltas, Planner
from composer.jigdo.manifest import Contents, Map
from composer.jigdo.plan import unexplained
from composer.jigdo.pointer import PointerEntry
from composer.jigdo.reader import JigdoSet, requests
from composer.jigdo.tree import Ordinals, walk
from composer.ostree.objects import parse_dirtree

_START = (Kind.COMMIT, Kind.DIRMETA, Kind.HEADERS, Kind.CONTENTS)
_LIST = "jigdo-composer.packages"

Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes that an update moves, by source; ``set`` is the set's own metadata.

    ``lists`` that say which set is the newest are not in it.
    """

    rpm: int
    delta: int
    new: int
    set: int
    objects: int
    packages: int

    @property
    def bytes(self) -> int:
        """All together."""
        return self.rpm + self.delta + self.new + self.set


@dataclass(frozen=True, slots=True)
class Holding:
    """What a machine has that pulled a version: objects by number, tree frames, packages."""

    commit: ObjectChecksum
    objects: Numbers
    frames: frozenset[ContentDigest]
    pkgids: frozenset[str]


class Objects:
    """Content objects of many trees, numbered; tree frames that sets share are read once."""

    def __init__(self) -> None:
        self._numbers: dict[ObjectChecksum, int] = {}
        self._frames: dict[ContentDigest, Numbers] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def numbers(self, checksums: Collection[ObjectChecksum]) -> Numbers:
        """Number objects, new ones too."""
        known = self._numbers
        found = (known.setdefault(checksum, len(known)) for checksum in checksums)
        return np.fromiter(found, np.int64, len(checksums))

    def holding(self, jigdo: JigdoSet, metadata: dict[str, object]) -> Holding:
        """What a machine has that pulled ``jigdo``, whose commit has this metadata."""
        frames = [*jigdo.index.of(Kind.TREE)]
        unread = [frame for frame in frames if frame.digest not in self._frames]
        for frame, data in jigdo.frames(unread):
            self._frames[frame.digest] = self.numbers(_objects(data))
        parts = [self._frames[frame.digest] for frame in frames]
        return Holding(
            jigdo.head.commit,
            np.concatenate(parts),
            frozenset(frame.digest for frame in frames),
            frozenset(_pkgids(metadata)),
        )


def _objects(data: bytes) -> list[ObjectChecksum]:
    cursor, found = Cursor(data, "tree frame"), list[ObjectChecksum]()
    while not cursor.at_end:
        found += [entry.checksum for entry in parse_dirtree(cursor.prefixed()).files]
    return found


def _pkgids(metadata: dict[str, object]) -> list[str]:
    rows = metadata.get(_LIST)
    listed = rows if isinstance(rows, list) else []
    return [str(row[1]) for row in listed if isinstance(row, tuple) and len(row) == 3]


class Target:
    """A version that machines update to: its set, read once for all of them."""

    def __init__(self, jigdo: JigdoSet, entry: PointerEntry, objects: Objects) -> None:
        self.jigdo, self.entry = jigdo, entry
        self._all = objects
        self.start, _, self._headers, self._table = jigdo.read_start()
        self.trees = dict(jigdo.dirtrees(jigdo.index.of(Kind.TREE)))
        self.ordinals = Ordinals()
        for visit in walk(self.start.commit.tree, self.trees.__getitem__):
            self.ordinals.add(visit.tree)
        self._numbers = objects.numbers(self.ordinals.checksums)

    @cached_property
    def maps(self) -> dict[int, Map]:
        """The maps of all packages, by number."""
        everything = range(len(self.jigdo.head.packages))
        return self._maps(everything)

    def _maps(self, numbers: Collection[int]) -> dict[int, Map]:
        return self.jigdo.maps(numbers, objects=len(self.ordinals), headers=self._headers)

    @cached_property
    def _contents(self) -> Contents:
        return self.jigdo.contents(self._table, objects=len(self.ordinals), headers=self._headers)

    def cost(self, held: Holding) -> Cost:
        """Say what the update costs a machine; raises FormatError for a set that is wrong."""
        here = np.zeros(len(self._all), np.bool_)
        here[held.objects] = True
        missing = bytearray((~here[self._numbers]).astype(np.uint8).tobytes())
        if not any(missing):
            return Cost(0, 0, 0, self._metadata(held, (), None), 0, 0)
        packages = self.jigdo.head.packages
        likely = [n for n, one in enumerate(packages) if str(one.ref.pkgid) not in held.pkgids]
        maps, read = {n: self.maps[n] for n in likely}, [likely]
        if unexplained(missing, maps.values(), self._contents):
            rest = [n for n in range(len(packages)) if n not in maps]
            maps, read = self.maps, [likely, rest]
        deltas, frame = self._deltas(held)
        planner = Planner(
            self.jigdo,
            deltas,
            self._contents,
            dict(maps),
            missing,
            DEFAULT_CHOICES,
            lambda packages: (),
            None,
            look=lambda: missing,
            read=self._maps,
            name=lambda numbers: [],
        )
        plan = planner.first()
        return Cost(
            rpm=plan.package_bytes,
            delta=sum(requests(plan.deltas.frames)),
            new=sum(requests(plan.new.frames)),
            set=self._metadata(held, read, frame),
            objects=sum(missing),
            packages=len(plan.packages),
        )

    def _deltas(self, held: Holding) -> tuple[Deltas | None, Frame | None]:
        base = next((b for b in self.jigdo.head.bases if b.commit == held.commit), None)
        if base is None:
            return None, None
        total = len(self.ordinals)
        table = self.jigdo.deltas(base.commit, objects=total, headers=self._headers)
        assert table is not None
        count = len(np.unique(held.objects))
        frames = [*self.jigdo.index.of(Kind.PATCH)]
        room = memory.room(DEFAULT_CHOICES.max_memory, total + count, frames)
        # Which objects they are does not matter to a plan, only to whoever carries it out.
        return Deltas(table, (), room), self.jigdo.index[base.deltas]

    def _metadata(
        self, held: Holding, maps: Collection[Collection[int]], deltas: Frame | None
    ) -> int:
        """Bytes of the set's metadata: an update of what is here, or what has to be read."""
        index = self.jigdo.index
        update = next((one for one in self.entry.updates if one.base == held.commit), None)
        if update is not None:
            return update.size
        trees = [frame for frame in index.of(Kind.TREE) if frame.digest not in held.frames]
        packages = self.jigdo.head.packages
        read = [
            [index.one(Kind.HEAD)],
            [index.one(kind) for kind in _START],
            trees,
            *([index[packages[number].map] for number in numbers] for numbers in maps),
            [deltas] if deltas else [],
        ]
        return self.jigdo.place.size + sum(sum(requests(frames)) for frames in read)
