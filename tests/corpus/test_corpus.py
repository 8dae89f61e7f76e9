"""The main job on an OS made of packages that others built: two generations, one update.

$JIGDO_CORPUS names what ../shared/tools/make_debrpm.py made: v1, v2, debrpm.yaml.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.commands import jigdo, ostree, serving

CORPUS = Path(os.environ.get("JIGDO_CORPUS") or "/nonexistent")

pytestmark = [
    pytest.mark.skipif(not CORPUS.is_dir(), reason="no corpus: set JIGDO_CORPUS (see .ci/run)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="composing takes root"),
    pytest.mark.timeout(900),
]


@dataclass(frozen=True)
class Journey:
    """Both generations, composed, published, pulled."""

    ref: str
    compose_repo: Path
    client: Path
    mirror: Path
    commits: tuple[str, str]
    pulled: tuple[Any, Any]
    env: dict[str, str]
    url: str


def _link_packages(source: Path, mirror: Path) -> None:
    for rpm in source.rglob("*.rpm"):
        target = mirror / rpm.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            os.link(rpm, target)


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    # Hard links and big repositories: on the corpus' own file system.
    work = tmp_path_factory.mktemp("journey")
    compose_repo, client, mirror = work / "compose-repo", work / "client", work / "mirror"
    env = {"JIGDO_COMPOSER_CONFIG": str(work / "remotes")}
    ostree(client, "init", "--mode=bare-user")
    mirror.mkdir()
    commits, pulled, ref = [], [], ""
    with serving(mirror, work / "access.log") as url:
        jigdo("remote", "add", "corpus", url, "--trust", "none", env=env)
        for generation in ("v1", "v2"):
            _link_packages(CORPUS / generation, mirror)
            words = ["compose", CORPUS / "debrpm.yaml", "--repo", compose_repo, "--json"]
            words += ["--rpm-repo", mirror, "--cachedir", work / "cache"]
            words += ["--repository", f"debrpm={CORPUS / generation}"]
            composed = jigdo(*words).document
            ref = composed["ref"]
            commits.append(composed["commit"])
            words = ["pull", f"corpus:{ref}", "--repo", client, "--json", "--disable-fsync"]
            pulled.append(jigdo(*words, env=env).document)
        yield Journey(
            ref,
            compose_repo,
            client,
            mirror,
            (commits[0], commits[1]),
            (pulled[0], pulled[1]),
            env,
            url,
        )


def test_client_has_the_very_commits(journey: Journey) -> None:
    assert tuple(result["commit"] for result in journey.pulled) == journey.commits
    assert ostree(journey.client, "rev-parse", journey.ref) == journey.commits[1]


def test_client_repository_is_whole(journey: Journey) -> None:
    assert "no errors found" in ostree(journey.client, "fsck")


def test_fresh_install_moves_little_more_than_its_rpms(journey: Journey) -> None:
    moved = journey.pulled[0]["moved"]
    rest = moved["set"]["bytes"] + moved["new"]["bytes"]
    assert moved["rpm"]["bytes"] > 10_000_000
    assert rest < 0.12 * moved["rpm"]["bytes"]


def test_update_moves_a_fraction_of_the_packages_that_changed(journey: Journey) -> None:
    first = {rpm.name for rpm in (CORPUS / "v1").rglob("*.rpm")}
    changed = [rpm for rpm in (CORPUS / "v2").rglob("*.rpm") if rpm.name not in first]
    moved = journey.pulled[1]["moved"]
    assert moved["delta"]["bytes"] > 0
    assert sum(part["bytes"] for part in moved.values()) < 0.25 * sum(
        rpm.stat().st_size for rpm in changed
    )


def test_pull_again_moves_only_the_pointer(journey: Journey) -> None:
    words = ["pull", f"corpus:{journey.ref}", "--repo", journey.client, "--json"]
    again = jigdo(*words, env=journey.env).document
    assert again["updated"] is False
    assert sum(part["bytes"] for part in again["moved"].values()) < 10_000


def test_tree_has_a_working_rpm_database(journey: Journey) -> None:
    paths = ostree(journey.client, "ls", journey.commits[1], "/usr/share/rpm/rpmdb.sqlite")
    assert "rpmdb.sqlite" in paths
