"""Solving: only the treefile's repositories, and clear words when it cannot be done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from composer.compose.depsolve import Solution, solving
from composer.compose.document import TreefileError
from composer.compose.problems import SolveFailed
from composer.compose.repositories import RepositoryUnusable
from composer.compose.treefile import load
from tests.compose.rpms import Spec, repository

SPECS = (
    Spec("app", headers=["Requires: lib", "Recommends: extra"]),
    Spec("lib"),
    Spec("extra"),
    Spec("broken", headers=["Requires: nowhere"]),
    Spec("left", headers=["Conflicts: right"]),
    Spec("right"),
    Spec("podman", version="4.0"),
    Spec("podman", version="5.0"),
)
GROUP = """<?xml version="1.0"?>
<comps><group><id>core</id><name>Core</name><description/><default>true</default>
<uservisible>true</uservisible><packagelist>
<packagereq type="mandatory">lib</packagereq><packagereq type="default">extra</packagereq>
<packagereq type="optional">left</packagereq><packagereq type="default">gone</packagereq>
</packagelist></group></comps>
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import subprocess

    place = repository(tmp_path_factory.mktemp("solve") / "repo", SPECS)
    (place / "comps.xml").write_text(GROUP)
    subprocess.run(["createrepo_c", "-q", "-g", "comps.xml", str(place)], check=True)
    return place


def solve(tmp_path: Path, packages: str, overrides: Mapping[str, str], keys: str = "") -> Solution:
    path = tmp_path / "treefile.yaml"
    path.write_text(f"ref: a\nrepos: [base]\npackages: {packages}\n{keys}")
    with solving(
        load(path, basearch="x86_64"),
        overrides=overrides,
        cachedir=tmp_path / "cache",
        scratch=tmp_path / "scratch",
    ) as (solution, _):
        return solution


def names(solution: Solution) -> list[str]:
    return [package.nevra.name for package in solution.packages]


def test_weak_dependencies_follow_recommends(tmp_path: Path, repo: Path) -> None:
    override = {"base": str(repo)}
    assert names(solve(tmp_path, "[app]", override)) == ["app", "extra", "lib"]
    assert names(solve(tmp_path, "[app]", override, "recommends: false\n")) == ["app", "lib"]


def test_package_can_be_group_glob_condition_or_nevra(tmp_path: Path, repo: Path) -> None:
    override = {"base": repo.as_uri()}
    assert names(solve(tmp_path, "['@core']", override)) == ["extra", "lib"]
    assert names(solve(tmp_path, "['li*']", override)) == ["lib"]
    (chosen,) = solve(tmp_path, "['podman-4.0-1.noarch']", override).packages
    assert str(chosen.nevra) == "podman-4.0-1.noarch"
    (chosen,) = solve(tmp_path, "[\"'podman >= 4.1'\"]", override).packages
    assert chosen.nevra.version == "5.0"
    assert (chosen.repository, chosen.location) == ("base", "podman-5.0-1.noarch.rpm")
    assert chosen.path == repo / chosen.location
    assert chosen.is_local


def test_unknown_packages_are_told_together_with_near_names(tmp_path: Path, repo: Path) -> None:
    with pytest.raises(SolveFailed) as caught:
        solve(tmp_path, "[podmna, lib, zzzzzz, '@cor']", {"base": str(repo)})
    place = caught.value.message.removesuffix(": no repository has @cor, podmna, zzzzzz")
    assert place.endswith(": packages[3] (line 3)")
    first = place.replace("[3]", "[0]")
    assert f"{first}: podmna: did you mean podman?" in caught.value.details
    assert caught.value.details[-1].endswith("packages[2] (line 3): zzzzzz: nothing like it")


def test_conflicts_and_missing_requirements_show_the_solvers_problems(
    tmp_path: Path, repo: Path
) -> None:
    with pytest.raises(SolveFailed, match="cannot be installed together") as caught:
        solve(tmp_path, "[left, right]", {"base": str(repo)})
    assert any("conflicts with right" in line for line in caught.value.details)
    with pytest.raises(SolveFailed) as caught:
        solve(tmp_path, "[broken]", {"base": str(repo)})
    assert any("nothing provides nowhere" in line for line in caught.value.details)


def test_repo_files_beside_the_treefile_are_read(tmp_path: Path, repo: Path) -> None:
    url = repo.as_uri().replace("repo", "$basearch-$releasever")
    (tmp_path / "x.repo").write_text(f"[base]\nname=base\nbaseurl={url}\ngpgcheck=0\n")
    with pytest.raises(RepositoryUnusable, match=r"\$releasever is not set"):
        solve(tmp_path, "[lib]", {})
    (repo.parent / "x86_64-7").symlink_to(repo)
    solution = solve(tmp_path, "[lib]", {}, "releasever: 7\n")
    assert names(solution) == ["lib"]


def test_undefined_repository_names_the_places(tmp_path: Path, repo: Path) -> None:
    (tmp_path / "other.repo").write_text("[other]\nbaseurl=file:///nowhere\n")
    with pytest.raises(RepositoryUnusable, match="nothing defines the repository 'base'") as caught:
        solve(tmp_path, "[lib]", {"more": str(repo)})
    assert f"{tmp_path}/*.repo (other.repo)" in caught.value.details[0]
    assert caught.value.details[1].endswith("more, other")
    assert "--repository base=URL" in caught.value.hint


def test_repository_without_metadata_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RepositoryUnusable, match="base"):
        solve(tmp_path, "[lib]", {"base": str(tmp_path / "empty")})


def test_broken_repo_file_is_told(tmp_path: Path, repo: Path) -> None:
    (tmp_path / "bad.repo").write_text("no section\n")
    with pytest.raises(TreefileError, match=r"bad.repo: not a .repo file"):
        solve(tmp_path, "[lib]", {"base": str(repo)})


def test_changed_repository_is_seen_at_once(tmp_path: Path) -> None:
    place = repository(tmp_path / "repo", [Spec("lib")])
    (first,) = solve(tmp_path, "[lib]", {"base": str(place)}).packages
    repository(place, [Spec("lib", version="2")])
    (second,) = solve(tmp_path, "[lib]", {"base": str(place)}).packages
    assert (first.nevra.version, second.nevra.version) == ("1", "2")
