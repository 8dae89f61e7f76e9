"""`pull --rpm-cache`: RPM files of this machine cost nothing, whatever their names say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from composer.client import rpm_cache
from composer.client.rpm_cache import RpmCache
from tests.client.published import MINIMAL, Published, copy_of, fsck, put
from tests.client.pulling import Client, rpm_requests, run_here
from tests.commands import Done
from tests.net.lying_mirror import LyingMirror


def _pull(client: Client, *caches: Path) -> Done:
    words = [word for cache in caches for word in ("--rpm-cache", str(cache))]
    return run_here(*client.words(), *words, "--config-dir", client.config)


def _complete(client: Client, *caches: Path) -> dict[str, dict[str, int]]:
    done = _pull(client, *caches)
    assert done.status == 0, done.err
    assert client.head() == client.published.commit(MINIMAL, 2)
    fsck(client.repo)
    moved: dict[str, dict[str, int]] = done.document["moved"]
    return moved


def test_rpms_of_a_cache_are_not_fetched_under_whatever_name(
    published: Published, mirror: LyingMirror, updatable: Client, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for number, rpm in enumerate(sorted(published.packages(2).rglob("*.rpm"))):
        place = cache / str(number % 3) / f"{number}.rpm"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(rpm, place)
    updatable.add_remote(mirror.url)
    before = sorted(cache.rglob("*"))
    moved = _complete(updatable, cache)
    assert moved["rpm"] == {"bytes": 0, "requests": 0}
    assert not rpm_requests(mirror.log)
    assert sorted(cache.rglob("*")) == before  # it is not ours


def test_a_dry_run_announces_what_is_left_to_move(
    published: Published, mirror: LyingMirror, updatable: Client
) -> None:
    updatable.add_remote(mirror.url)
    words = [*updatable.words(), "--config-dir", str(updatable.config), "--dry-run"]
    without = run_here(*words).document["transfers"]["rpm"]
    assert without["bytes"] > 0
    cached = run_here(*words, "--rpm-cache", published.packages(2)).document["transfers"]["rpm"]
    assert cached == {"bytes": 0, "requests": 0}


def test_only_what_the_caches_lack_is_fetched(
    published: Published, mirror: LyingMirror, updatable: Client, tmp_path: Path
) -> None:
    locations = published.set_rpm(MINIMAL, 2).locations()
    one, two = tmp_path / "one", tmp_path / "two"
    for directory, name in ((one, "paint"), (two, "greeter")):
        directory.mkdir()
        os.link(published.root / "mirror2" / locations[name], directory / "x.rpm")
    updatable.add_remote(mirror.url)
    _complete(updatable, one, two)
    asked = {request.path for request in rpm_requests(mirror.log)}
    assert asked
    assert not asked & {locations["paint"], locations["greeter"]}


def test_a_file_of_the_right_name_and_size_with_other_bytes_is_no_source(
    published: Published, mirror: LyingMirror, updatable: Client, tmp_path: Path
) -> None:
    location = published.set_rpm(MINIMAL, 2).locations()["paint"]
    good = (published.root / "mirror2" / location).read_bytes()
    cache = tmp_path / "cache"
    cache.mkdir()
    put(cache / Path(location).name, good[:-1] + bytes([good[-1] ^ 1]))
    updatable.add_remote(mirror.url)
    _complete(updatable, cache)
    assert location in {request.path for request in rpm_requests(mirror.log)}


def test_symlinks_and_pipes_in_a_cache_are_left_alone(
    published: Published, mirror: LyingMirror, updatable: Client, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "all").symlink_to(published.packages(2))
    os.mkfifo(cache / "paint.rpm")
    location = published.set_rpm(MINIMAL, 2).locations()["paint"]
    (cache / "link.rpm").symlink_to(published.root / "mirror2" / location)
    updatable.add_remote(mirror.url)
    assert _complete(updatable, cache)["rpm"]["bytes"] > 0


def test_a_cache_that_is_no_directory_is_told(mirror: LyingMirror, updatable: Client) -> None:
    updatable.add_remote(mirror.url)
    done = _pull(updatable, updatable.place / "none")
    assert done.status == 2
    assert "none: not a directory" in done.err


def test_a_file_that_changed_after_it_was_proven_is_not_given(
    published: Published, tmp_path: Path
) -> None:
    package = next(
        p.ref
        for p in published.set_rpm(MINIMAL, 2).jigdo.head.packages
        if p.ref.nevra.name == "paint"
    )
    shutil.copy2(published.root / "mirror2" / package.location, tmp_path / "paint.rpm")
    cache = RpmCache([tmp_path])
    assert cache.find([package]) == {package.pkgid: tmp_path / "paint.rpm"}
    assert cache.get(package) == tmp_path / "paint.rpm"
    put(tmp_path / "paint.rpm", bytes(package.size))
    assert cache.get(package) is None


def test_the_scan_has_an_end(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = [p.ref for p in published.set_rpm(MINIMAL, 2).jigdo.head.packages]
    copy_of(published.packages(2) / "Packages", tmp_path / "cache")
    assert RpmCache([tmp_path / "cache"]).find(packages)
    monkeypatch.setattr(rpm_cache, "MAX_ENTRIES", 0)
    assert not RpmCache([tmp_path / "cache"]).find(packages)
