"""What plans move, by kind, before it is moved; counted by what makes the requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from composer.jigdo.plan import Plan
from composer.jigdo.reader import JigdoSet, requests
from composer.rpm.beginnings import Beginning
from composer.rpm.package import PackageRef


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that arrived, or will, and requests, for one kind of thing."""

    bytes: int
    requests: int


Left = Callable[[PackageRef, Beginning | None], int]


def transfers(
    jigdo: JigdoSet, plan: Plan, left: Left = lambda ref, beginning: (beginning or ref).size
) -> dict[str, Moved]:
    """Return what ``plan`` moves: "rpm", "delta", "new" (content that is in no RPM).

    ``left`` says how many bytes of an RPM, or its beginning, are still to come.
    """
    fetched = [package for package in plan.packages if package.transfer]
    sizes = [left(jigdo.head.packages[one.number].ref, one.beginning) for one in fetched]
    return {
        "rpm": moved(size for size in sizes if size),
        "delta": moved(requests(plan.deltas.frames)),
        "new": moved(requests(plan.new.frames)),
    }


def moved(sizes: Iterable[int]) -> Moved:
    """Sum requests of these sizes."""
    every = list(sizes)
    return Moved(sum(every), len(every))


def together(parts: Iterable[Moved]) -> Moved:
    """Sum parts."""
    every = list(parts)
    return Moved(sum(part.bytes for part in every), sum(part.requests for part in every))


Transfers = Mapping[str, Moved]
