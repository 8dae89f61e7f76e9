"""Which commit a person means (composer/ostree/revision.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.errors import NotFound, UsageError
from composer.ostree.repo import Repository
from composer.ostree.revision import find_commit
from tests.commands import ostree


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, list[str]]:
    """Three commits of the ref os/stable, the oldest first."""
    place = tmp_path_factory.mktemp("history")
    tree, path = place / "tree", place / "repo"
    tree.mkdir()
    path.mkdir()
    ostree(path, "init", "--mode=bare-user")
    commits = []
    for number in range(3):
        (tree / "number").write_text(str(number))
        words = ["commit", "--branch=os/stable", f"--tree=dir={tree}", f"--timestamp=@{number + 1}"]
        commits.append(ostree(path, *words))
    return Repository.open(path), commits


def test_refs_checksums_and_parents_are_found(history: tuple[Repository, list[str]]) -> None:
    repo, (first, second, third) = history
    assert str(find_commit(repo, "os/stable")) == third
    assert str(find_commit(repo, third)) == third
    assert str(find_commit(repo, "os/stable^")) == second
    assert str(find_commit(repo, f"{third}^^")) == first


@pytest.mark.parametrize(
    ("revision", "reason"),
    [
        ("os/stabel", "no ref or commit 'os/stabel'"),
        ("os/stable^^^", "has no parent"),
        ("0" * 64, f"no commit {'0' * 64}"),
        ("", "no ref or commit ''"),
        ("^", "no ref or commit ''"),
        ("--help", "no ref or commit '--help'"),
        ("../../etc", "no ref or commit '../../etc'"),
    ],
)
def test_what_is_not_there_is_told(
    history: tuple[Repository, list[str]], revision: str, reason: str
) -> None:
    with pytest.raises(NotFound) as caught:
        find_commit(history[0], revision)
    assert reason in caught.value.message


def test_a_near_ref_is_named(history: tuple[Repository, list[str]]) -> None:
    with pytest.raises(NotFound) as caught:
        find_commit(history[0], "os/stabel")
    assert caught.value.details == ("did you mean os/stable?",)


def test_abbreviated_checksum_is_refused(history: tuple[Repository, list[str]]) -> None:
    repo, (*_, third) = history
    with pytest.raises(UsageError, match="abbreviated"):
        find_commit(repo, third[:12])


def test_parent_that_was_pruned_is_told(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    ostree(tmp_path / "repo", "init", "--mode=bare-user")
    parent = "1" * 64
    words = ["commit", "--branch=a", f"--tree=dir={tree}", f"--parent={parent}"]
    ostree(tmp_path / "repo", *words)
    with pytest.raises(NotFound, match=f"{parent}, the parent of"):
        find_commit(Repository.open(tmp_path / "repo"), "a^")
