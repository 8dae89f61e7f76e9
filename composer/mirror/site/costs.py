"""What updates cost: to the newest version from each before it, and from each to the next.

Figures are the planner's (:mod:`composer.jigdo.between`), and are kept by the two sets that
they are between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.jigdo.between import Cost, Holding, Objects, Target
from composer.jigdo.pointer import RECORD_TYPE, PointerEntry
from composer.jigdo.reader import JigdoSet
from composer.mirror.site.reading import Facts, Kept, open_entry
from composer.progress import Report, Step
from composer.rpm.rpmmd import REPOMD, parse_repomd

MOST = 500
"""The newest version's updates are from at most so many versions before it."""

Costs = Mapping[tuple[str, str], Cost]
"""By the pkgids of the two sets: of the newer, of the older."""


def update_costs(
    repository: Path,
    versions: Sequence[PointerEntry],
    facts: Sequence[Facts],
    kept: Kept,
    report: Report,
) -> dict[tuple[str, str], Cost]:
    """Say what updates cost between the versions of a ref, the oldest first."""
    found, costing = dict[tuple[str, str], Cost](), _Costing(repository, versions, facts, kept)
    for number, entry in enumerate(versions):
        report(Step("costs", number, len(versions), "versions", entry.version))
        name, bases = f"costs-{entry.pkgid}", [*_bases(number, len(versions))]
        document = kept.load(name)
        known = {key: Cost(*row) for key, row in (document or {}).items()}
        missing = [base for base in bases if str(versions[base].pkgid) not in known]
        known |= costing.costs(number, missing)
        if missing:
            kept.keep(name, {key: astuple(cost) for key, cost in known.items()})
        for base in bases:
            pkgid = str(versions[base].pkgid)
            found[str(entry.pkgid), pkgid] = known[pkgid]
    return found


def _bases(number: int, count: int) -> Iterator[int]:
    if number == count - 1:
        yield from range(max(0, number - MOST), number)
    elif number:
        yield number - 1


class _Costing:
    """Opens the sets that figures are missing for."""

    def __init__(
        self, repository: Path, versions: Sequence[PointerEntry], facts: Sequence[Facts], kept: Kept
    ) -> None:
        self._repository, self._versions, self._facts = repository, versions, facts
        self._objects = Objects(_Frames(kept))
        self._held: dict[int, Holding] = {}

    def costs(self, number: int, bases: Sequence[int]) -> dict[str, Cost]:
        if not bases:
            return {}
        held = {base: self._holding(base) for base in bases}
        target = Target(self._open(number), self._versions[number], self._objects)
        return {str(self._versions[base].pkgid): target.cost(held[base]) for base in bases}

    def _holding(self, number: int) -> Holding:
        if number not in self._held:
            facts = self._facts[number]
            frames = [ContentDigest.parse(text) for text in facts.frames]
            self._held[number] = Holding(
                ObjectChecksum.parse(facts.commit),
                self._objects.listed(frames, lambda: self._open(number)),
                frozenset(frames),
                frozenset(facts.listed),
            )
        return self._held[number]

    def _open(self, number: int) -> JigdoSet:
        return open_entry(self._repository, self._versions[number])


class _Frames:
    """What tree frames list, as it was kept."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def load(self, digest: ContentDigest) -> bytes | None:
        return self._kept.load_bytes(f"frame-{digest}")

    def keep(self, digest: ContentDigest, data: bytes) -> None:
        self._kept.keep_bytes(f"frame-{digest}", data)


def lists_bytes(repository: Path) -> int:
    """Bytes that any client reads to learn what is newest: repomd.xml and the pointer."""
    data = (repository / REPOMD).read_bytes()
    return len(data) + (parse_repomd(data).require(RECORD_TYPE).size or 0)
