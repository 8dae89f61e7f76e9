"""RPMs are lost and no delta leads to the newest version: through the versions between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client import generations
from tests.client.generations import Published
from tests.client.published import fsck
from tests.client.pulling import check_message, run_here
from tests.commands import Done, ostree
from tests.jigdo.sets import REF
from tests.net.lying_mirror import LyingMirror


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Four versions, each with deltas from the one before it alone."""
    made = generations.make(tmp_path_factory.mktemp("chain"), 4)
    for number in range(1, 5):
        made.build(number, [number - 1] if number > 1 else [])
    return made


class Scene:
    """A mirror, and a client that has version 1."""

    def __init__(self, published: Published, mirror: LyingMirror, place: Path) -> None:
        self.published, self.mirror, self.place = published, mirror, place
        self.repo = place / "repo"
        ostree(self.repo, "init", "--mode=bare-user")
        words = ["remote", "add", "x", mirror.url, "--trust", "none"]
        assert run_here(*words, "--config-dir", place / "conf").status == 0
        assert self.pull("@1.1").status == 0

    def pull(self, version: str = "") -> Done:
        words = ["pull", f"x:{REF}{version}", "--repo", self.repo, "--disable-fsync", "--json"]
        return run_here(*words, "--config-dir", self.place / "conf")

    def head(self) -> str:
        return ostree(self.repo, "rev-parse", REF)

    def commit(self, number: int) -> str:
        return str(self.published.versions[number - 1].commit)


@pytest.fixture
def scene(published: Published, tmp_path: Path) -> Iterator[Scene]:
    with LyingMirror(published.mirror) as mirror:
        yield Scene(published, mirror, tmp_path)


@pytest.fixture
def lost(scene: Scene) -> Iterator[None]:
    """No mirror has an RPM any more."""
    kept = []
    for number in range(1, 5):
        directory = scene.published.mirror / f"packages{number}"
        kept.append((directory, directory.rename(scene.published.root / f"kept{number}")))
    yield
    for directory, beside in kept:
        beside.rename(directory)


def replans(done: Done) -> list[Any]:
    lines = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    return [one for one in lines if one["event"] == "replan"]


@pytest.mark.usefixtures("lost")
def test_chain_leads_where_no_rpm_is_left(scene: Scene) -> None:
    done = scene.pull()
    assert done.status == 0, done.err
    assert scene.head() == scene.commit(4)
    fsck(scene.repo)
    told = done.document
    assert told["lost"]
    assert told["packages"] == 0
    # Each of the three sets is announced before it moves, with its deltas.
    assert len(replans(done)) == 3
    assert all(one["transfers"]["delta"]["bytes"] for one in replans(done))
    assert ostree(scene.repo, "refs").split() == [REF]
    assert not list(scene.repo.glob("tmp/jigdo-packages"))


@pytest.mark.usefixtures("lost")
def test_what_is_between_goes_with_a_prune(scene: Scene) -> None:
    assert scene.pull().status == 0
    words = ["repo", "prune", "--repo", scene.repo]
    assert run_here(*words).status == 0
    commits = {f"{path.parent.name}{path.stem}" for path in scene.repo.glob("objects/*/*.commit")}
    assert commits == {scene.commit(4)}
    fsck(scene.repo)


@pytest.mark.usefixtures("lost")
def test_chain_with_a_gap_is_told_as_lost_rpms(scene: Scene) -> None:
    """The set of version 3 is gone from the mirror, as a file."""
    [gone] = scene.published.mirror.glob("jigdo/*-1.3-*.rpm")
    beside = gone.rename(scene.published.root / gone.name)
    try:
        done = scene.pull()
    finally:
        beside.rename(gone)
    assert done.status == 1
    check_message(done.err, "nothing else has", "--archive")
    assert scene.head() == scene.commit(1)
    fsck(scene.repo)


@pytest.mark.usefixtures("lost")
def test_fresh_install_has_no_chain(scene: Scene) -> None:
    ostree(scene.repo, "refs", "--delete", REF)
    done = scene.pull()
    assert done.status == 1
    check_message(done.err, "nothing else has", "--archive")


def test_no_set_between_is_read_where_rpms_are_there(scene: Scene) -> None:
    seen = len(scene.mirror.log)
    done = scene.pull()
    assert done.status == 0, done.err
    paths = {one.path for one in scene.mirror.log[seen:]}
    assert len([path for path in paths if path.startswith("jigdo/")]) == 1
    assert scene.head() == scene.commit(4)
