"""Which older content a new one is most like: by path, by path without versions, by name.

Pure.  Two files at one path of two versions of a system are nearly always two versions
of one file; what moved has its version in the path (a kernel's modules, a library's
soname), or was moved to another directory under its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_VERSION = re.compile(r"[0-9]+(?:[.+~^_-]?[0-9]+)*[a-z]?(?=[^a-z]|$)")


def without_versions(path: str) -> str:
    """Return ``path`` with every number or version in it replaced by ``#``.

    ``/usr/lib/modules/6.1.0-25-amd64/kernel/fs/xfs.ko`` and that of 6.1.0-26 become one,
    and so do ``libfoo.so.1.2`` and ``libfoo.so.1.10``.
    """
    return _VERSION.sub("#", path)


class Bases:
    """The places of older contents, to be asked for the best partner of a new one."""

    def __init__(self, places: Iterable[tuple[str, int, int]]) -> None:
        """Take (path, ordinal, size in bytes) of each file."""
        self._exact: dict[str, tuple[int, int]] = {}
        self._alike: dict[str, list[tuple[int, int]]] = {}
        for path, ordinal, size in places:
            self._exact[path] = ordinal, size
            for key in _keys(path):
                self._alike.setdefault(key, []).append((ordinal, size))

    def find(self, paths: Sequence[str], size: int) -> int | None:
        """Return the ordinal of the partner of a content that stands at ``paths``, or None.

        An empty file is no partner.
        """
        for path in paths:
            if (here := self._exact.get(path)) and here[1]:
                return here[0]
        for path in paths:
            for key in _keys(path):
                found = _nearest(self._alike.get(key, ()), size)
                if found is not None:
                    return found
        return None


def _keys(path: str) -> tuple[str, ...]:
    """Return what the paths of partners have in common, the most telling first."""
    directory, _, name = path.rpartition("/")
    loose_directory, loose_name = without_versions(directory), without_versions(name)
    # A kernel's sha256.ko and sha512.ko are two modules, not two versions of one.
    places = (f"{loose_directory}/{name}", f"{loose_directory}/{loose_name}")
    return tuple(dict.fromkeys((*places, name, loose_name)))


def _nearest(candidates: Iterable[tuple[int, int]], size: int) -> int | None:
    """Return the ordinal of the candidate whose size is nearest, if it is anywhere near."""
    near = [
        (abs(other - size), ordinal)
        for ordinal, other in candidates
        if other and other <= 8 * size and size <= 8 * other
    ]
    return min(near)[1] if near else None
