"""A power cut at any call that changes a file: what was not flushed to the disk is gone.

The command works on a file system on a loop device and pauses before a call; the file behind the
device is copied and the copy mounted, as after a reboot: its journal is replayed.  With another
program's fsync just before, all of the metadata so far is on the disk, and of the contents only
what was flushed: so a file that is renamed before it is flushed would be found empty.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.client.published import Published
from tests.client.pulling import REMOTE
from tests.crash.conftest import ALL, EVERY, TABLE, mounted
from tests.crash.layer import COUNTED, Runner
from tests.crash.operations import InTree, Moved, Operation, in_repositories, in_sysroots
from tests.net.lying_mirror import LyingMirror

_SAMPLE = 2
# A fixture's update is smaller than what may be at risk: here it is a 64th of it.
_SETTING = {
    "composer.jigdo.batches:BATCH_BYTES": 1 << 20,
    "composer.jigdo.batches:FETCHED_BYTES": 16 << 14,
    "composer.net.packages:WINDOW": 24 << 14,
}
_AT_RISK = 1 << 20
_OPERATIONS = ["pull update", "prune", "repair", "deploy", "rollback", "undeploy", "publish"]
_OPERATIONS += ["by deltas", "deploy, another goes"] if ALL else []

_KINDS = [kind for kind in ("ext4", "xfs") if shutil.which(f"mkfs.{kind}")]

pytestmark = pytest.mark.timeout(0 if ALL else 120)


class Disk:
    """A file system in a file, mounted."""

    def __init__(self, image: Path, kind: str) -> None:
        self.image, self.place = image, image.with_suffix(".mounted")
        self._cuts = 0
        with image.open("wb") as stream:
            stream.truncate(384 << 20 if kind == "xfs" else 128 << 20)
        force = "-f" if kind == "xfs" else "-F"
        subprocess.run([f"mkfs.{kind}", "-q", force, image], check=True, capture_output=True)
        # Nothing is to reach the disk because time has passed.
        options = "loop,commit=600" if kind == "ext4" else "loop"
        mounted(self.place, "-o", options, image)

    def commit_journal(self) -> None:
        """Do as another program that flushes a file of its own."""
        handle = os.open(self.place / "another", os.O_WRONLY | os.O_CREAT)
        os.write(handle, b"x")
        os.fsync(handle)
        os.close(handle)

    def digest(self) -> bytes:
        """Tell states of the disk apart."""
        found = hashlib.blake2b()
        with self.image.open("rb") as stream:
            end = 0
            while True:
                try:
                    start = os.lseek(stream.fileno(), end, os.SEEK_DATA)
                except OSError:
                    return found.digest()
                end = os.lseek(stream.fileno(), start, os.SEEK_HOLE)
                stream.seek(start)
                found.update(b"%d %d" % (start, end))
                found.update(stream.read(end - start))

    @contextmanager
    def after_a_cut(self) -> Iterator[Path]:
        """Mount what is on the disk now, as the next boot finds it."""
        # A loop device that is still there for the last one would be taken again.
        self._cuts += 1
        copy = self.image.with_suffix(f".cut-{self._cuts}")
        subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
        place = mounted(self.image.with_suffix(".after"), "-o", "loop", copy)
        try:
            # libostree takes what is staged for lost when it is of another boot.
            for staged in place.glob("root/repo/tmp/staging-*"):
                staged.rename(staged.with_name(f"staging-{'0' * 8}{staged.name[16:]}"))
            yield place / "root"
        finally:
            subprocess.run(["umount", place], check=True)
            copy.unlink()


@pytest.fixture(scope="module")
def again(
    published: Published, env: dict[str, str], fast: Path
) -> Iterator[tuple[Runner, LyingMirror]]:
    """What runs commands after a cut, from a mirror of their own."""
    config = fast / "config2"
    shutil.copytree(env["JIGDO_COMPOSER_CONFIG"], config)
    with LyingMirror(published.root / "mirror2") as mirror:
        published.write_remote(config, REMOTE, mirror.url)
        with Runner(fast / "runner2", env | {"JIGDO_COMPOSER_CONFIG": str(config)}) as made:
            yield made, mirror


Chosen = Callable[[int, str], bool]


def _chosen(name: str) -> Chosen:
    """Say at which calls the power goes."""
    if not ALL:
        dice = random.Random(name)
        places = set(dice.sample(range(100 if "pull" in name else 5, 500), 150))
        left = [_SAMPLE]

        def few(number: int, call: str) -> bool:
            wanted = left[0] > 0 and number in places and call not in ("write", "fsync")
            left[0] -= wanted
            return wanted

        return few
    # A write that nobody flushed is lost whichever one it is.
    return lambda number, call: number % (EVERY * (16 if call == "write" else 1)) == 0


Explore = Callable[..., "_Cuts"]


@pytest.fixture
def explore(
    published: Published,
    fast: Path,
    env: dict[str, str],
    runner: Runner,
    again: tuple[Runner, LyingMirror],
    monkeypatch: pytest.MonkeyPatch,
) -> Explore:
    """Run an operation, by name, and cut its power at calls that are chosen, and after it."""
    monkeypatch.setenv("OSTREE_SYSROOT_DEBUG", "mutable-deployments")
    known: list[Operation] = [
        *in_repositories(published, env),
        *in_sysroots(fast / "no-remotes"),
        InTree("publish", published, fast / "keys"),
    ]

    def run(name: str, kind: str, chosen: Chosen, *options: str, journal: bool) -> _Cuts:
        (operation,) = [one for one in known if one.name == name]
        disk = Disk(fast / f"{name.replace(' ', '-')}-{kind}-{journal}{''.join(options)}.img", kind)
        try:
            root = disk.place / "root"
            root.mkdir()
            operation.prepare(root)
            subprocess.run(["sync", "--file-system", disk.place], check=True)
            cuts = _Cuts(disk, operation, again, published, journal=journal)
            ended = runner.run_cut(
                [*_words(operation, root), *options],
                root,
                lambda number, call: cuts.cut(number, call) if chosen(number, call) else None,
                setting=_SETTING,
            )
            assert ended.status == 0, ended.err
            cuts.cut(len(ended.calls), "the end")
        finally:
            subprocess.run(["umount", "--lazy", disk.place], check=True)
            disk.image.unlink()
        return cuts

    return run


@pytest.mark.parametrize("journal", [False, True], ids=["lost", "journal"])
@pytest.mark.parametrize("name", _OPERATIONS)
@pytest.mark.parametrize("kind", _KINDS)
def test_power_cut_at_any_call_leaves_the_old_or_the_new(
    kind: str,
    name: str,
    journal: bool,
    explore: Explore,
    record_property: Callable[[str, object], None],
) -> None:
    cuts = explore(name, kind, _chosen(f"{name}{journal}"), journal=journal)
    fault = f"power cut on {kind}" + (", journal written" if journal else "")
    record_property(TABLE, (name, fault, cuts.points, cuts.states, len(cuts.torn), cuts.most))
    assert not cuts.torn, "\n\n".join([f"{len(cuts.torn)} of {cuts.points}", *cuts.torn[:5]])
    assert cuts.states > 1 or not journal
    assert cuts.most <= _AT_RISK


def test_command_that_flushes_nothing_is_found_out(explore: Explore) -> None:
    """Else the test above would show nothing."""
    cuts = explore(
        "pull update", "ext4", lambda number, call: False, "--disable-fsync", journal=True
    )
    assert len(cuts.torn) == 1


def _words(operation: Operation, root: Path) -> list[str]:
    words = operation.words(root)
    return [*words, "--workers", "1"] if {"pull", "fsck"} & set(words) else words


class _Cuts:
    """Cuts of one command's power, and what came of them."""

    def __init__(
        self,
        disk: Disk,
        operation: Operation,
        again: tuple[Runner, LyingMirror],
        published: Published,
        *,
        journal: bool,
    ) -> None:
        self._disk, self._operation, self._journal = disk, operation, journal
        self._runner, mirror = again
        self._moved = Moved(published, mirror) if "pull" in operation.name else None
        self._known: set[bytes] = set()
        self.points, self.most = 0, 0
        self.torn: list[str] = []

    @property
    def states(self) -> int:
        """How many states of the disk there were."""
        return len(self._known)

    def cut(self, number: int, call: str) -> None:
        """Look at what a cut here leaves."""
        self.points += 1
        if self._journal:
            self._disk.commit_journal()
        state = self._disk.digest()
        if state in self._known:
            return
        self._known.add(state)
        with self._disk.after_a_cut() as root:
            try:
                self._require_whole(root)
            except (AssertionError, subprocess.CalledProcessError) as error:
                self.torn.append(f"before call {number}, {call}: {error}")

    def _require_whole(self, root: Path) -> None:
        new = self._operation.check(root)
        if new and not self._operation.repeatable:
            return
        moved = self._moved
        here: dict[str, int] = {}
        if moved:
            moved.since()
            before = moved.on_disk(self._disk.place / "root/repo")
            here = moved.on_disk(root / "repo", staged=False)
            self.most = max(self.most, sum(size - here.get(n, 0) for n, size in before.items()))
        done = self._runner.run(_words(self._operation, root), root, COUNTED)
        assert done.status in (0, 77), f"status {done.status}\n{done.err}"
        assert self._operation.check(root), "the second run did not complete it"
        if moved:
            moved.require_no_more(here)
