"""Of an RPM that is needed for its first files only, the beginning is fetched, and proven."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from composer.jigdo.manifest import Map
from composer.jigdo.tree import Ordinals, walk
from composer.net.bundle import Bundle, BundledFile, dump_index, dump_start
from composer.ostree.repo import Repository
from composer.rpm.beginnings import Beginning
from composer.rpm.package import PackageRef
from tests.client.published import BASE, Published, fsck
from tests.client.pulling import Client, check_message, rpm_requests, run_here
from tests.commands import ostree
from tests.net.lying_mirror import LyingMirror

PACKAGE = "kernel-modules"


@dataclass(frozen=True)
class Lacking:
    """A tree that has everything but one file of an RPM: its first one, or its last."""

    tree: Path
    ref: PackageRef
    beginnings: tuple[Beginning, ...]


def _lacking(published: Published, place: Path, row: int) -> Lacking:
    repo = Repository.open(published.repo)
    commit = published.commit(BASE, 2)
    jigdo = published.set_rpm(BASE, 2).jigdo
    ostree(published.repo, "checkout", commit, place)
    _, _, headers, _ = jigdo.read_start()
    ordinals, paths = Ordinals(), dict[object, list[str]]()
    for visit in walk(
        repo.commit(jigdo.head.commit).tree, lambda one: repo.metadata("dirtree", one)
    ):
        ordinals.add(visit.tree)
        for entry in visit.tree.files:
            paths.setdefault(entry.checksum, []).append(f"{visit.path}/{entry.name}")
    [number] = [n for n, p in enumerate(jigdo.head.packages) if p.ref.nevra.name == PACKAGE]
    mapping = jigdo.maps([number], objects=len(ordinals), headers=headers)[number]
    for path in paths[ordinals.checksums[mapping.ordinals[row]]]:
        (place / path.lstrip("/")).unlink()
    return Lacking(place, jigdo.head.packages[number].ref, mapping.beginnings)


@pytest.fixture(scope="module")
def first(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Lacking:
    return _lacking(published, tmp_path_factory.mktemp("first") / "tree", 0)


@pytest.fixture(scope="module")
def last(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Lacking:
    return _lacking(published, tmp_path_factory.mktemp("last") / "tree", -1)


@pytest.fixture
def here(mirror: LyingMirror, client: Client) -> Client:
    client.add_remote(mirror.url)
    return client


def _run(client: Client, lacking: Lacking, *words: str) -> Any:
    argv = [*client.words(BASE), "--seed", lacking.tree, *words, "--config-dir", client.config]
    return run_here(*argv)


def _pull(client: Client, lacking: Lacking) -> Any:
    done = _run(client, lacking)
    assert done.status == 0, done.err
    assert client.head(BASE) == client.published.commit(BASE, 2)
    fsck(client.repo)
    return done.document


def test_a_beginning_is_announced_and_moved(
    mirror: LyingMirror, here: Client, first: Lacking
) -> None:
    beginning = first.beginnings[0]
    assert beginning.size < first.ref.size // 2
    announced = _run(here, first, "--dry-run").document
    read = len(mirror.log)
    assert announced["transfers"]["rpm"] == {"bytes": beginning.size, "requests": 1}
    done = _pull(here, first)
    log = mirror.log[read:]
    [request] = rpm_requests(log)
    assert request.range == f"bytes=0-{beginning.size - 1}"
    assert request.sent == beginning.size
    assert sum(one.sent for one in log) == announced["bytes"]
    assert len(log) == announced["requests"]
    assert done["moved"]["rpm"] == announced["transfers"]["rpm"]
    assert not list(here.repo.glob("tmp/jigdo-packages*"))


def test_the_last_file_takes_the_whole_rpm(here: Client, last: Lacking) -> None:
    moved = _pull(here, last)["moved"]["rpm"]
    assert moved == {"bytes": last.ref.size, "requests": 1}


def test_what_comes_after_the_beginning_does_not_matter(
    mirror: LyingMirror, here: Client, first: Lacking
) -> None:
    mirror.flip_bit(first.ref.location, offset=first.beginnings[0].size)
    _pull(here, first)


def test_a_beginning_of_other_bytes_is_refused(
    mirror: LyingMirror, here: Client, first: Lacking
) -> None:
    mirror.flip_bit(first.ref.location, offset=first.beginnings[0].size - 1)
    done = _run(here, first)
    assert done.status == 3
    assert PACKAGE in done.err
    assert here.head(BASE) == ""


def test_a_kept_part_of_a_beginning_is_continued(
    mirror: LyingMirror, here: Client, first: Lacking
) -> None:
    beginning = first.beginnings[0]
    data = (mirror.directory / first.ref.location).read_bytes()
    part = here.repo / f"tmp/jigdo-packages/{beginning.digest}.rpm.part"
    part.parent.mkdir()
    part.write_bytes(data[:1000])
    announced = _run(here, first, "--dry-run").document["transfers"]["rpm"]
    assert announced == {"bytes": beginning.size - 1000, "requests": 1}
    assert _pull(here, first)["moved"]["rpm"] == announced


def test_a_beginning_that_does_not_suffice_is_continued_to_the_whole(
    mirror: LyingMirror, here: Client, last: Lacking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The set promises too much, or this machine's librpm reads further than its builder's."""
    monkeypatch.setattr(Map, "beginning", lambda self, entries: next(iter(self.beginnings), None))
    moved = _pull(here, last)["moved"]["rpm"]
    assert moved == {"bytes": last.ref.size, "requests": 2}
    short = last.beginnings[0].size
    assert [one.range for one in rpm_requests(mirror.log)] == [
        f"bytes=0-{short - 1}",
        f"bytes={short}-{last.ref.size - 1}",
    ]


def test_a_server_without_ranges_serves(mirror: LyingMirror, here: Client, first: Lacking) -> None:
    mirror.ignore_ranges()
    _pull(here, first)


def _bundle(client: Client, place: Path, mirror: LyingMirror, lacking: Lacking) -> Path:
    """A bundle of everything, but of the package only its shortest beginning."""
    client.add_remote(mirror.url)
    words = ["bundle", BASE, "-o", place / "all", "--config-dir", client.config]
    assert run_here(*words).status == 0
    opened, data = Bundle.open(place / "all"), (place / "all").read_bytes()
    files, pieces, at = [], [], opened.start
    for file in opened.files:
        length = sum(size for _, size in file.pieces)
        kept = length
        if file.location == lacking.ref.location:
            kept = lacking.beginnings[0].size
            file = BundledFile(file.repository, file.location, ((0, kept),))
        files.append(file)
        pieces.append(data[at : at + kept])
        at += length
    index = dump_index(opened.refs, files)
    (place / "part").write_bytes(dump_start(index) + index + b"".join(pieces))
    return place / "part"


def test_a_bundle_with_a_beginning_serves_as_far_as_it_goes(
    mirror: LyingMirror, client: Client, first: Lacking, last: Lacking, tmp_path: Path
) -> None:
    part = _bundle(client, tmp_path, mirror, first)
    asked = len(mirror.log)
    words = ["pull", part, "--repo", client.repo, "--disable-fsync", "--json"]
    words += ["--config-dir", client.config, "--seed"]
    refused = run_here(*words, last.tree)
    assert refused.status == 1
    check_message(refused.err, "are not there", "in the bundle")
    done = run_here(*words, first.tree)
    assert done.status == 0, done.err
    assert done.document["moved"]["rpm"]["bytes"] == first.beginnings[0].size
    assert client.head(BASE) == client.published.commit(BASE, 2)
    assert len(mirror.log) == asked
    fsck(client.repo)
