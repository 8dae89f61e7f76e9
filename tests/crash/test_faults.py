"""A fault at any call that changes a file: what is left is the old state or the new one, whole.

``make test`` takes a fixed sample; with JIGDO_CRASHALL (`make crash-proof`) every call is hit.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.published import Published
from tests.crash.conftest import ALL, EVERY, TABLE
from tests.crash.layer import (
    COUNTED,
    IO_ERROR,
    KILL,
    NO_SPACE,
    READ_COUNTED,
    READ_ERROR,
    TEAR,
    Ended,
    Fault,
    Runner,
)
from tests.crash.operations import (
    InMirror,
    InTree,
    Moved,
    Operation,
    in_repositories,
    in_sysroots,
)
from tests.mirror.histories import History
from tests.net.lying_mirror import LyingMirror

_RANDOM = int(os.environ.get("JIGDO_CRASH_RANDOM", "100" if ALL else "2"))
_SAMPLE = 2
# So that several can work on an operation.
_SHARES = 4 if ALL else 1
_REPOSITORY = ["pull update", "pull fresh", "prune", "repair", *(["by deltas"] if ALL else [])]
_SYSROOT = ("deploy", "deploy, another goes", "rollback", "undeploy")

pytestmark = pytest.mark.timeout(0 if ALL else 120)

Made = Callable[[str], "Scene"]


class Scene:
    """An operation with its state to begin with, and how it goes without a fault."""

    def __init__(self, operation: Operation, place: Path, runner: Runner) -> None:
        self.operation, self._runner = operation, runner
        self.root, self._start = place / "root", place / "start"
        place.mkdir()
        self._start.mkdir()
        operation.prepare(self._start)

    def reset(self) -> None:
        """Go back to the beginning."""
        subprocess.run(["rm", "-rf", self.root], check=True)
        subprocess.run(["cp", "-a", self._start, self.root], check=True)

    def run(self, fault: Fault, number: int = 0, *, workers: int = 1) -> Ended:
        """Run the command with a fault."""
        words = self.operation.words(self.root)
        if {"pull", "fsck"} & set(words):
            words += ["--workers", str(workers)]
        return self._runner.run(words, self.root, fault, number)

    def completes(self) -> None:
        """Run again, which must lead to the new state."""
        done = self.run(COUNTED)
        assert done.status in (0, 77), done.err
        assert self.operation.check(self.root), "the second run did not complete it"


@pytest.fixture(scope="module")
def scenes(
    published: Published, history: History, env: dict[str, str], fast: Path, runner: Runner
) -> Made:
    """Gives the scene of an operation, by name; made once."""
    known: dict[str, Operation] = {one.name: one for one in in_repositories(published, env)}
    known |= {one.name: one for one in in_sysroots(fast / "no-remotes")}
    known["publish"] = InTree("publish", published, fast / "keys")
    known["mirror prune"] = InMirror("mirror prune", history)
    made: dict[str, Scene] = {}

    def make(name: str) -> Scene:
        if name not in made:
            # Without it libostree makes deployments immutable, here too.
            os.environ["OSTREE_SYSROOT_DEBUG"] = "mutable-deployments"
            made[name] = Scene(known[name], fast / name.replace(" ", "-"), runner)
        return made[name]

    return make


def _points(name: str, calls: tuple[str, ...], share: int, kinds: tuple[str, ...]) -> list[int]:
    """Numbers of calls to be hit: all of a share, or a sample with at most one of a kind."""
    numbers = [n for n, call in enumerate(calls, 1) if not kinds or call in kinds]
    if ALL:
        return numbers[::EVERY][share::_SHARES]
    dice = random.Random(name)
    found: dict[str, int] = {}
    for number in dice.sample(numbers, len(numbers)):
        found.setdefault(calls[number - 1], number)
    return sorted(dice.sample(sorted(found.values()), min(_SAMPLE, len(found))))


def _require_told(ended: Ended, fault: Fault) -> None:
    """Require a documented status and a message, as docs/exit-status.md has them."""
    assert "Traceback" not in ended.err, ended.err
    allowed = (0, 4) if fault is NO_SPACE else (0, 1, 3, 5)
    assert ended.status in allowed, f"status {ended.status}\n{ended.err}"
    if ended.status:
        lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
        assert lines, f"it says nothing:\n{ended.err}"
        assert "\nhint: " in ended.err, f"no hint:\n{ended.err}"


_WRITES = ("write", "pwrite", "pwrite64", "copy_file_range", "sendfile", "sendfile64")
_FAULTS = {"kill": KILL, "tear": TEAR, "full": NO_SPACE, "eio": IO_ERROR, "read": READ_ERROR}


@pytest.mark.parametrize("share", range(_SHARES))
@pytest.mark.parametrize("kind", _FAULTS)
@pytest.mark.parametrize("name", [*_REPOSITORY, *_SYSROOT, "publish", "mirror prune"])
def test_fault_at_any_call_leaves_the_old_or_the_new(
    name: str,
    kind: str,
    share: int,
    published: Published,
    honest: LyingMirror,
    scenes: Made,
    record_property: Callable[[str, object], None],
) -> None:
    scene, fault = scenes(name), _FAULTS[kind]
    scene.reset()
    whole = scene.run(READ_COUNTED if fault.reads else COUNTED)
    assert whole.status == 0, whole.err
    assert scene.operation.check(scene.root)
    points = _points(name + kind, whole.calls, share, _WRITES if fault is TEAR else ())
    moved = Moved(published, honest) if name.startswith("pull") else None
    hits = 0
    torn = []
    for number in points:
        scene.reset()
        ended = scene.run(fault, number)
        hits += bool(ended.hits)
        try:
            _require_whole(scene, ended, fault, moved)
        except (AssertionError, subprocess.CalledProcessError) as error:
            call = ended.calls[number - 1 : number]
            torn.append(f"call {number}, {call}: status {ended.status}: {error}\n{ended.err}")
    record_property(TABLE, (name, fault.name, len(points), hits, len(torn), 0))
    assert not torn, "\n\n".join([f"{len(torn)} of {len(points)} points", *torn[:5]])
    # As many pieces as a file comes in, so many writes: the last call may not be reached.
    assert hits >= len(points) * 0.9 - 1


def _require_whole(scene: Scene, ended: Ended, fault: Fault, moved: Moved | None) -> None:
    """Require what must hold after ``ended``."""
    if fault in (KILL, TEAR):
        assert ended.was_killed or not ended.hits, f"status {ended.status}\n{ended.err}"
    else:
        _require_told(ended, fault)
    new = scene.operation.check(scene.root)
    assert new or ended.status, "it says that it is done, and it is not"
    if new and not scene.operation.repeatable:
        return
    if moved is None:
        scene.completes()
        return
    here = moved.on_disk(scene.root / "repo")
    moved.since()
    scene.completes()
    # Not a byte of what had reached the disk.
    moved.require_no_more(here)


@pytest.mark.parametrize(
    ("name", "kind", "call"),
    [("rollback", "eio", "fsync"), ("undeploy", "kill", "unlink")],
)
def test_fault_at_each_of_these_calls_leaves_the_old_or_the_new(
    name: str, kind: str, call: str, scenes: Made
) -> None:
    """Once, all boot loader entries went, and a commit was left without its tree."""
    scene = scenes(name)
    scene.reset()
    calls = scene.run(COUNTED).calls
    numbers = [number for number, one in enumerate(calls, 1) if one == call]
    assert numbers
    for number in numbers[:: len(numbers) // 12 + 1]:
        scene.reset()
        ended = scene.run(_FAULTS[kind], number)
        assert ended.hits
        _require_whole(scene, ended, _FAULTS[kind], None)


@pytest.mark.parametrize("name", ["pull update", "pull fresh", "repair"])
def test_killed_at_random_with_all_workers(
    name: str,
    scenes: Made,
    published: Published,
    honest: LyingMirror,
    record_property: Callable[[str, object], None],
) -> None:
    scene = scenes(name)
    scene.reset()
    calls = len(scene.run(COUNTED, workers=4).calls)
    moved = Moved(published, honest) if name.startswith("pull") else None
    dice, hits = random.Random(5), 0
    for _ in range(_RANDOM):
        scene.reset()
        ended = scene.run(KILL, dice.randint(1, calls), workers=4)
        hits += ended.was_killed
        _require_whole(scene, ended, KILL, moved)
    record_property(TABLE, (name, "SIGKILL, 4 workers, at random", _RANDOM, hits, 0, 0))
