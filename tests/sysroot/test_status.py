"""What is told of a sysroot, with signatures by the remotes' own policies."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from composer.client.remote import add_remote
from composer.ostree.signature import BadSignature
from composer.sysroot.deploying import prepare
from composer.sysroot.status import status
from tests.client.published import Gpg
from tests.commands import jigdo
from tests.sysroot.conftest import OS, REF, Scene

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="checking trees out takes root")

_LIST = "rpmostree.rpmdb.pkglist"


def _packages(*rows: str) -> tuple[str, ...]:
    """A commit's own list of packages: name, version."""
    listed = [f"('{r.split()[0]}', '0', '{r.split()[1]}', '1', 'x86_64')" for r in rows]
    return (f"--add-metadata={_LIST}=[{', '.join(listed)}]",)


def test_empty_sysroot_has_nothing_deployed(scene: Scene) -> None:
    assert status(scene.sysroot).deployments == ()


def test_versions_roles_and_package_changes_are_told(scene: Scene, tmp_path: Path) -> None:
    words = _packages("bash 5.1", "gone 1")
    first = scene.deploy(scene.commit("1", words=words))
    second = scene.deploy(scene.commit("2", words=_packages("bash 5.2", "new 1")))
    words_ = ["status", "--sysroot", scene.sysroot.path, "--config-dir", tmp_path]
    document = jigdo(*words_, "--json").document
    rows = [(row["version"], row["role"], row["commit"]) for row in document["deployments"]]
    assert rows == [("2", "pending", str(second.commit)), ("1", "rollback", str(first.commit))]
    assert document["deployments"][0]["timestamp"] == 2 * 86_400
    changes = document["changes"]
    assert changes["upgraded"] == [
        {"name": "bash", "from": "bash-5.1-1.x86_64", "to": "bash-5.2-1.x86_64"}
    ]
    assert (changes["added"], changes["removed"]) == (["new-1-1.x86_64"], ["gone-1-1.x86_64"])
    text = jigdo(*words_).out
    assert "  0 small 2 (pending)" in text
    assert "upgraded: bash 5.1-1 -> 5.2-1" in text


def test_signatures_are_judged_by_the_remote_that_it_came_from(
    scene: Scene, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    with Gpg.home() as gpg:
        key, stranger = gpg.make_key("publisher"), gpg.make_key("stranger")
        public = gpg.export(key, tmp_path / "key.gpg")
        add_remote("home", ["http://mirror.invalid/"], keys=[public], config_dir=config)
        home = f"--gpg-homedir={gpg.directory}"
        good = scene.commit("1", words=(home, f"--gpg-sign={key}"))
        order = prepare(scene.sysroot, REF, config_dir=config)
        assert order.remote == "home"
        scene.deploy(good, remote=order.remote)
        bad = scene.commit("2", words=(home, f"--gpg-sign={stranger}"))
    with pytest.raises(BadSignature):
        prepare(scene.sysroot, config_dir=config)
    words = ["deploy", "--sysroot", scene.sysroot.path, "--config-dir", config]
    assert "no valid signature" in jigdo(*words, status=3).err
    assert scene.commits() == [good]
    scene.deploy(bad, remote="home")  # as if by another program
    found = status(scene.sysroot, config).deployments
    assert [one.signature.state for one in found] == ["bad", "good"]


def test_status_survives_a_remote_that_is_gone(scene: Scene, tmp_path: Path) -> None:
    scene.deploy(scene.commit("1"), remote="gone")
    (row,) = status(scene.sysroot, tmp_path).deployments
    assert row.signature.state == "unknown"
    assert row.deployment.remote == "gone"


def test_commands_work_as_a_person_uses_them(tmp_path: Path, scene: Scene) -> None:
    place = tmp_path / "other"
    place.mkdir()
    jigdo("os-init", "mine", "--sysroot", place)
    assert (place / "ostree/deploy/mine/var").is_dir()
    assert "already" in jigdo("os-init", "mine", "--sysroot", place, status=2).err
    root = ["--sysroot", scene.sysroot.path, "--config-dir", tmp_path / "none"]
    scene.commit("1")
    done = jigdo("deploy", REF, "--os", OS, *root, "--karg-append", "rw", "--json").document
    assert (done["os"], done["index"], done["kargs"]) == (OS, 0, ["rw"])
    assert jigdo("deploy", *root, status=77).out == ""
    scene.commit("2")
    jigdo("deploy", *root)
    scene.commit("3")
    # libostree frees the first commit then, and would say so amid the document.
    assert jigdo("deploy", *root, "--json").document["index"] == 0
    back = jigdo("rollback", *root[:2], "--json").document
    assert back["index"] == 0
    assert json.loads(jigdo("undeploy", "1", *root[:2], "--json").out)["removed"]["index"] == 1
