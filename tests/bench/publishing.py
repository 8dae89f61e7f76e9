"""Readers at 100 Hz while a tree is published into, with kills: `make bench-publish`.

Two generations are published in turns, each time with one small RPM more; before each
publication that ends, one is killed as it enters a call that changes a file, at random.  Readers
in processes of their own look all the time at what repomd.xml leads to, and at what the timestamp
leads to.  What they find has to fit together, each time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

from composer.checksum import ContentDigest
from composer.mirror.lists import read_lists
from composer.rpm.rpmmd import REPOMD, parse_repomd, read_packages
from tests.client.published import publish as make_generations
from tests.commands import jigdo
from tests.crash.layer import COUNTED, KILL, Runner
from tests.mirror.reading import by_statements, require_set
from tests.mirror.test_publish import make

_PERIOD = 0.01


@dataclass(frozen=True, slots=True)
class Seen:
    """What a reader saw: looks, states, looks that were to be begun again, and what was wrong."""

    reader: str
    looks: int
    per_second: float
    states: int
    again: int
    wrong: tuple[str, ...]


_Said = tuple[dict[str, ContentDigest | None], dict[str, tuple[ContentDigest, int]]]


class _RpmMd:
    """Looks at what repomd.xml leads to; what has been proven of a file is not read again."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self._proven: dict[tuple[str, int, int], ContentDigest] = {}
        self._said: dict[bytes, _Said] = {}

    def state(self) -> str:
        """Say which state it is at."""
        return str(ContentDigest.of((self._tree / REPOMD).read_bytes()))

    def look(self) -> None:
        """Require that all fits."""
        data = (self._tree / REPOMD).read_bytes()
        if data not in self._said:
            self._said[data] = self._read(data)
        records, packages = self._said[data]
        for location, checksum in records.items():
            assert self._digest(location) == checksum, location
        for location, (pkgid, size) in packages.items():
            assert (self._tree / location).stat().st_size == size, location
            assert self._digest(location) == pkgid, location

    def _digest(self, location: str) -> ContentDigest:
        path = self._tree / location
        status = path.stat()
        key = (location, status.st_ino, status.st_mtime_ns)
        if key not in self._proven:
            self._proven[key] = ContentDigest.of(path.read_bytes())
        return self._proven[key]

    def _read(self, data: bytes) -> _Said:
        """Read, once, what a repomd.xml leads to: what files must be, and what RPMs."""
        repomd = parse_repomd(data)
        records = {one.location: one.checksum for one in repomd.records}
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place)
            (copy / "repodata").mkdir()
            (copy / REPOMD).write_bytes(data)
            location = repomd.require("primary").location
            shutil.copy(self._tree / location, copy / location)
            packages = {one.location: (one.pkgid, one.size) for one in read_packages(copy)}
        for entry in read_lists(self._tree, repomd).entries:
            assert packages[entry.location] == (entry.pkgid, entry.size), entry.location
        return records, packages


class _Statements:
    """Looks at what the timestamp leads to, as a client that believes nothing else."""

    def __init__(self, tree: Path, root: bytes) -> None:
        self._tree, self._root = tree, root
        self._last = ""

    def state(self) -> str:
        """Say which state it is at."""
        return str(ContentDigest.of((self._tree / "tuf/timestamp.json").read_bytes()))

    def look(self) -> None:
        """Require that all fits; what was proven for a timestamp is looked for each time."""
        if self._last != (now := self.state()):
            by_statements(self._tree, self._root, whole=False)
            self._last = now
        for entry in read_lists(self._tree).entries:
            require_set(self._tree, entry, whole=False)


def _poll(name: str, tree: Path, root: bytes, ended: Event, into: Path) -> None:
    """Look each 10 ms until it has ended; writes what was seen to a file."""
    looking = _RpmMd(tree) if name == "rpm-md" else _Statements(tree, root)
    looks = again = 0
    wrong: list[str] = []
    states: set[str] = set()
    begun = due = time.monotonic()
    while not ended.is_set():
        for attempt in range(3):
            before = looking.state()
            states.add(before)
            try:
                looking.look()
            except Exception as error:
                # What the old state named has gone after the next: a client begins anew.
                if looking.state() != before and attempt < 2:
                    again += 1
                    continue
                wrong.append(f"{type(error).__name__}: {error}")
            break
        looks += 1
        due += _PERIOD
        time.sleep(max(0.0, due - time.monotonic()))
    seconds = time.monotonic() - begun
    seen = Seen(name, looks, looks / seconds, len(states), again, tuple(wrong[:5]))
    into.write_text(json.dumps(asdict(seen)))


def run(
    generations: Sequence[Path], work: Path, count: int, *, seed: int = 1
) -> tuple[list[Seen], int]:
    """Publish ``count`` times; returns what the readers saw, and how many kills hit."""
    dice = random.Random(seed)
    tree, keys = work / "www", work / "keys"
    jigdo("mirror", "publish", generations[0], tree)
    jigdo("mirror", "keys", "init", tree, "--tuf-keys", keys)
    root = (tree / "tuf/1.root.json").read_bytes()
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    files = {name: work / f"{name}.json" for name in ("rpm-md", "statements")}
    readers = [
        context.Process(target=_poll, args=(name, tree, root, ended, path))
        for name, path in files.items()
    ]
    kills, calls = 0, 200
    with ExitStack() as stack:
        for reader in readers:
            reader.start()
        stack.callback(ended.set)
        runner = stack.enter_context(Runner(work / "runner", {}))
        for number in range(count):
            (work / f"rpm-{number}").mkdir()
            rpm, _ = make(work / f"rpm-{number}", ref="tool", version=str(number + 1))
            words = ["mirror", "publish", str(generations[(number + 1) % 2]), str(tree)]
            words += ["--packages", str(rpm), "--allow-older", "--tuf-keys", str(keys)]
            kills += runner.run(words, tree, KILL, dice.randint(1, calls)).was_killed
            done = runner.run(words, tree, COUNTED, 0)
            assert done.status == 0, done.err
            calls = max(calls // 2, len(done.calls))
        ended.set()
        for reader in readers:
            reader.join()
    return [Seen(**json.loads(path.read_text())) for path in files.values()], kills


def time_corpus(old: Sequence[Path], new: Sequence[Path], work: Path) -> float:
    """Publish sets and packages over older ones; returns the seconds of the second publication.

    Each is the repository of the sets, and that of the packages.
    """
    tree, keys = work / "corpus", work / "corpus-keys"
    for place in ("old", "new"):
        (work / place).mkdir()
    copies = []
    for place, sources in (("old", old), ("new", new)):
        for number, source in enumerate(sources):
            copy = work / place / str(number)
            subprocess.run(["cp", "-a", source, copy], check=True)
            copies.append(copy)
    jigdo("mirror", "publish", copies[0], "--packages", copies[1], tree)
    jigdo("mirror", "keys", "init", tree, "--tuf-keys", keys)
    begun = time.monotonic()
    words = [copies[2], "--packages", copies[3], tree, "--tuf-keys", keys]
    jigdo("mirror", "publish", *words)
    return time.monotonic() - begun


def main() -> None:
    """Run it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="publications")
    parser.add_argument("--old", nargs=2, type=Path, metavar=("SETS", "PACKAGES"))
    parser.add_argument("--new", nargs=2, type=Path, metavar=("SETS", "PACKAGES"))
    parser.add_argument("--fixtures", type=Path, default=Path(".cache/fixtures"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-publish.") as place:
        work = Path(place)
        if options.old and options.new:
            print(f"corpus: {time_corpus(options.old, options.new, work):.1f} s")
        from fixtures.rpms.build import build

        build(options.fixtures, jobs=2)
        sources = {1: options.fixtures / "gen1", 2: options.fixtures / "gen2"}
        made = make_generations(work / "made", sources)
        mirrors = [made.root / "mirror1", made.root / "mirror2"]
        seen, kills = run(mirrors, work, options.count)
    print(f"{options.count} publications, {kills} more that were killed")
    for one in seen:
        print(
            f"{one.reader}: {one.looks} looks, {one.per_second:.0f} a second, {one.states} states, "
            f"{one.again} begun again, {len(one.wrong)} inconsistent"
        )
        for line in one.wrong:
            print(f"  {line}")
    raise SystemExit(any(one.wrong for one in seen))


if __name__ == "__main__":
    main()
