"""Lockfiles: which version of each package a compose may take, in rpm-ostree's format.

JSON, or YAML when the name ends in ``.yaml`` or ``.yml``::

    {"packages": {"bash": {"evra": "5.2-1.x86_64", "digest": "sha256:..", "metadata": {}},
                  "tzdata": {"evr": "2024a-1"}},
     "source-packages": {"systemd": {"evr": "255-3"}},
     "metadata": {"generated": "..", "rpmmd_repos": {"fedora": {"generated": ".."}}}}

``digest`` is the algorithm and the checksum of the whole RPM; ``source-packages`` lock all
that was built from a source package.  The format knows one version and architecture a name.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from composer.compose.document import Document, Trail, show
from composer.errors import ComposerError
from composer.rpm.package import Nevra
from composer.system.files import write_bytes

_DIGEST_LENGTHS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
_DIGEST = re.compile(r"([a-z0-9]+):([0-9a-f]+)\Z")
_PACKAGE_KEYS = ("evra", "evr", "digest", "metadata")
_SOURCE_KEYS = ("evr", "metadata")
_METADATA_KEYS = ("generated", "rpmmd_repos")
_YAML = (".yaml", ".yml")


class LockfileError(ComposerError):
    """A lockfile that contradicts another, the treefile or the repositories."""


@dataclass(frozen=True, slots=True)
class Locked:
    """One package's version.  ``arch`` is "" where any will do, ``digest`` where none was given.

    ``where`` says where it stands, for people; ``file`` is the number of its lockfile.
    """

    nevra: Nevra
    arch: str
    digest: str = ""
    where: str = field(default="", compare=False)
    file: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.nevra.name}-{self.nevra.evr}" + (f".{self.arch}" if self.arch else "")

    def takes(self, nevra: Nevra) -> bool:
        """Tell whether ``nevra`` is the version and architecture that is locked."""
        mine = (self.nevra.epoch, self.nevra.version, self.nevra.release)
        same = mine == (nevra.epoch, nevra.version, nevra.release)
        return same and self.arch in ("", nevra.arch)


@dataclass(frozen=True, slots=True)
class LockedSource:
    """The version of a source package, whose epoch no binary package tells."""

    name: str
    version: str
    release: str
    where: str = field(default="", compare=False)
    file: int = field(default=0, compare=False)

    @property
    def rpm(self) -> str:
        """Its file name, as binary packages have it."""
        return f"{self.name}-{self.version}-{self.release}.src.rpm"


@dataclass(frozen=True, slots=True)
class Lockfile:
    """What one or several lockfiles say together, by name."""

    packages: Mapping[str, Locked]
    sources: Mapping[str, LockedSource]


def read_lockfiles(paths: Sequence[Path]) -> Lockfile:
    """Read lockfiles; later ones override earlier ones, package by package.

    Raises TreefileError for a file that is not a lockfile, and LockfileError when two
    give the same version of a package different digests.
    """
    packages: dict[str, Locked] = {}
    sources: dict[str, LockedSource] = {}
    for number, path in enumerate(paths):
        document = Document.read(path)
        root = _mapping(document, ())
        _require_known(document, (), root, ("packages", "source-packages", "metadata"))
        if "packages" not in root and "source-packages" not in root:
            raise document.wrong((), "the key packages is missing", hint="this is no lockfile")
        _check_metadata(document, root)
        for locked in _packages(document, root, number):
            _require_agreement(packages.get(locked.nevra.name), locked)
            packages[locked.nevra.name] = locked
        for source in _sources(document, root, number):
            sources[source.name] = source
    return Lockfile(packages, sources)


def _packages(document: Document, root: Mapping[str, object], number: int) -> Iterable[Locked]:
    for name in _names(document, root, "packages"):
        trail = ("packages", name)
        value = _mapping(document, trail)
        _require_known(document, trail, value, _PACKAGE_KEYS)
        given = [key for key in ("evra", "evr") if key in value]
        if len(given) != 1:
            raise document.wrong(trail, "expected one of evra and evr")
        nevra = _nevra(document, (*trail, given[0]), name, value[given[0]])
        arch = nevra.arch if given[0] == "evra" else ""
        digest = _digest(document, (*trail, "digest"), value.get("digest"))
        yield Locked(nevra, arch, digest, where=_where(document, trail), file=number)


def _sources(document: Document, root: Mapping[str, object], number: int) -> Iterable[LockedSource]:
    for name in _names(document, root, "source-packages"):
        trail = ("source-packages", name)
        value = _mapping(document, trail)
        _require_known(document, trail, value, _SOURCE_KEYS)
        nevra = _nevra(document, (*trail, "evr"), name, value.get("evr"))
        where = _where(document, trail)
        yield LockedSource(name, nevra.version, nevra.release, where=where, file=number)


def _names(document: Document, root: Mapping[str, object], key: str) -> Iterable[str]:
    found = _mapping(document, (key,)) if key in root else {}
    for name, value in found.items():
        if isinstance(value, dict) and isinstance(value.get("metadata", {}), dict):
            yield name
        else:
            what = (
                "metadata: expected a mapping" if isinstance(value, dict) else "expected a mapping"
            )
            raise document.wrong((key, name), what)


def _mapping(document: Document, trail: Trail) -> dict[str, object]:
    value = document.value
    for part in trail:
        value = value[part]  # type: ignore[index]
    if not isinstance(value, dict):
        raise document.wrong(trail, "expected a mapping", hint="" if trail else "a lockfile is one")
    return value


def _require_known(
    document: Document, trail: Trail, value: Mapping[str, object], known: Sequence[str]
) -> None:
    for key in value:
        if key not in known:
            raise document.wrong(
                (*trail, key[:80]), "this key is not known", hint=f"known are {', '.join(known)}"
            )


def _nevra(document: Document, trail: Trail, name: str, value: object) -> Nevra:
    key = trail[-1]
    shape = "[epoch:]version-release" + (".arch" if key == "evra" else "")
    if isinstance(value, str):
        try:
            return Nevra.parse(f"{name}-{value}" + ("" if key == "evra" else ".any"))
        except ValueError:
            pass
    shown = repr(value)[:80] if value is not None else "nothing"
    raise document.wrong(trail, f"expected {shape} of a package {name[:80]!r}, got {shown}")


def _digest(document: Document, trail: Trail, value: object) -> str:
    if value is None:
        return ""
    match = _DIGEST.match(value) if isinstance(value, str) else None
    if match and len(match[2]) == _DIGEST_LENGTHS.get(match[1]):
        return match[0]
    raise document.wrong(trail, f"expected ALGORITHM:HEXADECIMAL, got {repr(value)[:80]}")


def _check_metadata(document: Document, root: Mapping[str, object]) -> None:
    if root.get("metadata") is None:
        return
    metadata = _mapping(document, ("metadata",))
    _require_known(document, ("metadata",), metadata, _METADATA_KEYS)
    _check_time(document, ("metadata", "generated"), metadata.get("generated"))
    if metadata.get("rpmmd_repos") is not None:
        for ident in _mapping(document, ("metadata", "rpmmd_repos")):
            trail = ("metadata", "rpmmd_repos", ident)
            _check_time(document, (*trail, "generated"), _mapping(document, trail).get("generated"))


def _check_time(document: Document, trail: Trail, value: object) -> None:
    if value is None:
        return
    try:
        datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise document.wrong(
            trail, f"expected a time such as 2024-10-06T00:00:00Z, got {repr(value)[:80]}"
        ) from None


def _where(document: Document, trail: Trail) -> str:
    line = document.lines.get(trail)
    return f"{document.path}: {show(trail)}" + (f" (line {line})" if line else "")


def _require_agreement(before: Locked | None, after: Locked) -> None:
    if before is None or before.nevra != after.nevra or not (before.digest and after.digest):
        return
    if before.digest.split(":")[0] == after.digest.split(":")[0] and before.digest != after.digest:
        raise LockfileError(
            f"{after.where}: {after} has another digest than in another lockfile",
            details=[f"{before.where}: {before.digest}", f"{after.where}: {after.digest}"],
            hint="the same version cannot be two RPMs: remove one of the entries",
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A package to write; ``digest`` as above, ``source`` the name of its source package."""

    nevra: Nevra
    digest: str
    source: str = ""


def write_lockfile(path: Path, packages: Iterable[Entry], repositories: Mapping[str, int]) -> None:
    """Write a lockfile of ``packages`` whole or not at all; the same input gives the same bytes.

    ``repositories`` maps ids to when their metadata was made, in seconds since 1970; the
    newest is the time of the lockfile, so that nothing depends on the clock.  Raises
    LockfileError for two versions of one package, which the format cannot hold.
    """
    times = {ident: {"generated": _time(made)} for ident, made in repositories.items()}
    newest = _time(max(repositories.values(), default=0))
    document = {
        "packages": _entries(packages),
        "metadata": {"generated": newest, "rpmmd_repos": times},
    }
    if path.suffix in _YAML:
        import yaml

        text = yaml.safe_dump(document, sort_keys=True, default_flow_style=False)
    else:
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    write_bytes(path, text.encode())


def _entries(packages: Iterable[Entry]) -> dict[str, dict[str, object]]:
    by_name: dict[str, list[Entry]] = defaultdict(list)
    for entry in packages:
        by_name[entry.nevra.name].append(entry)
    return {name: _entry(name, entries) for name, entries in sorted(by_name.items())}


def _entry(name: str, entries: Sequence[Entry]) -> dict[str, object]:
    first = entries[0]
    if len({entry.nevra.evr for entry in entries}) > 1:
        raise LockfileError(
            f"{name}: the tree has several versions of it, and a lockfile holds one",
            details=[str(entry.nevra) for entry in entries],
        )
    metadata: dict[str, object] = {"metadata": {"sourcerpm": first.source}} if first.source else {}
    if len(entries) > 1:  # several architectures: only what they share can be said
        return {"evr": first.nevra.evr, **metadata}
    return {
        "evra": f"{first.nevra.evr}.{first.nevra.arch}",
        "digest": first.digest,
        **metadata,
    }


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
