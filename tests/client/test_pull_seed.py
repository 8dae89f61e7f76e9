"""`pull --seed`: what another tree's files have costs no bytes, and nothing of it is believed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from composer.client.seed import SeedTrees
from composer.jigdo.seeding import Place, Sought
from composer.ostree.objects import Header
from tests.client.published import MINIMAL, Published, copy_of, fsck, put
from tests.client.pulling import REMOTE, Client, rpm_requests, run_here
from tests.client.test_plan import everything, plan, require_announced
from tests.fixtures_os.packages import install
from tests.net.lying_mirror import LyingMirror

RPMDB = "usr/share/rpm/rpmdb.sqlite"


@pytest.fixture(scope="module")
def installed(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system that rpm installed: the packages of generation 2 of MINIMAL, no OSTree in it."""
    root = tmp_path_factory.mktemp("installed") / "root"
    root.mkdir()
    locations = published.set_rpm(MINIMAL, 2).locations().values()
    paths = [published.root / "mirror2" / location for location in locations]
    install(paths, root, "--nodeps", "--noscripts", "--notriggers")
    return root


@pytest.fixture
def system(installed: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    root = tmp_path / "system"
    shutil.copytree(installed, root, symlinks=True)
    return root


def _pull(client: Client, *words: object) -> Any:
    argv = [*client.words(), *words, "--config-dir", client.config]
    done = run_here(*argv)
    assert done.status == 0, done.err
    assert client.head() == client.published.commit(MINIMAL, 2)
    fsck(client.repo)
    return done.document


def _fetched(mirror: LyingMirror) -> set[str]:
    return {Path(one.path).name.rsplit("-", 2)[0] for one in rpm_requests(mirror.log)}


def test_no_rpm_is_fetched_whose_files_a_system_has(
    mirror: LyingMirror, client: Client, system: Path
) -> None:
    client.add_remote(mirror.url)
    before = everything(system)
    announced = plan(client, "--seed", system)
    assert announced["transfers"]["rpm"] == {"bytes": 0, "requests": 0}
    assert announced["seeds"]["objects"] > 50
    assert announced["seeds"]["bytes"] > 10_000
    assert announced["disk_bytes"] > announced["seeds"]["bytes"]
    require_announced(client, mirror, announced, "--seed", str(system))
    assert not rpm_requests(mirror.log)
    assert everything(system) == before
    fsck(client.repo)


def test_files_that_differ_come_in_their_rpm_and_that_is_announced(
    published: Published, mirror: LyingMirror, client: Client, system: Path
) -> None:
    [paint] = list((system / "etc").glob("paint.conf"))
    put(paint, paint.read_bytes().swapcase())
    client.add_remote(mirror.url)
    announced = plan(client, "--seed", system)
    require_announced(client, mirror, announced, "--seed", str(system))
    assert _fetched(mirror) == {"paint"}
    location = published.set_rpm(MINIMAL, 2).locations()["paint"]
    assert announced["transfers"]["rpm"] == {
        "bytes": (published.root / "mirror2" / location).stat().st_size,
        "requests": 1,
    }


def test_a_damaged_or_missing_rpmdb_leaves_what_lies_where_the_commit_has_it(
    mirror: LyingMirror, client: Client, system: Path
) -> None:
    client.add_remote(mirror.url)
    whole = plan(client)["transfers"]["rpm"]["bytes"]
    with_rpmdb = plan(client, "--seed", system)["seeds"]["objects"]
    put(system / RPMDB, b"SQLite format 3\0" + bytes(5000))
    damaged = plan(client, "--seed", system)
    (system / RPMDB).unlink()
    assert plan(client, "--seed", system)["seeds"] == damaged["seeds"]
    assert 0 < damaged["seeds"]["objects"] <= with_rpmdb
    assert damaged["transfers"]["rpm"]["bytes"] < whole
    _pull(client, "--seed", system)


def test_a_file_that_lies_elsewhere_is_found_by_the_rpmdb(
    published: Published, mirror: LyingMirror, client: Client, system: Path
) -> None:
    """Layout moves files: the commit's path is none of the system's."""
    client.add_remote(mirror.url)
    moved = plan(client, "--seed", system)["seeds"]["objects"]
    (system / RPMDB).unlink()
    assert plan(client, "--seed", system)["seeds"]["objects"] < moved


def test_what_is_no_regular_file_is_left_alone(
    mirror: LyingMirror, client: Client, system: Path, tmp_path: Path
) -> None:
    conf = system / "etc/paint.conf"
    outside = tmp_path / "outside"
    shutil.copy2(conf, outside)  # the right bytes, where nobody may look
    client.add_remote(mirror.url)
    for change in ("pipe", "device", "absolute", "relative", "directory"):
        conf.unlink()
        match change:
            case "pipe":
                os.mkfifo(conf)
            case "device":
                os.mknod(conf, 0o020644, os.makedev(1, 5))
            case "absolute":
                conf.symlink_to(outside)
            case "relative":
                conf.symlink_to("../../outside")
            case _:
                shutil.rmtree(conf.parent)
                conf.parent.symlink_to(tmp_path)
        assert plan(client, "--seed", system)["packages"] >= 1, change
    _pull(client, "--seed", system)


def test_a_file_that_changes_after_it_was_proven_comes_in_its_rpm(
    mirror: LyingMirror, client: Client, system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = SeedTrees.find

    def find_then_change(
        self: SeedTrees, sought: Mapping[int, Sought], headers: Sequence[Header]
    ) -> dict[int, Place]:
        found = find(self, sought, headers)
        conf = system / "etc/paint.conf"
        put(conf, conf.read_bytes().swapcase())
        return found

    monkeypatch.setattr(SeedTrees, "find", find_then_change)
    client.add_remote(mirror.url)
    _pull(client, "--seed", system)
    assert _fetched(mirror) == {"paint"}


def test_seeds_serve_together_with_an_older_commit_and_each_other(
    published: Published, mirror: LyingMirror, updatable: Client, system: Path, tmp_path: Path
) -> None:
    updatable.add_remote(mirror.url)
    assert plan(updatable)["packages"] > 0
    other = tmp_path / "other"
    copy_of(system, other)
    shutil.rmtree(system / "etc")
    assert plan(updatable, "--seed", system)["packages"] > 0
    announced = plan(updatable, "--seed", system, "--seed", other)
    assert announced["packages"] == 0
    done = _pull(updatable, "--seed", system, "--seed", other)
    assert done["seeds"] == announced["seeds"]
    assert not rpm_requests(mirror.log)


def test_a_deployed_tree_is_a_seed(
    published: Published, mirror: LyingMirror, client: Client, tmp_path: Path
) -> None:
    """A checkout of the commit: also what no RPM holds is there."""
    from tests.commands import ostree

    tree = tmp_path / "tree"
    ostree(published.repo, "checkout", published.commit(MINIMAL, 2), tree)
    client.add_remote(mirror.url)
    announced = plan(client, "--seed", tree)
    assert announced["transfers"]["rpm"]["bytes"] == 0
    assert announced["transfers"]["new"]["bytes"] == 0
    require_announced(client, mirror, announced, "--seed", str(tree))


def test_a_seed_that_is_no_directory_is_told(mirror: LyingMirror, updatable: Client) -> None:
    updatable.add_remote(mirror.url)
    for command in ("plan", "pull"):
        argv = [command, f"{REMOTE}:{MINIMAL}", "--repo", updatable.repo]
        done = run_here(*argv, "--seed", "/nowhere", "--config-dir", updatable.config)
        assert done.status == 2
        assert "/nowhere: No such file" in done.err
