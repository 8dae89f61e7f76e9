"""The tree while it is being made, and the only safe way to touch it from outside.

Scriptlets that ran in the tree may have put a symlink anywhere, so no path below it
is opened by its name alone: :meth:`Tree.path` resolves links as if the tree were the
root directory, and what it returns lies inside.  Nothing else runs in the tree while
these functions are used, so what was resolved stays true.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from composer.errors import ComposerError
from composer.system.limits import DEFAULTS, Limits

_MOST_LINKS = 40


class BadTree(ComposerError):
    """A tree that cannot become a commit as it is."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A root directory; all names are relative to it, with or without a first slash.

    ``limits`` are those of each program that runs in it.
    """

    root: Path
    limits: Limits = DEFAULTS

    def path(self, name: str, *, follow: bool = False) -> Path:
        """Return where ``name`` is, links resolved inside the tree; the last one if ``follow``.

        Raises BadTree for a loop of links.
        """
        parts = deque(part for part in name.split("/") if part not in ("", "."))
        found: list[str] = []
        links = 0
        while parts:
            part = parts.popleft()
            if part == "..":
                del found[-1:]
                continue
            here = self.root.joinpath(*found, part)
            if (parts or follow) and here.is_symlink():
                links += 1
                if links > _MOST_LINKS:
                    raise BadTree(f"/{name.lstrip('/')}: too many symlinks, or a loop of them")
                target = os.readlink(here)
                if target.startswith("/"):
                    found.clear()
                parts.extendleft(reversed([p for p in target.split("/") if p not in ("", ".")]))
                continue
            found.append(part)
        return self.root.joinpath(*found)

    def name(self, path: Path) -> str:
        """Return the absolute name inside the tree of ``path``."""
        return f"/{path.relative_to(self.root)}"

    def exists(self, name: str) -> bool:
        """Whether something, also a broken link, has this name."""
        return os.path.lexists(self.path(name))

    def is_file(self, name: str) -> bool:
        """Whether ``name`` leads to a regular file."""
        return self.path(name, follow=True).is_file()

    def is_dir(self, name: str) -> bool:
        """Whether ``name`` leads to a directory."""
        return self.path(name, follow=True).is_dir()

    def directory(self, name: str, *, mode: int = 0o755) -> Path:
        """Return the directory ``name``, made with ``mode`` (and parents) where missing.

        Raises BadTree when something else has that name.
        """
        path = self.path(name, follow=True)
        missing = [place for place in (path, *path.parents) if not place.exists()]
        for place in reversed(missing):
            place.mkdir()
            place.chmod(mode if place == path else 0o755)
        if not path.is_dir():
            raise BadTree(f"/{name.lstrip('/')}: expected a directory in the tree")
        return path

    def read(self, name: str) -> str | None:
        """Return the text of a file, or None where there is none."""
        path = self.path(name, follow=True)
        return path.read_text(errors="surrogateescape") if path.is_file() else None

    def write(self, name: str, text: str, *, mode: int = 0o644) -> None:
        """Replace ``name`` by a regular file, root's, with ``text``."""
        self.directory(os.path.dirname(name))
        self.remove(name)
        path = self.path(name)
        path.write_text(text, errors="surrogateescape")
        path.chmod(mode)

    def link(self, name: str, target: str) -> None:
        """Replace ``name``, unless it is a directory with content, by a symlink."""
        self.directory(os.path.dirname(name))
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(target)

    def remove(self, name: str) -> None:
        """Remove ``name`` and all below it; a link, not what it leads to.  Missing is fine."""
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def clear(self, name: str) -> None:
        """Empty the directory ``name``, if there is one."""
        path = self.path(name)
        if path.is_dir() and not path.is_symlink():
            for entry in sorted(os.listdir(path)):
                self.remove(f"{name}/{entry}")
