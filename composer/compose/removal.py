"""``remove-from-packages``: files of a package that do not get into the tree.

Paths are matched as rpm-ostree matches them: by expressions that are not anchored, a
directory standing for all that the package has below it.  A file of /etc matches by both
its names, /etc/x and /usr/etc/x.  What another package of the tree has too stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from composer.compose.packages import ComposedPackage
from composer.compose.pattern import compiled
from composer.compose.tree import Tree
from composer.compose.values import RemoveFrom
from composer.rpm.package import opened

_GHOST = 1 << 6  # RPMFILE_GHOST


def remove_from_packages(
    tree: Tree, packages: Iterable[ComposedPackage], removals: Iterable[RemoveFrom]
) -> None:
    """Remove what ``removals`` say from an installed ``tree``.

    A package that is not in the tree is no error: the same treefile is included by trees
    with it and without.
    """
    wanted: dict[str, list[Any]] = {}
    for removal in removals:
        wanted.setdefault(removal.package, []).extend(map(compiled, removal.patterns))
    if not wanted:
        return
    doomed: set[str] = set()
    kept: set[str] = set()
    for package in packages:
        matches = _matcher(wanted.get(package.ref.nevra.name, ()))
        for path in _files(package.path):
            if matches(path):
                doomed.update(_with_directories(path, matches))
            else:
                kept.add(path)
    _remove(tree, doomed - kept)


def _matcher(patterns: Sequence[Any]) -> Callable[[str], bool]:
    @cache
    def matches(path: str) -> bool:
        if not patterns:
            return False
        names = (path, f"/usr{path}") if path.startswith("/etc/") else (path,)
        texts = [name.encode(errors="replace").decode() for name in names]
        if any(pattern.match(text, 0)[0] for pattern in patterns for text in texts):
            return True
        return path != "/" and matches(os.path.dirname(path))

    return matches


def _files(rpm: Path) -> Iterator[str]:
    with opened(rpm) as (header, _):
        for name, flags in zip(header["filenames"] or (), header["fileflags"] or (), strict=True):
            if not flags & _GHOST:
                yield str(name)


def _with_directories(path: str, matches: Callable[[str], bool]) -> Iterator[str]:
    while path != "/" and matches(path):
        yield path
        path = os.path.dirname(path)


def _remove(tree: Tree, paths: Iterable[str]) -> None:
    # Children come after their parents in order, and so before them in reverse.
    for name in sorted(paths, reverse=True):
        path = tree.path(name)
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        elif not any(path.iterdir()):
            path.rmdir()
