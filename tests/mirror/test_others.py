"""Which other versions a set serves, and where their descriptions come from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from composer.checksum import ObjectChecksum
from composer.errors import NotFound
from composer.mirror.lists import read_lists
from composer.mirror.others import find_commit, neighbours
from composer.ostree.repo import Repository
from tests.client import generations
from tests.client.generations import Published
from tests.client.published import copy_of
from tests.client.pulling import run_here
from tests.commands import ostree
from tests.jigdo.sets import REF


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return generations.make(tmp_path_factory.mktemp("versions"))


def commits(made: Published, *numbers: int) -> list[ObjectChecksum]:
    return [made.versions[number - 1].commit for number in numbers]


def numbers(made: Published, found: Sequence[ObjectChecksum]) -> list[int]:
    known = [version.commit for version in made.versions]
    return sorted(known.index(commit) + 1 for commit in found)


@pytest.mark.parametrize(
    ("number", "expected"), [(5, [2, 3, 4]), (2, [1, 3, 4, 5]), (1, [2, 3, 4])]
)
def test_neighbours_are_the_last_three_and_the_next_three(
    made: Published, number: int, expected: list[int]
) -> None:
    repo, (commit,) = Repository.open(made.repo), commits(made, number)
    assert numbers(made, neighbours(repo, REF, commit)) == expected


def test_commit_that_the_ref_does_not_lead_to_has_none_after_it(made: Published) -> None:
    repo, (one, two, three) = Repository.open(made.repo), commits(made, 1, 2, 3)
    assert neighbours(repo, "no/such/ref", two) == (one,)
    assert neighbours(repo, str(three), two) == (one, three)


def test_commit_is_found_by_version_checksum_and_ref(made: Published) -> None:
    repo, (two, five) = Repository.open(made.repo), commits(made, 2, 5)
    assert find_commit(repo, REF, "1.2") == find_commit(repo, REF, str(two)) == two
    assert find_commit(repo, REF, "") == find_commit(repo, REF, REF) == five
    for wrong in ("1.9", "f" * 64, "no such thing", "../x"):
        with pytest.raises(NotFound, match="no version, commit or ref"):
            find_commit(repo, REF, wrong)


# Descriptions


class Place:
    """An output of its own with version 4 published, and a client that has it."""

    def __init__(self, made: Published, where: Path) -> None:
        self.made, self.where, self.output = made, where, where / "out"
        shutil.copytree(made.mirror, self.output)
        self.cache, self.client = where / "cache", where / "client"
        self.build(4, "none")
        ostree(self.client, "init", "--mode=bare-user")
        self.run("remote", "add", "x", self.output, "--trust", "none")
        self.pull()

    def run(self, *words: object) -> Any:
        conf = ["--config-dir", self.where / "conf"] if words[0] != "set" else []
        done = run_here(*words, "--json", *conf)
        assert done.status == 0, done.err
        self.said = done.err
        return done.document

    def build(self, number: int, base: str, *, packages: Sequence[int] = (4, 5)) -> Any:
        words = ["set", "build", "--repo", self.made.repo, "--ref", REF, "--from", base]
        words += ["--commit", f"1.{number}", "--output", self.output, "--cachedir", self.cache]
        for one in packages:
            words += ["--packages", self.made.versions[one - 1].directory]
        return self.run(*words, "--rpm-deltas", "all")

    def pull(self) -> Any:
        words = ["pull", f"x:{REF}", "--repo", self.client, "--disable-fsync"]
        return self.run(*words)

    def set_of(self, number: int) -> Path:
        entries = read_lists(self.output).entries
        (entry,) = (one for one in entries if one.version == f"1.{number}")
        return self.output / entry.location

    def update_is_small(self) -> bool:
        """Tell whether what a client of version 4 reads of version 5's set is an update."""
        repo = copy_of(self.client, self.where / "copy")
        document = self.run("pull", f"x:{REF}", "--repo", repo, "--disable-fsync")
        shutil.rmtree(repo)
        assert document["version"] == "1.5"
        return bool(document["moved"]["set"]["requests"] == 3)


@pytest.fixture
def place(made: Published, tmp_path: Path) -> Place:
    return Place(made, tmp_path)


def test_set_that_was_built_again_with_other_deltas_still_leads_to_updates(place: Place) -> None:
    place.build(4, "1.5")
    place.build(5, "1.4")
    assert place.update_is_small()


def test_description_of_a_set_that_was_removed_is_remembered(place: Place) -> None:
    place.set_of(4).unlink()
    document = place.build(5, "1.4", packages=[5])
    assert document["undescribed"] == []
    assert place.update_is_small()


def test_description_is_made_again_from_commit_and_packages(place: Place) -> None:
    place.set_of(4).unlink()
    shutil.rmtree(place.cache)
    document = place.build(5, "1.4")
    assert document["undescribed"] == []
    assert place.update_is_small()


def test_without_set_and_packages_it_is_said_that_metadata_is_read_whole(place: Place) -> None:
    place.set_of(4).unlink()
    shutil.rmtree(place.cache)
    document = place.build(5, "1.4", packages=[5])
    assert document["undescribed"] == [str(place.made.versions[3].commit)]
    assert "warning: " in place.said
    assert not place.update_is_small()
