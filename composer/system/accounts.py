"""Names to numbers: passwd and group files as tables.

Formats: passwd(5) and group(5).  The functions skip lines that are none, as libc does;
a table that a person gives is read strictly.  An unknown name is the caller's to
report: rpm would make it root in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from composer.errors import FormatError

_FIELDS = {"passwd": 7, "group": 4}


@dataclass(frozen=True, slots=True)
class AccountTable:
    """User names to uids and group names to gids; both always have root."""

    users: Mapping[str, int]
    groups: Mapping[str, int]

    @classmethod
    def parse(cls, passwd: str, group: str) -> Self:
        """Read the texts of a passwd and a group file; raises FormatError for a bad line."""
        for text, kind in ((passwd, "passwd"), (group, "group")):
            _require_lines(text, kind)
        users = {name: uid for name, (uid, _) in parse_passwd(passwd).items()}
        return cls({"root": 0} | users, {"root": 0} | parse_group(group))

    @classmethod
    def read(cls, passwd: Path | None, group: Path | None) -> Self:
        """Read the files, where given; raises FormatError naming file and line."""
        tables = []
        for path, kind in ((passwd, "passwd"), (group, "group")):
            try:
                text = path.read_text(errors="surrogateescape") if path else ""
                tables.append(cls.parse(*((text, "") if kind == "passwd" else ("", text))))
            except FormatError as error:
                raise error.within(str(path)) from None
        return cls(tables[0].users, tables[1].groups)


def parse_passwd(text: str) -> dict[str, tuple[int, int]]:
    """Map names to (uid, gid); of a name's lines the first counts, as in getpwnam(3)."""
    found: dict[str, tuple[int, int]] = {}
    for name, fields in _lines(text, "passwd"):
        if fields[3].isdecimal():
            found.setdefault(name, (int(fields[2]), int(fields[3])))
    return found


def parse_group(text: str) -> dict[str, int]:
    """Map names to gid."""
    found: dict[str, int] = {}
    for name, fields in _lines(text, "group"):
        found.setdefault(name, int(fields[2]))
    return found


def _require_lines(text: str, kind: str) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#") and not list(_lines(line, kind)):
            raise FormatError(f"line {number}: not a line of a {kind} file: {line[:80]!r}")


def _lines(text: str, kind: str) -> Iterator[tuple[str, list[str]]]:
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == _FIELDS[kind] and fields[0] and fields[2].isdecimal():
            yield fields[0], fields
