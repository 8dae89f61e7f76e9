"""Any version to any other: five generations, their 20 pairs, upgrades and downgrades."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from pathlib import Path

from tests.bench.ours import (
    VARIANTS,
    Composed,
    Side,
    Unknown,
    Variant,
    add_remote,
    build_options,
    counted_pull,
    repoint,
    require_options,
    serving,
)
from tests.bench.peers import point
from tests.bench.report import left_out
from tests.bench.result import FRESH, Result, require_same
from tests.bench.trees import size_below
from tests.net.real_servers import RealServer

STATIC_DELTA = "OSTree static delta"
_CHOSEN = ("none", "rest", "auto", "all")
Say = Callable[[str], None]


@dataclass
class AnyToAny:
    """Measures pairs of versions that are in one repository.

    ``direct`` are variants for which a set with deltas from one version only is made for
    each pair, to compare with; ``stored`` gets the bytes of each variant's sets.
    """

    work: Path
    repo: Path
    versions: Sequence[Composed]
    seconds: float
    say: Say
    direct: bool = True
    stored: dict[str, list[int]] = field(default_factory=dict)

    def results(self, variants: Sequence[Variant] = VARIANTS) -> Iterator[Result]:
        """Yield a result for each pair and each way that is here."""
        with serving(self.work) as (server, link):
            for variant in variants:
                if variant.key in _CHOSEN:
                    yield from self._variant(variant, server, link)
        for old, new in permutations(range(len(self.versions)), 2):
            yield self._static_delta(old, new)

    def _variant(self, variant: Variant, server: RealServer, link: Path) -> Iterator[Result]:
        try:
            require_options(variant)
        except Unknown as reason:
            yield Result("all pairs", variant.title, skipped=str(reason), ours=True)
            return
        self.say(f"{variant.title}: {len(self.versions)} sets")
        sides = [self._side(variant, number, server, link) for number in range(len(self.versions))]
        self.stored[variant.title] = [size for _, size in sides]
        for old, new in permutations(range(len(self.versions)), 2):
            yield self._pair(variant, (old, new), [side for side, _ in sides], server, link)
        for side, _ in sides:
            shutil.rmtree(side.place)

    def _side(
        self, variant: Variant, number: int, server: RealServer, link: Path
    ) -> tuple[Side, int]:
        """Publish a version with deltas from all others, and install it afresh."""
        version = self.versions[number]
        others = [other.commit for other in self.versions if other is not version]
        side = Side.empty(self.work / f"v{number + 1}", self.seconds)
        _, size = side.publish(self.repo, version, build_options(variant, others))
        add_remote(side, f"{server.url}mirror/")
        repoint(link, side.mirror)
        counted_pull(server, side, version, FRESH)
        return side, size

    def _pair(
        self,
        variant: Variant,
        pair: tuple[int, int],
        sides: Sequence[Side],
        server: RealServer,
        link: Path,
    ) -> Result:
        old, new = pair
        client = sides[old].copy(self.work / "pair")
        repoint(link, sides[new].mirror)
        moved = counted_pull(server, client, self.versions[new], _case(old, new))
        result = replace(moved, way=variant.title, proof=self._prove(client, new))
        if self.direct and "{old}" in variant.build:
            result = replace(
                result, note=f"direct: {self._direct(variant, pair, sides, server, link)}"
            )
        shutil.rmtree(client.place)
        return result

    def _direct(
        self,
        variant: Variant,
        pair: tuple[int, int],
        sides: Sequence[Side],
        server: RealServer,
        link: Path,
    ) -> int:
        """Return what the same update moves from a set with deltas from the old version only."""
        old, new = pair
        side = sides[old].copy(self.work / "direct")
        mirror = Side.empty(self.work / "direct-mirror", self.seconds)
        mirror.publish(
            self.repo, self.versions[new], build_options(variant, [self.versions[old].commit])
        )
        repoint(link, mirror.mirror)
        moved = counted_pull(server, side, self.versions[new], _case(old, new))
        shutil.rmtree(side.place)
        shutil.rmtree(mirror.place)
        assert moved.bytes is not None
        return moved.bytes

    def _prove(self, side: Side, number: int) -> str:
        wanted = self.versions[number].commit
        argv = ["ostree", f"--repo={side.client}", "rev-parse", self.versions[number].ref]
        got = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        return f"commit {require_same('commit', wanted, got)[:12]}"

    def _static_delta(self, old: int, new: int) -> Result:
        one, two = self.versions[old].commit, self.versions[new].commit
        point(self.repo, self.versions[new].ref, two)
        argv = [
            "ostree",
            f"--repo={self.repo}",
            "static-delta",
            "generate",
            "--min-fallback-size=0",
        ]
        subprocess.run([*argv, f"--from={one}", f"--to={two}"], check=True, capture_output=True)
        deltas = self.repo / "deltas"
        (superblock,) = deltas.rglob("superblock")
        size, parts = size_below(superblock.parent), sum(1 for _ in superblock.parent.iterdir())
        shutil.rmtree(deltas)
        return Result(_case(old, new), STATIC_DELTA, size, parts)


def _case(old: int, new: int) -> str:
    return f"{old + 1} to {new + 1}"


def best_direct(results: Sequence[Result], case: str) -> int:
    """Return the fewest bytes of a delta made for one pair alone."""
    rows = [r for r in results if r.case == case]
    found = [r.bytes for r in rows if r.way == STATIC_DELTA and r.bytes]
    found += [int(r.note.removeprefix("direct: ")) for r in rows if r.note.startswith("direct: ")]
    return min(found)


def pairs_table(results: Sequence[Result]) -> str:
    """Return a table with a row for each pair; ratios are to its own best direct delta."""
    ways = list(dict.fromkeys(r.way for r in results if r.bytes is not None))
    cases = list(dict.fromkeys(r.case for r in results if r.bytes is not None))
    by = {(r.case, r.way): r.bytes for r in results if r.bytes is not None}
    lines = ["| from, to | best direct delta | " + " | ".join(ways) + " |"]
    lines.append("|---|--:|" + "--:|" * len(ways))
    for case in cases:
        best = best_direct(results, case)
        cells = [f"{by[case, way]:,} ({by[case, way] / best:.2f}x)" for way in ways]
        lines.append(f"| {case} | {best:,} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", left_out(results)]).rstrip() + "\n"
