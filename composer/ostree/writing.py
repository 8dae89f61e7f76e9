"""Build a tree and a commit out of objects that are in a repository already."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

from composer.checksum import ObjectChecksum
from composer.ostree.objects import Header
from composer.ostree.repo import Repository

# rpm omits parents that no package owns; a dirtree needs a dirmeta for each.
_PARENT = Header(0, 0, stat.S_IFDIR | 0o755)


@dataclass(slots=True)
class _Directory:
    header: Header = _PARENT
    files: dict[str, ObjectChecksum] = field(default_factory=dict)
    directories: dict[str, _Directory] = field(default_factory=dict)


class TreeBuilder:
    """Collects files and directories by absolute path, in any order."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._root = _Directory()

    def add_directory(self, path: str, header: Header) -> None:
        """Give the directory at ``path`` its owner and mode."""
        self._at([part for part in path.split("/") if part]).header = header

    def add_file(self, path: str, checksum: ObjectChecksum) -> None:
        """Put a content object at ``path``; raises ValueError if something else is there."""
        *parents, name = path.split("/")[1:]
        directory = self._at(parents)
        _require_name(name)
        if name in directory.directories or directory.files.get(name, checksum) != checksum:
            raise ValueError(f"{path!r} occurs twice")
        directory.files[name] = checksum

    def _at(self, parts: list[str]) -> _Directory:
        directory = self._root
        for part in parts:
            _require_name(part)
            if part in directory.files:
                raise ValueError(f"{part!r} is a directory and something else")
            directory = directory.directories.setdefault(part, _Directory())
        return directory

    def write(self) -> tuple[ObjectChecksum, ObjectChecksum]:
        """Write all dirtrees and dirmetas; returns the root's.  Needs an open transaction."""
        return self._write(self._root)

    def _write(self, directory: _Directory) -> tuple[ObjectChecksum, ObjectChecksum]:
        children = {name: self._write(child) for name, child in directory.directories.items()}
        tree = self._repo.write_dirtree(directory.files, children)
        return tree, self._repo.write_dirmeta(directory.header)


def _require_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name!r} is not UTF-8, which OSTree needs in file names") from None
