"""Names to numbers: passwd and group files as tables.

Format: passwd(5) and group(5).  An unknown name is the caller's to report: rpm
would make it root in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from composer.errors import FormatError


@dataclass(frozen=True, slots=True)
class Accounts:
    """User names to uids and group names to gids; both always have root."""

    users: Mapping[str, int]
    groups: Mapping[str, int]

    @classmethod
    def parse(cls, passwd: str, group: str) -> Self:
        """Read the texts of a passwd and a group file; raises FormatError with the line."""
        return cls({"root": 0} | _table(passwd, "passwd"), {"root": 0} | _table(group, "group"))


def _table(text: str, what: str) -> dict[str, int]:
    table: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split(":")
        if len(fields) < 3 or not fields[2].isdecimal() or int(fields[2]) >= 1 << 32:
            raise FormatError(f"{what} line {number}: expected name:password:id:..., got {line!r}")
        # The first line of a name wins, as in getpwnam(3).
        table.setdefault(fields[0], int(fields[2]))
    return table
