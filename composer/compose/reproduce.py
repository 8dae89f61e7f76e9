"""Two commits of one input, compared: which files differ, why, and who wrote them.

Rule kept here: commits are compared by checksum first, and only what differs is read.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from composer.checksum import ObjectChecksum
from composer.compose.again import Again
from composer.compose.build import Build
from composer.compose.cause import Marks, cause
from composer.compose.packages import ComposedPackage
from composer.errors import VerificationFailed
from composer.ostree.objects import DirTree
from composer.ostree.repo import Repository
from composer.rpm.package import opened

# What is told of one run; a tree of which everything differs has one cause.
_MOST = 200
_LARGEST = 256 << 20
_SCRIPTS = {
    "prein": "%pre",
    "postin": "%post",
    "pretrans": "%pretrans",
    "posttrans": "%posttrans",
    "triggerscripts": "%trigger",
    "filetriggerscripts": "%filetrigger",
    "transfiletriggerscripts": "%transfiletrigger",
}
# Programs by what they write: (the end of the name or a part of it, programs).
_MAKERS = (
    ("/ld.so.cache", ("ldconfig",)),
    ("/var/cache/ldconfig/", ("ldconfig",)),
    ("/hwdb.bin", ("systemd-hwdb", "udevadm")),
    ("/gschemas.compiled", ("glib-compile-schemas",)),
    ("/mime/", ("update-mime-database",)),
    ("/mimeinfo.cache", ("update-desktop-database",)),
    ("/icon-theme.cache", ("gtk-update-icon-cache", "gtk4-update-icon-cache")),
    ("/fontconfig/", ("fc-cache",)),
    ("/ca-trust/", ("update-ca-trust",)),
    ("/ssl/certs/", ("update-ca-certificates",)),
    ("/giomodule.cache", ("gio-querymodules",)),
    ("/loaders.cache", ("gdk-pixbuf-query-loaders",)),
    ("/immodules.cache", ("gtk-query-immodules",)),
    ("/locale-archive", ("localedef", "build-locale-archive")),
    ("/initramfs", ("dracut",)),
    ("/modules.", ("depmod",)),
    (".pyc", ("python", "py_compile", "compileall")),
    ("/catalog/database", ("journalctl",)),
    ("/passwd", ("useradd", "systemd-sysusers")),
    ("/group", ("groupadd", "systemd-sysusers")),
    ("/shadow", ("useradd", "systemd-sysusers")),
)


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One name in the tree that came out otherwise.

    ``packages`` own it, by NEVRA; ``writers`` are scriptlets ("NEVRA %post") and scripts
    of the treefile that name the file, or a program that writes such files.
    """

    path: str
    cause: str
    packages: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Tell it in lines for a person."""
        told = [f"{self.path}: {self.cause}"]
        if self.packages:
            told.append(f"  a file of {', '.join(self.packages)}")
        if self.writers:
            told.append(f"  probably written by {', '.join(self.writers[:4])}")
        return told

    def document(self) -> dict[str, object]:
        """Tell it as plain values."""
        return {
            "path": self.path,
            "cause": self.cause,
            "packages": list(self.packages),
            "writers": list(self.writers),
        }


class NotReproducible(VerificationFailed):
    """The second compose of the same input came to another commit."""

    def __init__(self, ref: str, differences: Sequence[Difference], commits: Sequence[str]) -> None:
        told = [line for difference in differences[:20] for line in difference.lines()]
        more = len(differences) - 20
        super().__init__(
            f"{ref}: not reproducible: a second compose differs in "
            f"{_count(differences)}; the ref was not moved",
            details=[*told, *([f"and {more} more; --json has them all"] if more > 0 else [])],
            hint="SOURCE_DATE_EPOCH is set for every scriptlet and script: make what writes these "
            "files follow it, or remove them with remove-files or a postprocess script",
        )
        self.ref, self.differences, self.commits = ref, tuple(differences), tuple(commits)

    def document(self) -> dict[str, object]:
        """Tell it as plain values."""
        return {
            "ref": self.ref,
            "reproducible": False,
            "commits": list(self.commits),
            "differences": [difference.document() for difference in self.differences],
        }


def _count(differences: Sequence[Difference]) -> str:
    if len(differences) >= _MOST:
        return f"{_MOST} files or more"
    return "1 file" if len(differences) == 1 else f"{len(differences)} files"


def require_same(
    repository: Repository,
    commit: ObjectChecksum,
    again: Again,
    wanted: Build,
    *,
    started: float,
    work: Path,
) -> None:
    """Raise NotReproducible, with what differs and why, unless both commits are the same.

    ``started`` is when the first compose began and ``work`` the directory it was made in.
    """
    if commit == again.commit:
        return
    marks = Marks(
        str(work), started, again.marks.started, os.environ.get("HOME", ""), socket.gethostname()
    )
    found = compare(repository, commit, again.repository, again.commit, (marks, again.marks))
    explained = explain(found, wanted.packages, wanted.treefile.postprocess)
    raise NotReproducible(wanted.treefile.ref, explained, (str(commit), str(again.commit)))


def compare(
    first: Repository,
    one: ObjectChecksum,
    second: Repository,
    other: ObjectChecksum,
    marks: tuple[Marks, Marks],
) -> list[Difference]:
    """Return what differs between two commits, by path, with causes; 200 at most."""
    a, b = first.commit(one), second.commit(other)
    found = list(_Comparison(first, second, marks).of_commits(a, b))
    if not found:
        keys = sorted(
            k for k in {**a.metadata, **b.metadata} if a.metadata.get(k) != b.metadata.get(k)
        )
        found = [Difference("(the commit)", f"its metadata: {', '.join(keys) or 'other fields'}")]
    return sorted(found)


class _Comparison:
    def __init__(self, first: Repository, second: Repository, marks: tuple[Marks, Marks]) -> None:
        self._first, self._second, self._marks = first, second, marks
        self._left = _MOST

    def of_commits(self, a: Any, b: Any) -> Iterator[Difference]:
        if a.meta != b.meta:
            yield Difference("/", self._of_directory(a.meta, b.meta))
        yield from self._of_trees("", a.tree, b.tree)

    def _of_trees(
        self, path: str, one: ObjectChecksum, other: ObjectChecksum
    ) -> Iterator[Difference]:
        if one == other:
            return
        a, b = self._first.dirtree(one), self._second.dirtree(other)
        for difference in (*self._of_files(path, a, b), *self._only(path, a, b)):
            if self._left <= 0:
                return
            self._left -= 1
            yield difference
        theirs = {entry.name: entry for entry in b.directories}
        for entry in a.directories:
            if entry.name not in theirs:
                continue
            match = theirs[entry.name]
            if entry.meta != match.meta:
                yield Difference(f"{path}/{entry.name}", self._of_directory(entry.meta, match.meta))
            yield from self._of_trees(f"{path}/{entry.name}", entry.tree, match.tree)

    def _of_files(self, path: str, a: DirTree, b: DirTree) -> Iterator[Difference]:
        theirs = {entry.name: entry.checksum for entry in b.files}
        for entry in a.files:
            match = theirs.get(entry.name)
            if match is not None and match != entry.checksum:
                name = f"{path}/{entry.name}"
                yield Difference(name, self._of_contents(name, entry.checksum, match))

    def _only(self, path: str, a: DirTree, b: DirTree) -> Iterator[Difference]:
        one = {e.name for e in a.files} | {e.name for e in a.directories}
        other = {e.name for e in b.files} | {e.name for e in b.directories}
        for name in sorted(one - other):
            yield Difference(f"{path}/{name}", _of_name(name, "first", other - one))
        for name in sorted(other - one):
            yield Difference(f"{path}/{name}", _of_name(name, "second", one - other))

    def _of_contents(self, name: str, one: ObjectChecksum, other: ObjectChecksum) -> str:
        header, size, pieces = self._first.content(one)
        header2, size2, pieces2 = self._second.content(other)
        if header != header2:
            return f"its {_named(header, header2)}"
        if max(size, size2) > _LARGEST:
            return f"{size} and {size2} bytes, too many to look into"
        first, second = b"".join(pieces), b"".join(pieces2)
        if header.is_symlink:
            return f"the link's target: {first!r} and {second!r}"
        return cause(name, first, second, self._marks)

    def _of_directory(self, one: ObjectChecksum, other: ObjectChecksum) -> str:
        a, b = self._first.metadata("dirmeta", one), self._second.metadata("dirmeta", other)
        names = ("owner", "group", "mode")
        parts = [n for i, n in enumerate(names) if a[4 * i : 4 * i + 4] != b[4 * i : 4 * i + 4]]
        return f"the directory's {' and '.join(parts) or 'extended attributes'}"


def _named(a: Any, b: Any) -> str:
    fields = (
        ("owner", "uid"),
        ("group", "gid"),
        ("mode", "mode"),
        ("extended attributes", "xattrs"),
    )
    return " and ".join(name for name, field in fields if getattr(a, field) != getattr(b, field))


def _of_name(name: str, which: str, others: Iterable[str]) -> str:
    """Say that a name is in one tree only; a random name has a counterpart much like it."""
    alike = [other for other in others if len(other) == len(name)]
    near = max(alike, key=lambda other: sum(map(str.__eq__, other, name)), default="")
    if near and sum(map(str.__eq__, near, name)) * 2 >= len(name):
        return f"only in the {which} tree; the other has {near}: a random or dated name"
    return f"only in the {which} tree"


def explain(
    found: Sequence[Difference], packages: Sequence[ComposedPackage], scripts: Sequence[str] = ()
) -> list[Difference]:
    """Add to each difference whose file it is, and which scriptlets may have written it."""
    owners: dict[str, set[str]] = {}
    writers: dict[str, dict[str, None]] = {}
    names = {name: difference.path for difference in found for name in _installed(difference.path)}
    for package in packages:
        nevra = str(package.ref.nevra)
        with opened(package.path) as (header, _):
            for name in header["filenames"] or ():
                if name in names:
                    owners.setdefault(names[name], set()).add(nevra)
            for tag, phase in _SCRIPTS.items():
                for path in _written(_text(header[tag]), found):
                    writers.setdefault(path, {})[f"{nevra} {phase}"] = None
    for number, script in enumerate(scripts):
        for path in _written(script, found):
            writers.setdefault(path, {})[f"the treefile's postprocess[{number}]"] = None
    return [
        replace(
            difference,
            packages=tuple(sorted(owners.get(difference.path, ()))),
            writers=tuple(writers.get(difference.path, ())),
        )
        for difference in found
    ]


def _installed(path: str) -> tuple[str, ...]:
    """Return the names that a package may have for a path of the commit."""
    factory = "/usr/share/factory"
    if path.startswith("/usr/etc/"):
        return path, path.removeprefix("/usr")
    return (path, path.removeprefix(factory)) if path.startswith(f"{factory}/var/") else (path,)


def _text(script: object) -> str:
    if isinstance(script, list | tuple):
        return "\n".join(map(str, script))
    return str(script or "")


def _written(script: str, found: Sequence[Difference]) -> Iterator[str]:
    """Yield the paths that ``script`` names, or for which it calls the program."""
    if not script:
        return
    for difference in found:
        programs = {p for part, ps in _MAKERS if part in difference.path for p in ps}
        words = [*_installed(difference.path), *programs]
        # A name such as "x" is in every script.
        base = os.path.basename(difference.path)
        if any(word in script for word in words) or (len(base) > 4 and base in script):
            yield difference.path
