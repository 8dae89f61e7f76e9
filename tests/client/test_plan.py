"""`plan` and `pull --dry-run`: what is announced is what moves, and nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from composer.checksum import ContentDigest
from tests.client.published import MINIMAL, Published, copy_of
from tests.client.pulling import REMOTE, Client, check_message, rpm_requests, run_here
from tests.net.lying_mirror import LyingMirror

KINDS = ("set", "rpm", "delta", "new")


@pytest.fixture
def deltas(with_deltas: Path, tmp_path: Path) -> Iterator[LyingMirror]:
    directory = copy_of(with_deltas, tmp_path / "deltas")
    with LyingMirror(directory) as server:
        yield server
    shutil.rmtree(directory)


def plan(client: Client, *words: object, command: str = "plan") -> Any:
    done = _plan(client, *words, command=command)
    assert done.status == 0, done.err
    return done.document


def _plan(client: Client, *words: object, command: str = "plan", json: bool = True) -> Any:
    argv = [command, f"{REMOTE}:{MINIMAL}", "--repo", client.repo, "--config-dir", client.config]
    return run_here(*argv, *words, *(["--json"] if json else []))


def everything(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with its size and time: all that a writer would change."""
    return {
        str(path): ((status := path.lstat()).st_size, status.st_mtime_ns)
        for path in directory.rglob("*")
    }


def require_announced(client: Client, server: LyingMirror, announced: Any, *words: str) -> None:
    """Pull, and compare what was announced with the server's log, byte for byte."""
    before = len(server.log)
    read = server.sent()
    assert announced["transfers"]["set"] == {"bytes": read, "requests": before}
    done = _plan(client, *words, command="pull")
    assert done.status == 0, done.err
    log = server.log[before:]
    assert sum(one.sent for one in log) == announced["bytes"]
    assert len(log) == announced["requests"]
    assert sum(one.sent for one in rpm_requests(log)) == announced["transfers"]["rpm"]["bytes"]
    assert len(rpm_requests(log)) == announced["transfers"]["rpm"]["requests"]
    moved = done.document["moved"]
    assert {kind: announced["transfers"][kind] for kind in KINDS} == {k: moved[k] for k in KINDS}
    assert client.head() == client.published.commit(MINIMAL, 2)


@pytest.mark.parametrize("prefer", ["bytes", "balanced", "cpu"])
def test_update_by_deltas_moves_what_was_announced(
    deltas: LyingMirror, updatable: Client, prefer: str
) -> None:
    updatable.add_remote(deltas.url)
    before = everything(updatable.place)
    announced = plan(updatable, "--prefer", prefer)
    assert everything(updatable.place) == before
    assert announced["transfers"]["delta"]["bytes"] > 0
    require_announced(updatable, deltas, announced, "--prefer", prefer)


@pytest.mark.parametrize("have", ["client", "updatable"])
def test_pull_of_packages_moves_what_was_announced(
    mirror: LyingMirror, have: str, request: pytest.FixtureRequest
) -> None:
    client: Client = request.getfixturevalue(have)
    client.add_remote(mirror.url)
    announced = plan(client, "--dry-run", command="pull")
    assert announced["transfers"]["rpm"]["bytes"] > 0
    assert announced["packages"] == announced["transfers"]["rpm"]["requests"]
    require_announced(client, mirror, announced)


def test_what_an_interrupted_pull_kept_is_not_announced(
    mirror: LyingMirror, client: Client
) -> None:
    client.add_remote(mirror.url)
    whole = plan(client)
    paths = sorted(mirror.directory.glob("Packages/**/*.rpm"))
    packages = client.repo / "tmp/jigdo-packages"
    packages.mkdir()
    wanted = client.published.set_rpm(MINIMAL, 2).locations().values()
    kept, cut = [path for path in paths if str(path.relative_to(mirror.directory)) in wanted][:2]
    for path, suffix, size in ((kept, ".rpm", None), (cut, ".rpm.part", 1000)):
        data = path.read_bytes()
        (packages / f"{ContentDigest.of(data)}{suffix}").write_bytes(data[:size])
    seen = len(mirror.log)
    left = plan(client)
    assert left["bytes"] == whole["bytes"] - kept.stat().st_size - 1000
    assert left["requests"] == whole["requests"] - 1
    read = len(mirror.log)
    assert read == 2 * seen
    assert _plan(client, command="pull").status == 0
    assert sum(one.sent for one in mirror.log[read:]) == left["bytes"]
    assert len(mirror.log[read:]) == left["requests"]


def test_nothing_new_is_said(mirror: LyingMirror, updatable: Client) -> None:
    updatable.add_remote(mirror.url)
    assert _plan(updatable, command="pull").status == 0
    announced = plan(updatable)
    assert announced["needed"] is False
    assert announced["bytes"] == announced["transfers"]["set"]["bytes"] > 0
    assert "already at" in _plan(updatable, json=False).out


def test_alternatives_show_bytes_with_and_without_deltas(
    deltas: LyingMirror, updatable: Client
) -> None:
    updatable.add_remote(deltas.url)
    announced = plan(updatable)
    ways = announced["alternatives"]
    assert set(ways) == {"bytes", "balanced", "cpu", "no-deltas"}
    moved = sum(announced["transfers"][kind]["bytes"] for kind in ("rpm", "delta", "new"))
    assert ways["balanced"]["bytes"] == moved
    assert ways["bytes"]["bytes"] <= ways["balanced"]["bytes"] <= ways["no-deltas"]["bytes"]
    assert ways["cpu"]["cpu_seconds"] == ways["no-deltas"]["cpu_seconds"] == 0
    assert ways["no-deltas"]["transfers"]["delta"] == {"bytes": 0, "requests": 0}
    # What is said of doing without deltas is what such a mirror's pull would move.
    assert ways["no-deltas"]["transfers"]["rpm"]["requests"] > 0


def test_text_has_the_same_numbers(deltas: LyingMirror, updatable: Client) -> None:
    updatable.add_remote(deltas.url)
    announced = plan(updatable)
    said = _plan(updatable, "--explain", "/usr/lib/os-release", json=False).out
    assert f"({announced['bytes']} bytes)" in said
    assert "--prefer balanced" in said
    assert "<- this one" in said


# Explanations


def test_package_is_explained(deltas: LyingMirror, updatable: Client) -> None:
    updatable.add_remote(deltas.url)
    names = updatable.published.set_rpm(MINIMAL, 2).locations()
    by_missing = {
        name: found
        for name in sorted(names)
        if (found := plan(updatable, "--explain", name)["explanation"])["missing"]
    }
    assert 0 < len(by_missing) < len(names)
    for found in by_missing.values():
        assert found["taken"]["delta"] == found["missing"] == sum(found["taken"].values())
        by_kind = {way["kind"]: way for way in found["ways"]}
        assert by_kind["delta"]["chosen"]
        assert not by_kind["rpm"]["chosen"]
        assert by_kind["rpm"]["bytes"] > 0
    same = next(name for name in sorted(names) if name not in by_missing)
    assert "all of it is here" in _plan(updatable, "--explain", same, json=False).out


def test_path_is_explained(mirror: LyingMirror, client: Client) -> None:
    client.add_remote(mirror.url)
    found = plan(client, "--explain", "/usr/lib/os-release")["explanation"]
    assert found["subject"] == "/usr/lib/os-release"
    assert found["objects"] == found["missing"] == 1
    [kind] = found["taken"]
    assert any(way["chosen"] and way["kind"] == kind for way in found["ways"])


def test_rpm_of_a_cache_is_explained_as_free(
    published: Published, mirror: LyingMirror, client: Client
) -> None:
    client.add_remote(mirror.url)
    words = ["--explain", "/usr/lib/os-release", "--rpm-cache", published.packages(2)]
    [way] = [way for way in plan(client, *words)["explanation"]["ways"] if way["kind"] == "rpm"]
    assert way["bytes"] == 0
    assert way["chosen"]
    assert way["name"].endswith(", on this machine")


@pytest.mark.parametrize("question", ["/usr/lib/nothing", "/usr/lib/nothing/here", "no-package"])
def test_what_the_commit_has_not_is_told(
    mirror: LyingMirror, client: Client, question: str
) -> None:
    client.add_remote(mirror.url)
    done = _plan(client, "--explain", question)
    assert done.status == 1
    check_message(done.err, question)
