"""Real clients that do what a simulated fleet does, and what a server sent them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from composer.cli.fleet_costs import arithmetic
from composer.jigdo.pointer import PointerEntry
from composer.mirror.fleet import Outcome, Pull, releases, simulate
from composer.mirror.population import Population
from tests.client.pulling import await_true, run_here
from tests.commands import ostree, serving

_MARK = "settle-"


@dataclass(frozen=True)
class Fleet:
    """Clients' repositories below ``place``, which pull from ``url``; ``log`` has each request."""

    place: Path
    url: str
    log: Path
    config: Path

    def sent(self, since: int = 0) -> Counter[str]:
        """Bytes and requests since a line of the log: of metadata, sets, and RPMs."""
        found: Counter[str] = Counter()
        for line in self._settled()[since:]:
            _, path, _, size = line.rsplit(maxsplit=3)
            if _MARK in path:
                continue
            kind = "look" if "repodata/" in path else "set" if "jigdo/" in path else "rpm"
            found[kind] += int(size)
            found["requests"] += 1
        return found

    @property
    def lines(self) -> int:
        """How many requests there were so far."""
        return len(self._settled())

    def _settled(self) -> list[str]:
        """Lines of the log, once all that was asked before is in it."""
        lines = self.log.read_text().splitlines()
        mark = f"{_MARK}{len(lines)}"
        with suppress(HTTPError):  # it is not there
            urlopen(self.url + mark)

        def arrived() -> bool:
            lines[:] = self.log.read_text().splitlines()
            return any(mark in line for line in lines[-20:])

        await_true(arrived)
        return lines

    def install(self, client: str, ref: str, entry: PointerEntry) -> None:
        """Give a client a version, which is not counted by anybody."""
        ready = self.place / f"installed-{entry.commit}"
        if not ready.exists():
            ostree(ready, "init", "--mode=bare-user")
            self.pull(ready, f"{ref}@{entry.commit}")
        shutil.copytree(ready, self.repo(client), symlinks=True)

    def repo(self, client: str) -> Path:
        """The repository of a client; an empty one, if it is new."""
        return self.place / client.replace(" ", "-")

    def pull(self, repo: Path, wanted: str) -> None:
        """Pull, which must succeed."""
        words = ["pull", f"x:{wanted}", "--repo", repo, "--disable-fsync"]
        done = run_here("-q", *words, "--config-dir", self.config)
        assert done.status == 0, done.err

    def follow(self, pull: Pull, ref: str, newest: PointerEntry) -> Counter[str]:
        """Do what a simulated client did; returns what the server sent."""
        repo = self.repo(pull.client)
        if not repo.exists():
            if pull.base is not None:
                self.install(pull.client, ref, pull.base)
            else:
                ostree(repo, "init", "--mode=bare-user")
        before = self.lines
        own = pull.target or pull.base or newest
        self.pull(repo, ref if own == newest else f"{ref}@{own.commit}")
        return self.sent(before)


@contextmanager
def fleet(mirror: Path, place: Path) -> Iterator[Fleet]:
    """Serve a mirror, by `mirror serve`, to a new fleet."""
    place.mkdir(exist_ok=True)
    with serving(mirror, place / "log") as url:
        words = ["remote", "add", "x", url, "--trust", "none", "--config-dir", place / "config"]
        assert run_here(*words).status == 0
        yield Fleet(place, url, place / "log", place / "config")


def simulated(
    mirror: Path,
    population: Population,
    seen: Callable[[Pull], object] = lambda pull: None,
) -> tuple[list[Outcome], Sequence[PointerEntry]]:
    """Simulate all scenarios on a mirror; returns the history of the first group, too."""
    with arithmetic(f"{mirror.as_uri()}/") as (entries, costs):
        history = releases(entries, population)
        outcomes = [
            simulate(history, population, scenario, costs, seen=seen)
            for scenario in population.scenario
        ]
    return outcomes, history[population.group[0].ref]
