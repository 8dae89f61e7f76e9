"""``ostree-layers`` and ``ostree-override-layers``: commits laid over the installed tree.

They come from the repository that is composed into.  A layer may bring what is not there
and repeat what is; an override layer replaces.  Directories are entered by the tree's own
links, as packages' files are, so nothing is written outside it.  Of extended attributes
only those that a commit keeps are taken.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.compose.tree import BadTree, Tree
from composer.errors import ComposerError, NotFound
from composer.ostree.objects import Header, parse_dirmeta
from composer.ostree.repo import Repository

_KEPT = (b"security.capability",)


class LayerConflict(ComposerError):
    """A layer that does not fit the tree."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A commit to lay over the tree; ``override`` may replace files."""

    ref: str
    commit: ObjectChecksum
    override: bool

    def described(self) -> str:
        """Return what of it decides about the tree, for the input digest."""
        return f"{'override' if self.override else 'layer'} {self.commit}"


def resolve_layers(
    repository: Repository | None,
    layers: Sequence[str],
    overrides: Sequence[str],
    places: Mapping[str, Sequence[str]],
) -> tuple[Layer, ...]:
    """Return the commits that the refs are at, in the order to lay them.

    ``places`` has, by key, where treefiles say it.  Raises NotFound.
    """
    found = []
    for key, refs in (("ostree-layers", layers), ("ostree-override-layers", overrides)):
        for ref in refs:
            commit = repository.resolve(ref) if repository is not None else None
            if commit is None:
                raise NotFound(
                    f"{', '.join(places.get(key, (key,)))}: the repository has no ref {ref}",
                    hint="layers must be in the repository that --repo names",
                )
            found.append(Layer(ref, commit, override=key != "ostree-layers"))
    return tuple(found)


def lay(tree: Tree, repository: Repository, layers: Sequence[Layer]) -> None:
    """Lay ``layers`` over a ``tree`` that has OSTree's layout.  Raises LayerConflict."""
    for layer in layers:
        _Laying(tree, repository, layer).lay()


class _Laying:
    """One layer being laid."""

    def __init__(self, tree: Tree, repository: Repository, layer: Layer) -> None:
        self._tree, self._repository, self._layer = tree, repository, layer

    def lay(self) -> None:
        commit = self._repository.commit(self._layer.commit)
        self._directory(commit.tree, "")

    def _directory(self, checksum: ObjectChecksum, name: str) -> None:
        listing = self._repository.dirtree(checksum)
        for file in listing.files:
            self._file(file.checksum, _joined(name, file.name))
        for directory in listing.directories:
            inner = _joined(name, directory.name)
            self._enter(inner, directory.meta)
            self._directory(directory.tree, inner)

    def _enter(self, name: str, meta: ObjectChecksum) -> None:
        path = self._tree.path(name, follow=True)
        there = path.is_dir()
        if not there and os.path.lexists(self._tree.path(name)):
            raise self._conflict(name, "a directory, where the tree has none")
        try:
            self._tree.directory(name)
        except BadTree as error:
            raise self._conflict(name, str(error)) from error
        linked = self._tree.path(name).is_symlink()
        if name and not linked and (self._layer.override or not there):
            header = parse_dirmeta(self._repository.metadata("dirmeta", meta))
            os.chown(path, header.uid, header.gid)
            path.chmod(stat.S_IMODE(header.mode))

    def _file(self, checksum: ObjectChecksum, name: str) -> None:
        path = self._tree.path(name)
        if path.is_dir() and not path.is_symlink():
            raise self._conflict(name, "a file, where the tree has a directory")
        if os.path.lexists(path) and not self._layer.override:
            if not self._is_same(checksum, path):
                raise self._conflict(name, "differs from what the tree has")
            return
        path.unlink(missing_ok=True)
        header, _, pieces = self._repository.content(checksum)
        if header.is_symlink:
            path.symlink_to(b"".join(pieces).decode())
        else:
            with path.open("xb") as stream:
                stream.writelines(pieces)
        _describe(path, header)

    def _is_same(self, checksum: ObjectChecksum, path: Path) -> bool:
        header, size, pieces = self._repository.content(checksum)
        status = path.lstat()
        if (status.st_mode, status.st_uid, status.st_gid) != (header.mode, header.uid, header.gid):
            return False
        if header.is_symlink:
            return os.readlink(path).encode() == b"".join(pieces)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        with path.open("rb") as stream:
            return all(stream.read(len(piece)) == piece for piece in pieces)

    def _conflict(self, name: str, what: str) -> LayerConflict:
        hint = "" if self._layer.override else "ostree-override-layers may replace files"
        return LayerConflict(f"layer {self._layer.ref}: /{name}: {what}", hint=hint)


def _joined(directory: str, name: str) -> str:
    # Configuration may be at either place in a layer, in the tree it is in one.
    if not directory and name == "etc":
        return "usr/etc"
    return f"{directory}/{name}" if directory else name


def _describe(path: Path, header: Header) -> None:
    os.chown(path, header.uid, header.gid, follow_symlinks=False)
    if not header.is_symlink:
        path.chmod(stat.S_IMODE(header.mode))
        for name, value in header.xattrs:
            if name in _KEPT:
                os.setxattr(path, name, value)
