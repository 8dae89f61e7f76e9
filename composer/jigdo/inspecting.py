"""Where a set's bytes are: by section, by package, by codec.

Reads the whole set; what it finds in it is checked as a client checks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from composer.checksum import ObjectChecksum
from composer.errors import FormatError
from composer.jigdo.container import Frame, Kind
from composer.jigdo.delta.codecs import CodecNumber
from composer.jigdo.delta.frames import split_patches
from composer.jigdo.delta.table import COPY, PATCH, DeltaTable
from composer.jigdo.reader import JigdoSet
from composer.jigdo.tree import Ordinals, walk


@dataclass(frozen=True, slots=True)
class Section:
    """All frames of one kind."""

    kind: str
    frames: int
    bytes: int
    uncompressed: int


@dataclass(frozen=True, slots=True)
class Share:
    """What of the set is for one package; ``patches`` counts contents that deltas make.

    ``patch_bytes`` is its share of compressed frames, by the sizes of its patches in them.
    """

    name: str
    map_bytes: int
    patch_bytes: int
    patches: int

    @property
    def bytes(self) -> int:
        """All together."""
        return self.map_bytes + self.patch_bytes


@dataclass(frozen=True, slots=True)
class CodecShare:
    """Frames or patches of one codec: ``bytes`` in the set, ``uncompressed`` before packing."""

    codec: str
    count: int
    bytes: int
    uncompressed: int


@dataclass(frozen=True, slots=True)
class BaseShare:
    """An older commit that deltas are from: contents copied, patched, and packed again.

    ``bytes`` are those of its table and of all frames that it names; bases share frames.
    """

    commit: ObjectChecksum
    version: str
    copied: int
    patched: int
    repacked: int
    bytes: int


@dataclass(frozen=True, slots=True)
class SetBytes:
    """A set taken apart.

    ``packages`` are in the head's order; ``other`` is the share of what no package has.
    The index is in no frame: ``index_bytes``.  Packages and other make up the map and
    patch sections.
    """

    sections: tuple[Section, ...]
    index_bytes: int
    packages: tuple[Share, ...]
    other: Share
    frame_codecs: tuple[CodecShare, ...]
    patch_codecs: tuple[CodecShare, ...]
    bases: tuple[BaseShare, ...]

    @property
    def bytes(self) -> int:
        """Bytes of frames and index."""
        return self.index_bytes + sum(section.bytes for section in self.sections)


def weigh(jigdo: JigdoSet) -> SetBytes:
    """Read the whole set and tell where its bytes are; raises FormatError, ChecksumMismatch."""
    start, _, headers, _ = jigdo.read_start()
    objects = _count_objects(jigdo, start.commit.tree)
    maps = jigdo.maps(range(len(jigdo.head.packages)), objects=objects, headers=headers)
    # Of packages that have the same object, the first one counts.
    owners: dict[int, int] = {}
    for number, mapping in sorted(maps.items()):
        for ordinal in mapping.ordinals:
            owners.setdefault(ordinal, number)
    tables = []
    for base in jigdo.head.bases:
        table = jigdo.deltas(base.commit, objects=objects, headers=headers)
        assert table is not None
        tables.append(table)
    patches = _Patches(tables, owners)
    patches.weigh(jigdo)
    packages = [
        Share(
            str(package.ref.nevra),
            jigdo.index[package.map].size,
            patches.bytes[number],
            patches.count[number],
        )
        for number, package in enumerate(jigdo.head.packages)
    ]
    return SetBytes(
        sections=tuple(sections(jigdo)),
        index_bytes=jigdo.place.size,
        packages=tuple(packages),
        other=Share("", 0, patches.bytes[_NOBODY], patches.count[_NOBODY]),
        frame_codecs=tuple(frame_codecs(jigdo)),
        patch_codecs=tuple(patches.codecs()),
        bases=tuple(_bases(jigdo, tables)),
    )


_NOBODY = -1


def _count_objects(jigdo: JigdoSet, root: ObjectChecksum) -> int:
    trees = dict(jigdo.dirtrees(jigdo.index.of(Kind.TREE)))

    def load(checksum: ObjectChecksum) -> bytes:
        if checksum not in trees:
            raise FormatError(f"the set lacks the dirtree object {checksum}")
        return trees[checksum]

    ordinals = Ordinals()
    for visit in walk(root, load):
        ordinals.add(visit.tree)
    return len(ordinals)


def sections(jigdo: JigdoSet) -> Iterator[Section]:
    """Yield all kinds of frames; reads nothing."""
    for kind in Kind:
        frames = list(jigdo.index.of(kind))
        yield Section(
            kind.name.lower(),
            len(frames),
            sum(frame.size for frame in frames),
            sum(frame.uncompressed for frame in frames),
        )


def frame_codecs(jigdo: JigdoSet) -> Iterator[CodecShare]:
    """Yield the codecs of frames; reads nothing."""
    frames: dict[str, list[Frame]] = {}
    for kind in Kind:
        for frame in jigdo.index.of(kind):
            frames.setdefault(frame.codec.name.lower(), []).append(frame)
    for codec, own in sorted(frames.items()):
        sizes = sum(frame.size for frame in own), sum(frame.uncompressed for frame in own)
        yield CodecShare(codec, len(own), *sizes)


def _bases(jigdo: JigdoSet, tables: Sequence[DeltaTable]) -> Iterator[BaseShare]:
    for base, table in zip(jigdo.head.bases, tables, strict=True):
        methods = Counter(min(content.method, PATCH + 1) for content in table.contents)
        frames = {piece.frame for content in table.contents for piece in content.pieces}
        size = jigdo.index[base.deltas].size + sum(jigdo.index[n].size for n in frames)
        counts = methods[COPY], methods[PATCH], methods[PATCH + 1]
        yield BaseShare(base.commit, base.version, *counts, size)


class _Patches:
    """Shares of patch frames, by package number and by codec."""

    def __init__(self, tables: Iterable[DeltaTable], owners: Mapping[int, int]) -> None:
        self.bytes, self.count = Counter[int](), Counter[int]()
        self._codecs: dict[int, list[int]] = {}
        # A frame's patches, in order: codec, owner, and whether a content begins with it.
        self._rows: dict[int, list[tuple[int, int, bool]]] = {}
        for table in tables:
            self._add(table, owners)

    def _add(self, table: DeltaTable, owners: Mapping[int, int]) -> None:
        owner: dict[int, int] = {}
        for ordinal, number in zip(table.ordinals, table.numbers, strict=True):
            found = owners.get(ordinal, _NOBODY)
            owner[number] = max(found, owner.get(number, _NOBODY))
        known = set(self._rows)  # bases share frames, and a frame has one order
        for number, content in enumerate(table.contents):
            for position, piece in enumerate(content.pieces):
                if piece.frame not in known:
                    row = (piece.codec, owner.get(number, _NOBODY), position == 0)
                    self._rows.setdefault(piece.frame, []).append(row)

    def weigh(self, jigdo: JigdoSet) -> None:
        """Read the patch frames and share their bytes out."""
        for frame, data in jigdo.frames(jigdo.index.of(Kind.PATCH)):
            rows = self._rows.get(frame.number, [])
            if not rows:
                self.bytes[_NOBODY] += frame.size
                continue
            sizes = [len(patch) for patch in split_patches(data, [codec for codec, _, _ in rows])]
            shares = shared_out(frame.size, sizes)
            for (codec, owner, first), share, size in zip(rows, shares, sizes, strict=True):
                self.bytes[owner] += share
                self.count[owner] += first
                totals = self._codecs.setdefault(codec, [0, 0, 0])
                totals[:] = totals[0] + 1, totals[1] + share, totals[2] + size

    def codecs(self) -> Iterator[CodecShare]:
        """Yield what each codec's patches take."""
        names = {int(number): number.name.lower() for number in CodecNumber}
        for codec, totals in sorted(self._codecs.items()):
            yield CodecShare(names.get(codec, f"number {codec}"), *totals)


def shared_out(total: int, weights: Sequence[int]) -> list[int]:
    """Share ``total`` out by weights, in whole numbers whose sum it is."""
    parts = weights if any(weights) else [1] * len(weights)
    whole, shares, at, done = sum(parts), [], 0, 0
    for part in parts:
        at += part
        shares.append(total * at // whole - done)
        done += shares[-1]
    return shares
