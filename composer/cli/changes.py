"""What changed, in lines: packages and advisories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from composer.cli.text import plain

if TYPE_CHECKING:
    from composer.rpm.advisories import Advisory
    from composer.rpm.changes import Changes


def change_lines(changes: Changes, most: int | None = None) -> Iterator[str]:
    """Say what became of packages; of each kind at most so many."""
    if not changes:
        yield "No package changes."
    for title, pairs in (("Upgraded", changes.upgraded), ("Downgraded", changes.downgraded)):
        rows = [f"  {new.name}.{new.arch} {old.evr} -> {new.evr}" for old, new in pairs]
        yield from _listed(title, rows, most)
    for title, packages in (("Added", changes.added), ("Removed", changes.removed)):
        yield from _listed(title, [f"  {package}" for package in packages], most)


def advisory_lines(advisories: Iterable[Advisory], most: int | None = None) -> Iterator[str]:
    """Say what is fixed."""
    rows = []
    for one in advisories:
        severity = "" if one.severity == "none" else f", {one.severity}"
        what = ", ".join(one.cves or one.packages)
        rows.append(f"  {one.ident} ({one.kind}{severity}): {what}")
    yield from _listed("Fixed", rows, most)


def _listed(title: str, rows: list[str], most: int | None) -> Iterator[str]:
    if not rows:
        return
    yield f"{title}: {len(rows)}"
    for row in rows[:most]:
        yield plain(row)
    if most is not None and len(rows) > most:
        yield f"  and {len(rows) - most} more"
