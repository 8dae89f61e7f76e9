"""Going back, and removing, in a sysroot in a directory."""

from __future__ import annotations

import os
import re

import pytest

from composer.errors import NotFound, UsageError
from composer.sysroot.kernel_arguments import Edit
from composer.sysroot.ordering import StillNeeded, roll_back, undeploy
from composer.sysroot.sysroot import Sysroot
from tests.commands import ostree
from tests.sysroot.conftest import OS, Scene

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="checking trees out takes root")


def test_rollback_boots_the_previous_one_and_undoes_itself(scene: Scene) -> None:
    first = scene.deploy(scene.commit("1"))
    second = scene.deploy(scene.commit("2"))
    (scene.directory(first) / "etc/settings").write_text("as it was\n")
    (scene.directory(second) / "etc/settings").write_text("newer\n")
    back = roll_back(scene.sysroot)
    assert (back.index, back.commit) == (0, first.commit)
    assert scene.commits() == [first.commit, second.commit]
    assert _booted_by(scene) == first.commit
    assert (scene.directory(back) / "etc/settings").read_text() == "as it was\n"
    assert roll_back(scene.sysroot).commit == second.commit
    assert scene.commits() == [second.commit, first.commit]


def _booted_by(scene: Scene) -> object:
    """The commit whose directory the first boot loader entry leads to."""
    link = re.search(r"ostree=/(\S+)", scene.entries()[0]["options"])
    assert link is not None
    place = (scene.sysroot.path / link[1]).resolve()
    return next(d.commit for d in scene.sysroot.deployments() if place == scene.directory(d))


def test_rollback_with_nothing_behind_is_refused(scene: Scene) -> None:
    with pytest.raises(NotFound, match="no deployment to go back to"):
        roll_back(scene.sysroot)
    scene.deploy(scene.commit("1"))
    with pytest.raises(NotFound, match="no deployment to go back to"):
        roll_back(scene.sysroot)


def test_rollback_stays_within_its_operating_system(scene: Scene) -> None:
    scene.sysroot.add_os("other")
    commit = scene.commit("1")
    scene.deploy(commit)
    scene.deploy(commit, os_name="other")
    assert [one.os for one in scene.sysroot.deployments()] == ["other", OS]
    with pytest.raises(NotFound):
        roll_back(scene.sysroot)


def test_undeploy_removes_the_tree_and_what_only_it_needed(scene: Scene) -> None:
    first = scene.deploy(scene.commit("1", {"usr/share/old": "only in 1\n"}))
    lost = ostree(scene.sysroot.repo.path, "ls", "-C", str(first.commit), "/usr/share/old")
    second = scene.deploy(scene.commit("2"))
    assert undeploy(scene.sysroot, "1").commit == first.commit
    assert scene.commits() == [second.commit]
    assert not scene.directory(first).exists()
    checksum = lost.split()[4]
    assert not (scene.sysroot.repo.path / f"objects/{checksum[:2]}/{checksum[2:]}.file").exists()
    assert len(scene.entries()) == 1
    scene.fsck()


def test_undeploy_takes_the_beginning_of_a_commit(scene: Scene) -> None:
    scene.deploy(scene.commit("1"))
    second = scene.deploy(scene.commit("2"))
    assert undeploy(scene.sysroot, str(second.commit)[:12]).commit == second.commit
    assert second.commit not in scene.commits()


def test_last_and_pinned_deployments_stay(scene: Scene) -> None:
    first = scene.deploy(scene.commit("1"))
    with pytest.raises(StillNeeded, match="the only one"):
        undeploy(scene.sysroot, "0")
    second = scene.deploy(scene.commit("2"))
    origin = scene.directory(first).with_name(f"{first.name}.origin")
    origin.write_text(f"{origin.read_text()}\n[libostree-transient]\npinned=true\n")
    scene.sysroot = Sysroot.open(scene.sysroot.path)
    with pytest.raises(StillNeeded, match="pinned") as refused:
        undeploy(scene.sysroot, "1")
    assert "--unpin 1" in refused.value.hint
    assert scene.commits() == [second.commit, first.commit]


@pytest.mark.parametrize("which", ["7", "ffff", "abcd1234"])
def test_undeploy_of_what_is_not_there_is_told(scene: Scene, which: str) -> None:
    scene.deploy(scene.commit("1"))
    scene.deploy(scene.commit("2"))
    with pytest.raises(NotFound, match=which):
        undeploy(scene.sysroot, which)


def test_undeploy_of_a_commit_that_is_there_twice_asks_which(scene: Scene) -> None:
    commit = scene.commit("1")
    scene.deploy(commit)
    scene.deploy(commit, Edit(append=("debug",)))
    with pytest.raises(UsageError, match="more than one"):
        undeploy(scene.sysroot, str(commit))
    with pytest.raises(UsageError, match="neither"):
        undeploy(scene.sysroot, "../etc")
