"""One boot: composed from the corpus, published, installed from the mirror, up to multi-user.

`make boot-proof` (tests/boot/proof.py) does what takes more than one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot.machine import QEMU, Boot
from tests.boot.scene import SYSTEM, Scene
from tests.fixtures_os.repos import FixtureRepos

CORPUS = Path(os.environ.get("JIGDO_CORPUS") or "/nonexistent")

pytestmark = [
    pytest.mark.skipif(not CORPUS.is_dir(), reason="no corpus: set JIGDO_CORPUS (see .ci/run)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="composing and mounting take root"),
    pytest.mark.skipif(QEMU is None, reason="no qemu-system-x86_64"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def booted(
    tmp_path_factory: pytest.TempPathFactory, fixture_repos: FixtureRepos
) -> Iterator[tuple[str, Boot]]:
    work = tmp_path_factory.mktemp("boot")
    with Scene.made(work, CORPUS, fixture_repos.gen1.parent / "os") as scene:
        commit = scene.compose("gen1.yaml", "v1")
        before = scene.requests()
        machine = scene.install(SYSTEM, "disk")
        assert scene.requests() > before
        yield commit, machine.boot("installed")


def test_what_was_composed_is_what_runs(booted: tuple[str, Boot]) -> None:
    commit, boot = booted
    assert boot.said["deployment"] == f"{commit}.0"
    assert boot.said["version"] == "1"


def test_system_reaches_multi_user_with_nothing_failed(booted: tuple[str, Boot]) -> None:
    _, boot = booted
    assert (boot.said["target"], boot.said["failed"]) == ("active", "")


def test_usr_is_read_only_and_etc_is_the_trees(booted: tuple[str, Boot]) -> None:
    _, boot = booted
    assert (boot.said["usr"], boot.said["etc"]) == ("read-only", "untouched")


def test_health_check_marks_the_boot_good(booted: tuple[str, Boot]) -> None:
    commit, boot = booted
    assert boot.said["health"] == "active"
    assert f"jigdo-composer: health: good: {commit}.0" in boot.console
