"""Ctrl-C and SIGKILL at any time: nothing is broken, and what arrived is not fetched again."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.client.published import MINIMAL, Published, fsck, staged_objects
from tests.client.pulling import Client, await_true, rpm_requests
from tests.net.lying_mirror import LyingMirror, Request

_KERNEL, _PAINT = "kernel-core", "paint"


def _location(published: Published, name: str) -> str:
    return published.set_rpm(MINIMAL, 2).locations()[name]


def _arrived(published: Published, client: Client) -> set[str]:
    return published.set_rpm(MINIMAL, 2).arrived(client.repo)


def _await_quiet(client: Client, mirror: LyingMirror) -> None:
    """Wait until a stalled pull has done all that it can do."""
    before: tuple[int, int] = (-1, -1)
    since = time.monotonic()

    def quiet() -> bool:
        nonlocal before, since
        now = (len(mirror.log), len(staged_objects(client.repo)))
        if now != before:
            before, since = now, time.monotonic()
        return time.monotonic() - since > 1.0

    await_true(quiet)


def _await_stall(mirror: LyingMirror, path: str, after: int) -> None:
    await_true(lambda: any(one.sent == after for one in mirror.requests(path)))


def _rerun(client: Client, mirror: LyingMirror) -> Sequence[Request]:
    """Let the mirror be good and pull again; returns the requests for RPMs."""
    mirror.honest()
    seen = len(mirror.log)
    client.completes(own_process=True)
    assert not list(client.repo.glob("tmp/jigdo-packages"))
    return rpm_requests(mirror.log[seen:])


@pytest.mark.parametrize("package", [_KERNEL, _PAINT, "fixture-release"])
def test_kill_while_a_package_stalls_costs_only_its_rest(
    package: str, published: Published, mirror: LyingMirror, updatable: Client
) -> None:
    location = _location(published, package)
    after = (mirror.directory / location).stat().st_size // 2
    mirror.stall(after, location)
    updatable.add_remote(mirror.url)
    before = updatable.head()
    process = updatable.start()
    _await_stall(mirror, location, after)
    _await_quiet(updatable, mirror)
    process.kill()
    process.communicate()
    updatable.require_unchanged(before)
    first = {one.path for one in rpm_requests(mirror.log)}
    assert _arrived(published, updatable) >= first - {location}
    again = _rerun(updatable, mirror)
    size = (mirror.directory / location).stat().st_size
    # All others had arrived, and of this one half.
    wanted = [(location, f"bytes={after}-{size - 1}", size - after)]
    assert [(one.path, one.range, one.sent) for one in again] == wanted


_PLACES = {
    "repomd": ("repodata/repomd.xml", 100),
    "index": ("jigdo/jigdo-fixture-x86_64-minimal-1.1-1.noarch.rpm", 10),
    "tree": ("jigdo/jigdo-fixture-x86_64-minimal-1.1-1.noarch.rpm", 3000),
    "content": ("jigdo/jigdo-fixture-x86_64-minimal-1.1-1.noarch.rpm", 20_000),
}


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interruption_at_any_stage_loses_nothing(
    place: str,
    number: signal.Signals,
    published: Published,
    mirror: LyingMirror,
    updatable: Client,
) -> None:
    path, after = _PLACES[place]
    mirror.stall(after, path)
    updatable.add_remote(mirror.url)
    before = updatable.head()
    process = updatable.start()
    _await_stall(mirror, path, after)
    if place == "content":
        _await_quiet(updatable, mirror)
        assert rpm_requests(mirror.log)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert err.splitlines()[-1].startswith("interrupted")
        assert "run the same command again" in err
        assert "Traceback" not in err
    updatable.require_unchanged(before)
    arrived = _arrived(published, updatable)
    again = {one.path for one in _rerun(updatable, mirror)}
    assert not again & arrived
    if place == "content":
        assert not again


def test_interrupted_package_is_continued_by_range(
    published: Published, mirror: LyingMirror, updatable: Client
) -> None:
    location = _location(published, _KERNEL)
    mirror.stall(1_000_000, location)
    updatable.add_remote(mirror.url)
    process = updatable.start()
    _await_stall(mirror, location, 1_000_000)
    _await_quiet(updatable, mirror)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    size = (mirror.directory / location).stat().st_size
    again = _rerun(updatable, mirror)
    assert [one.range for one in again if one.path == location] == [f"bytes=1000000-{size - 1}"]


_DICE = random.Random(20)
_MOMENTS = [round(_DICE.uniform(0.0, 0.5), 3) for _ in range(6)]


@pytest.mark.parametrize("moment", _MOMENTS)
def test_kill_at_random_moments_loses_nothing(
    moment: float, published: Published, mirror: LyingMirror, client: Client
) -> None:
    """``moment`` is in seconds after the first request, on a fresh install."""
    client.add_remote(mirror.url)
    process = client.start()
    await_true(lambda: mirror._log)
    time.sleep(moment)
    process.kill()
    process.communicate()
    if not client.head():
        client.require_unchanged("")
    arrived = _arrived(published, client)
    again = {one.path for one in _rerun(client, mirror)}
    assert not again & arrived


def test_many_interruptions_in_a_row_still_end_in_the_very_commit(
    published: Published, mirror: LyingMirror, client: Client
) -> None:
    client.add_remote(mirror.url)
    dice = random.Random(7)
    arrived: set[str] = set()
    for _ in range(5):
        seen = len(mirror.log)
        process = client.start()
        await_true(lambda seen=seen: len(mirror._log) > seen)  # type: ignore[misc]
        time.sleep(dice.uniform(0.02, 0.35))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        # After its last line, while Python ends, the signal itself may end it.
        assert process.returncode in (0, 130, -signal.SIGINT), err
        assert "Traceback" not in err
        assert not arrived & {one.path for one in rpm_requests(mirror.log[seen:])}
        # What the server has sent may still have been on its way: it does not count.
        arrived |= _arrived(published, client)
        if client.head():
            break
    seen = len(mirror.log)
    client.completes()
    assert not arrived & {one.path for one in rpm_requests(mirror.log[seen:])}


def test_second_pull_is_told_of_the_first(mirror: LyingMirror, updatable: Client) -> None:
    mirror.stall(10, "repodata/repomd.xml")
    updatable.add_remote(mirror.url)
    first = updatable.start()
    await_true(lambda: mirror.requests("repodata/repomd.xml"))
    words = f"process {first.pid}, since", f"pull demo:{MINIMAL} --repo {updatable.repo}"
    updatable.refused("another process is at work in it", *words, status=75, own_process=True)
    first.kill()
    first.communicate()
    mirror.honest()
    updatable.completes()


def test_pulls_at_once_that_wait_are_one_pull(mirror: LyingMirror, updatable: Client) -> None:
    updatable.add_remote(mirror.url)
    processes = [updatable.start("--wait") for _ in range(3)]
    ends = [(process.communicate(timeout=60)[0], process.returncode) for process in processes]
    assert [status for _, status in ends] == [0, 0, 0]
    assert sorted(json.loads(out)["updated"] for out, _ in ends) == [False, False, True]
    fsck(updatable.repo)


def test_what_another_kind_of_pull_left_is_not_in_the_way(
    published: Published, mirror: LyingMirror, updatable: Client, tmp_path: Path
) -> None:
    """Partial files that are longer than the RPM, or wrong, are thrown away."""
    location = _location(published, _PAINT)
    (package,) = (
        p.ref
        for p in published.set_rpm(MINIMAL, 2).jigdo.head.packages
        if p.ref.location == location
    )
    place = updatable.repo / "tmp/jigdo-packages"
    place.mkdir()
    (place / f"{package.pkgid}.rpm").write_bytes(b"wrong")
    (place / f"{package.pkgid}.rpm.part").write_bytes(bytes(package.size + 1))
    updatable.add_remote(mirror.url)
    updatable.completes()
    assert [one.range for one in mirror.requests(location)] == [""]


def test_commit_that_was_marked_incomplete_is_completed_and_the_mark_goes(
    published: Published, mirror: LyingMirror, updatable: Client
) -> None:
    """As `ostree fsck --delete` marks one that it took something from."""
    updatable.add_remote(mirror.url)
    updatable.completes()
    commit = published.commit(MINIMAL, 2)
    (updatable.repo / "state" / f"{commit}.commitpartial").touch()
    max(updatable.repo.glob("objects/??/*.file"), key=lambda path: path.lstat().st_mtime).unlink()
    assert updatable.completes()["updated"]
    assert not list(updatable.repo.glob("state/*"))
    assert not updatable.completes()["updated"]
