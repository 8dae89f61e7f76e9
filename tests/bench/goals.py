"""The numbers that a run is held against; each is a ratio or a count with its limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.bench.anytoany import STATIC_DELTA, best_direct
from tests.bench.result import FRESH, NOTHING, UPDATE, Result

_NONE = "jigdo set, without deltas"
_PULL, _ROJIG = "OSTree object pull", "whole changed RPMs and the rest (rojig)"
_DELTAS = ("jigdo set, all deltas, pull --prefer bytes", "jigdo set, all deltas")


@dataclass(frozen=True, slots=True)
class Goal:
    """What was measured, and the most that it may be."""

    what: str
    got: float
    limit: float

    @property
    def reached(self) -> bool:
        """Tell whether it is within its limit."""
        return self.got <= self.limit


def goals(case: str, results: Sequence[Result]) -> list[Goal]:
    """Return the goals that this run can tell of; ways that were left out have none."""
    if case == "any5":
        return list(_pairs(results))
    by = {(r.case, r.way): r for r in results if r.bytes is not None}
    found = [*_update(case, by), *_fresh(by)]
    nothing = [r.bytes for r in results if r.case == NOTHING and r.bytes is not None]
    if nothing:
        found.append(Goal("nothing new: bytes", max(nothing), 10_000))
    return found


def _bytes(result: Result) -> int:
    return result.bytes or 0


def _update(case: str, by: dict[tuple[str, str], Result]) -> Iterator[Goal]:
    delta, none, rojig = (by.get((UPDATE, way)) for way in (STATIC_DELTA, _NONE, _ROJIG))
    best = next((by[UPDATE, way] for way in _DELTAS if (UPDATE, way) in by), None)
    if best and delta:
        limit = 0.65 if case == "two" else 0.60
        yield Goal("update: bytes, to the static delta", _bytes(best) / _bytes(delta), limit)
        if case == UPDATE:  # a small update costs what any pull does
            yield from _costs(best, none, delta)
    if best and case == "two":
        yield Goal("update: requests", best.requests or 0, 12)
    if case == UPDATE and none and rojig and rojig.kinds["rpm"]:
        ratio = _bytes(none) / rojig.kinds["rpm"]
        yield Goal("update without deltas: bytes, to the changed RPMs", ratio, 1.05)


def _costs(best: Result, none: Result | None, delta: Result) -> Iterator[Goal]:
    if best.make and delta.make and none and none.make:
        ratio = (best.make.cpu - none.make.cpu) / delta.make.cpu
        yield Goal("making deltas: CPU, to the static delta's", ratio, 0.6)
    if best.apply and delta.apply:
        yield Goal("update: wall, to apply-offline", best.apply.wall / delta.apply.wall, 1.0)
        yield Goal("update: CPU, to apply-offline", best.apply.cpu / delta.apply.cpu, 1.0)
        yield Goal("update: peak memory, bytes", best.apply.peak, 200_000_000)
    if best.apply and best.announced:
        ratio = best.apply.peak / best.announced
        yield Goal("update: peak memory, to what was announced", ratio, 1.0)


def _fresh(by: dict[tuple[str, str], Result]) -> Iterator[Goal]:
    ours = by.get((FRESH, "jigdo set"))
    rojig, pull = by.get((FRESH, _ROJIG)), by.get((FRESH, _PULL))
    if ours and rojig:
        whole = rojig.kinds["rpm"] + rojig.kinds["rest"]
        yield Goal("fresh: bytes, to RPMs and compressed rest", _bytes(ours) / whole, 1.01)
    if ours and pull:
        yield Goal("fresh: bytes, to the object pull", _bytes(ours) / _bytes(pull), 0.80)


def _pairs(results: Sequence[Result]) -> Iterator[Goal]:
    for way in dict.fromkeys(r.way for r in results if r.ours and r.bytes is not None):
        rows = [r for r in results if r.way == way]
        worst = max(_bytes(r) / best_direct(results, r.case) for r in rows)
        yield Goal(f"worst pair: bytes, to its best direct delta: {way}", worst, 1.25)


def goals_table(found: Sequence[Goal]) -> str:
    """Return the goals as a table."""
    lines = ["| goal | got | at most | |", "|---|--:|--:|---|"]
    for goal in found:
        got, limit = (
            f"{x:,.0f}" if goal.limit > 10 else f"{x:.2f}" for x in (goal.got, goal.limit)
        )
        lines.append(f"| {goal.what} | {got} | {limit} | {'yes' if goal.reached else '**no**'} |")
    return "\n".join(lines) + "\n"
