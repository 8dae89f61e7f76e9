"""The packages of a tree: as a commit's metadata lists them, or as its rpmdb has them.

An rpmdb of a commit is untrusted input to librpm, which parses it in C.  So it is read in
a process of its own, with limits on memory, time and output, and as root also in the
sandbox, with nothing but the database in it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.errors import CommandFailed, FormatError, MissingRequirement
from composer.rpm import listing_child
from composer.rpm.package import Nevra
from composer.system.limits import LimitExceeded, Limits
from composer.system.sandbox import ENVIRONMENT, Bind, Sandbox

DIRECTORIES = ("usr/share/rpm", "usr/lib/sysimage/rpm", "var/lib/rpm")
"""Where a tree may have its rpmdb, the likeliest first."""

FILES = ("rpmdb.sqlite", "Packages.db", "Packages")
"""What an rpmdb's main file is called, by backend: sqlite, ndb, Berkeley DB."""

RPMOSTREE_LIST, OWN_LIST = "rpmostree.rpmdb.pkglist", "jigdo-composer.packages"

_PYTHON, _CHILD, _INSIDE = "/usr/bin/python3", "/composer/listing_child.py", "/rpmdb"
_SECONDS = 120.0
_LINE = 1 << 20
_MOST_PACKAGES = 100_000
_MOST_ENTRIES = 1000
_MOST_PATHS = 2_000_000


@dataclass(frozen=True, slots=True)
class ChangelogEntry:
    """One entry; ``time`` is in seconds since 1970.  The texts are the package's, unchecked."""

    time: int
    author: str
    text: str


@dataclass(frozen=True, slots=True)
class Installed:
    """A package of an rpmdb with its changelog's newest entries, the newest first."""

    nevra: Nevra
    changelog: tuple[ChangelogEntry, ...] = ()


def listed(metadata: Mapping[str, object]) -> tuple[Nevra, ...] | None:
    """Return the sorted packages that a commit's metadata lists, or None without a list.

    Both rpm-ostree's list and this program's are understood.  Raises FormatError.
    """
    try:
        if (rows := metadata.get(RPMOSTREE_LIST)) is not None:
            return tuple(sorted(_checked(*_texts(row, 5)) for row in _rows(rows)))
        if (rows := metadata.get(OWN_LIST)) is not None:
            return tuple(sorted(Nevra.parse(_texts(row[:1], 1)[0]) for row in _rows(rows)))
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"the commit's package list cannot be read: {error}") from None
    return None


def _rows(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("it is not a list")
    return value


def _texts(row: Any, count: int) -> tuple[str, ...]:
    if not isinstance(row, tuple) or len(row) != count or not all(isinstance(x, str) for x in row):
        raise ValueError(f"a row of it is not {count} strings")
    return row


def _checked(name: str, epoch: str, version: str, release: str, arch: str) -> Nevra:
    return Nevra.parse(f"{name}-{epoch or '0'}:{version}-{release}.{arch}")


def read_rpmdb(
    directory: Path, *, names: Iterable[str] | None = None, entries: int = 0
) -> list[Installed]:
    """List the packages (of ``names``, or all) of the rpmdb in ``directory``, sorted.

    ``entries`` is how many changelog entries of each are wanted.  Librpm may write into
    the directory: give it a copy.  Raises FormatError for what librpm cannot read.
    """
    found: list[Installed] = []

    def take(line: bytes, _: object = None) -> None:
        if len(found) >= _MOST_PACKAGES:
            raise FormatError(f"the rpm database has more than {_MOST_PACKAGES} packages")
        if package := _parse(line):
            found.append(package)

    job = {
        "names": None if names is None else sorted(names),
        "entries": min(entries, _MOST_ENTRIES),
    }
    _run(directory, job, take)
    return sorted(found, key=lambda package: package.nevra)


def read_paths(directory: Path, packages: Iterable[Nevra]) -> dict[Nevra, list[str]]:
    """Return the files of those of ``packages`` that the rpmdb in ``directory`` has.

    They are in the order of the header, which is that of the RPM's: position is file index.
    What is said of :func:`read_rpmdb` holds here too; paths are the database's, unchecked.
    """
    wanted, left = set(packages), _MOST_PATHS
    found: dict[Nevra, list[str]] = {}

    def take(line: bytes, _: object = None) -> None:
        nonlocal left
        try:
            document = json.loads(line)
            nevra = _nevra(document["package"])
            paths = [str(path) for path in document["paths"]]
        except (ValueError, TypeError, KeyError):
            return  # it is none of the wanted
        if nevra in wanted:
            left -= len(paths)
            if left < 0:
                raise FormatError(f"the rpm database has more than {_MOST_PATHS} files")
            found.setdefault(nevra, []).extend(paths)

    names = sorted({nevra.name for nevra in wanted})
    _run(directory, {"names": None, "entries": 0, "files": names}, take)
    return found


def _run(directory: Path, job: Mapping[str, object], take: Callable[..., None]) -> None:
    try:
        (_run_sandboxed if os.geteuid() == 0 else _run_limited)(directory, job, take)
    except (CommandFailed, LimitExceeded) as error:
        output = str(getattr(error, "output", ""))
        if "No module named 'rpm'" in output:
            raise MissingRequirement(
                f"{_PYTHON} has no rpm module",
                hint="apt-get install python3-rpm, or dnf install python3-rpm",
            ) from error
        raise FormatError(
            "librpm cannot read the rpm database",
            details=output.strip().splitlines()[-4:] or [error.message],
        ) from error


def _run_sandboxed(directory: Path, job: Mapping[str, object], take: Callable[..., None]) -> None:
    sandbox = Sandbox.of_host(
        Bind(directory, _INSIDE, writable=True), Bind(Path(listing_child.__file__), _CHILD)
    )
    argv, stdin = [_PYTHON, "-I", _CHILD], json.dumps({**job, "dbpath": _INSIDE}).encode()
    sandbox.run(argv, stdin=stdin, on_line=take, limits=Limits(seconds=_SECONDS))


def _run_limited(directory: Path, job: Mapping[str, object], take: Callable[..., None]) -> None:
    """Without root there is no sandbox, but also little that librpm could reach."""
    argv = [_PYTHON, "-I", str(listing_child.__file__)]
    with (
        subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**ENVIRONMENT, "HOME": str(directory)},
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({**job, "dbpath": str(directory)}).encode())
            process.stdin.close()
            said = b""
            while line := process.stdout.readline(_LINE):
                if line.startswith(b"{"):
                    take(line)
                else:
                    said = (said + line)[-4096:]
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        output = said.decode(errors="replace")
        raise CommandFailed(argv=argv, status=process.returncode, output=output)


def _parse(line: bytes) -> Installed | None:
    try:
        document = json.loads(line)
        nevra = _nevra(document["package"])
        entries = tuple(
            ChangelogEntry(int(time), str(author), str(text))
            for time, author, text in document["changelog"]
        )
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"the rpm database has a package that is none: {error}") from None
    return Installed(nevra, entries)


def _nevra(identity: Any) -> Nevra:
    name, epoch, version, release, arch = identity
    return _checked(name, str(epoch or 0), version, release, arch or "noarch")


def newer_entries(
    changelog: Iterable[ChangelogEntry], than: ChangelogEntry | None
) -> tuple[ChangelogEntry, ...]:
    """Return the entries (newest first) from before ``than``, the older version's newest.

    Entries are dated to the day: of the same day, those above it count as newer.
    """
    found = []
    for entry in changelog:
        if than is not None and (entry == than or entry.time < than.time):
            break
        found.append(entry)
    return tuple(found)
