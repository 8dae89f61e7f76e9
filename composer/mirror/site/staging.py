"""Files of the site: made beside, moved in one by one, left alone where nothing changed.

What is made is in groups; a group has inputs, and is made again only when these, or what
makes it, changed.  Rules kept here: a reader never sees a part of a file; data comes before
the pages that load it and the first page last; when something fails, the site is as it was;
what the site before had is removed after that.  The state is a small file that only names
digests: without it, or with a wrong one, everything is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from composer.errors import UsageError
from composer.system.files import explained, remove_tree, sync_directory, write_bytes

STATE = ".state.json"
_FORMAT = 1
_AT_ONCE = 16
_ORDER = (".css", ".js", ".svg", ".asc", ".json", ".html")
_LAST = ("feed.atom", "index.html")

Make = Callable[[], Iterable[tuple[str, bytes]]]
"""Gives files of a group: name, relative to the site, and content."""


@dataclass(frozen=True, slots=True)
class Written:
    """How many files there are, how many of them are new, and bytes of all."""

    files: int
    changed: int
    removed: int
    bytes: int


class Staging:
    """A site that is being made.  ``salt`` stands for whatever makes it: templates, this code."""

    def __init__(self, directory: Path, salt: str) -> None:
        self._directory, self._salt = directory, salt
        if directory.is_dir() and any(directory.iterdir()) and not (directory / STATE).exists():
            raise UsageError(
                f"{directory}: there is something in it that is no site of this program's",
                hint="move away what is there: the directory is all the site's",
            )
        self._before = _read_state(directory / STATE)
        self._groups: dict[str, tuple[str, dict[str, tuple[int, str]]]] = {}
        _make_readable(directory)
        for left in directory.glob(".new-*"):
            remove_tree(left)  # by whoever was killed: there is one builder at a time
        if not (directory / STATE).exists():
            write_bytes(directory / STATE, b"{}")  # the directory is the site's from now on
        self._staged = Path(tempfile.mkdtemp(prefix=".new-", dir=directory))
        self._changed: set[str] = set()

    def group(self, name: str, inputs: object, make: Make) -> None:
        """Take a group's files over, or make them."""
        text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), default=str)
        key = hashlib.sha256(f"{self._salt}\0{name}\0{text}".encode()).hexdigest()
        before = self._before.get(name)
        if before is not None and before[0] == key and self._are_here(before[1]):
            self._groups[name] = before
            return
        files: dict[str, tuple[int, str]] = {}
        for path, data in make():
            self._stage(path, data)
            files[path] = len(data), hashlib.sha256(data).hexdigest()
        self._groups[name] = key, files

    def files(self, name: str) -> list[str]:
        """The files of a group."""
        return sorted(self._groups[name][1])

    def _are_here(self, files: Mapping[str, tuple[int, str]]) -> bool:
        for path, (size, _) in files.items():
            try:
                if (self._directory / path).stat().st_size != size:
                    return False
            except OSError:
                return False
        return True

    def _stage(self, path: str, data: bytes) -> None:
        parts = PurePosixPath(path)
        assert not parts.is_absolute()
        assert not any(part.startswith(".") for part in parts.parts), path
        place = self._staged / parts
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            place.chmod(0o644)
        except OSError as error:
            raise explained(error, place) from error
        self._changed.add(path)

    def publish(self) -> Written:
        """Move what is new in, the first page last, and remove what is left from before."""
        files = {p: f for _, group in self._groups.values() for p, f in group.items()}
        known = {p: f for _, group in self._before.values() for p, f in group.items()}
        fresh = [p for p in self._changed if known.get(p) != files[p] or not self._is_same(p)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # the file system commits them together
            list(pool.map(_flush, [self._staged / path for path in fresh]))
        made = set[Path]()
        for path in sorted(fresh, key=_rank):
            place = self._directory / path
            if place.parent not in made:
                _make_readable(place.parent)
                made.add(place.parent)
            (self._staged / path).replace(place)
        for directory in sorted(made):
            sync_directory(directory)
        state = {"format": _FORMAT, "groups": self._groups}
        staged = self._staged / "state"
        staged.write_text(json.dumps(state, sort_keys=True, separators=(",", ":")))
        staged.chmod(0o644)
        staged.replace(self._directory / STATE)
        removed = self._remove(files)
        return Written(len(files), len(fresh), removed, sum(size for size, _ in files.values()))

    def _is_same(self, path: str) -> bool:
        try:
            return (self._directory / path).read_bytes() == (self._staged / path).read_bytes()
        except OSError:
            return False

    def _remove(self, files: Mapping[str, object]) -> int:
        """Remove files that are no more part of it, and directories that became empty."""
        removed = 0
        for root, directories, names in os.walk(self._directory, topdown=False):
            here = Path(root)
            if here == self._directory:
                directories[:] = [name for name in directories if not name.startswith(".")]
            if any(p.startswith(".new-") for p in here.relative_to(self._directory).parts):
                continue
            for name in names:
                path = (here / name).relative_to(self._directory).as_posix()
                if path not in files and path != STATE:
                    (here / name).unlink()
                    removed += 1
            if here != self._directory and not any(here.iterdir()):
                here.rmdir()
        return removed

    def close(self) -> None:
        """Remove what was staged and not published."""
        remove_tree(self._staged)


def _make_readable(directory: Path) -> None:
    """Make a directory, and those above it, that a web server may read whatever the umask is."""
    if not directory.is_dir():
        _make_readable(directory.parent)
        directory.mkdir()
        directory.chmod(0o755)


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _rank(path: str) -> tuple[int, str]:
    if path in _LAST:
        return len(_ORDER) + 1 + _LAST.index(path), path
    suffix = PurePosixPath(path).suffix
    return _ORDER.index(suffix) if suffix in _ORDER else len(_ORDER), path


def _read_state(path: Path) -> dict[str, tuple[str, dict[str, tuple[int, str]]]]:
    try:
        document: Any = json.loads(path.read_bytes())
        if document["format"] != _FORMAT:
            return {}
        return {
            str(name): (str(key), {str(p): (int(f[0]), str(f[1])) for p, f in files.items()})
            for name, (key, files) in document["groups"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
