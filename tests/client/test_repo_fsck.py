"""`repo fsck`: every damage is found, and mended from wherever the object can be had."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.published import MINIMAL, Published, copy_of, fsck, put
from tests.client.pulling import Client, check_message, rpm_requests, run_here
from tests.commands import Done, jigdo, ostree
from tests.net.lying_mirror import LyingMirror

_DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]) if data else b"x",
    "cut": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    "missing": lambda data: None,
}


def _objects(repo: Path, kind: str) -> list[Path]:
    """Objects of a kind; contents are large enough to be damaged, none is a symlink."""
    found = sorted(repo.glob(f"objects/??/*.{kind}"))
    return [p for p in found if kind != "file" or (not p.is_symlink() and p.stat().st_size > 100)]


def _spoil(path: Path, damage: str) -> bytes:
    """Damage an object, and not what it is linked to; returns what it was."""
    good = path.read_bytes()
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    mode = path.stat().st_mode
    bad = _DAMAGES[damage](good)
    path.unlink()
    if bad is not None:
        put(path, bad)
        path.chmod(mode & 0o7777)
        for name, value in attributes.items():
            os.setxattr(path, name, value)
    return good


def _name(path: Path) -> str:
    return f"{path.parent.name}{path.name}"


def _fsck(client: Client, *words: object, status: int = 0) -> Done:
    argv = ["repo", "fsck", "--repo", client.repo, "--json", *words]
    done = run_here(*argv, "--config-dir", client.config)
    assert done.status == status, done.err
    return done


def test_sound_repository_is_told_to_be_sound(updatable: Client) -> None:
    found = _fsck(updatable).document
    assert found["sound"]
    assert found["faults"] == []
    assert found["objects"] == len(list(updatable.repo.glob("objects/??/*.[fdc][io]*"))) - len(
        list(updatable.repo.glob("objects/??/*.commitmeta"))
    )


@pytest.mark.parametrize("damage", _DAMAGES)
@pytest.mark.parametrize("kind", ["commit", "dirtree", "dirmeta", "file"])
def test_any_damage_is_found_and_mended(
    kind: str, damage: str, published: Published, updatable: Client, mirror: LyingMirror
) -> None:
    """From the set of the very commit, which is not the mirror's newest."""
    updatable.add_remote(mirror.url)
    victim = random.Random(kind + damage).choice(_objects(updatable.repo, kind))
    good = _spoil(victim, damage)
    found = _fsck(updatable, status=5).document
    assert [row["object"] for row in found["faults"]] == [_name(victim)]
    assert found["faults"][0]["state"] == ("missing" if damage == "missing" else "damaged")
    assert found["faults"][0]["commit"] == published.commit(MINIMAL, 1)
    assert not mirror.log
    mended = _fsck(updatable, "--repair").document
    assert [row["object"] for row in mended["repaired"]] == [_name(victim)]
    assert mended["sound"]
    assert mended["moved"]["bytes"] == mirror.sent()
    assert victim.read_bytes() == good
    fsck(updatable.repo)
    assert _fsck(updatable).document["objects"] == found["objects"] + _hidden(found, mended)
    assert not list(updatable.repo.glob("tmp/jigdo-*"))


def _hidden(found: dict[str, int], mended: dict[str, int]) -> int:
    """How many objects more were seen once all was mended: the damaged one, and those behind it."""
    return mended["objects"] - found["objects"]


@pytest.mark.parametrize("mode", ["bare", "archive"])
def test_other_modes_are_mended_too(
    mode: str, published: Published, mirror: LyingMirror, tmp_path: Path
) -> None:
    client = Client.create(tmp_path / "client", published, mode=mode)
    client.add_remote(mirror.url)
    client.completes()
    before = published.commit(MINIMAL, 2)
    kind = "filez" if mode == "archive" else "file"
    files = _objects(client.repo, kind)
    dice = random.Random(5)
    for path in (*dice.sample(files, 12), _objects(client.repo, "dirtree")[0]):
        _spoil(path, dice.choice(list(_DAMAGES)))
    assert len(_fsck(client, status=5).document["faults"]) >= 2
    found = _fsck(client, "--repair").document
    assert found["sound"]
    client.require_unchanged(before)


def test_much_damage_at_once_is_mended(
    published: Published, updatable: Client, mirror: LyingMirror
) -> None:
    """Whatever hides behind what: commit, root, all directories, half of the contents."""
    updatable.add_remote(mirror.url)
    dice = random.Random(3)
    for path in sorted(updatable.repo.glob("objects/??/*")):
        if path.suffix == ".commitmeta" or (path.suffix == ".file" and dice.random() < 0.5):
            continue
        _spoil(path, dice.choice(list(_DAMAGES)))
    _fsck(updatable, status=5)
    assert _fsck(updatable, "--repair").document["sound"]
    updatable.require_unchanged(published.commit(MINIMAL, 1))


def test_mending_fetches_no_more_than_what_has_the_object(
    published: Published, updatable: Client, mirror: LyingMirror
) -> None:
    location = published.set_rpm(MINIMAL, 1).locations()["paint"]
    objects = published.set_rpm(MINIMAL, 1).objects()[location]
    others = set().union(
        *(o for place, o in published.set_rpm(MINIMAL, 1).objects().items() if place != location)
    )
    victim = min(str(one) for one in objects - others)
    _spoil(updatable.repo / "objects" / victim[:2] / f"{victim[2:]}.file", "flipped")
    updatable.add_remote(mirror.url)
    assert _fsck(updatable, "--repair").document["sound"]
    assert {one.path for one in rpm_requests(mirror.log)} == {location}


def test_local_packages_are_used_for_mending(
    published: Published, updatable: Client, mirror: LyingMirror
) -> None:
    for path in _objects(updatable.repo, "file")[:20]:
        _spoil(path, "flipped")
    updatable.add_remote(mirror.url)
    found = _fsck(updatable, "--repair", "--rpm-cache", published.packages(1)).document
    assert found["sound"]
    assert not rpm_requests(mirror.log)


def test_newest_set_mends_when_the_very_one_is_gone(
    published: Published, updatable: Client, mirror: LyingMirror
) -> None:
    """An object that both have; what only the old one has stays as it is, and is told."""
    for path in (mirror.directory / "jigdo").glob("*-1-1.*"):
        path.unlink()
    both = set(_names(published, 1)) & set(_names(published, 2))
    only = set(_names(published, 1)) - both
    files = {_name(path).removesuffix(".file"): path for path in _objects(updatable.repo, "file")}
    shared, own = min(both & files.keys()), min(only & files.keys())
    for victim in (shared, own):
        _spoil(files[victim], "flipped")
    damaged = files[own].read_bytes()
    updatable.add_remote(mirror.url)
    found = _fsck(updatable, "--repair", status=5).document
    assert [row["object"] for row in found["repaired"]] == [f"{shared}.file"]
    assert [row["object"] for row in found["faults"]] == [f"{own}.file"]
    assert found["reasons"]
    assert files[own].read_bytes() == damaged, "it is not worse than before"
    assert updatable.head() == published.commit(MINIMAL, 1)


def _names(published: Published, generation: int) -> list[str]:
    rpm = published.set_rpm(MINIMAL, generation)
    return [str(checksum) for objects in rpm.objects().values() for checksum in objects]


def test_mirror_that_lies_mends_nothing_and_spoils_nothing(
    published: Published, updatable: Client, mirror: LyingMirror
) -> None:
    victim = _objects(updatable.repo, "file")[3]
    _spoil(victim, "flipped")
    damaged = victim.read_bytes()
    for path in mirror.directory.rglob("*.rpm"):
        mirror.flip_bit(str(path.relative_to(mirror.directory)), path.stat().st_size // 2)
        mirror.flip_bit(str(path.relative_to(mirror.directory)), path.stat().st_size - 100)
    updatable.add_remote(mirror.url)
    found = _fsck(updatable, "--repair", status=5).document
    assert [row["object"] for row in found["faults"]] == [_name(victim)]
    assert victim.read_bytes() == damaged
    mirror.honest()
    assert _fsck(updatable, "--repair").document["sound"]
    updatable.require_unchanged(published.commit(MINIMAL, 1))


def test_history_is_proven_as_far_as_it_is_here(
    published: Published, updatable: Client, mirror: LyingMirror
) -> None:
    updatable.add_remote(mirror.url)
    updatable.completes()
    assert _fsck(updatable).document["commits"] == 2
    ostree(updatable.repo, "prune", "--refs-only", "--depth=0")
    assert _fsck(updatable).document["commits"] == 1


def test_mark_of_an_incomplete_commit_is_removed_when_it_is_whole(
    published: Published, updatable: Client, mirror: LyingMirror
) -> None:
    commit = published.commit(MINIMAL, 1)
    (updatable.repo / "state" / f"{commit}.commitpartial").touch()
    updatable.add_remote(mirror.url)
    assert _fsck(updatable, status=5).document["partial"] == [commit]
    assert _fsck(updatable, "--repair").document["sound"]
    assert "partial" not in ostree(updatable.repo, "fsck")


def test_damage_of_a_linked_object_is_told(
    updatable: Client, mirror: LyingMirror, tmp_path: Path
) -> None:
    victim = _objects(updatable.repo, "file")[0]
    _spoil(victim, "flipped")
    os.link(victim, tmp_path / "checkout")
    updatable.add_remote(mirror.url)
    argv = ["repo", "fsck", "--repo", updatable.repo, "--repair", "--config-dir", updatable.config]
    done = run_here(*argv)
    assert done.status == 0
    assert "1 other names of its file keep the damage" in done.err
    assert "repaired: " in done.out


def test_what_cannot_be_asked_for_is_a_clear_error(updatable: Client) -> None:
    done = run_here("repo", "fsck", "no/such/ref", "--repo", updatable.repo)
    assert done.status == 1
    check_message(done.err, "no/such/ref")
    argv = ["repo", "fsck", "--repair", "--repo", updatable.repo, "--config-dir", updatable.config]
    assert run_here(*argv).status in (1, 2)


def test_one_worker_finds_what_two_find(updatable: Client, tmp_path: Path) -> None:
    _spoil(_objects(updatable.repo, "file")[1], "cut")
    copy = tmp_path / "copy"
    copy_of(updatable.repo, copy)
    words = ["repo", "fsck", "--json", "--repo", copy, "--workers"]
    one, two = (jigdo(*words, number, status=5).document for number in (1, 2))
    assert one == two
    shutil.rmtree(copy)
