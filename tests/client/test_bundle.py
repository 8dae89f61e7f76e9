"""Bundles: made of what a pull would fetch, applied without network, with the same checks."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from composer.net.bundle import START, Bundle, dump_index, dump_start
from tests.client.published import BASE, MINIMAL, Published, fsck
from tests.client.pulling import REMOTE, Client, check_message, run_here
from tests.commands import Done

NOWHERE = "http://127.0.0.1:1/"


class Maker:
    """A machine with network, which makes bundles of the mirror at generation 2."""

    def __init__(self, place: Path, mirror: Path, published: Published) -> None:
        self.place, self.published = place, published
        published.write_remote(place / "config", REMOTE, mirror)

    def run(self, *words: object) -> Done:
        output = self.place / "out.bundle"
        config = self.place / "config"
        return run_here("bundle", *words, "-o", output, "--config-dir", config, "--json")

    def make(self, *words: object) -> Path:
        done = self.run(*words)
        assert done.status == 0, done.err
        assert done.document["size"] == (self.place / "out.bundle").stat().st_size
        stick = self.place / f"stick{len(list(self.place.iterdir()))}"
        stick.mkdir()
        (self.place / "out.bundle").rename(stick / "os.bundle")
        assert not list(self.place.glob(".out*"))
        return stick / "os.bundle"


@pytest.fixture
def maker(published: Published, tmp_path: Path) -> Maker:
    (tmp_path / "maker").mkdir()
    return Maker(tmp_path / "maker", published.root / "mirror2", published)


@pytest.fixture
def delta_maker(published: Published, with_deltas: Path, tmp_path: Path) -> Maker:
    (tmp_path / "maker").mkdir()
    return Maker(tmp_path / "maker", with_deltas, published)


def apply(client: Client, bundle: Path, *more: object) -> Done:
    """Pull from a bundle on a machine whose mirrors are not to be reached."""
    client.add_remote(NOWHERE)
    words = ["pull", f"{REMOTE}:{bundle}", "--repo", client.repo, "--disable-fsync", "--json"]
    return run_here(*words, *more, "--config-dir", client.config)


def applied(client: Client, bundle: Path, *more: object) -> Any:
    before = [(path, path.stat().st_mtime_ns) for path in sorted(bundle.parent.iterdir())]
    done = apply(client, bundle, *more)
    assert done.status == 0, done.err
    assert [(path, path.stat().st_mtime_ns) for path in sorted(bundle.parent.iterdir())] == before
    assert client.head(done.document["ref"]) == done.document["commit"]
    fsck(client.repo)
    return done.document


def refused(client: Client, bundle: Path, *words: str, status: int) -> Done:
    before = client.head()
    done = apply(client, bundle)
    assert done.status == status, done.err
    check_message(done.err, *words)
    client.require_unchanged(before)
    return done


def test_bundle_from_nothing_installs(maker: Maker, client: Client, published: Published) -> None:
    bundle = maker.make(MINIMAL)
    assert applied(client, bundle)["commit"] == published.commit(MINIMAL, 2)
    assert apply(client, bundle).document["updated"] is False


def test_bundle_from_nothing_updates_too(
    maker: Maker, updatable: Client, published: Published
) -> None:
    assert applied(updatable, maker.make(MINIMAL))["commit"] == published.commit(MINIMAL, 2)


@pytest.mark.parametrize("how", ["repo", "version on the remote", "commit in the repo"])
def test_bundle_from_a_version_updates_it(
    delta_maker: Maker, updatable: Client, published: Published, how: str
) -> None:
    words: dict[str, list[object]] = {
        "repo": ["--repo", updatable.repo],
        "version on the remote": ["--from", "1"],
        "commit in the repo": [
            "--from",
            published.commit(MINIMAL, 1),
            "--repo",
            published.repo,
        ],
    }
    bundle = delta_maker.make(MINIMAL, *words[how])
    whole = delta_maker.make(MINIMAL)
    assert bundle.stat().st_size < whole.stat().st_size / 2
    [ref] = Bundle.open(bundle).refs
    assert (str(ref.base), ref.base_version) == (published.commit(MINIMAL, 1), "1")
    document = applied(updatable, bundle)
    assert document["commit"] == published.commit(MINIMAL, 2)
    assert document["moved"]["delta"]["bytes"] > 0


def test_same_bundle_has_the_same_bytes(delta_maker: Maker, updatable: Client) -> None:
    one = delta_maker.make(MINIMAL, "--from", "1")
    two = delta_maker.make(MINIMAL, "--repo", updatable.repo)
    assert one.read_bytes() == two.read_bytes()


def test_bundle_has_what_the_pull_moves(
    delta_maker: Maker, updatable: Client, published: Published, with_deltas: Path
) -> None:
    bundle = delta_maker.make(MINIMAL, "--from", "1")
    updatable.add_remote(with_deltas)
    # What it kept of the set's description saves it bytes that another machine needs.
    shutil.rmtree(updatable.repo / "extensions", ignore_errors=True)
    moved = sum(part["bytes"] for part in updatable.pull()["moved"].values())
    opened = Bundle.open(bundle)
    assert 0.9 * moved < bundle.stat().st_size - opened.start <= moved


def test_refs_share_what_is_the_same(maker: Maker, client: Client, published: Published) -> None:
    both = maker.make(MINIMAL, BASE)
    sizes = [maker.make(ref).stat().st_size for ref in (MINIMAL, BASE)]
    assert both.stat().st_size < 0.8 * sum(sizes)
    refused(client, both, "which ref", MINIMAL, BASE, status=2)
    assert applied(client, both, "--ref", MINIMAL)["commit"] == published.commit(MINIMAL, 2)


def test_plan_of_a_bundle_is_what_it_moves(maker: Maker, client: Client) -> None:
    bundle = maker.make(MINIMAL)
    planned = apply(client, bundle, "--dry-run").document
    moved = applied(client, bundle)["moved"]
    for kind in ("rpm", "new", "delta"):
        assert planned["transfers"][kind] == moved[kind]


def test_bundle_for_another_machine_says_for_which(maker: Maker, client: Client) -> None:
    bundle = maker.make(MINIMAL, "--from", "1")
    refused(client, bundle, "in the bundle", f"machines that have {MINIMAL} 1", status=1)


def test_preference_of_the_client_is_kept_within_the_bundle(
    delta_maker: Maker, updatable: Client, published: Published
) -> None:
    bundle = delta_maker.make(MINIMAL, "--from", "1")
    document = applied(updatable, bundle, "--prefer", "cpu")
    assert document["commit"] == published.commit(MINIMAL, 2)


def test_lost_package_is_replanned_when_the_bundle_is_made(
    maker: Maker, client: Client, published: Published, tmp_path: Path
) -> None:
    mirror = published.mirror(2, tmp_path / "lossy")
    shutil.rmtree(mirror / "Packages")
    published.write_remote(maker.place / "config", REMOTE, mirror)
    done = maker.run(MINIMAL)
    assert done.status == 1
    assert "lost" in done.err
    assert not (maker.place / "out.bundle").exists()


# Bundles that are not what they should be


def _cut(data: bytes) -> bytes:
    return data[:-1]


def _cut_in_the_index(data: bytes) -> bytes:
    return data[:100]


def _longer(data: bytes) -> bytes:
    return data + b"\0"


def _index_changed(data: bytes) -> bytes:
    return data.replace(b"repomd.xml", b"repomd.xmm", 1)


def _other_version(data: bytes) -> bytes:
    return data[:8] + struct.pack("<I", 9) + data[12:]


def _endless_index(data: bytes) -> bytes:
    return data[:12] + struct.pack("<I", 0xFFFFFFFF) + data[16:]


@pytest.mark.parametrize(
    "spoil", [_cut, _cut_in_the_index, _longer, _index_changed, _other_version, _endless_index]
)
def test_spoilt_bundle_is_refused(
    maker: Maker, updatable: Client, spoil: Callable[[bytes], bytes]
) -> None:
    bundle = maker.make(MINIMAL, "--from", "1")
    bundle.write_bytes(spoil(bundle.read_bytes()))
    assert run_here("bundle", "--inspect", bundle).status == 3
    before = updatable.head()
    done = apply(updatable, bundle)
    assert done.status == 3, done.err
    updatable.require_unchanged(before)


@pytest.mark.parametrize("part", range(12))
def test_flipped_bit_is_found_wherever_it_is(
    maker: Maker, updatable: Client, published: Published, part: int
) -> None:
    bundle = maker.make(MINIMAL, "--from", "1")
    data, start = bytearray(bundle.read_bytes()), Bundle.open(bundle).start
    at = start + (len(data) - start - 1) * part // 11
    data[at] ^= 4
    good = bundle.read_bytes()
    bundle.write_bytes(data)
    before = updatable.head()
    done = apply(updatable, bundle)
    # A few bytes are read across and belong to nothing.
    assert done.status in (1, 3) or updatable.head() == published.commit(MINIMAL, 2), done.err
    if done.status:
        assert "hint: " in done.err
        updatable.require_unchanged(before)
    bundle.write_bytes(good)
    assert applied(updatable, bundle)["commit"] == published.commit(MINIMAL, 2)


def test_bundle_by_another_key_is_refused(
    maker: Maker, updatable: Client, published: Published
) -> None:
    bundle = maker.make(MINIMAL, "--from", "1")
    updatable.add_remote(NOWHERE)
    path = updatable.config / "remotes.d" / f"{REMOTE}.toml"
    text = path.read_text()
    path.write_text(text.replace(published.fingerprint, "A" * 40))
    words = ["pull", f"{REMOTE}:{bundle}", "--repo", updatable.repo, "--json"]
    before = updatable.head()
    done = run_here(*words, "--config-dir", updatable.config)
    assert done.status == 3
    check_message(done.err, "no valid signature")
    updatable.require_unchanged(before)


def test_pieces_of_another_bundle_under_a_right_index_are_refused(
    maker: Maker, updatable: Client
) -> None:
    """A whole bundle whose pieces are another's: what is where is a claim like any other."""
    bundle = maker.make(MINIMAL, "--from", "1")
    opened, data = Bundle.open(bundle), bundle.read_bytes()
    files = sorted(opened.files, key=lambda f: (f.repository, f.location))
    swapped = [
        type(file)(file.repository, file.location, other.pieces, other.whole)
        for file, other in zip(files, files[::-1], strict=True)
    ]
    index = dump_index(opened.refs, swapped)
    bundle.write_bytes(dump_start(index) + index + data[opened.start :])
    Bundle.open(bundle)
    before = updatable.head()
    done = apply(updatable, bundle)
    assert done.status in (1, 3), done.err
    updatable.require_unchanged(before)


def test_index_that_leads_elsewhere_leads_nowhere(maker: Maker, updatable: Client) -> None:
    bundle = maker.make(MINIMAL, "--from", "1")
    opened, data = Bundle.open(bundle), bundle.read_bytes()
    first, *rest = opened.files
    evil = type(first)(first.repository, "../../../../etc/passwd", first.pieces, first.whole)
    index = dump_index(opened.refs, [evil, *rest])
    bundle.write_bytes(dump_start(index) + index + data[opened.start :])
    before = updatable.head()
    assert apply(updatable, bundle).status in (1, 3)
    updatable.require_unchanged(before)


def test_what_is_no_bundle_is_told(client: Client, tmp_path: Path) -> None:
    other = tmp_path / "file"
    other.write_bytes(os.urandom(START.size * 2))
    client.add_remote(NOWHERE)
    done = apply(client, other)
    assert done.status == 3
    assert "not a bundle" in done.err
