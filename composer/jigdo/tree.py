"""The tree of a commit in tree order: dirtrees, ordinals, frames.

docs/format/jigdo.md section 5 defines tree order, ordinals and where writers cut.
Loading is the caller's: a :data:`Load` gives a dirtree's bytes, from a
repository or from a set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

from composer.checksum import ObjectChecksum
from composer.errors import FormatError
from composer.jigdo.encoding import prefixed
from composer.ostree.objects import DirTree, parse_dirtree

Load = Callable[[ObjectChecksum], bytes]

MAX_DEPTH = 512
MAX_PATH = 4096
_CUT_AT, _CUT_ALWAYS, _CUT_BELOW = 1 << 14, 1 << 17, 64


@dataclass(frozen=True, slots=True)
class Visit:
    """One distinct dirtree where it is met first; ``path`` is "/" or "/usr/bin"."""

    path: str
    checksum: ObjectChecksum
    data: bytes
    tree: DirTree


def walk(root: ObjectChecksum, load: Load) -> Iterator[Visit]:
    """Visit every distinct dirtree below ``root`` in tree order.

    ``load`` is called once per dirtree, before the visit is given.  Raises
    FormatError for a dirtree that is malformed or nested too deep.
    """
    seen: set[ObjectChecksum] = set()
    # A path is joined when its turn has come: a directory's own, long as it may be, would
    # else be held once for every directory in it.
    stack = [("", "", root, 0)]
    while stack:
        prefix, name, checksum, depth = stack.pop()
        if checksum in seen:
            continue
        seen.add(checksum)
        path = f"{prefix}/{name}"
        if len(path) > MAX_PATH:
            raise FormatError(f"{path[:200]}...: a path of {len(path)} characters")
        if depth > MAX_DEPTH:
            raise FormatError(f"{path[:200]}...: directories are nested too deep")
        data = load(checksum)
        tree = parse_dirtree(data)
        yield Visit(path, checksum, data, tree)
        prefix = path.rstrip("/")
        stack.extend(
            (prefix, entry.name, entry.tree, depth + 1) for entry in reversed(tree.directories)
        )


class Ordinals:
    """The distinct content objects of a tree, numbered as they first appear."""

    def __init__(self) -> None:
        self.checksums: list[ObjectChecksum] = []
        self._numbers: dict[ObjectChecksum, int] = {}

    def add(self, tree: DirTree) -> None:
        """Number the new objects of one dirtree; call in tree order."""
        for entry in tree.files:
            if entry.checksum not in self._numbers:
                self._numbers[entry.checksum] = len(self.checksums)
                self.checksums.append(entry.checksum)

    def __len__(self) -> int:
        return len(self.checksums)

    def __getitem__(self, checksum: ObjectChecksum) -> int:
        return self._numbers[checksum]


def paths_of(root: ObjectChecksum, load: Load, wanted: Container[ObjectChecksum]) -> Iterator[str]:
    """Yield where the content objects ``wanted`` stand, each at the first of its places."""
    seen: set[ObjectChecksum] = set()
    for visit in walk(root, load):
        for entry in visit.tree.files:
            if entry.checksum in wanted and entry.checksum not in seen:
                seen.add(entry.checksum)
                yield f"{visit.path.rstrip('/')}/{entry.name}"


class Cutter:
    """Groups dirtrees into tree frames by the writers' rule."""

    def __init__(self) -> None:
        self._open: list[bytes] = []
        self._size = 0

    def add(self, visit: Visit) -> bytes | None:
        """Take a dirtree; returns a finished frame's bytes when one ends before it."""
        done = None
        spot = hashlib.sha256(visit.path.encode()).digest()[0] < _CUT_BELOW
        if self._size >= _CUT_ALWAYS or (self._size >= _CUT_AT and spot):
            done = self.finish()
        piece = prefixed(visit.data)
        self._open.append(piece)
        self._size += len(piece)
        return done

    def finish(self) -> bytes:
        """Return the open frame's bytes and begin a new one."""
        frame = b"".join(self._open)
        self._open, self._size = [], 0
        return frame


def tree_frames(root: ObjectChecksum, load: Load) -> Iterator[bytes]:
    """Yield the tree frames that a writer would make of ``root``."""
    cutter = Cutter()
    for visit in walk(root, load):
        frame = cutter.add(visit)
        if frame is not None:
            yield frame
    yield cutter.finish()
