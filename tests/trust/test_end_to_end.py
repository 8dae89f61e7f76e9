"""From a shell: an operator who signs, a mirror, a client that demands it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from composer.mirror.trust import stated_locations
from tests.client.published import (
    BASE,
    MINIMAL,
    Published,
    build_set,
    copy_of,
    put,
    read_pointer,
    write_pointer,
)
from tests.client.pulling import REMOTE, Client
from tests.commands import Done, jigdo, ostree
from tests.net.lying_mirror import LyingMirror


@dataclass(frozen=True, slots=True)
class Signed:
    """A mirror at generation 1 with signed statements, which is brought to generation 2."""

    published: Published
    mirror: LyingMirror
    keys: Path
    root: Path

    def update(self, *options: object) -> Done:
        """Publish generation 2."""
        published, place = self.published, self.keys.parent
        words = ["set", "build", "--from", "none", "--repo", published.repo, "--ref", MINIMAL]
        words += ["--output", self.mirror.directory, "--packages", published.packages(2)]
        copy_of(published.packages(2) / "Packages", self.mirror.directory / "Packages")
        return jigdo(*words, "--cachedir", place / "cache", *options)


@pytest.fixture
def signed(published: Published, tmp_path: Path) -> Iterator[Signed]:
    directory, keys = published.mirror(1, tmp_path / "mirror"), tmp_path / "keys"
    words = ["mirror", "keys", "init", directory, "--tuf-keys", keys, "--json"]
    root = Path(jigdo(*words).document["root"])
    with LyingMirror(directory) as mirror:
        yield Signed(published, mirror, keys, root)
    shutil.rmtree(directory)


@pytest.mark.parametrize("gpg", [False, True], ids=["tuf", "tuf+gpg"])
def test_update_is_found_pulled_and_then_nothing_new(
    signed: Signed, updatable: Client, gpg: bool
) -> None:
    words = ["remote", "add", REMOTE, signed.mirror.url, "--tuf-root", signed.root]
    words += ["--gpg-key", signed.published.key] if gpg else []
    shown = jigdo(*words, env=updatable.env).out
    assert f"trust {'tuf+gpg' if gpg else 'tuf'}" in shown
    check = ["check", f"{REMOTE}:{MINIMAL}", "--repo", updatable.repo]
    assert "nothing newer" in jigdo(*check, env=updatable.env, status=77).out
    signed.update("--tuf-keys", signed.keys)
    assert f"new: {MINIMAL}" not in jigdo(*check, env=updatable.env).out
    assert not updatable.pull()["moved"]["trust"]["bytes"] > 10_000
    assert updatable.head() == signed.published.commit(MINIMAL, 2)
    before = signed.mirror.sent()
    idle = jigdo(*check, "--json", env=updatable.env, status=77).document
    assert idle["moved"]["bytes"] == signed.mirror.sent() - before < 10_000
    assert idle["moved"]["requests"] <= 2  # is there a newer root, and the timestamp
    # Neither the package list nor the pointer was needed.
    assert not [one for one in signed.mirror.log if one.path.startswith("repodata/")]


def test_set_that_is_not_signed_for_is_not_there_yet(signed: Signed, updatable: Client) -> None:
    """The operator published without the keys, and is told; `mirror refresh` makes it good."""
    words = ["remote", "add", REMOTE, signed.mirror.url, "--tuf-root", signed.root]
    jigdo(*words, env=updatable.env)
    assert "mirror refresh" in signed.update().err
    check = ["check", f"{REMOTE}:{MINIMAL}", "--repo", updatable.repo]
    jigdo(*check, env=updatable.env, status=77)
    jigdo("mirror", "refresh", signed.mirror.directory, "--tuf-keys", signed.keys)
    jigdo(*check, env=updatable.env)
    updatable.completes()


def test_signed_set_stays_until_another_is_signed_for(signed: Signed, updatable: Client) -> None:
    """The operator built the newest anew, twice, without the keys."""
    words = ["remote", "add", REMOTE, signed.mirror.url, "--tuf-root", signed.root]
    jigdo(*words, env=updatable.env)
    signed.update("--tuf-keys", signed.keys)
    stated = stated_locations(signed.mirror.directory)
    signed.update("--full", "paint")
    signed.update("--full", "docs-viewer")
    place = signed.mirror.directory
    assert stated < {str(one.relative_to(place)) for one in (place / "jigdo").iterdir()}
    updatable.completes()
    jigdo("mirror", "refresh", place, "--tuf-keys", signed.keys)
    assert stated != stated_locations(place)


@pytest.mark.attack("arbitrary software", "names another set in the pointer, which nobody signed")
def test_pointer_does_not_count_beside_signed_statements(signed: Signed, updatable: Client) -> None:
    words = ["remote", "add", REMOTE, signed.mirror.url, "--tuf-root", signed.root]
    jigdo(*words, env=updatable.env)
    document = read_pointer(signed.mirror.directory)
    for entry in document["refs"]:
        entry["commit"] = "0" * 64
    write_pointer(signed.mirror.directory, document)
    updatable.completes(generation=1)


@pytest.mark.attack("arbitrary software", "serves another set's bytes where the signed one was")
def test_other_bytes_of_the_signed_set_are_refused(signed: Signed, updatable: Client) -> None:
    words = ["remote", "add", REMOTE, signed.mirror.url, "--tuf-root", signed.root]
    jigdo(*words, env=updatable.env)
    signed.update("--tuf-keys", signed.keys)
    document = read_pointer(signed.mirror.directory)
    [entry] = [one for one in document["refs"] if one["ref"] == MINIMAL]
    rpm = signed.mirror.directory / entry["set"]["location"]
    data = bytearray(rpm.read_bytes())
    middle = entry["set"]["offset"] + entry["index"]["offset"] + entry["index"]["size"] // 2
    data[middle] ^= 1
    put(rpm, bytes(data))
    updatable.refused(entry["set"]["location"], status=3)


@pytest.mark.attack("arbitrary software", "stole all TUF keys; the commit lacks the GPG key's hand")
def test_both_signatures_are_demanded(signed: Signed, updatable: Client, tmp_path: Path) -> None:
    words = ["remote", "add", REMOTE, signed.mirror.url, "--tuf-root", signed.root]
    jigdo(*words, "--gpg-key", signed.published.key, env=updatable.env)
    repo = tmp_path / "forge"
    ostree(repo, "init", "--mode=bare-user")
    ostree(repo, "pull-local", signed.published.repo, MINIMAL)
    tree = [f"--branch={MINIMAL}", f"--tree=ref={MINIMAL}", "--subject=forged"]
    ostree(repo, "commit", *tree, "--parent=none")
    directory, published = signed.mirror.directory, signed.published
    copy_of(published.packages(2) / "Packages", directory / "Packages")
    build_set(repo, MINIMAL, published.packages(2), directory, tmp_path / "cache")
    jigdo("mirror", "refresh", directory, "--tuf-keys", signed.keys)
    updatable.refused("not signed", status=3)


@pytest.mark.attack("rollback", "without TUF: serves an older set that was rightly signed by GPG")
def test_older_commit_is_refused_without_signed_statements_too(
    published: Published, client: Client, tmp_path: Path
) -> None:
    client.add_remote(published.root / "mirror2")
    client.completes()
    client.add_remote(published.root / "mirror1")
    client.refused("older than the one that is here", "--allow-downgrade", status=3)
    words = ["pull", f"{REMOTE}:{MINIMAL}", "--repo", client.repo, "--disable-fsync"]
    jigdo(*words, "--allow-downgrade", env=client.env)
    assert client.head() == published.commit(MINIMAL, 1)


@pytest.mark.attack("wrong ref", "without TUF: serves another ref's commit, rightly signed by GPG")
def test_commit_of_another_ref_is_refused(
    published: Published, updatable: Client, tmp_path: Path
) -> None:
    repo, mirror = copy_of(published.repo, tmp_path / "forge"), tmp_path / "mirror"
    put(repo / "refs/heads" / MINIMAL, published.commit(BASE, 2).encode() + b"\n")
    build_set(repo, MINIMAL, published.packages(2), mirror, tmp_path / "cache")
    updatable.add_remote(mirror)
    updatable.refused(MINIMAL, f"made for {BASE}", status=3)
    shutil.rmtree(repo)
    shutil.rmtree(mirror)


def test_check_works_without_signed_statements_too(published: Published, client: Client) -> None:
    check = ["check", f"{REMOTE}:{MINIMAL}", "--repo", client.repo, "--json"]
    client.add_remote(published.root / "mirror1")
    told = jigdo(*check, env=client.env).document
    assert (told["new"], told["signed"], told["expires"]) == (True, False, None)
    client.completes(generation=1)
    assert not jigdo(*check, env=client.env, status=77).document["new"]
    client.add_remote(published.root / "mirror2")
    assert jigdo(*check, env=client.env).document["commit"] == published.commit(MINIMAL, 2)


def _updated(signed: Signed, client: Client) -> list[object]:
    """Publish and pull generation 2; returns the words that pull generation 1 again."""
    words = ["remote", "add", REMOTE, signed.mirror.url, "--tuf-root", signed.root]
    jigdo(*words, env=client.env)
    signed.update("--tuf-keys", signed.keys)
    client.completes()
    old = signed.published.commit(MINIMAL, 1)
    return ["pull", f"{REMOTE}:{MINIMAL}@{old}", "--repo", client.repo, "--disable-fsync"]


def test_older_version_that_is_signed_for_is_pulled(signed: Signed, updatable: Client) -> None:
    pull = _updated(signed, updatable)
    jigdo(*pull, env=updatable.env)
    assert updatable.head() == signed.published.commit(MINIMAL, 1)
    unknown = jigdo(*pull[:1], f"{REMOTE}:{MINIMAL}@9.9", *pull[2:], env=updatable.env, status=1)
    assert "no set of version 9.9" in unknown.err


@pytest.mark.attack("arbitrary software", "lists another set as an older version that is asked for")
def test_list_of_older_versions_counts_only_as_it_is_signed(
    signed: Signed, updatable: Client
) -> None:
    pull = _updated(signed, updatable)
    directory = signed.mirror.directory
    # The operator lists another one without the keys: to a client, a lie like any.
    words = ["set", "build", "--from", "none", "--repo", signed.published.repo, "--ref", MINIMAL]
    words += ["--commit", signed.published.commit(MINIMAL, 1), "--full", "paint"]
    words += ["--packages", signed.published.packages(1), "--output", directory]
    jigdo(*words, "--cachedir", signed.keys.parent / "cache")
    # The list that is signed for lies beside the statements; nobody can change that unseen.
    (path,) = (directory / "tuf").glob("*.versions.json")
    path.write_bytes(path.read_bytes().replace(b'"version":"1"', b'"version":"0"'))
    done = jigdo(*pull, env=updatable.env, status=3)
    assert "not the one that is signed for" in done.err
    assert updatable.head() == signed.published.commit(MINIMAL, 2)
    jigdo("mirror", "refresh", directory, "--tuf-keys", signed.keys)
    jigdo(*pull, env=updatable.env)
    assert updatable.head() == signed.published.commit(MINIMAL, 1)
