"""Contents out of the files of another tree: what is sought there, found, and taken.

A seed is any tree of files that may have contents of the commit.  The planner takes what was found
for here, so a find is a proof: the file's bytes under the object's header have the
object's checksum.  They are read again to be written, and proven again: a file that changed
meanwhile is one that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from composer.checksum import ObjectChecksum
from composer.errors import VerificationFailed
from composer.jigdo.importing import Target, write_content
from composer.jigdo.manifest import Contents, Head, Map
from composer.jigdo.plan import BLOCK
from composer.jigdo.tree import Load, Ordinals, walk
from composer.ostree.objects import Header
from composer.ostree.repo import Repository
from composer.rpm.package import Nevra

Place = tuple[int, str]
"""A position among a seed's trees, and a path there."""


@dataclass(frozen=True, slots=True)
class Sought:
    """A missing object, and what its content is called.

    ``header`` is a position in the set's headers, ``size`` of the content in bytes.  ``path`` is
    one in the tree, with a leading slash; ``files`` are file indexes in packages.
    """

    checksum: ObjectChecksum
    header: int
    size: int
    path: str
    files: tuple[tuple[Nevra, int], ...]


class Seed(Protocol):
    """Trees that may have contents of the commit; a place is what the seed calls a file."""

    def find(self, sought: Mapping[int, Sought], headers: Sequence[Header]) -> dict[int, Place]:
        """Return places that were proven to have what is sought, by ordinal."""
        ...

    def pieces(self, place: Place, size: int, *, symlink: bool) -> Iterator[bytes]:
        """Read a place again, of which nothing is sure; raises VerificationFailed."""
        ...


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """What comes out of seeds: objects by ordinal, and where their contents are."""

    sought: Mapping[int, Sought] = field(default_factory=dict)
    places: Mapping[int, Place] = field(default_factory=dict)
    seed: Seed | None = None
    failed: set[int] = field(default_factory=set)  # what was there when it was sought, and is not

    def left(self, missing: bytearray) -> bytearray:
        """Take what is found in seeds out of ``missing``; returns it."""
        for ordinal in self.places.keys() - self.failed:
            missing[ordinal] = 0
        return missing

    @property
    def object_bytes(self) -> int:
        """Bytes of all contents."""
        return sum(self.sought[ordinal].size for ordinal in self.places)

    @property
    def disk_bytes(self) -> int:
        """What they take on disk, in blocks."""
        return sum(-(-self.sought[ordinal].size // BLOCK) * BLOCK for ordinal in self.places)


def seek(
    seed: Seed,
    head: Head,
    maps: Mapping[int, Map],
    contents: Contents,
    headers: Sequence[Header],
    ordinals: Ordinals,
    missing: bytearray,
    root: ObjectChecksum,
    load: Load,
) -> SeedPlan:
    """Find ``missing`` objects in ``seed``."""
    files: dict[int, list[tuple[Nevra, int]]] = {}
    rows: dict[int, tuple[int, int]] = {}
    for row, ordinal in enumerate(contents.ordinals):
        if missing[ordinal]:
            rows[ordinal] = contents.headers[row], contents.size(contents.contents[row])
    for number, mapping in sorted(maps.items()):
        nevra = head.packages[number].ref.nevra
        columns = zip(mapping.files, mapping.ordinals, mapping.headers, mapping.sizes, strict=True)
        for index, ordinal, header, size in columns:
            if missing[ordinal]:
                rows[ordinal] = header, size
                files.setdefault(ordinal, []).append((nevra, index))
    paths = _paths(ordinals, missing, root, load)
    sought = {
        ordinal: Sought(
            ordinals.checksums[ordinal], *rows[ordinal], path, tuple(files.get(ordinal, ()))
        )
        for ordinal, path in paths.items()
    }
    places = seed.find(sought, headers)
    return SeedPlan({ordinal: sought[ordinal] for ordinal in places}, places, seed)


def _paths(
    ordinals: Ordinals, missing: bytearray, root: ObjectChecksum, load: Load
) -> dict[int, str]:
    """Return a path of each missing object."""
    found: dict[int, str] = {}
    for visit in walk(root, load):
        for entry in visit.tree.files:
            ordinal = ordinals[entry.checksum]
            if missing[ordinal] and ordinal not in found:
                found[ordinal] = f"{visit.path.rstrip('/')}/{entry.name}"
    return found


def import_seeds(
    repo: Repository,
    headers: Sequence[Header],
    plan: SeedPlan,
    made: Callable[[int], object],
) -> None:
    """Write what was found, in a transaction of the caller; what fails is noted in the plan.

    ``made`` is called with the bytes of each object that was written.
    """
    writers = [repo.writer(header) for header in headers]
    for ordinal, place in plan.places.items():
        assert plan.seed is not None
        sought = plan.sought[ordinal]
        writer = writers[sought.header]
        target = Target(writer, sought.checksum, sought.size)
        try:
            pieces = plan.seed.pieces(place, sought.size, symlink=writer.is_symlink)
            list(write_content(repo, sought.size, pieces, [target]))
        except VerificationFailed:
            plan.failed.add(ordinal)
            continue
        made(sought.size)
