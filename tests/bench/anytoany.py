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
from tests.bench.peers import new_client, point
from tests.bench.report import left_out
from tests.bench.result import FRESH, Result, require_same
from tests.bench.trees import size_below
from tests.net.real_servers import RealServer

STATIC_DELTA = "OSTree static delta"
_CHOSEN = ("none", "rest", "auto", "all")
_BEST = "all"
Say = Callable[[str], None]


@dataclass
class AnyToAny:
    """Measures pairs of versions that are in one repository and on one mirror.

    With ``direct``, a set with deltas from one version only is made for each pair, to compare
    with; ``stored`` gets the bytes of each variant's sets, ``grown`` those of the newest set
    with deltas from none, one, two... of the others.
    """

    work: Path
    repo: Path
    versions: Sequence[Composed]
    seconds: float
    say: Say
    direct: bool = True
    stored: dict[str, list[int]] = field(default_factory=dict)
    grown: list[int] = field(default_factory=list)

    def results(self, variants: Sequence[Variant] = VARIANTS) -> Iterator[Result]:
        """Yield a result for each pair and each way that is here."""
        with serving(self.work) as (server, link):
            for variant in variants:
                if variant.key in _CHOSEN:
                    yield from self._variant(variant, server, link)
        for old, new in self._pairs():
            yield self._static_delta(old, new)

    def _pairs(self) -> Iterator[tuple[int, int]]:
        return permutations(range(len(self.versions)), 2)

    def _variant(self, variant: Variant, server: RealServer, link: Path) -> Iterator[Result]:
        try:
            require_options(variant)
        except Unknown as reason:
            yield Result("all pairs", variant.title, skipped=str(reason), ours=True)
            return
        self.say(f"{variant.title}: {len(self.versions)} sets")
        side = self._empty("all")
        # As an operator does: each version when it comes, then again with the others known.
        for number in range(len(self.versions)):
            self._publish(side, variant, number, [])
        self.stored[variant.title] = [
            self._publish(side, variant, number) for number in range(len(self.versions))
        ]
        add_remote(side, f"{server.url}mirror/")
        repoint(link, side.mirror)
        clients = [self._installed(side, number, server) for number in range(len(self.versions))]
        is_best = variant.key == _BEST and self.direct
        for pair in self._pairs():
            result = self._pair(variant, pair, side, clients[pair[0]], server)
            if is_best:
                direct = self._direct(variant, pair, side, clients[pair[0]], server, link)
                repoint(link, side.mirror)
                result = replace(result, note=f"direct: {direct}")
            yield result
        if is_best:
            self.grown.extend(self._growing(variant))
        shutil.rmtree(side.place)

    def _empty(self, name: str) -> Side:
        """Make a mirror; all of them share what was made before, as an operator's builds do."""
        side = Side.empty(self.work / name, self.seconds)
        side.cache = self.work / "cache"
        return side

    def _publish(
        self, side: Side, variant: Variant, number: int, bases: Sequence[int] | None = None
    ) -> int:
        """Publish a version with deltas from others, by default all; returns the set's bytes."""
        if bases is None:
            bases = [other for other in range(len(self.versions)) if other != number]
        commits = [self.versions[base].commit for base in bases]
        options = build_options(variant, commits) if commits else ["--from", "none"]
        newest = self.versions[-1].commit
        _, size = side.publish(self.repo, self.versions[number], options, newest=newest)
        return size

    def _installed(self, side: Side, number: int, server: RealServer) -> Path:
        """Make a client that installed a version afresh."""
        client = new_client(side.place / f"client{number + 1}")
        version = self.versions[number]
        counted_pull(server, side.with_client(client), version, FRESH, by_name=True)
        return client

    def _pair(
        self,
        variant: Variant,
        pair: tuple[int, int],
        side: Side,
        client: Path,
        server: RealServer,
    ) -> Result:
        old, new = pair
        copy = self.work / "pair"
        # What is linked is replaced by renames.
        subprocess.run(["cp", "--archive", "--link", client, copy], check=True)
        there = side.with_client(copy)
        version = self.versions[new]
        moved = counted_pull(server, there, version, _case(old, new), variant.pull, by_name=True)
        result = replace(moved, way=variant.title, proof=self._prove(there, new))
        shutil.rmtree(copy)
        return result

    def _direct(
        self,
        variant: Variant,
        pair: tuple[int, int],
        side: Side,
        client: Path,
        server: RealServer,
        link: Path,
    ) -> int:
        """Return what the same update moves from a set with deltas from the old version only."""
        old, new = pair
        mirror = self._empty("direct")
        self._publish(mirror, variant, new, [old])
        repoint(link, mirror.mirror)
        moved = self._pair(variant, pair, side, client, server)
        shutil.rmtree(mirror.place)
        assert moved.bytes is not None
        return moved.bytes

    def _growing(self, variant: Variant) -> Iterator[int]:
        """Yield the bytes of the newest set, with deltas from more and more of the others."""
        last = len(self.versions) - 1
        for count in range(len(self.versions)):
            mirror = self._empty("growing")
            yield self._publish(mirror, variant, last, range(last - count, last))
            shutil.rmtree(mirror.place)

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
