"""Any version to any other: upgrades and downgrades between five versions, by deltas."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from composer.checksum import ObjectChecksum
from composer.jigdo.container import TRAILER_SIZE, Kind
from composer.jigdo.delta.building import DeltaOptions
from composer.mirror.lists import read_lists
from composer.mirror.making import open_set
from composer.ostree.repo import Repository
from tests.client import generations
from tests.client.generations import COUNT, Published
from tests.client.published import copy_of, fsck
from tests.client.pulling import run_here
from tests.commands import ostree
from tests.jigdo.sets import REF, SetOnDisk, build
from tests.net.lying_mirror import LyingMirror

NUMBERS = range(1, COUNT + 1)


@dataclass(frozen=True)
class Site:
    """The mirror with all sets, and for each version a repository that has it."""

    published: Published
    mirror: LyingMirror
    place: Path

    def client(self, number: int) -> Path:
        return self.place / f"client{number}"

    def pull(self, repo: Path, wanted: str = "", *, status: int = 0) -> Any:
        words = ["pull", f"x:{REF}{wanted}", "--repo", repo, "--disable-fsync", "--json"]
        done = run_here(*words, "--config-dir", self.place / "conf")
        assert done.status == status, done.err
        return json.loads(done.out) if done.out else done.err

    def commit(self, number: int) -> str:
        return str(self.published.versions[number - 1].commit)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("any")
    published = generations.make(place)
    for number in NUMBERS:
        # Nothing was published before: each description that is needed is made here.
        made = published.build(number, [other for other in NUMBERS if other != number])
        assert made["undescribed"] == []
    with LyingMirror(published.mirror) as mirror:
        words = ["remote", "add", "x", mirror.url, "--trust", "none"]
        assert run_here(*words, "--config-dir", place / "conf").status == 0
        site = Site(published, mirror, place)
        for number in NUMBERS:
            ostree(site.client(number), "init", "--mode=bare-user")
            assert site.pull(site.client(number), f"@1.{number}")["commit"] == site.commit(number)
        yield site


def direct(site: Site, old: int, new: int, overhead: int) -> int:
    """Return the fewest bytes of a delta made for this pair alone: OSTree's, or a set's."""
    described = open_set(site.published.mirror / locations(site)[old]).description()
    assert described is not None
    made = built(site, new, [old], {site.published.versions[old - 1].commit: described})
    place = made.open().place
    update = len(made.data) - TRAILER_SIZE - place.offset - place.size
    ours = overhead + update + sum(f.size for f in made.open().index.of(Kind.PATCH))
    return min(ours, static_delta(site, old, new))


def built(
    site: Site,
    number: int,
    bases: Sequence[int],
    descriptions: Mapping[ObjectChecksum, bytes] | None = None,
) -> SetOnDisk:
    """Build a set with other deltas; patches that the mirror's sets have are taken from there."""
    version, cache = site.published.versions[number - 1], site.published.root / "cache"
    commits = tuple(site.published.versions[base - 1].commit for base in bases)
    return build(
        Repository.open(site.published.repo),
        version.commit,
        version.packages,
        cache,
        deltas=DeltaOptions(bases=tuple(sorted(commits)), rpm="all"),
        descriptions=descriptions,
        store=cache / "patches.sqlite",
    )


def static_delta(site: Site, old: int, new: int) -> int:
    file = site.place / "static-delta"
    argv = ["ostree", f"--repo={site.published.repo}", "static-delta", "generate", "--inline"]
    argv += ["--min-fallback-size=0", f"--from={site.commit(old)}", f"--to={site.commit(new)}"]
    subprocess.run([*argv, f"--filename={file}"], check=True, capture_output=True)
    return file.stat().st_size


def locations(site: Site) -> dict[int, str]:
    """Locations of the sets by version."""
    entries = read_lists(site.published.mirror).entries
    return {int(entry.version.removeprefix("1.")): entry.location for entry in entries}


@pytest.mark.parametrize(("old", "new"), list(permutations(NUMBERS, 2)))
def test_pair_costs_little_more_than_a_delta_made_for_it_alone(
    site: Site, old: int, new: int, tmp_path: Path
) -> None:
    repo, before = copy_of(site.client(old), tmp_path / "repo"), site.mirror.sent()
    document = site.pull(repo, f"@1.{new}")
    moved = {kind: part["bytes"] for kind, part in document["moved"].items()}
    assert document["commit"] == site.commit(new)
    assert ostree(repo, "rev-parse", REF) == site.commit(new)
    assert ostree(repo, "show", "--print-metadata-key=version", REF) == f"'1.{new}'"
    fsck(repo)
    assert moved["rpm"] == moved["new"] == 0
    assert sum(moved.values()) == site.mirror.sent() - before
    entry = next(
        e for e in read_lists(site.published.mirror).entries if str(e.commit) == site.commit(new)
    )
    update = next(u.size for u in entry.updates if str(u.base) == site.commit(old))
    best = direct(site, old, new, moved["set"] - update)
    assert sum(moved.values()) <= 1.25 * best


def test_storage_of_the_sets_grows_linearly_with_the_versions_that_each_serves(site: Site) -> None:
    bare = len(built(site, 5, []).data)
    extra = [len(built(site, 5, range(first, 5)).data) - bare for first in (4, 3, 2, 1)]
    assert extra == sorted(extra)
    # Older versions differ more, so a set with deltas from four has at most four of the largest.
    alone = [len(built(site, 5, [old]).data) - bare for old in range(1, 5)]
    assert extra[3] <= 1.05 * sum(alone) <= 4.2 * max(alone)
    entries = read_lists(site.published.mirror).entries
    stored = [entry.length - bare for entry in entries]
    assert sum(stored) <= len(entries) * 1.3 * extra[3]


def test_newest_is_pulled_unless_a_version_is_named(site: Site, tmp_path: Path) -> None:
    repo = copy_of(site.client(1), tmp_path / "repo")
    assert site.pull(repo)["version"] == "1.5"
    assert site.pull(repo, f"@{site.commit(3)}")["version"] == "1.3"
    assert site.pull(repo, "@1.3")["updated"] is False
    assert site.pull(repo)["version"] == "1.5"
    fsck(repo)


def test_plan_of_a_downgrade_is_what_it_moves(site: Site, tmp_path: Path) -> None:
    repo = copy_of(site.client(5), tmp_path / "repo")
    words = ["plan", f"x:{REF}@1.2", "--repo", repo, "--json", "--config-dir", site.place / "conf"]
    plan = run_here(*words).document
    assert plan["version"] == "1.2"
    before = site.mirror.sent()
    site.pull(repo, "@1.2")
    assert plan["bytes"] == site.mirror.sent() - before


def test_unknown_version_is_refused_with_those_there_are(site: Site, tmp_path: Path) -> None:
    repo = copy_of(site.client(1), tmp_path / "repo")
    told = site.pull(repo, "@1.9", status=1)
    assert "no set of version 1.9" in told
    assert "1.5, 1.4, 1.3, 1.2, 1.1" in told
    assert "is empty" in site.pull(repo, "@", status=2)
    assert ostree(repo, "rev-parse", REF) == site.commit(1)
