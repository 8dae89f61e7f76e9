"""The example treefiles fit the fixture repositories.

That the composer reads and composes them is tested where the composer is.
"""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fixtures_os.packages import package_name, rpms, solve
from tests.fixtures_os.repos import FixtureRepos

_TREEFILES = Path(__file__).resolve().parents[2] / "treefiles"
_COMPOSED = ["fixture.yaml", "fixture-minimal.yaml"]


def _load(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((_TREEFILES / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def _packages(name: str) -> list[str]:
    """Return the packages of a treefile and of what it includes; a string may hold several."""
    treefile = _load(name)
    own = [*treefile.get("packages", []), *treefile.get("packages-x86_64", [])]
    included = _packages(treefile["include"]) if "include" in treefile else []
    return [*included, *" ".join(own).split()]


@pytest.mark.parametrize("name", _COMPOSED)
@pytest.mark.parametrize("generation", [1, 2])
def test_treefile_solves_in_both_generations(
    fixture_repos: FixtureRepos, tmp_path: Path, name: str, generation: int
) -> None:
    wanted = _packages(name)
    chosen = solve(
        fixture_repos.generation(generation),
        tmp_path,
        wanted,
        recommends=_load(name)["recommends"],
    )
    assert set(wanted) <= {package_name(path) for path in chosen}


def test_whole_treefile_leaves_out_only_what_cannot_be_in(
    fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    there = {package_name(path) for path in rpms(fixture_repos.gen1)}
    chosen = {
        package_name(path)
        for path in solve(fixture_repos.gen1, tmp_path, _packages("fixture.yaml"))
    }
    assert {name for name in there - chosen if not name.startswith(("trouble-", "canvas-"))} == {
        "docs-viewer-extras",
        "libtint-devel",
    }


def test_repositories_of_the_treefiles_are_in_the_repo_file() -> None:
    sections = configparser.ConfigParser()
    sections.read(_TREEFILES / "fixture.repo")
    assert _load("fixture-common.yaml")["repos"] == sections.sections()
