"""What tests of pulling share: the published fixture OS, mirrors of it, a client's place."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.published import MINIMAL, Published, publish, save, saved
from tests.client.pulling import Client
from tests.commands import jigdo
from tests.fixtures_os.repos import FixtureRepos
from tests.net.lying_mirror import LyingMirror
from tests.net.real_servers import apache_server, nginx_server

__all__ = ["apache_server", "nginx_server"]


@pytest.fixture(scope="session")
def published(fixture_repos: FixtureRepos, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The fixture OS in two generations; made once for all workers of pytest-xdist."""
    if os.geteuid() != 0:
        pytest.skip("composing takes root")
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    with (place / "published.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = place / "published"
        made = saved(root)
        if made is None:
            shutil.rmtree(root, ignore_errors=True)
            made = publish(root, {1: fixture_repos.gen1, 2: fixture_repos.gen2})
            save(made)
        return made


@pytest.fixture(scope="session")
def with_deltas(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror at generation 2 whose set of MINIMAL ships deltas from generation 1."""
    place = tmp_path_factory.mktemp("deltas")
    mirror = published.mirror(2, place / "mirror")
    words = ["set", "build", "--repo", published.repo, "--ref", MINIMAL, "--output", mirror]
    words += ["--from", published.commit(MINIMAL, 1), "--rpm-deltas", "all"]
    jigdo(*words, "--packages", published.packages(2), "--cachedir", place / "cache")
    return mirror


@pytest.fixture
def mirror(published: Published, tmp_path: Path) -> Iterator[LyingMirror]:
    """A mirror at generation 2, honest so far, whose directory the test may change."""
    directory = published.mirror(2, tmp_path / "mirror")
    with LyingMirror(directory) as server:
        yield server
    shutil.rmtree(directory)


@pytest.fixture
def client(published: Published, tmp_path: Path) -> Iterator[Client]:
    """A client with an empty bare-user repository and no remote."""
    made = Client.create(tmp_path / "client", published)
    yield made
    shutil.rmtree(tmp_path / "client")


@pytest.fixture
def updatable(published: Published, tmp_path: Path) -> Iterator[Client]:
    """A client that has generation 1 of MINIMAL, and no remote."""
    place = tmp_path / "updatable"
    place.mkdir()
    published.client(place / "repo")
    yield Client(place, published)
    shutil.rmtree(place)
