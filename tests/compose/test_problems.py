"""Sets that cannot be solved: what matters of the solver's problems, and what to change."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from composer.compose.depsolve import solving
from composer.compose.problems import SolveFailed, unsolvable
from composer.compose.treefile import load
from tests.compose.rpms import Spec, repository

SPECS = (
    Spec("app", version="2", headers=["Requires: lib = 3"]),
    Spec("app", version="1", headers=["Requires: lib = 3"]),
    Spec("lib", version="1"),
    Spec("broken", headers=["Requires: nowhere"]),
    Spec("user", headers=["Requires: broken"]),
    Spec("left", headers=["Conflicts: right"]),
    Spec("right"),
    Spec("old"),
    Spec("new", headers=["Obsoletes: old"]),
    Spec("any", headers=["Requires: virtual"]),
    Spec("base", headers=["Provides: more"]),
    *(Spec(f"user{n}", headers=["Requires: base", "Requires: more"]) for n in range(6)),
    *(Spec(f"way{n}", headers=["Provides: virtual", f"Requires: gap{n}"]) for n in range(14)),
)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = repository(tmp_path_factory.mktemp("problems") / "repo", SPECS)
    foreign = place / "foreign.spec"
    foreign.write_text(
        "Name: foreign\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\n%description\n%files\n"
    )
    defines = ["--define", f"_rpmdir {place}", "--define", f"_topdir {place / 'top'}"]
    command = ["rpmbuild", "-bb", "--quiet", "--target", "aarch64", *defines, str(foreign)]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["createrepo_c", "-q", str(place)], check=True)
    return place


def failure(tmp_path: Path, repo: Path, packages: str, keys: str = "") -> SolveFailed:
    path = tmp_path / "os.yaml"
    path.write_text(f"ref: a\nrepos: [base]\npackages: {packages}\n{keys}")
    with (
        pytest.raises(SolveFailed) as caught,
        solving(
            load(path, basearch="x86_64"),
            overrides={"base": str(repo)},
            cachedir=tmp_path / "cache",
            scratch=tmp_path / "scratch",
        ),
    ):
        pass
    return caught.value


def test_conflict_names_both_and_says_what_to_leave_out(tmp_path: Path, repo: Path) -> None:
    error = failure(tmp_path, repo, "[left, right]")
    assert error.details == (
        "package left-1-1.noarch conflicts with right provided by right-1-1.noarch",
    )
    assert error.hint == "leave out left-1-1.noarch or right-1-1.noarch"


def test_obsoleted_package_is_told(tmp_path: Path, repo: Path) -> None:
    # A name stands for what replaced it; an exact version does not.
    error = failure(tmp_path, repo, "[old-1-1.noarch, new]")
    assert error.details == ("package new-1-1.noarch obsoletes old provided by old-1-1.noarch",)


def test_missing_requirement_is_told_once_for_all_that_need_it(tmp_path: Path, repo: Path) -> None:
    error = failure(tmp_path, repo, "[user, broken]")
    assert set(error.details) == {
        "nothing provides nowhere needed by broken-1-1.noarch",
        "package user-1-1.noarch requires broken, but none of the providers can be installed",
    }
    assert error.hint == "no repository has nowhere: add one that does"


def test_other_versions_of_a_candidate_are_dropped(tmp_path: Path, repo: Path) -> None:
    (detail,) = failure(tmp_path, repo, "['app*']").details
    assert detail.startswith("nothing provides lib = 3 needed by app-")


def test_long_lists_of_candidates_are_cut(tmp_path: Path, repo: Path) -> None:
    error = failure(tmp_path, repo, "[any]")
    assert len(error.details) == 11
    assert all(line.startswith("nothing provides gap") for line in error.details[:10])
    assert error.details[-1] == "and 5 more that follow from these or are like them"


def excluded(tmp_path: Path) -> str:
    return f"{tmp_path}/os.yaml: exclude-packages[0] (line 4) names it"


def test_cause_comes_before_what_follows_from_it(tmp_path: Path, repo: Path) -> None:
    users = ", ".join(f"user{n}" for n in range(6))
    error = failure(tmp_path, repo, f"[{users}]", "exclude-packages: [base]\n")
    assert error.details[0] == (f"package base-1-1.noarch may not be taken: {excluded(tmp_path)}")
    assert len(error.details) == 5
    assert all("requires" in line for line in error.details[1:4])
    assert error.details[4].startswith("and 3 more that follow")


def test_excluded_package_that_is_needed_is_told(tmp_path: Path, repo: Path) -> None:
    error = failure(tmp_path, repo, "[user]", "exclude-packages: [broken]\n")
    told = f"package broken-1-1.noarch may not be taken: {excluded(tmp_path)}"
    assert told in error.details
    assert "package broken-1-1.noarch is needed: allow it" in error.hint


def test_package_of_another_architecture_is_told(tmp_path: Path, repo: Path) -> None:
    error = failure(tmp_path, repo, "[foreign]")
    assert "foreign" in error.message + "".join(error.details)
    assert "aarch64" in error.message + "".join(error.details)


def test_problems_without_a_reason_still_say_something() -> None:
    error = unsolvable([["conflicting requests"]], lambda name: "")
    assert error.details == ("the solver gave no reason",)
