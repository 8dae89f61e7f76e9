"""Prove that objects are here and are what their checksums say: commits, trees and contents.

Each object is read once, however many commits have it.  Contents are hashed by libostree, in
threads, for it lets other threads run meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError, VerificationFailed
from composer.ostree.objects import parse_commit, parse_dirmeta, parse_dirtree
from composer.ostree.repo import Repository
from composer.progress import Report, Step, silent

_LARGEST = 128 << 20  # libostree's own limit for what is no content
_TOGETHER = 256  # objects for a thread at a time


@dataclass(frozen=True, slots=True, order=True)
class ObjectName:
    """An object: ``kind`` is commit, dirtree, dirmeta or file."""

    kind: str
    checksum: ObjectChecksum

    def __str__(self) -> str:
        """Return the name as ``ostree fsck`` has it."""
        return f"{self.checksum}.{self.kind}"

    def path(self, repo: Repository) -> Path:
        """Return where a repository has it."""
        suffix = "filez" if self.kind == "file" and repo.mode == "archive" else self.kind
        text = str(self.checksum)
        return repo.path / "objects" / text[:2] / f"{text[2:]}.{suffix}"


@dataclass(frozen=True, slots=True)
class Fault:
    """An object that is not as it must be, and a place where ``commit`` has it.

    ``links`` says how many names elsewhere its file has: each has the same damage.
    """

    name: ObjectName
    commit: ObjectChecksum
    path: str
    missing: bool
    detail: str = ""
    links: int = 0


class Checker:
    """Checks commits, and remembers what was sound."""

    def __init__(self, repo: Repository, *, workers: int = 2, report: Report = silent) -> None:
        self._repo, self._workers, self._report = repo, workers, report
        self._sound: set[ObjectName] = set()

    @property
    def objects(self) -> int:
        """How many objects are sound."""
        return len(self._sound)

    def check(self, commits: Iterable[ObjectChecksum]) -> list[Fault]:
        """Prove all that ``commits`` have; returns what is wrong, in a stable order.

        What a damaged directory has cannot be known, so it is not among them.  Raises
        ComposerError for what cannot be read for want of a right.
        """
        faults: dict[ObjectName, Fault] = {}
        contents: dict[ObjectName, tuple[ObjectChecksum, str]] = {}
        for commit in commits:
            for name, path in self._walk(commit, faults):
                if name not in self._sound:
                    contents.setdefault(name, (commit, path))
        for name, fault in self._contents(contents):
            faults[name] = fault
        return [faults[name] for name in sorted(faults)]

    def _walk(
        self, commit: ObjectChecksum, faults: dict[ObjectName, Fault]
    ) -> Iterator[tuple[ObjectName, str]]:
        """Prove a commit's metadata; yields its contents, each with a path."""
        seen: set[ObjectName] = set()

        def load(kind: str, checksum: ObjectChecksum, path: str) -> bytes | None:
            name = ObjectName(kind, checksum)
            if name in seen:
                return None
            seen.add(name)
            data, fault = self._metadata(name, commit, path)
            if fault:
                faults.setdefault(name, fault)
            return data

        data = load("commit", commit, "")
        if data is None:
            return
        parsed = parse_commit(data)
        load("dirmeta", parsed.meta, "/")
        stack = [("/", parsed.tree)]
        while stack:
            path, checksum = stack.pop()
            data = load("dirtree", checksum, path)
            if data is None:
                continue
            tree, prefix = parse_dirtree(data), path.rstrip("/")
            for file in tree.files:
                yield ObjectName("file", file.checksum), f"{prefix}/{file.name}"
            for entry in reversed(tree.directories):
                load("dirmeta", entry.meta, f"{prefix}/{entry.name}")
                stack.append((f"{prefix}/{entry.name}", entry.tree))

    def _metadata(
        self, name: ObjectName, commit: ObjectChecksum, path: str
    ) -> tuple[bytes | None, Fault | None]:
        place = name.path(self._repo)
        try:
            if (size := os.stat(place).st_size) > _LARGEST:
                return None, self._fault(name, commit, path, f"it has {size} bytes")
            data = place.read_bytes()
        except OSError as error:
            _require_readable(error)
            return None, self._fault(name, commit, path, error.strerror or str(error))
        if name not in self._sound:
            if (actual := ContentDigest.of(data)) != bytes(name.checksum):
                return None, self._fault(name, commit, path, f"its checksum is {actual}")
            try:
                _PARSE[name.kind](data)
            except VerificationFailed as error:  # whoever made the commit made it wrong
                return None, self._fault(name, commit, path, error.message)
            self._sound.add(name)
        return data, None

    def _contents(
        self, contents: Mapping[ObjectName, tuple[ObjectChecksum, str]]
    ) -> Iterator[tuple[ObjectName, Fault]]:
        names = sorted(contents)
        pieces = [names[start : start + _TOGETHER] for start in range(0, len(names), _TOGETHER)]
        done = 0
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for piece, wrong in zip(pieces, pool.map(self._hash, pieces), strict=True):
                    self._sound.update(set(piece) - wrong.keys())
                    for name, detail in wrong.items():
                        yield name, self._fault(name, *contents[name], detail)
                    done += len(piece)
                    self._report(Step("check", done, len(names), "objects"))
            finally:
                pool.shutdown(cancel_futures=True)

    def _hash(self, names: list[ObjectName]) -> dict[ObjectName, str]:
        wrong: dict[ObjectName, str] = {}
        with self._repo.libostree() as (ostree, repo):
            from gi.repository import GLib

            for name in names:
                try:
                    repo.fsck_object(ostree.ObjectType.FILE, str(name.checksum), None)
                except GLib.Error as error:
                    wrong[name] = error.message
        return wrong

    def _fault(self, name: ObjectName, commit: ObjectChecksum, path: str, detail: str) -> Fault:
        place = name.path(self._repo)
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            return Fault(name, commit, path, missing=True)
        if name.kind == "file" and not place.is_symlink():
            try:
                place.open("rb").close()
            except OSError as error:
                _require_readable(error)
        return Fault(name, commit, path, missing=False, detail=detail, links=status.st_nlink - 1)


_PARSE = {"commit": parse_commit, "dirtree": parse_dirtree, "dirmeta": parse_dirmeta}


def _require_readable(error: OSError) -> None:
    """Raise for an object that another user keeps for himself: nobody knows whether it is sound."""
    if isinstance(error, PermissionError):
        raise ComposerError(
            f"{error.filename}: not yours to read",
            hint="run as the user whom the repository belongs to, or as root",
        ) from error
