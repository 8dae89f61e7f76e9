"""`mirror simulate`: what it says is what real clients move; and the model's own rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from lxml import etree

from composer.checksum import ContentDigest, ObjectChecksum
from composer.cli.fleet_costs import arithmetic
from composer.jigdo.container import IndexPlace
from composer.jigdo.pointer import PointerEntry
from composer.mirror.fleet import DAY, Amounts, Pull, releases, simulate
from composer.mirror.population import Group, Mirror, Population, Scenario, parse_population
from tests.client.pulling import check_message, run_here
from tests.mirror.fleets import fleet, simulated
from tests.mirror.histories import STABLE, TIME, History

DOCUMENT = """
seed = 3
tail = "4d"
[[group]]
name = "desktops"
ref = "os/stable"
count = 6
every = "1d"
behind = [0.6, 0.4]
bandwidth = "1M"
[[group]]
name = "laptops"
ref = "os/stable"
count = 3
every = "3d"
installed = false
[[mirror]]
name = "one"
share = 2
[[mirror]]
name = "two"
[[scenario]]
name = "as published"
[[scenario]]
name = "no deltas"
deltas = 0
[[scenario]]
name = "keep 2, deltas from 1"
keep = 2
deltas = 1
"""


@pytest.fixture
def population(tmp_path: Path) -> Path:
    """A document."""
    path = tmp_path / "population.toml"
    path.write_text(DOCUMENT)
    return path


# What real clients move.


def test_real_clients_move_what_is_simulated_to_the_byte(history: History, tmp_path: Path) -> None:
    """All pulls of a small fleet, by the server's log: bytes of each kind, and requests."""
    group = Group(
        name="c", ref=STABLE, count=3, every=timedelta(days=2), behind=[2.0, 1.0], installed=False
    )
    pulls: list[Pull] = []
    told = Population(seed=5, tail=timedelta(days=3), group=[group])
    [outcome], own = simulated(history.mirror, told, pulls.append)
    assert outcome.updates >= 9
    sums: Counter[str] = Counter()
    with fleet(history.mirror, tmp_path / "fleet") as real:
        for pull in sorted(pulls, key=lambda one: one.time):
            if pull.target is None:
                continue
            sent = real.follow(pull, STABLE, own[-1])
            amounts = pull.amounts
            of_sets = sum(amounts[kind][0] for kind in ("set", "delta", "new"))
            assert (sent["set"], sent["rpm"]) == (of_sets, amounts["rpm"][0])
            sums += sent
            # The mirror is at its last state, so only there asking costs what it then did.
            if pull.target == own[-1]:
                assert sent["look"] == amounts["look"][0]
                assert sent["requests"] == sum(count for _, count in amounts.values())
    kinds = outcome.by_kind
    assert sums["rpm"] == kinds["rpm"][0] > 0
    assert sums["set"] == kinds["set"][0] + kinds["delta"][0] + kinds["new"][0]
    assert kinds["delta"][0] > 0


def test_client_that_skipped_a_set_without_its_base_reads_the_next_metadata_whole(
    history: History, tmp_path: Path
) -> None:
    """It has read only those maps that it needed, and so no description to be updated."""
    with arithmetic(f"{history.mirror.as_uri()}/") as (_, costs):
        own = [one for one in history.entries() if one.ref == STABLE]
        described, said = True, []
        # The set of 1.5 has deltas from 1.3 and 1.4, that of 1.6 from 1.4 and 1.5.
        for base, target in ((own[0], own[4]), (own[4], own[5])):
            moved, described = costs.update(base, target, deltas=True, described=described)
            said.append(sum(moved[kind][0] for kind in ("set", "delta", "new", "rpm")))
        with fleet(history.mirror, tmp_path / "fleet") as real:
            real.install("c 0", STABLE, own[0])
            for number, entry in enumerate((own[4], own[5])):
                before = real.lines
                real.pull(real.repo("c 0"), f"{STABLE}@{entry.commit}")
                sent = real.sent(before)
                assert sent["set"] + sent["rpm"] == said[number]
        whole, _ = costs.update(own[4], own[5], deltas=True, described=True)
        assert sum(size for size, _ in whole.values()) < said[1]


def test_looking_for_news_costs_what_it_is_said_to(history: History, tmp_path: Path) -> None:
    group = Group(name="c", ref=STABLE, count=1, every=timedelta(days=1))
    pulls: list[Pull] = []
    _, own = simulated(history.mirror, Population(group=[group]), pulls.append)
    idle = [pull for pull in pulls if pull.target is None and pull.base == own[-1]]
    with fleet(history.mirror, tmp_path / "fleet") as real:
        real.install("c 0", STABLE, own[-1])
        before = real.lines
        real.pull(real.repo("c 0"), STABLE)
        sent = real.sent(before)
    assert sent == {"look": idle[0].amounts["look"][0], "requests": idle[0].amounts["look"][1]}


# The command.


def test_scenarios_are_shown_side_by_side_and_come_out_the_same_again(
    history: History, population: Path, tmp_path: Path
) -> None:
    words = ["mirror", "simulate", history.mirror, "--population", population]
    plot = tmp_path / "plot.svg"
    done = run_here(*words, "--plot", plot)
    assert done.status == 0, done.err
    drawn = plot.read_bytes()
    assert run_here(*words, "--plot", plot).out == done.out
    assert plot.read_bytes() == drawn
    for text in ("as published", "no deltas", "deltas", "peak rate", "storage", "  one", "  two"):
        assert text in done.out
    root = etree.fromstring(drawn)
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 3
    told = run_here(*words, "--json").document["scenarios"]
    published, plain, kept = told
    assert [one["name"] for one in told] == ["as published", "no deltas", "keep 2, deltas from 1"]
    assert published["kinds"]["delta"]["bytes"] > 0
    assert plain["kinds"]["delta"] == {"bytes": 0, "requests": 0}
    assert published["bytes"] < kept["bytes"] < plain["bytes"]
    assert published["updates"] == plain["updates"]
    assert kept["storage_bytes"] < plain["storage_bytes"] < published["storage_bytes"]
    assert kept["most_storage_bytes"] >= kept["storage_bytes"]
    for one in told:
        assert sum(one["days"]) == one["bytes"]
        assert sum(mirror["bytes"] for mirror in one["mirrors"].values()) == one["bytes"]
        assert sum(kind["bytes"] for kind in one["kinds"].values()) == one["bytes"]
        assert one["peak_rate"] <= sum(m["peak_rate"] for m in one["mirrors"].values())


def test_storage_is_what_the_files_have(history: History, population: Path) -> None:
    words = ["mirror", "simulate", history.mirror, "--population", population, "--json"]
    [published, plain, _] = run_here(*words).document["scenarios"]
    entries = [one for one in history.entries() if one.ref == STABLE]
    told = run_here("mirror", "prune", history.mirror, "--dry-run", "--json").document
    rows = [one for one in told["versions"] if one["ref"] == STABLE]
    assert {row["set_bytes"] for row in rows} == {one.size for one in entries}
    assert published["storage_bytes"] <= told["bytes"]
    # Without deltas a set is not larger than the one that was built without any.
    first = entries[0].size  # has no base
    less = published["storage_bytes"] - plain["storage_bytes"]
    assert 0 < less < sum(one.size - first // 2 for one in entries[1:])


# The model.


def entry(number: int, day: float) -> PointerEntry:
    """A version of nothing."""
    digest = ContentDigest(b"d" * 32)
    return PointerEntry(
        ref="r",
        version=str(number),
        commit=ObjectChecksum(bytes([number]) * 32),
        timestamp=int(TIME + day * DAY),
        location=f"jigdo/{number}.rpm",
        pkgid=digest,
        size=1000,
        offset=0,
        length=1000,
        index=IndexPlace(0, 1, 1, digest),
    )


@dataclass
class Table:
    """Costs that are easy to add up: an update with deltas is a tenth of one without."""

    asked: list[tuple[str, str, bool]] = field(default_factory=list)
    kept: list[list[str]] = field(default_factory=list)

    def look(self, ref: str, *, newest: bool) -> tuple[int, int]:
        return (10, 1) if newest else (20, 2)

    def update(
        self,
        base: PointerEntry | None,
        target: PointerEntry,
        *,
        deltas: bool,
        described: bool,
    ) -> tuple[Amounts, bool]:
        self.asked.append((base.version if base else "", target.version, deltas))
        return {"delta": (1000, 1)} if deltas else {"rpm": (10_000, 4)}, True

    def storage(self, kept: Sequence[PointerEntry], bases: Mapping[PointerEntry, int]) -> int:
        self.kept.append([one.version for one in kept])
        return sum(one.size for one in kept)


HISTORY = {"": tuple(entry(number, day) for number, day in enumerate([0, 1, 2, 10, 20], 1))}


def played(scenario: Scenario, **group: object) -> tuple[Table, list[Pull]]:
    """Simulate one group of one client."""
    words: dict[str, object] = {"name": "g", "count": 1, "every": "1d", "bandwidth": "1k"}
    told = Population.model_validate({"group": [words | group], "tail": "5d"})
    table, pulls = Table(), list[Pull]()
    outcome = simulate(HISTORY, told, scenario, table, seen=pulls.append)
    assert outcome.bytes == sum(pull.bytes for pull in pulls)
    assert outcome.looks == len(pulls)
    return table, pulls


AS_IS = Scenario(name="as is")


def test_client_that_looks_daily_takes_each_version() -> None:
    table, pulls = played(AS_IS)
    assert table.asked == [("1", "2", True), ("2", "3", True), ("3", "4", True), ("4", "5", True)]
    assert len(pulls) == 25
    assert pulls[0].time - TIME < DAY
    assert {round(b.time - a.time) for a, b in pairwise(pulls)} == {DAY}


def test_client_that_looks_seldom_skips_versions_and_one_that_is_new_installs() -> None:
    table, _ = played(AS_IS, every="9d", installed=False)
    assert table.asked[0][0] == ""
    assert len(table.asked) < 4


def test_client_that_stays_behind_takes_older_versions_as_long_as_they_are_kept() -> None:
    table, pulls = played(AS_IS, behind=[0, 0, 1])
    assert table.asked == [("1", "2", True), ("2", "3", True)]
    assert {pull.amounts["look"] for pull in pulls if pull.base and pull.base.version == "2"} == {
        (20, 2)
    }
    table, _ = played(Scenario(name="keep 1", keep=1), behind=[0, 0, 1])
    assert [target for _, target, _ in table.asked] == ["2", "3", "4", "5"]
    assert table.kept == [["1"], ["2"], ["3"], ["4"], ["5"]]
    assert played(Scenario(name="keep 2", keep=2), behind=[1])[0].kept[-1] == ["4", "5"]


def test_deltas_reach_as_far_as_the_window() -> None:
    table, _ = played(Scenario(name="1", deltas=1), every="15d")
    assert all(not deltas for base, target, deltas in table.asked if int(target) - int(base) > 1)
    assert not any(deltas for *_, deltas in played(Scenario(name="0", deltas=0))[0].asked)


def test_peak_is_what_is_sent_at_once() -> None:
    """A thousand bytes at a thousand a second are there for a second."""
    told = Population(
        group=[Group(name="g", count=2000, every=timedelta(days=1), bandwidth=1000)],
        mirror=[Mirror(name="a", share=3), Mirror(name="b")],
    )
    outcome = simulate(HISTORY, told, AS_IS, Table())
    a, b = outcome.by_mirror["a"], outcome.by_mirror["b"]
    assert a[0] + b[0] == outcome.bytes
    assert 2.5 < a[0] / b[0] < 3.6
    # 2000 updates of 1.01 s in a day: one at a time, and by chance a few.
    assert 1000 <= outcome.peak <= 8000
    assert max(a[1], b[1]) <= outcome.peak <= a[1] + b[1]


def test_scenarios_draw_the_same_and_another_seed_draws_otherwise() -> None:
    one = [pull.time for pull in played(AS_IS)[1]]
    assert [pull.time for pull in played(Scenario(name="x", keep=1, deltas=0))[1]] == one
    told = Population.model_validate(
        {"seed": 9, "group": [{"name": "g", "count": 1, "every": "1d"}], "tail": "5d"}
    )
    pulls: list[Pull] = []
    simulate(HISTORY, told, AS_IS, Table(), seen=pulls.append)
    assert [pull.time for pull in pulls] != one


# Bad input.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "group: Field required"),
        ("[[group]]\nname = 'a'\ncount = 1\nevery = 'soon'", "group.0.every"),
        ("[[group]]\nname = 'a'\ncount = 1\nevery = '0'", "more than nothing"),
        ("[[group]]\nname = 'a'\ncount = 0\nevery = '1d'", "group.0.count"),
        ("[[group]]\nname = 'a'\ncount = 1\nevery = '1d'\nbandwidth = 'fast'", "500k or 20M"),
        ("[[group]]\nname = 'a'\ncount = 1\nevery = '1d'\nbehind = [0]", "all shares are 0"),
        ("[[group]]\nname = 'a'\ncount = 1\nevery = '1d'\nbehind = [-1]", "group.0.behind.0"),
        ("[[group]]\nname = 'a'\ncount = 1\nevery = '1d'\nspeed = 1", "group.0.speed"),
        ("[[group]]\nname = 'a'\ncount = 1\nevery = '1d'\n" * 2, "two of one name"),
        ("scenario = []\n[[group]]\nname = 'a'\ncount = 1\nevery = '1d'", "scenario: none"),
        ("[[", "population.toml"),
    ],
)
def test_wrong_documents_are_refused(
    history: History, tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "population.toml"
    path.write_text(text)
    done = run_here("mirror", "simulate", history.mirror, "--population", path)
    assert done.status == 3
    check_message(done.err, told)


def test_what_cannot_be_simulated_is_told(history: History, tmp_path: Path) -> None:
    path = tmp_path / "population.toml"

    def refused(text: str, status: int) -> str:
        path.write_text(text)
        done = run_here("-q", "mirror", "simulate", history.mirror, "--population", path)
        assert done.status == status, done.err
        check_message(done.err)
        return done.err

    group = "[[group]]\nname = 'a'\ncount = 1\nevery = '1d'\n"
    assert "its ref is not named" in refused(group, 2)
    assert "no/such" in refused(f"{group}ref = 'no/such'", 2)
    many = group.replace("count = 1", "count = 10000000").replace("1d", "1h")
    assert "more than" in refused(f"{many}ref = '{STABLE}'", 2)


def test_history_of_the_only_ref_needs_no_name() -> None:
    population = parse_population(b"[[group]]\nname = 'a'\ncount = 1\nevery = '1d'", "x")
    assert releases(list(reversed(HISTORY[""])), population) == HISTORY
