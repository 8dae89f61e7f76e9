"""Trees of files on this machine as sources: the running system, a mounted image, a deployment.

A missing object is looked for where the tree's rpmdb says that its package put the file, and where
the commit has it.  Trees are not trusted: their names lead nowhere else, only regular
files of the right size are read, and what counts is what was read (composer.jigdo.seeding).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from composer.checksum import ObjectChecksum
from composer.errors import ComposerError, UsageError, VerificationFailed
from composer.jigdo.seeding import Place, Sought
from composer.ostree.objects import Header
from composer.progress import Report, Step, silent
from composer.rpm.listing import DIRECTORIES, FILES, read_paths
from composer.rpm.package import Nevra
from composer.system.rooted import Rooted

MAX_RPMDB = 2 << 30
"""A larger rpmdb is not read."""

_PIECE = 1 << 20
# What is not on disk: such files may change, or do something, by being read.
_VIRTUAL = ("/dev/", "/proc/", "/run/", "/sys/")
_ETC, _USR_ETC = "/etc/", "/usr/etc/"
_STEP = 500


class SeedTrees:
    """Some trees, the first one asked first."""

    def __init__(self, paths: Sequence[Path], report: Report = silent) -> None:
        """Open the trees; raises UsageError for a path that is no directory."""
        self._report = report
        with ExitStack() as opened:
            self._trees = [opened.enter_context(_opened(path)) for path in paths]
            self._open = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def find(self, sought: Mapping[int, Sought], headers: Sequence[Header]) -> dict[int, Place]:
        """Return places that were proven to have what is sought, by ordinal."""
        found: dict[int, Place] = {}
        before = {n: header.serialized() for n, header in enumerate(headers)}
        for number, tree in enumerate(self._trees):
            left = {o: one for o, one in sought.items() if o not in found}
            installed = self._installed(tree, left.values()) if left else {}
            for done, (ordinal, one) in enumerate(sorted(left.items())):
                if done % _STEP == 0:
                    self._report(Step("seed", done, len(left), "objects", str(tree.path)))
                header = headers[one.header]
                for path in _candidates(one, installed):
                    if _checksum(tree, path, one, header, before[one.header]) == one.checksum:
                        found[ordinal] = number, path
                        break
            self._report(Step("seed", len(left), len(left), "objects", str(tree.path)))
        return found

    def pieces(self, place: Place, size: int, *, symlink: bool) -> Iterator[bytes]:
        """Read a place again; raises VerificationFailed when it is not what it was."""
        number, path = place
        tree = self._trees[number]
        try:
            yield from _pieces(tree, path, size, symlink=symlink)
        except (OSError, ValueError) as error:
            raise VerificationFailed(f"{tree.path}: {path}: {error}") from error

    def _installed(self, tree: Rooted, sought: Iterable[Sought]) -> Mapping[Nevra, list[str]]:
        """Ask the tree's rpmdb where packages that have what is sought put their files."""
        wanted = {nevra for one in sought for nevra, _ in one.files}
        with tempfile.TemporaryDirectory(prefix="rpmdb-") as place:
            try:
                return read_paths(Path(place), wanted) if _copy(tree, Path(place)) else {}
            except ComposerError as error:
                # The tree's files are where the commit has them, most of them.
                self._report(Step("seed", item=f"{tree.path}: its rpmdb is of no use: {error}"))
                return {}


def _opened(path: Path) -> Rooted:
    try:
        return Rooted(path)
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}",
            hint="--seed takes the root directory of a system, / or where an image is mounted",
        ) from error


def _copy(tree: Rooted, into: Path) -> bool:
    """Copy the tree's rpmdb, which librpm may want to write to; False where there is none."""
    for directory in DIRECTORIES:
        for name in FILES:
            try:
                _copy_file(tree, f"{directory}/{name}", into / name)
            except OSError:
                continue
            # What sqlite has not put into the database itself yet.
            if name.endswith(".sqlite"):
                with suppress(OSError):
                    _copy_file(tree, f"{directory}/{name}-wal", into / f"{name}-wal")
            return True
    return False


def _copy_file(tree: Rooted, name: str, into: Path) -> None:
    with tree.file(name) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > MAX_RPMDB:
            raise OSError(f"{name} has {size} bytes")
        with into.open("wb") as copy:
            while size > 0 and (piece := stream.read(min(_PIECE, size))):
                copy.write(piece)
                size -= len(piece)


def _candidates(sought: Sought, installed: Mapping[Nevra, list[str]]) -> Iterator[str]:
    """Give the paths that may have the content, each once, the likeliest first."""
    found: dict[str, None] = {}
    for nevra, index in sought.files:
        paths = installed.get(nevra, ())
        if index < len(paths):
            found[paths[index]] = None
    found[sought.path] = None
    for path in list(found):
        # A deployment's /etc may be changed, its /usr/etc is not; other systems have no such.
        if path.startswith(_ETC):
            found[f"/usr{path}"] = None
        elif path.startswith(_USR_ETC):
            found[path.removeprefix("/usr")] = None
    for path in found:
        if path.startswith("/") and not path.startswith(_VIRTUAL):
            yield path


def _checksum(
    tree: Rooted, path: str, sought: Sought, header: Header, before: bytes
) -> ObjectChecksum | None:
    """Return the checksum of the object that a file would make; None where it cannot be."""
    try:
        if header.is_symlink:
            target = b"".join(_pieces(tree, path, sought.size, symlink=True))
            return ObjectChecksum(hashlib.sha256(header.serialized(target)).digest())
        digest = hashlib.sha256(before)
        for piece in _pieces(tree, path, sought.size, symlink=False):
            digest.update(piece)
        return ObjectChecksum(digest.digest())
    except (OSError, ValueError):  # a name may not be one
        return None


def _pieces(tree: Rooted, path: str, size: int, *, symlink: bool) -> Iterator[bytes]:
    if symlink:
        yield tree.link(path)
        return
    with tree.file(path, size=size) as stream:
        left = size
        while left and (piece := stream.read(min(_PIECE, left))):
            left -= len(piece)
            yield piece
