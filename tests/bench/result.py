"""What a benchmark of bytes finds out: one result for a way and a case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.bench.measure import Measured

UPDATE, FRESH, NOTHING = "update", "fresh install", "nothing new"


class WrongTree(Exception):
    """A way did not give the tree that it had to: its figures are worth nothing."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one way moved in one case, what it cost on both sides, and how it was proven.

    ``kinds`` are bytes by kind; ``skipped`` says why there are no figures.  ``packing`` are
    seconds of ``apply`` ("cpu_seconds", and "seconds" of its time) in which contents were packed
    again; ``announced`` is the memory that it was to take.
    """

    case: str
    way: str
    bytes: int | None = None
    requests: int | None = None
    make: Measured | None = None
    apply: Measured | None = None
    kinds: Mapping[str, int] = field(default_factory=dict)
    proof: str = ""
    note: str = ""
    skipped: str = ""
    ours: bool = False
    packing: Mapping[str, float] = field(default_factory=dict)
    announced: int = 0


def require_same(what: str, wanted: str, got: str) -> str:
    """Return what both are; raises WrongTree when they differ."""
    if wanted != got:
        raise WrongTree(f"{what}: expected {wanted}, got {got}")
    return wanted
