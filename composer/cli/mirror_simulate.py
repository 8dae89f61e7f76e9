"""``jigdo-composer mirror simulate``: what a fleet of clients moves, and what choices change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.console import Console, json_option
from composer.cli.mirror_verify import repository_option
from composer.cli.text import human_bytes, plain

if TYPE_CHECKING:
    from composer.mirror.fleet import Outcome


@click.command()
@click.argument("mirror", metavar="URL|DIR")
@click.option(
    "--population",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="TOML: groups of clients, mirrors, scenarios (docs/fleet.md).",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw what moves a day, a line per scenario: SVG.",
)
@repository_option
@json_option
@click.pass_obj
def simulate(
    console: Console,
    mirror: str,
    population: Path,
    plot: Path | None,
    repositories: tuple[str, ...],
    as_json: bool,
) -> None:
    """Play the releases of a mirror against a population of clients, and add up what moves.

    What an update moves is what the planner would choose, to the byte; only metadata of sets
    is read.  Scenarios, with other retention or other deltas, are shown side by side.
    """
    from composer.cli.fleet_costs import arithmetic
    from composer.mirror.fleet import releases
    from composer.mirror.fleet import simulate as play
    from composer.mirror.fleet_plot import plot as draw
    from composer.mirror.needs import Place
    from composer.mirror.population import parse_population
    from composer.progress import Step
    from composer.system.files import write_bytes

    found = parse_population(population.read_bytes(), str(population))
    place = Place.of(mirror)
    outcomes = []
    with arithmetic(place.url, repositories) as (entries, costs):
        history = releases(entries, found)
        with console.progress(as_json=as_json) as report:
            for number, scenario in enumerate(found.scenario):
                report(Step("simulate", number, len(found.scenario), "scenarios", scenario.name))
                outcomes.append(play(history, found, scenario, costs))
    if plot is not None:
        first = min(own[0].timestamp for own in history.values())
        write_bytes(plot, draw(outcomes, first=first, title="Bytes that mirrors send a day"))
    if as_json:
        console.json({"scenarios": [_document(one) for one in outcomes]})
        return
    for line in _table(_rows(outcomes)):
        console.result(plain(line))


def _document(one: Outcome) -> dict[str, Any]:
    return {
        "name": one.scenario.name,
        "keep": one.scenario.keep,
        "deltas": one.scenario.deltas,
        "clients": one.clients,
        "looks": one.looks,
        "updates": one.updates,
        "bytes": one.bytes,
        "kinds": {
            kind: {"bytes": size, "requests": requests}
            for kind, (size, requests) in one.by_kind.items()
        },
        "mirrors": {
            name: {"bytes": size, "peak_rate": peak} for name, (size, peak) in one.by_mirror.items()
        },
        "peak_rate": one.peak,
        "storage_bytes": one.storage,
        "most_storage_bytes": one.most_storage,
        "days": list(one.days),
    }


_KINDS = {
    "look": "looking for news",
    "set": "set metadata",
    "delta": "deltas",
    "new": "non-RPM content",
    "rpm": "RPMs",
}


def _rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    first = outcomes[0]

    def row(name: str, values: Sequence[str]) -> list[str]:
        return [name, *values]

    rows = [
        row("", [one.scenario.name for one in outcomes]),
        row("clients", [str(one.clients) for one in outcomes]),
        row("updates", [str(one.updates) for one in outcomes]),
        row("bytes", [human_bytes(one.bytes) for one in outcomes]),
    ]
    for kind, text in _KINDS.items():
        rows.append(row(f"  {text}", [human_bytes(one.by_kind[kind][0]) for one in outcomes]))
    rows += [
        row("an update", [human_bytes(_each(one)) for one in outcomes]),
        row("requests", [str(sum(count for _, count in one.by_kind.values())) for one in outcomes]),
        row("peak rate", [f"{human_bytes(one.peak)}/s" for one in outcomes]),
    ]
    for name in first.by_mirror if len(first.by_mirror) > 1 else ():
        shares = [one.by_mirror[name] for one in outcomes]
        rows.append(
            row(
                f"  {name}",
                [f"{human_bytes(size)}, {human_bytes(peak)}/s" for size, peak in shares],
            )
        )
    rows += [
        row("storage", [human_bytes(one.storage) for one in outcomes]),
        row("storage, at most", [human_bytes(one.most_storage) for one in outcomes]),
    ]
    return rows


def _each(one: Outcome) -> float:
    moved = one.bytes - one.by_kind["look"][0]
    return moved / one.updates if one.updates else 0.0


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
