"""What `mirror simulate` says of a fleet, and what as many real clients move: ``make bench-fleet``.

The history of ``tests/mirror/histories.py`` is published version by version; each state of the
mirror is kept, and served by ``mirror serve``.  Each simulated client is a repository, and does
what was simulated, in the order of the simulated times, against the state of that time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from pathlib import Path

from composer.mirror.fleet import Pull
from composer.mirror.population import Population
from tests.client.published import copy_of
from tests.client.pulling import run_here
from tests.mirror.fleets import Fleet, fleet, simulated
from tests.mirror.histories import COUNTS, STABLE, make


def population(clients: int) -> Population:
    """Three quarters look daily, the rest seldom; some stay behind."""
    return Population.model_validate(
        {
            "seed": 1,
            "tail": "4d",
            "group": [
                {
                    "name": "daily",
                    "count": clients - clients // 4,
                    "every": "1d",
                    "behind": [0.7, 0.2, 0.1],
                },
                {"name": "seldom", "count": clients // 4, "every": "3d", "installed": False},
            ],
        }
    )


def main() -> None:
    """Run it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    clients = parser.parse_args().clients
    with tempfile.TemporaryDirectory(prefix="bench-fleet.") as place:
        root = Path(place)
        states = root / "states"

        def keep(ref: str, number: int) -> None:
            if ref == STABLE:
                copy_of(root / "history/mirror", states / str(number))

        make(root / "history", keep)
        pulls: list[Pull] = []
        began = time.monotonic()
        told = population(clients)
        [outcome], own = simulated(states / str(COUNTS[STABLE]), told, pulls.append)
        seconds = time.monotonic() - began
        times = [entry.timestamp for entry in own]
        real: Counter[str] = Counter()
        wrong = 0
        with fleet(states, root / "fleet") as served:
            remotes = _states(served)
            for pull in sorted(pulls, key=lambda one: one.time):
                number = bisect_right(times, pull.time)
                sent = remotes[number - 1].follow(pull, STABLE, own[number - 1])
                said = sum(pull.amounts.get(kind, (0, 0))[0] for kind in ("set", "delta", "new"))
                rpms = pull.amounts.get("rpm", (0, 0))[0]
                if (sent["set"], sent["rpm"]) != (said, rpms):
                    wrong += 1
                    names = [one and one.version for one in (pull.base, pull.target)]
                    print(f"{pull.client}: {names}: {dict(pull.amounts)}, {dict(sent)}")
                real += sent
    kinds = {kind: size for kind, (size, _) in outcome.by_kind.items()}
    rows = [
        ("sets", kinds["set"] + kinds["delta"] + kinds["new"], real["set"]),
        ("RPMs", kinds["rpm"], real["rpm"]),
        ("looking", kinds["look"], real["look"]),
        ("requests", sum(count for _, count in outcome.by_kind.values()), real["requests"]),
    ]
    print(f"{outcome.clients} clients, {outcome.looks} looks, {outcome.updates} updates")
    print(f"simulated in {seconds:.1f} s; pulls that moved something else: {wrong}")
    print("| | said | real | |\n|---|--:|--:|--:|")
    for name, said, found in rows:
        print(f"| {name} | {said:,} | {found:,} | {100 * (said / found - 1):+.2f}% |")


def _states(served: Fleet) -> list[Fleet]:
    """Return the fleet as it pulls from each state of the mirror."""
    found = []
    for number in range(1, COUNTS[STABLE] + 1):
        config = served.place / f"config{number}"
        words = ["remote", "add", "x", f"{served.url}{number}/", "--trust", "none"]
        assert run_here(*words, "--config-dir", config).status == 0
        found.append(Fleet(served.place, served.url, served.log, config))
    return found


if __name__ == "__main__":
    main()
