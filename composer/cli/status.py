"""``jigdo-composer status``: what is deployed, and what the next boot changes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from composer.cli.config import config_dir_option
from composer.cli.console import Console, json_option
from composer.cli.sysroot_options import deployment_document, sysroot_option
from composer.cli.text import plain

if TYPE_CHECKING:
    from composer.sysroot.status import Described, Status


@click.command()
@sysroot_option
@config_dir_option
@json_option
@click.pass_obj
def status(console: Console, place: Path, config_dir: Path | None, as_json: bool) -> None:
    """List deployments, what boots next first, and the packages that the next boot changes."""
    from composer.sysroot.status import status as read_status
    from composer.sysroot.sysroot import Sysroot

    found = read_status(Sysroot.open(place), config_dir)
    if as_json:
        rows = [
            deployment_document(one.deployment)
            | {"version": one.version or None, "timestamp": one.timestamp or None}
            | {"signature": {"state": one.signature.state, "why": one.signature.why or None}}
            for one in found.deployments
        ]
        changes = found.changes.summary() if found.changes is not None else None
        console.json({"deployments": rows, "changes": changes})
        return
    if not found.deployments:
        console.result("nothing is deployed")
    for one in found.deployments:
        for line in _lines(one):
            console.result(plain(line))
    for line in _change_lines(found):
        console.result(plain(line))


def _lines(one: Described) -> Iterator[str]:
    it = one.deployment
    mark = "*" if it.role == "booted" else " "
    notes = ", ".join(note for note in (it.role, "pinned" if it.pinned else "") if note)
    yield f"{mark} {it.index} {it.os} {one.version}" + (f" ({notes})" if notes else "")
    when = f" of {datetime.fromtimestamp(one.timestamp, UTC):%Y-%m-%d %H:%M} UTC"
    yield f"      commit: {it.commit}.{it.serial}" + (when if one.timestamp else "")
    if it.ref:
        yield "      from: " + (f"{it.remote}:" if it.remote else "") + it.ref
    why = f" ({one.signature.why})" if one.signature.why else ""
    yield f"      signature: {one.signature.state}{why}"


def _change_lines(found: Status) -> Iterator[str]:
    changes = found.changes
    if not changes or found.before is None or found.after is None:
        return
    yield f"From {found.before.index} to {found.after.index}:"
    for word, pairs in (("upgraded", changes.upgraded), ("downgraded", changes.downgraded)):
        for old, new in pairs:
            yield f"  {word}: {new.name} {old.evr} -> {new.evr}"
    for word, packages in (("added", changes.added), ("removed", changes.removed)):
        for package in packages:
            yield f"  {word}: {package}"
