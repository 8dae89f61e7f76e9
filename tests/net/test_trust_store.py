"""What a client has seen is not forgotten: by no kill, no full disk, no second process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.client.remote import find_remote, remove_remote
from composer.errors import ComposerError, VerificationFailed
from composer.net.location import Mirrors
from composer.net.statement import role_of
from composer.net.trust import find_signed_entry
from composer.net.trust_store import TrustStore
from tests.trust.scene import OTHER, REF, Scene, entry

ROLE = role_of(REF)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene.play(tmp_path) as made:
        yield made


def command(scene: Scene) -> list[str]:
    words = ["check", f"demo:{REF}", "--repo", str(scene.repo), "--config-dir", str(scene.config)]
    return [sys.executable, "-m", "composer", *words]


def test_no_write_that_fails_makes_it_forget(scene: Scene) -> None:
    """strace breaks each rename in turn; before and after, the old state is refused."""
    scene.believes(1)
    old = scene.saved()
    scene.publish(entry(2))
    scene.believes(2)
    new = scene.saved()
    scene.publish(entry(3))
    newest = scene.saved()
    for number in range(1, 6):
        scene.restore(newest)
        inject = f"inject=/rename.*:signal=SIGKILL:when={number}"
        argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=/rename.*", "-e", inject]
        status = subprocess.run([*argv, *command(scene)], capture_output=True).returncode
        scene.restore(old)
        scene.refuses("older than what this machine has seen")
        if status == 0:
            break
    assert 1 < number < 6
    scene.restore(new)
    scene.refuses("older than what this machine has seen")
    scene.restore(newest)
    scene.believes(3)


@pytest.mark.parametrize("name", ["root", "timestamp", "snapshot", "targets", ROLE])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_state_is_fetched_again(scene: Scene, name: str, damage: str) -> None:
    scene.publisher.rotate("targets")
    scene.publish(entry(2))
    scene.believes(2)
    [path] = (scene.config / "state").glob(f"*/{name}.json")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.unlink()
    scene.believes(2)


def test_processes_at_once_see_one_state_after_the_other(scene: Scene) -> None:
    """While the publisher publishes; each sees a whole state, and none goes back."""
    for version in range(2, 6):
        started = [
            subprocess.Popen(command(scene), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for _ in range(3)
        ]
        # Role files and snapshot first, as a mirror that is copied well.
        scene.publisher.publish(entry(version), entry(version, OTHER))
        for path in sorted(
            (scene.publisher.directory / "tuf").iterdir(), key=lambda one: one.name[0] == "t"
        ):
            part = scene.tuf / f".{path.name}"
            part.write_bytes(path.read_bytes())
            part.replace(scene.tuf / path.name)
        for process in started:
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
    scene.believes(5)


def test_killed_at_random_it_still_knows(scene: Scene) -> None:
    rng = random.Random(5)
    scene.believes(1)
    old = scene.saved()
    for version in range(2, 8):
        scene.publish(entry(version))
        process = subprocess.Popen(
            command(scene), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.05, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if version == 2:
            scene.believes(2)
    scene.believes(7)
    scene.restore(old)
    scene.refuses("older than what this machine has seen")


def test_removed_remote_leaves_nothing(scene: Scene) -> None:
    scene.believes(1)
    state = scene.config / "state"
    (state / "demo.other.0123456789abcdef").mkdir()
    remove_remote("demo", scene.config)
    assert [path.name for path in state.iterdir()] == ["demo.other.0123456789abcdef"]


def test_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with (
        pytest.raises(ComposerError, match="what has been seen of a remote"),
        TrustStore(tmp_path / "file", "demo", b"").locked(),
    ):
        pass


@given(data=st.data())
@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_no_damage_to_a_statement_is_believed(scene: Scene, data: st.DataObject) -> None:
    """A byte flipped or bytes cut anywhere: refused in words, or what was signed."""
    honest = scene.saved()
    name = data.draw(st.sampled_from(["timestamp", "1.snapshot", "2.targets", f"1.{ROLE}"]))
    damaged = bytearray(honest[f"{name}.json"])
    place = data.draw(st.integers(0, len(damaged) - 1))
    if data.draw(st.booleans()):
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del damaged[place : place + data.draw(st.integers(1, 400))]
    (scene.tuf / f"{name}.json").write_bytes(damaged)
    remote = find_remote("demo", scene.config)
    fresh = scene.place / f"state{time.monotonic_ns()}"
    store = TrustStore(fresh, "x", scene.publisher.root.read_bytes())
    mirrors = Mirrors.parse(*remote.urls)
    try:
        assert find_signed_entry(mirrors, REF, store).entry == entry(1)
    except VerificationFailed:
        pass  # how it is said is tested elsewhere
    finally:
        scene.restore(honest)
