"""Pulls of sets that ship deltas: few bytes, and another way wherever one is no good."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from composer.jigdo.batches import Batches
from composer.jigdo.container import Kind
from composer.jigdo.pointer import PointerEntry, parse_pointer
from tests.client.published import MINIMAL, Published, SetRpm, copy_of, fsck, pointer_path
from tests.client.pulling import Client, rpm_requests
from tests.net.lying_mirror import LyingMirror


@dataclass(frozen=True)
class Site:
    """A mirror whose newest set ships deltas from generation 1."""

    mirror: LyingMirror
    set: SetRpm

    @property
    def entry(self) -> PointerEntry:
        packed = pointer_path(self.mirror.directory).read_bytes()
        return parse_pointer(gzip.decompress(packed)).find(MINIMAL)

    def flip(self, kind: Kind) -> None:
        self.mirror.flip_bit(self.set.location, self.set.middle_of(kind))


@pytest.fixture
def site(with_deltas: Path, updatable: Client, tmp_path: Path) -> Iterator[Site]:
    directory = copy_of(with_deltas, tmp_path / "mirror")
    with LyingMirror(directory) as mirror:
        updatable.add_remote(mirror.url)
        yield Site(mirror, SetRpm.of(directory, MINIMAL))
    shutil.rmtree(directory)


def test_update_by_deltas_moves_what_was_said_and_no_package(site: Site, updatable: Client) -> None:
    document = updatable.pull()
    assert updatable.head() == updatable.published.commit(MINIMAL, 2)
    fsck(updatable.repo)
    assert not rpm_requests(site.mirror.log)
    moved = document["moved"]
    assert moved["delta"]["bytes"] == document["delta_bytes"] > 0
    assert moved["rpm"]["bytes"] == moved["new"]["bytes"] == 0
    assert sum(kind["bytes"] for kind in moved.values()) == site.mirror.sent()
    assert len(site.mirror.log) <= 6


def test_what_deltas_make_lands_on_the_way(
    site: Site, updatable: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    landings: list[int] = []
    land = Batches.land

    def counted(batches: Batches) -> None:
        landings[-1] += 1
        land(batches)

    monkeypatch.setattr(Batches, "land", counted)
    start = copy_of(updatable.repo, updatable.place / "start")
    for bytes_at_risk in (1 << 30, 1):
        monkeypatch.setattr("composer.jigdo.batches.FETCHED_BYTES", bytes_at_risk)
        shutil.rmtree(updatable.repo)
        copy_of(start, updatable.repo)
        landings.append(0)
        assert updatable.completes()["moved"]["delta"]["bytes"]
    assert landings[1] > landings[0]


def test_description_comes_as_an_update_of_the_one_that_was_kept(
    site: Site, updatable: Client
) -> None:
    [update] = site.entry.updates
    assert str(update.base) == updatable.head()
    document = updatable.pull()
    small = document["moved"]["set"]["bytes"]
    assert update.size < small < update.size + 5000
    # The next update starts from what was kept now, and the old one is gone.
    kept = kept_descriptions(updatable)
    assert [path.name.split(".")[0] for path in kept] == [updatable.head()]


def kept_descriptions(client: Client) -> list[Path]:
    places = (client.repo / "extensions/jigdo").iterdir()
    return sorted(place for place in places if place.name != "lock")


@pytest.mark.parametrize("loss", ["gone", "cut", "of another set"])
def test_without_the_kept_description_all_is_read(site: Site, updatable: Client, loss: str) -> None:
    [kept] = kept_descriptions(updatable)
    data = kept.read_bytes()
    kept.unlink()
    if loss == "cut":
        kept.write_bytes(data[:-10])
    elif loss == "of another set":
        import zstandard

        kept.write_bytes(zstandard.ZstdCompressor().compress(b"something else"))
    document = updatable.pull()
    assert document["moved"]["set"]["bytes"] > site.entry.updates[0].size
    assert document["moved"]["rpm"]["bytes"] == 0
    assert updatable.head() == updatable.published.commit(MINIMAL, 2)
    # What was read now serves the next time, unless it was less than everything.
    fsck(updatable.repo)


def test_spoilt_update_is_read_from_the_frames_instead(site: Site, updatable: Client) -> None:
    [update] = site.entry.updates
    place = site.set.start + update.offset + update.size // 2
    site.mirror.flip_bit(site.set.location, place)
    updatable.pull()
    assert updatable.head() == updatable.published.commit(MINIMAL, 2)


@pytest.mark.parametrize("kind", [Kind.PATCH, Kind.DELTAS])
def test_spoilt_deltas_are_told_and_the_next_mirror_serves(
    site: Site, updatable: Client, with_deltas: Path, tmp_path: Path, kind: Kind
) -> None:
    shutil.rmtree(updatable.repo / "extensions")
    site.flip(kind)
    updatable.refused(site.set.location, kind.name.lower(), status=3)
    with LyingMirror(copy_of(with_deltas, tmp_path / "other")) as other:
        updatable.add_remote(site.mirror.url, other.url)
        updatable.pull()
    assert updatable.head() == updatable.published.commit(MINIMAL, 2)


def test_set_without_deltas_leaves_the_pointer_as_it_was(
    published: Published, tmp_path: Path
) -> None:
    packed = pointer_path(published.root / "mirror2").read_bytes()
    document = json.loads(gzip.decompress(packed))
    assert all("updates" not in entry for entry in document["refs"])
