"""What plans move, by kind, before it is moved; counted by what makes the requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from composer.jigdo.plan import Plan
from composer.jigdo.reader import JigdoSet, requests
from composer.rpm.package import PackageRef


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that arrived, or will, and requests, for one kind of thing."""

    bytes: int
    requests: int


def transfers(
    jigdo: JigdoSet, plan: Plan, left: Callable[[PackageRef], int] = lambda ref: ref.size
) -> dict[str, Moved]:
    """Return what ``plan`` moves: "rpm", "delta", "new" (content that is in no RPM).

    ``left`` says how many bytes of an RPM are still to come.
    """
    fetched = [package.number for package in plan.packages if package.transfer]
    sizes = [left(jigdo.head.packages[number].ref) for number in fetched]
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
