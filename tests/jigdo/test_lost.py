"""Packages that are lost while a set is reassembled: another way for what they have, or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from composer.checksum import ObjectChecksum
from composer.errors import VerificationFailed
from composer.jigdo.build import LocalPackage
from composer.jigdo.container import Kind
from composer.jigdo.delta.building import DeltaOptions
from composer.jigdo.examine import Choices, examine
from composer.jigdo.lost import LostPackage, PackagesLost
from composer.jigdo.plan import Plan
from composer.jigdo.reassemble import reassemble
from composer.jigdo.shipping import Shipped, count_data_frames
from composer.ostree.repo import Repository
from tests.jigdo.sets import (
    REF,
    Packages,
    SetOnDisk,
    build,
    fsck,
    local_packages,
    pull,
    write_tree,
)
from tests.rpm.crafted import RpmFile, rpm_bytes

TREE = """
/usr/a 0100644 0:0 only in a
/usr/both 0100644 0:0 in both
/usr/b 0100644 0:0 only in b
/usr/none 0100644 0:0 in the set
"""
FILES = {
    "a": [RpmFile("/usr/a", b"only in a\n"), RpmFile("/usr/both", b"in both\n")],
    "b": [RpmFile("/usr/b", b"only in b\n"), RpmFile("/usr/both", b"in both\n")],
}


def rpm(where: Path, name: str, files: Sequence[RpmFile]) -> Path:
    path = where / f"{name}.rpm"
    path.write_bytes(rpm_bytes(files, name=name, compressor="none"))
    return path


@pytest.fixture
def packages(tmp_path: Path) -> tuple[LocalPackage, ...]:
    return local_packages([rpm(tmp_path, name, files) for name, files in FILES.items()])


@pytest.fixture
def commit(tmp_path: Path) -> ObjectChecksum:
    return write_tree(Repository.create(tmp_path / "repo", mode="bare-user"), TREE)


@pytest.fixture
def made(packages: tuple[LocalPackage, ...], commit: ObjectChecksum, tmp_path: Path) -> SetOnDisk:
    return build(Repository.open(tmp_path / "repo"), commit, packages, tmp_path)


@pytest.fixture
def client(tmp_path: Path) -> Repository:
    repo = Repository.create(tmp_path / "client", mode="bare-user")
    repo.disable_fsync()
    return repo


def reassembled(
    made: SetOnDisk, client: Repository, source: Packages, choices: Choices | None = None
) -> tuple[tuple[Plan, ...], list[str]]:
    """Reassemble, which must succeed; returns the plans, and the names of lost packages."""
    choices, jigdo, lost = choices or Choices(), made.open(), list[str]()
    base = client.resolve(REF)
    wanted = examine(jigdo, client, base=base, check=lambda c: None, choices=choices)

    def told(plan: Plan, gone: Sequence[LostPackage]) -> None:
        lost.extend(package.ref.nevra.name for package in gone)

    plans = reassemble(jigdo, wanted, client, source, ref=REF, replanned=told, workers=1)
    assert client.require(REF) == made.commit
    client.fsck_commit(made.commit)
    fsck(client)
    return plans, lost


def test_another_package_that_has_the_same_serves(
    made: SetOnDisk, client: Repository, tmp_path: Path
) -> None:
    # The client has what only one of the packages has, so either will do.
    write_tree(client, "/usr/a 0100644 0:0 only in a\n/usr/b 0100644 0:0 only in b", ref=None)
    plans, lost = reassembled(made, client, Packages(made.packages, lost={"a": []}))
    assert lost == ["a"]
    assert [len(plan.packages) for plan in plans] == [1, 1]
    assert not plans[1].new.rows  # what the first plan brought is not brought again


def test_what_nothing_else_has_is_told_with_paths(made: SetOnDisk, client: Repository) -> None:
    source = Packages(made.packages, lost={"a": [], "b": []})
    with pytest.raises(PackagesLost) as caught:
        pull(made.open(), client, source)
    error = caught.value
    assert error.message == (
        "a-1-1.noarch and another package: lost, and nothing else has 3 of the objects in them"
    )
    assert "b: gone" in error.details
    told = [line for line in error.details if line.startswith("needed for")]
    assert told == [f"needed for /usr/{name}" for name in ("a", "b", "both")]
    assert error.exit_status == 1
    assert client.resolve(REF) is None
    fsck(client)
    # What could be had is there: the set's own.
    again = Packages(made.packages)
    plans, _ = reassembled(made, client, again)
    assert not plans[0].new.rows


def test_a_file_with_other_contents_is_refused_and_the_next_one_taken(
    made: SetOnDisk, client: Repository, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    bad = rpm(tmp_path / "bad", "a", [RpmFile("/usr/a", b"only in A\n"), FILES["a"][1]])
    other = rpm_bytes(FILES["a"], name="a", compressor="gzip")
    good = tmp_path / "bad/again.rpm"
    good.write_bytes(other)
    source = Packages(made.packages, lost={"a": [bad, good]})
    _, lost = reassembled(made, client, source)
    assert (source.refused, lost) == (["a"], [])


def test_a_refused_file_without_another_is_a_lost_package(
    made: SetOnDisk, client: Repository, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    bad = rpm(tmp_path / "bad", "a", [RpmFile("/usr/a", b"only in A\n"), FILES["a"][1]])
    with pytest.raises(PackagesLost, match=r"a-1-1.noarch: lost, and nothing else has 1 of"):
        pull(made.open(), client, Packages(made.packages, lost={"a": [bad]}))
    assert client.resolve(REF) is None


def test_the_very_file_with_other_contents_ends_it(
    made: SetOnDisk, client: Repository, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    bad = rpm(tmp_path / "bad", "a", [RpmFile("/usr/a", b"only in A\n"), FILES["a"][1]])
    with pytest.raises(VerificationFailed, match="a-1-1"):
        pull(made.open(), client, Packages(made.packages, instead={"a": bad}))


def test_deltas_serve_where_the_plan_did_without(
    packages: tuple[LocalPackage, ...], tmp_path: Path, client: Repository
) -> None:
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    old = write_tree(repo, TREE.replace("only in a", "formerly in a"))
    new = write_tree(repo, TREE)
    made = build(repo, new, packages, tmp_path, deltas=DeltaOptions(bases=(old,), rpm="all"))
    assert write_tree(client, TREE.replace("only in a", "formerly in a")) == old
    jigdo = made.open()
    wanted = examine(
        jigdo,
        client,
        base=old,
        check=lambda c: None,
        # A package that is here costs nothing, and so beats deltas: until it is gone.
        at_hand=lambda refs: [ref.pkgid for ref in refs],
    )
    assert wanted.plan.packages
    assert not wanted.plan.deltas.rows
    plans = reassemble(jigdo, wanted, client, Packages(packages, lost={"a": [], "b": []}), ref=REF)
    assert len(plans) == 2
    assert plans[1].deltas.rows
    assert client.require(REF) == new
    fsck(client)


# Shipped whole


def test_what_a_named_package_has_is_shipped_in_frames_of_its_own(
    made: SetOnDisk, packages: tuple[LocalPackage, ...], tmp_path: Path, client: Repository
) -> None:
    full = build(made.repo, made.commit, packages, tmp_path, full=[packages[0].ref.pkgid])
    plain, opened = made.open(), full.open()
    before = [data for _, data in plain.frames(plain.index.of(Kind.DATA))]
    assert before == [b"in the set\n"]
    frames = [data for _, data in opened.frames(opened.index.of(Kind.DATA))]
    assert frames == [b"in the set\n", b"only in a\n"]  # the other package has the rest
    plans, lost = reassembled(full, client, Packages(packages, lost={"a": []}))
    assert lost == []  # the set is the cheaper way
    assert [p.number for p in plans[0].packages] == [1]


def test_all_packages_can_be_shipped(
    made: SetOnDisk, packages: tuple[LocalPackage, ...], tmp_path: Path, client: Repository
) -> None:
    every = [package.ref.pkgid for package in packages]
    full = build(made.repo, made.commit, packages, tmp_path, full=every)
    assert build(made.repo, made.commit, packages, tmp_path, full=every[::-1]).data == full.data
    opened = full.open()
    frames = [data for _, data in opened.frames(opened.index.of(Kind.DATA))]
    assert frames == [b"in the set\n", b"only in a\nin both\n", b"only in b\n"]
    reassembled(full, client, Packages([]))


def test_frames_of_shipped_contents_are_counted_as_they_are_cut(
    tmp_path: Path, client: Repository
) -> None:
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    sizes = {"a": 5 << 20, "b": 700_000, "c": 700_001, "d": 10}
    lines = [f"/usr/{name} 0100644 0:0 *{size}" for name, size in sizes.items()]
    commit = write_tree(repo, "\n".join([*lines, "/usr/none 0100644 0:0 none"]))
    paths = [
        rpm(tmp_path, f"p{name}", [RpmFile(f"/usr/{name}", b"x" * size)])
        for name, size in sizes.items()
    ]
    packages = local_packages(paths)
    made = build(repo, commit, packages, tmp_path, full=[p.ref.pkgid for p in packages])
    assert len(made.open().index.numbers(Kind.DATA)) == 6
    reassembled(made, client, Packages([]))


def test_nothing_shipped_is_no_frame() -> None:
    from composer.jigdo.manifest import make_contents

    assert count_data_frames(Shipped(make_contents([], []), (), frozenset())) == 0
