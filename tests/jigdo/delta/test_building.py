"""What a set ships for clients of older commits: chosen, made once, kept, the same each time."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from composer.checksum import ObjectChecksum
from composer.jigdo.build import LocalPackage, Older, build_set
from composer.jigdo.container import Kind
from composer.jigdo.delta import codecs, making
from composer.jigdo.delta.building import DeltaOptions
from composer.jigdo.delta.codecs import CodecNumber
from composer.jigdo.delta.table import COPY, DeltaTable
from composer.ostree.digests import DigestCache
from composer.ostree.repo import Repository
from composer.progress import Report, Step, silent
from composer.system.executors import Farm
from tests.farms import farm, farm_cluster
from tests.jigdo.delta.test_applying import table_of
from tests.jigdo.sets import REF, Packages, local_packages, open_bytes, pull, write_files
from tests.rpm.crafted import RpmFile, rpm_bytes

__all__ = ("farm", "farm_cluster")

PACKAGES = 6
ROOT = Path(__file__).parents[3]


def _content(package: int, version: int) -> bytes:
    """Return a program that changes a little with every version, by how much with the package."""
    drawn = random.Random(package)
    data = bytearray(drawn.randbytes(30_000))
    for step in range(version):
        new = random.Random(package * 100 + step)
        data[step * 7000 : step * 7000 + 400 * (package + 1)] = new.randbytes(400 * (package + 1))
    return bytes(data)


@dataclass(frozen=True, slots=True)
class Generation:
    """A commit, and its packages."""

    commit: ObjectChecksum
    packages: tuple[LocalPackage, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A repository with generations 1, 2 and 3; in the third only one package changed."""

    path: Path
    generations: tuple[Generation, ...]

    def build(
        self,
        number: int,
        store: Path | None,
        *,
        report: Report = silent,
        workers: int = 2,
        rpm: str = "all",
        budget: int | None = None,
        effort: str = "normal",
        farm: Farm | None = None,
    ) -> bytes:
        """Build the set of a generation with deltas from those before it."""
        bases = tuple(generation.commit for generation in self.generations[: number - 1])
        made, out = self.generations[number - 1], io.BytesIO()
        options = DeltaOptions(bases, rpm, budget, effort)
        build_set(
            Repository.open(self.path / "repo"),
            made.commit,
            made.packages,
            ref=REF,
            into=out,
            cache=DigestCache(self.path / "digests.sqlite"),
            workers=workers,
            older=Older(options, {}, store),
            report=report,
            farm=farm,
        )
        return out.getvalue()


def _generation(repo: Repository, where: Path, versions: list[int]) -> Generation:
    where.mkdir()
    files, paths = {}, []
    for package, version in enumerate(versions):
        name, data = f"/usr/bin/prog{package}", _content(package, version)
        files[name] = data
        paths.append(where / f"prog{package}.rpm")
        rpm = rpm_bytes([RpmFile(name, data)], name=f"prog{package}", version=str(version))
        paths[-1].write_bytes(rpm)
    made = {"/usr/own": b"%d" % versions[0] * 500}
    return Generation(write_files(repo, files | made), local_packages(paths))


def _source(where: Path) -> Source:
    repo = Repository.create(where / "repo", mode="bare-user")
    versions = ([1] * PACKAGES, [2] * PACKAGES, [2] * (PACKAGES - 1) + [3])
    made = [_generation(repo, where / str(n), list(own)) for n, own in enumerate(versions)]
    return Source(where, tuple(made))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return _source(tmp_path_factory.mktemp("source"))


def _made(build: Callable[[Report], object]) -> int:
    """Return how many patches a build made."""
    steps = []

    def report(step: Step) -> None:
        if step.phase == "deltas":
            steps.append(step)

    build(report)
    return len(steps)


def _table(data: bytes) -> DeltaTable:
    return table_of(open_bytes(data))


def _shipped(data: bytes) -> int:
    return sum(content.method != COPY for content in _table(data).contents)


@pytest.mark.parametrize("effort", ["normal", "high"])
def test_one_worker_and_two_make_the_same_bytes(source: Source, effort: str) -> None:
    one, two = (source.build(2, None, workers=n, effort=effort) for n in (1, 2))
    assert one == two
    assert _shipped(one) == PACKAGES + 1


def test_what_was_made_is_found_again_and_only_the_rest_is_made(
    source: Source, tmp_path: Path
) -> None:
    store = tmp_path / "patches.sqlite"
    fresh = source.build(2, None)
    assert _made(lambda report: source.build(2, store, report=report)) == PACKAGES + 1
    again: list[bytes] = []
    assert _made(lambda report: again.append(source.build(2, store, report=report))) == 0
    assert again == [fresh]
    # From the first commit to the third all is as to the second, but for the one package; from
    # the second there is that package only.
    assert _made(lambda report: source.build(3, store, report=report)) == 2


def test_another_effort_is_made_anew(source: Source, tmp_path: Path) -> None:
    store = tmp_path / "patches.sqlite"
    source.build(2, store)
    made = _made(lambda report: source.build(2, store, report=report, effort="high"))
    assert made == PACKAGES + 1


_KILLED_AT = 3


def killed_build(where: str, store: str) -> None:
    """Build until some patches are made, then die at once: what the next test runs."""
    versions = [Path(where) / str(number) for number in range(3)]
    repo = Repository.open(Path(where) / "repo")
    commits = [ObjectChecksum.parse(line) for line in (Path(where) / "commits").read_text().split()]
    assert all(repo.has("commit", commit) for commit in commits)
    made = [
        Generation(commit, local_packages(sorted(place.glob("*.rpm"))))
        for commit, place in zip(commits, versions, strict=True)
    ]

    def report(step: Step) -> None:
        if step.phase == "deltas" and step.done > _KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    Source(Path(where), tuple(made)).build(2, Path(store), report=report)


def test_killed_build_goes_on_where_it_was(source: Source, tmp_path: Path) -> None:
    commits = "\n".join(str(generation.commit) for generation in source.generations)
    (source.path / "commits").write_text(commits)
    store = tmp_path / "patches.sqlite"
    code = "import sys; from tests.jigdo.delta.test_building import killed_build as k; "
    argv = [sys.executable, "-c", f"{code} k(*sys.argv[1:])", str(source.path), str(store)]
    done = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    data: list[bytes] = []
    made = _made(lambda report: data.append(source.build(2, store, report=report)))
    assert made == PACKAGES + 1 - _KILLED_AT
    assert data == [source.build(2, None)]


class _Trapped:
    """As good as HDiffPatch, but for one content."""

    number = CodecNumber.BSDIFF

    def make(self, base: bytes, target: bytes) -> bytes:
        if target == _content(3, 2):
            return self.trap(base, target)
        return codecs.HDiff().make(base, target)

    def trap(self, base: bytes, target: bytes) -> bytes:
        raise NotImplementedError


class _Aborts(_Trapped):
    def trap(self, base: bytes, target: bytes) -> bytes:
        os.abort()


class _Sleeps(_Trapped):
    def trap(self, base: bytes, target: bytes) -> bytes:
        time.sleep(1000)
        return b""


class _Lies(_Trapped):
    def trap(self, base: bytes, target: bytes) -> bytes:
        return b"\0\0\0"


@pytest.mark.parametrize("codec", [_Aborts, _Sleeps, _Lies])
def test_codec_that_crashes_hangs_or_lies_costs_itself_only(
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: type[codecs.Codec],
) -> None:
    good = source.build(2, None, effort="normal")
    monkeypatch.setitem(codecs.EFFORTS, "high", (CodecNumber.BSDIFF, CodecNumber.HDIFF))
    monkeypatch.setitem(codecs._CODECS, CodecNumber.BSDIFF, codec)
    # Memory, seconds, seconds per MiB, how much longer by the clock: eight seconds.
    monkeypatch.setattr(making.Limits.__init__, "__defaults__", (6 << 30, 1.0, 0.0, 4.0))
    data = source.build(2, None, effort="high")
    used = {piece.codec for content in _table(data).contents for piece in content.pieces}
    assert CodecNumber.BSDIFF not in used
    assert data == good
    client = Repository.create(tmp_path / "client", mode="bare-user")
    first = source.generations[0]
    argv = ["ostree", f"--repo={client.path}", "pull-local", "--disable-fsync"]
    subprocess.run([*argv, str(source.path / "repo"), str(first.commit)], check=True)
    packages = Packages(source.generations[1].packages)
    pull(open_bytes(data), client, packages, base=first.commit)
    assert not packages.given


def test_more_budget_ships_more_and_never_more_than_it(source: Source) -> None:
    """Content of no package is not bounded: who has not the delta would need it whole."""
    sizes = {}
    shipped: set[int] = set()
    for budget in (0, 1500, 4000, 9000, None):
        data = source.build(2, None, budget=budget)
        index = open_bytes(data).index
        sizes[budget] = sum(frame.size for frame in index.of(Kind.PATCH))
        own = set(_table(data).ordinals)
        assert shipped <= own
        shipped = own
    nothing, everything = sizes.pop(0), sizes.pop(None)
    assert nothing < 200
    assert list(sizes.values()) == sorted(sizes.values())
    for budget, size in sizes.items():
        assert budget is not None
        assert nothing < size <= budget + nothing + 100
    assert everything > 8000


def test_none_ships_no_package_and_auto_what_is_well_below_it(source: Source) -> None:
    assert _shipped(source.build(2, None, rpm="none")) == 1
    assert _shipped(source.build(2, None, rpm="auto")) == PACKAGES + 1


def test_set_that_a_farm_made_is_the_same(source: Source, farm: Farm) -> None:
    assert source.build(3, None, farm=farm) == source.build(3, None)
    assert farm.tasks
    assert not farm.troubles
