"""Progress is data: layers report steps, the command line decides how they look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """Where one phase of the work stands.

    ``done`` and ``total`` count in ``unit`` ("bytes" or a plural noun such as
    "packages"); ``total`` 0 means that it is not known.  ``item`` names what is
    being worked on.  A step whose ``done`` equals a non-zero ``total`` ends its phase.
    """

    phase: str
    done: int = 0
    total: int = 0
    unit: str = "items"
    item: str = ""


Report = Callable[[Step], None]


def silent(step: Step) -> None:
    """Report to nobody."""
