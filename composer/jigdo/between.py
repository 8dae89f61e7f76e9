"""What a machine that pulled one published version moves to get another: told from two sets.

Nothing is pulled and no content is read: sets say all that the planner needs, and it is the
planner that decides (:class:`composer.jigdo.examine.Planner`), for a machine that has the
older commit whole, its set's description, and nothing else.  So what is told is what
``plan`` announces there, by the preferences that are the default.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from composer.checksum import ContentDigest, ObjectChecksum
from composer.jigdo import memory
from composer.jigdo.container import Frame, Kind
from composer.jigdo.encoding import Cursor
from composer.jigdo.examine import DEFAULT_CHOICES, Deltas, Planner
from composer.jigdo.manifest import Map
from composer.jigdo.plan import unexplained
from composer.jigdo.pointer import PointerEntry
from composer.jigdo.reader import START, JigdoSet, requests
from composer.ostree.objects import parse_dirtree

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


class Frames(Protocol):
    """Keeps what tree frames list, by digest: checksums of content objects, one after the other."""

    def load(self, digest: ContentDigest) -> bytes | None:
        """Return what was kept, or None."""
        ...

    def keep(self, digest: ContentDigest, data: bytes) -> None:
        """Keep it."""
        ...


class Objects:
    """Content objects of many trees, numbered; tree frames that sets share are read once."""

    def __init__(self, kept: Frames) -> None:
        self._kept = kept
        self._numbers: dict[bytes, int] = {}
        self._frames: dict[ContentDigest, Numbers] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def listed(self, frames: Sequence[ContentDigest], opened: Callable[[], JigdoSet]) -> Numbers:
        """Number what tree frames list, in their order; ``opened`` gives a set that has them."""
        unread = [digest for digest in frames if not self._load(digest)]
        if unread:
            jigdo, wanted = opened(), set(unread)
            trees = (frame for frame in jigdo.index.of(Kind.TREE) if frame.digest in wanted)
            for frame, data in jigdo.frames(trees):
                listed = _objects(data)
                self._kept.keep(frame.digest, listed)
                self._frames[frame.digest] = self._number(listed)
        return np.concatenate([self._frames[digest] for digest in frames])

    def _load(self, digest: ContentDigest) -> bool:
        if digest not in self._frames and (listed := self._kept.load(digest)) is not None:
            self._frames[digest] = self._number(listed)
        return digest in self._frames

    def _number(self, listed: bytes) -> Numbers:
        known, count = self._numbers, len(listed) // 32
        checksums = (listed[at : at + 32] for at in range(0, 32 * count, 32))
        found = (known.setdefault(checksum, len(known)) for checksum in checksums)
        return np.fromiter(found, np.int64, count)


def _objects(data: bytes) -> bytes:
    cursor, found = Cursor(data, "tree frame"), list[ObjectChecksum]()
    while not cursor.at_end:
        found += [entry.checksum for entry in parse_dirtree(cursor.prefixed()).files]
    return b"".join(found)


class Target:
    """A version that machines update to: its set, read once for all of them."""

    def __init__(self, jigdo: JigdoSet, entry: PointerEntry, objects: Objects) -> None:
        self.jigdo, self._entry, self._all = jigdo, entry, objects
        _, _, self._headers, table = jigdo.read_start()
        listed = objects.listed([f.digest for f in jigdo.index.of(Kind.TREE)], lambda: jigdo)
        # Frames list dirtrees in tree order, so objects are numbered as they appear.
        _, first = np.unique(listed, return_index=True)
        self._numbers = listed[np.sort(first)]
        self._contents = jigdo.contents(table, objects=len(first), headers=self._headers)
        self._known: dict[int, Map] = {}

    def _maps(self, numbers: Collection[int]) -> dict[int, Map]:
        unread = [number for number in numbers if number not in self._known]
        if unread:
            count = len(self._numbers)
            self._known |= self.jigdo.maps(unread, objects=count, headers=self._headers)
        return {number: self._known[number] for number in numbers}

    def cost(self, held: Holding) -> Cost:
        """Say what the update costs a machine; raises FormatError for a set that is wrong."""
        here = np.zeros(len(self._all), np.bool_)
        here[held.objects] = True
        missing = bytearray((~here[self._numbers]).astype(np.uint8).tobytes())
        packages = self.jigdo.head.packages
        likely = [n for n, one in enumerate(packages) if str(one.ref.pkgid) not in held.pkgids]
        if not any(missing):
            changed = any(f.digest not in held.frames for f in self.jigdo.index.of(Kind.TREE))
            read = [likely if changed and self.jigdo.keeps else []]
            return Cost(0, 0, 0, self._metadata(held, read, None), 0, 0)
        maps, read = self._maps(likely), [likely]
        if unexplained(missing, maps.values(), self._contents):
            rest = [n for n in range(len(packages)) if n not in maps]
            maps, read = maps | self._maps(rest), [likely, rest]
        deltas, frame = self._deltas(held)
        planner = Planner(
            self.jigdo,
            deltas,
            self._contents,
            maps,
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
        total = len(self._numbers)
        table = self.jigdo.deltas(base.commit, objects=total, headers=self._headers)
        assert table is not None
        count = len(np.unique(held.objects))
        frames = [*self.jigdo.index.of(Kind.PATCH)]
        room = memory.room(DEFAULT_CHOICES.max_memory, total + count, frames)
        # Which objects they are does not matter to a plan, only to whoever carries it out.
        return Deltas(table, (), room), self.jigdo.index[base.deltas]

    def _metadata(
        self, held: Holding, maps: Sequence[Collection[int]], deltas: Frame | None
    ) -> int:
        """Bytes of the set's metadata: an update of what is here, or what has to be read."""
        index = self.jigdo.index
        update = next((one for one in self._entry.updates if one.base == held.commit), None)
        if update is not None:
            return update.size
        start = [index.one(kind) for kind in START]
        trees = [frame for frame in index.of(Kind.TREE) if frame.digest not in held.frames]
        packages = self.jigdo.head.packages
        likely, *rest = ([index[packages[n].map] for n in numbers] for numbers in maps)
        # As composer.jigdo.examine reads it: what is known to be needed is asked for together.
        read = [[*trees, *likely]] if trees else [likely]
        read = [[index.one(Kind.HEAD), *start], *read, *rest, [deltas] if deltas else []]
        if not self.jigdo.keeps:
            read = [[index.one(Kind.HEAD)], start, trees, likely, *rest, *read[-1:]]
        return self.jigdo.place.size + sum(sum(requests(frames)) for frames in read)
