"""Events and plans as JSON documents; docs/events.md and its schema describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.client import Amounts, Event, LostPackage, Moved, PullPlan, Replaced
    from composer.errors import ComposerError


def document(event: Event) -> dict[str, Any]:
    """Describe an event."""
    from composer.client import Progress, PullPlan, Step

    if isinstance(event, Step):
        return {
            "event": "step",
            "phase": event.phase,
            "done": event.done,
            "total": event.total,
            "unit": event.unit,
            "item": event.item,
        }
    if isinstance(event, Progress):
        left = event.seconds_left
        return {
            "event": "progress",
            "done": event.done,
            "total": event.total,
            "fraction": round(event.fraction, 4),
            "seconds_left": None if left is None else round(left, 1),
            "phase": event.phase,
            "item": event.item,
        }
    if isinstance(event, PullPlan):
        return {"event": "plan", **plan_document(event)}
    return {
        "event": "replan",
        "lost": lost_rows(event.lost),
        "transfers": transfers_document(event.transfers),
    }


def error_document(error: ComposerError) -> dict[str, Any]:
    """Describe an error."""
    return {
        "event": "error",
        "kind": type(error).__name__,
        "status": error.exit_status,
        "message": error.message,
        "details": list(error.details),
        "hint": error.hint,
    }


def plan_document(found: PullPlan) -> dict[str, Any]:
    """Describe a plan, without what only `plan` tells."""
    return {
        "ref": found.ref,
        "version": found.version,
        "commit": str(found.commit),
        "previous": str(found.previous) if found.previous else None,
        "needed": found.needed,
        "prefer": found.prefer.value,
        "changes": found.changes.summary() if found.changes is not None else None,
        "advisories": [advisory.document() for advisory in found.advisories],
        "transfers": transfers_document({"set": found.set, **found.chosen.transfers}),
        "bytes": found.total.bytes,
        "requests": found.total.requests,
        "packages": found.packages,
        "objects": found.objects,
        "object_bytes": found.object_bytes,
        "seeds": {"objects": found.seeds, "bytes": found.seed_bytes},
        "disk_bytes": found.disk_bytes,
        "cpu_seconds": round(found.chosen.cpu_seconds, 3),
        "seconds": None if found.seconds is None else round(found.seconds, 1),
        "memory": found.chosen.memory,
    }


def amounts_document(amounts: Amounts) -> dict[str, Any]:
    """Describe one way to fetch what is missing."""
    return {
        "transfers": transfers_document(amounts.transfers),
        "bytes": amounts.bytes,
        "requests": sum(moved.requests for moved in amounts.transfers.values()),
        "cpu_seconds": round(amounts.cpu_seconds, 3),
        "memory": amounts.memory,
    }


def transfers_document(parts: Mapping[str, Moved]) -> dict[str, Any]:
    """Describe transfers by kind."""
    return {kind: {"bytes": m.bytes, "requests": m.requests} for kind, m in parts.items()}


def lost_rows(packages: Sequence[LostPackage]) -> list[dict[str, Any]]:
    """Describe lost packages."""
    return [
        {"package": str(lost.ref.nevra), "pkgid": str(lost.ref.pkgid), "reasons": [*lost.reasons]}
        for lost in packages
    ]


def replaced_rows(packages: Sequence[Replaced]) -> list[dict[str, Any]]:
    """Describe packages that an RPM made anew serves for."""
    return [
        {
            "package": str(one.package.nevra),
            "pkgid": str(one.package.pkgid),
            "instead": str(one.pkgid),
            "bytes": one.size,
            "url": one.url,
        }
        for one in packages
    ]
