"""``jigdo-composer mirror verify``: are mirrors whole, and how old is each?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.console import Console, json_option
from composer.cli.executors import OpenedExecutor, executor_options
from composer.cli.network import connection_options
from composer.cli.text import human_bytes, human_seconds, plain
from composer.errors import (
    EXIT_DAMAGED,
    EXIT_ERROR,
    EXIT_STALE,
    EXIT_VERIFICATION,
    ComposerError,
    UsageError,
)

if TYPE_CHECKING:
    from composer.jigdo.pointer import PointerEntry
    from composer.mirror.verdicts import Behind, Problem, Verified
    from composer.mirror.verifying import Prove
    from composer.net.network import Way
    from composer.system.executors import Farm

_MOST_LINES = 20
_STATUS = {
    "damaged": EXIT_VERIFICATION,
    "replaced": EXIT_VERIFICATION,
    "untrusted": EXIT_VERIFICATION,
    "unproven": EXIT_VERIFICATION,
    "missing": EXIT_DAMAGED,
    "refused": EXIT_ERROR,
    "expired": EXIT_STALE,
}
_WORST_FIRST = (EXIT_VERIFICATION, EXIT_DAMAGED, EXIT_ERROR, EXIT_STALE)

repository_option = click.option(
    "--repository",
    "repositories",
    multiple=True,
    metavar="NAME=URL|DIR",
    help="Where RPMs of the repository NAME are, as `remote add --repository` tells clients; "
    "without it they are looked for on the mirror itself.  Repeatable.",
)
all_packages_option = click.option(
    "--all-packages",
    is_flag=True,
    help="Also RPMs that rpm-md lists and no version needs: what dnf needs.",
)
root_option = click.option(
    "--tuf-root",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The publisher's root.json: signed statements must follow from it.  Without it, those "
    "that are there are held against the mirror's own first root.",
)


@click.command()
@click.argument("mirrors", nargs=-1, required=True, metavar="URL|DIR...")
@click.option("--full", is_flag=True, help="Read every byte and compare digests.")
@click.option(
    "--proof",
    is_flag=True,
    help="Reassemble each version into a temporary repository, as a client would.",
)
@click.option(
    "--ref",
    "refs",
    multiple=True,
    metavar="REF[@VERSION]",
    help="Only sets of this ref, or this version.  Repeatable.",
)
@all_packages_option
@repository_option
@root_option
@click.option(
    "--max-lag",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0),
    metavar="HOURS",
    help="How long a mirror may lack what another of them has.",
)
@click.option(
    "--workdir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where --proof has its temporary repository.",
)
@executor_options
@connection_options
@json_option
@click.pass_obj
def verify(
    console: Console,
    mirrors: tuple[str, ...],
    full: bool,
    proof: bool,
    refs: tuple[str, ...],
    all_packages: bool,
    repositories: tuple[str, ...],
    tuf_root: Path | None,
    max_lag: float,
    workdir: Path | None,
    opened: OpenedExecutor,
    connection: dict[str, object],
    as_json: bool,
) -> None:
    """Say whether mirrors have what clients of every published version need.

    By default files are compared by existence and size, and what rpm-md and signed
    statements say is checked.  Several mirrors are shown side by side: how old each is,
    and what is missing on which.

    The exit status is 0 when all are sound, 3 when something is not what it should be, 5 when
    something is missing, 1 when a mirror cannot be asked, and 6 when one is only behind the
    others or its statements have expired.
    """
    from composer.mirror.needs import Place, parse_repositories
    from composer.mirror.verdicts import behind
    from composer.mirror.verifying import Options
    from composer.mirror.verifying import verify as verify_mirror

    way = way_of(connection)
    now = datetime.now(UTC)
    elsewhere = parse_repositories(repositories)
    options = Options(
        repositories=elsewhere,
        refs=refs,
        root=tuf_root.read_bytes() if tuf_root else None,
        full=full,
        all_packages=all_packages,
        way=way,
        now=now,
    )
    places = [Place.of(text) for text in mirrors]
    with opened(console) as farm, console.progress(as_json=as_json) as report:
        if proof:
            bases = {name: one.url for name, one in elsewhere.items()}
            options = replace(options, prove=_prover(bases, way, workdir, farm))
        found = [verify_mirror(place, options, report) for place in places]
    lags = [behind(one, found) for one in found]
    late = [any(now - lag.since > timedelta(hours=max_lag) for lag in one) for one in lags]
    if as_json:
        rows = [
            _document(one, lag, is_late=is_late)
            for one, lag, is_late in zip(found, lags, late, strict=True)
        ]
        console.json({"sound": all(row["sound"] for row in rows), "mirrors": rows})
    else:
        _show(console, found, lags, now)
    if status := _status(found, late):
        raise click.exceptions.Exit(status)


def way_of(connection: dict[str, object]) -> Way:
    """Read the options of :func:`connection_options`."""
    from composer.client.remote_file import parse_rate
    from composer.net.network import Way

    def path(key: str) -> Path | None:
        return Path(str(connection[key])) if connection.get(key) else None

    try:
        rate = parse_rate(str(connection["limit-rate"] or "0"))
    except ValueError as error:
        raise UsageError(f"--limit-rate: {error}") from None
    return Way(
        proxy=str(connection["proxy"] or ""),
        client_cert=path("tls-client-cert"),
        client_key=path("tls-client-key"),
        ca_cert=path("tls-ca-cert"),
        limit_rate=rate,
    )


def _prover(
    repositories: dict[str, str], way: Way, workdir: Path | None, farm: Farm | None
) -> Prove:
    from composer.checksum import ObjectChecksum
    from composer.client.rebuilding import rebuild_all
    from composer.mirror.needs import Place

    def prove(
        place: Place, entries: Sequence[PointerEntry]
    ) -> Iterator[ObjectChecksum | ComposerError]:
        return rebuild_all(
            place.url,
            [(entry.ref, str(entry.commit)) for entry in entries],
            repositories=repositories,
            way=way,
            workdir=workdir,
            farm=farm,
        )

    return prove


def _status(found: Sequence[Verified], late: Sequence[bool]) -> int:
    """Return the worst of what is wrong."""
    statuses = {_STATUS[problem.kind] for one in found for problem in one.problems}
    statuses |= {_error_status(one.error) for one in found if one.error is not None}
    if any(late):
        statuses.add(EXIT_STALE)
    return next((status for status in _WORST_FIRST if status in statuses), 0)


def _error_status(error: ComposerError) -> int:
    return error.exit_status if error.exit_status in _WORST_FIRST else EXIT_ERROR


def _document(one: Verified, lags: Sequence[Behind], *, is_late: bool) -> dict[str, Any]:
    return {
        "mirror": one.place.url,
        "sound": one.is_sound and not is_late,
        "error": one.error.message if one.error else None,
        "revision": one.revision,
        "refs": {ref: _version(entry) for ref, entry in one.newest.items()},
        "versions": len(one.entries),
        "signed": {
            "root": one.root or None,
            "expires": one.expires.isoformat() if one.expires else None,
        },
        "files": one.files,
        "bytes": one.bytes,
        "behind": [
            {
                "ref": lag.newest.ref,
                "newest": _version(lag.newest),
                "since": lag.since.isoformat(),
            }
            for lag in lags
        ],
        "problems": [_problem(problem) for problem in one.problems],
        "notes": [_problem(note) for note in one.notes],
        "proofs": [
            {"ref": proof.entry.ref, **_version(proof.entry), "reason": proof.reason or None}
            for proof in one.proofs
        ],
    }


def _version(entry: PointerEntry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "commit": str(entry.commit),
        "timestamp": entry.timestamp,
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind,
        "location": problem.location,
        "repository": problem.repository,
        "reason": problem.reason,
        "needed_by": list(problem.needed_by),
    }


def _show(
    console: Console, found: Sequence[Verified], lags: Sequence[Sequence[Behind]], now: datetime
) -> None:
    rows = [("mirror", "state", "files", "bytes", "newest", "holds until")]
    for one, lag in zip(found, lags, strict=True):
        newest = max(one.newest.values(), key=lambda entry: entry.timestamp, default=None)
        rows.append(
            (
                one.place.url,
                _state(one, lag),
                str(one.files),
                human_bytes(one.bytes),
                f"{newest.version or str(newest.commit)[:12]} {_day(newest)}" if newest else "-",
                f"{one.expires:%Y-%m-%d %H:%M}" if one.expires else "-",
            )
        )
    _table(console.result, rows)
    for one, lag in zip(found, lags, strict=True):
        _show_one(console, one, lag, now)


def _state(one: Verified, lag: Sequence[Behind]) -> str:
    if one.error is not None:
        return "failed"
    if one.problems:
        return f"{len(one.problems)} problems" if len(one.problems) > 1 else "1 problem"
    return "behind" if lag else "sound"


def _day(entry: PointerEntry) -> str:
    return f"{datetime.fromtimestamp(entry.timestamp, UTC):%Y-%m-%d}"


def _table(say: Callable[[str], None], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say(plain("  ".join(cells).rstrip()))


def _show_one(console: Console, one: Verified, lags: Sequence[Behind], now: datetime) -> None:
    lines = []
    if one.error is not None:
        lines += [one.error.message, *(f"  {line}" for line in one.error.details)]
    for lag in lags:
        span = now - lag.since
        days = span.days
        age = f"{days} days" if days > 1 else human_seconds(span.total_seconds())
        lines.append(f"{lag.newest.ref}: lacks {lag.newest.version}, made {age} ago")
    for problem in [*one.problems, *one.notes]:
        where = f"{problem.repository}: " if problem.repository else ""
        needed = ", ".join(problem.needed_by[:5])
        needed += f" and {more} others" if (more := len(problem.needed_by) - 5) > 0 else ""
        by = f" (needed by {needed})" if needed else ""
        lines.append(f"{problem.kind}: {where}{problem.location}{by}: {problem.reason}")
    proven = sum(1 for proof in one.proofs if not proof.reason)
    if one.proofs:
        lines.append(f"{proven} of {len(one.proofs)} versions reassembled to their commits")
    if not lines:
        return
    console.result(plain(f"{one.place.url}:"))
    for line in lines[:_MOST_LINES]:
        console.result(plain(f"  {line}"))
    if len(lines) > _MOST_LINES:
        console.result(f"  and {len(lines) - _MOST_LINES} more: --json has all")
