"""What a treefile's keys have as values, where that is more than text, a number or a list."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

Strings = tuple[str, ...]
Variable = str | bool | int


@dataclass(frozen=True, slots=True)
class AccountCheck:
    """What ``check-passwd`` or ``check-groups`` compares with.

    ``entries`` is for the type "data": name to uid and gid (the same number twice
    where one was written; for groups always).
    """

    kind: str
    filename: Path | None = None
    entries: tuple[tuple[str, int, int], ...] = ()

    def plain(self) -> dict[str, object]:
        said: dict[str, object] = {"type": self.kind}
        if self.filename is not None:
            said["filename"] = str(self.filename.absolute())
        if self.kind == "data":
            said["entries"] = {
                name: uid if uid == gid else [uid, gid] for name, uid, gid in self.entries
            }
        return said


@dataclass(frozen=True, slots=True)
class AddFile:
    """A file beside the treefile to put into the tree at ``target``, a path without ``..``."""

    source: Path
    target: str
    where: str = field(default="", compare=False)

    def plain(self) -> list[str]:
        return [str(self.source.absolute()), f"/{self.target}"]


@dataclass(frozen=True, slots=True)
class RemoveFrom:
    """Regular expressions (searched in absolute paths) for what to leave out of a package."""

    package: str
    patterns: Strings
    where: str = field(default="", compare=False)

    def plain(self) -> list[str]:
        return [self.package, *self.patterns]


@dataclass(frozen=True, slots=True)
class RepoPackages:
    """Packages to take from one repository."""

    repo: str
    packages: Strings
    where: str = field(default="", compare=False)

    def plain(self) -> dict[str, object]:
        return {"repo": self.repo, "packages": quoted(self.packages)}


@dataclass(frozen=True, slots=True)
class Modules:
    """Module streams to enable, and those (``name:stream/profile``) to install."""

    enable: Strings = ()
    install: Strings = ()

    def plain(self) -> dict[str, object]:
        pairs = (("enable", self.enable), ("install", self.install))
        return {name: quoted(values) for name, values in pairs if values}


@dataclass(frozen=True, slots=True)
class Rojig:
    """What the set's package says about itself."""

    name: str
    summary: str
    license: str
    description: str = ""

    def plain(self) -> dict[str, object]:
        said = {"name": self.name, "summary": self.summary, "license": self.license}
        return {**said, **({"description": self.description} if self.description else {})}


def brief(value: object) -> str:
    """Show a value in a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def plain(value: object) -> object:
    """Return a checked value as what YAML and JSON know."""
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Path):
        return str(value.absolute())
    said = getattr(value, "plain", None)
    return said() if said else value


def quoted(packages: Iterable[str]) -> list[str]:
    """Return package names such that splitting them at spaces gives the same again."""
    return [f"'{name}'" if re.search(r"\s", name) else name for name in packages]
