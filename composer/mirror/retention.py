"""Which published versions are kept, by rules.  Pure.

A version stays when any rule says so; the newest of each ref and what is pinned always do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from composer.checksum import ObjectChecksum
from composer.errors import UsageError
from composer.jigdo.pointer import PointerEntry

_SPAN = re.compile(r"([0-9]{1,6})([hdwy])\Z")
_HOURS = {"h": 1, "d": 24, "w": 24 * 7, "y": 24 * 365}


def parse_span(text: str) -> timedelta:
    """Read a span of time: a number and ``h``, ``d``, ``w`` or ``y``; raises UsageError."""
    match = _SPAN.match(text)
    if match is None and text != "0":
        raise UsageError(f"{text}: expected a span of time, as 12h, 90d, 8w or 2y")
    hours = int(match[1]) * _HOURS[match[2]] if match else 0
    if hours > 24 * 365 * 1000:
        raise UsageError(f"{text}: longer than a thousand years")
    return timedelta(hours=hours)


@dataclass(frozen=True, slots=True)
class Labels:
    """What an operator has said of versions: pins, and tags, by ref and commit."""

    pins: frozenset[tuple[str, ObjectChecksum]] = frozenset()
    tags: Mapping[tuple[str, ObjectChecksum], frozenset[str]] | None = None

    def is_pinned(self, entry: PointerEntry) -> bool:
        """Tell whether a version is pinned."""
        return (entry.ref, entry.commit) in self.pins

    def tags_of(self, entry: PointerEntry) -> frozenset[str]:
        """Return the tags of a version."""
        return (self.tags or {}).get((entry.ref, entry.commit), frozenset())


NO_LABELS = Labels()


@dataclass(frozen=True, slots=True)
class Rules:
    """What to keep: the newest ``keep`` of each ref (0: no such rule), those that were made
    ``within`` a time, those with one of ``tags``.

    Of other refs than ``refs``, if there are any, everything is kept.  Without a rule, too.
    """

    keep: int = 0
    within: timedelta | None = None
    tags: frozenset[str] = frozenset()
    refs: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Tell whether there is no rule."""
        return not self.keep and self.within is None and not self.tags


NO_RULES = Rules()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a version stays; without reasons it goes."""

    entry: PointerEntry
    reasons: tuple[str, ...]

    @property
    def stays(self) -> bool:
        """Tell whether it stays."""
        return bool(self.reasons)


def judge(
    newest: Iterable[PointerEntry],
    others: Iterable[PointerEntry],
    rules: Rules,
    *,
    labels: Labels = NO_LABELS,
    now: datetime,
) -> list[Verdict]:
    """Judge all versions; the result is by ref, of each the newest first."""
    by_ref: dict[str, list[PointerEntry]] = {one.ref: [one] for one in newest}
    for one in sorted(others, key=lambda one: (one.timestamp, one.commit), reverse=True):
        by_ref.setdefault(one.ref, []).append(one)
    if unknown := rules.refs - by_ref.keys():
        raise UsageError(
            f"{min(unknown)}: the repository has no such ref", hint=f"it has {', '.join(by_ref)}"
        )
    return [
        verdict
        for ref in sorted(by_ref)
        for verdict in _of_ref(ref, by_ref[ref], rules, labels, now)
    ]


def _of_ref(
    ref: str, entries: Sequence[PointerEntry], rules: Rules, labels: Labels, now: datetime
) -> Iterable[Verdict]:
    free = rules.is_empty or (rules.refs and ref not in rules.refs)
    since = now.timestamp() - rules.within.total_seconds() if rules.within is not None else None
    for number, entry in enumerate(entries):
        tags = sorted(labels.tags_of(entry) & rules.tags)
        reasons = [
            *(["newest"] if number == 0 else []),
            *(["no rule"] if free and number else []),
            *([f"one of the newest {rules.keep}"] if 0 < number < rules.keep else []),
            *(["its age"] if since is not None and entry.timestamp >= since else []),
            *(["pinned"] if labels.is_pinned(entry) else []),
            *(f"tag {tag}" for tag in tags),
        ]
        yield Verdict(entry, tuple(reasons))
