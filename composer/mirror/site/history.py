"""What became of packages between versions: told for neighbours here, for any two by a document.

The document has every package once and of each version only what changed, so it grows with
versions and changes, not with pairs.  Its packages carry rpm's order as numbers: whoever
reads it compares without knowing how rpm does.  templates/site/site.js is its reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from itertools import pairwise
from typing import Any

from composer.mirror.site.reading import Facts
from composer.rpm.advisories import Advisory
from composer.rpm.changes import Changes, compare, compare_versions
from composer.rpm.listing import ChangelogEntry, newer_entries
from composer.rpm.package import Nevra

_ENTRY_TEXT, _ENTRIES = 4000, 20
_MOST_ADVISORIES = 5000

Changelogs = Mapping[str, tuple[ChangelogEntry, ...]]
"""By pkgid, the newest entries first."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The versions of a ref, the oldest first; its newest is the last, whenever it was made."""

    ref: str
    versions: tuple[Facts, ...]
    advisories: tuple[Advisory, ...]
    changelogs: Changelogs

    def changes(self, number: int) -> Changes | None:
        """What became of packages from the version before; None for the first."""
        if number == 0:
            return None
        return compare(self.versions[number - 1].nevras, self.versions[number].nevras)

    def entries(self, number: int, changes: Changes) -> dict[str, list[tuple[int, str, str]]]:
        """New changelog entries of what was upgraded, by NEVRA."""
        before = {row[0]: row[1] for row in self.versions[number - 1].packages}
        after = {row[0]: row[1] for row in self.versions[number].packages}
        found = {}
        for old, new in changes.upgraded:
            older = self.changelogs.get(before[str(old)], ())
            newer = self.changelogs.get(after[str(new)], ())
            # Without the old version's entries, all of the new one's would look new.
            if older and (entries := newer_entries(newer, older[0])):
                found[str(new)] = [*map(shortened, entries[:_ENTRIES])]
        return found


def shortened(entry: ChangelogEntry) -> tuple[int, str, str]:
    """A changelog entry of a bounded length: time, author, text."""
    text = entry.text
    return (
        entry.time,
        entry.author[:200],
        text if len(text) <= _ENTRY_TEXT else text[:_ENTRY_TEXT] + "…",
    )


def known_advisories(
    versions: Iterable[Facts], published: Iterable[Advisory]
) -> tuple[Advisory, ...]:
    """All advisories about packages of these names: of commits, and of rpm-md; each once."""
    names, own = set[tuple[str, str]](), list[Advisory]()
    for version in versions:
        names |= {(nevra.name, nevra.arch) for nevra in version.nevras}
        own += version.own_advisories()
    found: dict[str, Advisory] = {}
    for one in (*own, *published):
        packages = [text for text in one.packages if _key(text) in names]
        if one.ident and packages:
            known = found.get(one.ident, one)
            merged = tuple(sorted({*known.packages, *packages} if one.ident in found else packages))
            found[one.ident] = Advisory(
                one.ident, known.kind, known.severity, merged, known.references or one.references
            )
    return tuple(found[ident] for ident in sorted(found)[:_MOST_ADVISORIES])


def _key(text: str) -> tuple[str, str] | None:
    try:
        nevra = Nevra.parse(text)
    except ValueError:
        return None
    return nevra.name, nevra.arch


def fixed_by(changes: Changes, advisories: Iterable[Advisory]) -> list[Advisory]:
    """Those for what was upgraded, above the old version and up to the new one, or was added."""
    olds: dict[tuple[str, str], list[tuple[Nevra, Nevra]]] = {}
    for old, new in changes.upgraded:
        olds.setdefault((new.name, new.arch), []).append((old, new))
    added = {str(nevra) for nevra in changes.added}
    return [one for one in advisories if any(_is_fixed(t, olds, added) for t in one.packages)]


def _is_fixed(
    text: str, olds: Mapping[tuple[str, str], list[tuple[Nevra, Nevra]]], added: set[str]
) -> bool:
    if text in added:
        return True
    nevra = Nevra.parse(text)
    return any(
        compare_versions(old, nevra) < 0 and compare_versions(nevra, new) <= 0
        for old, new in olds.get((nevra.name, nevra.arch), ())
    )


def document(
    timeline: Timeline, names: Sequence[str], package_names: Mapping[str, str]
) -> dict[str, Any]:
    """Make the document; ``names`` are of pages of its versions, ``package_names`` of packages."""
    own = [version.nevras for version in timeline.versions]
    everything = {nevra for nevras in own for nevra in nevras}
    everything |= {Nevra.parse(text) for one in timeline.advisories for text in one.packages}
    packages, ranks = _ranked(everything)
    numbers = {nevra: number for number, nevra in enumerate(packages)}
    held = [{numbers[nevra] for nevra in nevras} for nevras in own]
    rows = []
    for number, (facts, name) in enumerate(zip(timeline.versions, names, strict=True)):
        before, now = held[number - 1] if number else set(), held[number]
        row = {"v": facts.label, "u": name, "t": facts.timestamp, "c": facts.commit[:12]}
        rows.append(row | {"+": sorted(now - before), "-": sorted(before - now)})
    return {
        "ref": timeline.ref,
        "packages": [[nevra.name, nevra.arch, nevra.evr, ranks[nevra]] for nevra in packages],
        "slugs": {
            nevra.name: package_names[nevra.name]
            for nevra in packages
            if package_names.get(nevra.name, nevra.name) != nevra.name
        },
        "versions": rows,
        "advisories": [
            [one.ident, one.kind, one.severity, [numbers[Nevra.parse(t)] for t in one.packages]]
            for one in timeline.advisories
        ],
    }


def _ranked(nevras: Iterable[Nevra]) -> tuple[list[Nevra], dict[Nevra, int]]:
    """Sort packages, and number the versions of each name as rpm orders them."""
    order = cmp_to_key(compare_versions)
    packages = sorted(nevras, key=lambda one: (one.name, order(one), one.arch, str(one)))
    ranks: dict[Nevra, int] = {}
    for before, nevra in pairwise([None, *packages]):
        assert nevra is not None
        if before is None or before.name != nevra.name:
            ranks[nevra] = 0
        else:
            ranks[nevra] = ranks[before] + (compare_versions(before, nevra) != 0)
    return packages, ranks
