"""All that the site shows, read from the published repository before a page is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.errors import NotFound
from composer.jigdo.between import Cost
from composer.jigdo.pointer import PointerEntry
from composer.mirror.lists import read_lists
from composer.mirror.site.costs import Costs, lists_bytes, update_costs
from composer.mirror.site.history import Timeline, known_advisories
from composer.mirror.site.naming import slugs
from composer.mirror.site.reading import Facts, Kept, read_facts, read_shares
from composer.mirror.site.signing import Signatures, Statements, read_statements
from composer.ostree.signature import SignatureState
from composer.progress import Report, Step
from composer.rpm.advisories import Advisory
from composer.rpm.changes import Changes
from composer.rpm.listing import ChangelogEntry
from composer.rpm.texts import (
    Description,
    read_advisories,
    read_changelogs,
    read_descriptions,
)


@dataclass(frozen=True, slots=True)
class RefView:
    """A ref: its versions, the oldest first, and in the same order what belongs to each.

    ``names`` are of their pages, ``package_names`` of packages'; ``costs`` by pkgids of two sets;
    ``shares`` are of the newest version's set (:func:`composer.mirror.site.reading.read_shares`).
    """

    ref: str
    slug: str
    entries: tuple[PointerEntry, ...]
    timeline: Timeline
    names: tuple[str, ...]
    changes: tuple[Changes | None, ...]
    signatures: tuple[list[SignatureState], ...]
    costs: Costs
    expires: int | None
    package_names: Mapping[str, str]
    shares: Mapping[str, Any]

    @property
    def versions(self) -> tuple[Facts, ...]:
        """What the sets say."""
        return self.timeline.versions

    def href(self, number: int) -> str:
        """A version's page."""
        return f"version/{self.slug}/{self.names[number]}.html"

    def cost(self, number: int, base: int) -> Cost | None:
        """What the update from one version to another costs, where that was asked."""
        pair = self.versions[number].pkgid, self.versions[base].pkgid
        return self.costs.get(pair) if base >= 0 else None

    def brief(self, number: int) -> dict[str, Any]:
        """What templates show of a version in a line."""
        facts, changes = self.versions[number], self.changes[number]
        return {
            "label": facts.label,
            "slug": self.names[number],
            "href": self.href(number),
            "commit": facts.commit,
            "timestamp": facts.timestamp,
            "packages": len(facts.packages),
            "package_bytes": facts.totals["package_bytes"],
            "set_bytes": facts.set_bytes,
            "signatures": [
                {"key": one.key, "time": one.time, "state": one.state}
                for one in self.signatures[number]
            ],
            "changed": None if changes is None else count(changes),
        }


def count(changes: Changes) -> int:
    """How many packages changed."""
    parts = changes.added, changes.removed, changes.upgraded, changes.downgraded
    return sum(map(len, parts))


@dataclass(frozen=True, slots=True)
class Collected:
    """The repository; ``missing`` are sets that are named and not there.

    ``lists`` are bytes that are read to learn what is newest.
    """

    views: tuple[RefView, ...]
    statements: Statements | None
    lists: int
    missing: tuple[str, ...]
    changelogs: dict[str, tuple[ChangelogEntry, ...]]
    descriptions: dict[str, Description]

    @property
    def latest(self) -> RefView:
        """The ref whose newest commit was made last."""
        return max(self.views, key=lambda one: (one.versions[-1].timestamp, one.ref))

    @property
    def time(self) -> int:
        """When the newest commit was made."""
        return max(facts.timestamp for view in self.views for facts in view.versions)


def collect(
    repository: Path, packages: Sequence[Path], keyring: bytes, kept: Kept, report: Report
) -> Collected:
    """Read it; raises NotFound where no set is published, FormatError for what is damaged."""
    entries, missing = _entries(repository)
    facts = {}
    for number, entry in enumerate(entries):
        report(Step("sets", number, len(entries), "sets", entry.version))
        facts[entry.location] = read_facts(repository, entry, kept)
    pkgids = {row[1] for one in facts.values() for row in one.packages}
    changelogs: dict[str, tuple[ChangelogEntry, ...]] = {}
    descriptions: dict[str, Description] = {}
    advisories: list[Advisory] = []
    for place in (repository, *packages):
        report(Step("rpm-md", item=str(place)))
        changelogs = read_changelogs(place, pkgids) | changelogs
        descriptions = read_descriptions(place, pkgids) | descriptions
        advisories += read_advisories(place)
    statements = read_statements(repository)
    signatures = Signatures(repository, keyring, kept)
    refs = sorted({entry.ref for entry in entries})
    names = slugs(refs)
    package_names = slugs(nevra.name for one in facts.values() for nevra in one.nevras)
    views = []
    for ref in refs:
        own = tuple(entry for entry in entries if entry.ref == ref)
        versions = tuple(facts[entry.location] for entry in own)
        known = known_advisories(versions, advisories)
        timeline = Timeline(ref, versions, known, changelogs)
        view = RefView(
            ref=ref,
            slug=names[ref],
            entries=own,
            timeline=timeline,
            names=tuple(_names(versions)),
            changes=tuple(timeline.changes(number) for number in range(len(own))),
            signatures=tuple(signatures.of(own)),
            costs=update_costs(repository, own, versions, kept, report),
            expires=statements.expires.get(ref) if statements else None,
            package_names=package_names,
            shares=read_shares(repository, own[-1], kept),
        )
        views.append(view)
    return Collected(
        tuple(views), statements, lists_bytes(repository), missing, changelogs, descriptions
    )


def _entries(repository: Path) -> tuple[list[PointerEntry], tuple[str, ...]]:
    """List the sets, by ref, the oldest first and the newest last; and those that are gone."""
    lists = read_lists(repository)
    newest, others = lists.pointer.entries, lists.versions.entries
    every = sorted([*others, *newest], key=lambda one: one.ref)  # the newest behind the others
    here = [entry for entry in every if (repository / entry.location).is_file()]
    if not here:
        raise NotFound(
            f"{repository}: no set is published there",
            hint="`set build --output` or `compose --rpm-repo` publish one",
        )
    return here, tuple(e.location for e in every if not (repository / e.location).is_file())


def _names(versions: Iterable[Facts]) -> Iterator[str]:
    """Name pages of versions; by the commit too, where several have one version."""
    every = [*versions]
    labels = [facts.version for facts in every]
    texts = [
        facts.version
        if facts.version and labels.count(facts.version) == 1
        else f"{facts.version} {facts.commit}".strip()
        for facts in every
    ]
    names = slugs(texts)
    return (names[text] for text in texts)
