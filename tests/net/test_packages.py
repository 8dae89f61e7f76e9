"""RPMs from mirrors: verified, handed over at once, resumed, held back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from composer.checksum import ContentDigest
from composer.errors import BoundExceeded, ChecksumMismatch, ComposerError, NoSpace, NotFound
from composer.net.job import FetchFailed
from composer.net.location import Mirrors
from composer.net.network import Limits, Network
from composer.net.packages import Wanted, fetch_packages
from composer.net.traffic import Traffic
from composer.progress import Step
from composer.rpm.package import Nevra, PackageRef
from tests.net.lying_mirror import LyingMirror

QUICK = Limits(stall_seconds=1, backoff_seconds=0.01, attempts=2)
SIZE = 300_000
COUNT = 12


@pytest.fixture
def published(tmp_path: Path) -> Path:
    directory = tmp_path / "published"
    (directory / "Packages").mkdir(parents=True)
    for number in range(COUNT):
        (directory / _location(number)).write_bytes(Random(number).randbytes(SIZE + number))
    return directory


@pytest.fixture
def mirror(published: Path) -> Iterator[LyingMirror]:
    with LyingMirror(published) as mirror:
        yield mirror


@pytest.fixture
def second(published: Path) -> Iterator[LyingMirror]:
    with LyingMirror(published) as mirror:
        yield mirror


def _location(number: int) -> str:
    return f"Packages/p{number}-1.0~b+c-1.noarch.rpm"


def _wanted(published: Path, into: Path, *bases: str, count: int = COUNT) -> list[Wanted]:
    wanted = []
    for number in range(count):
        data = (published / _location(number)).read_bytes()
        nevra = Nevra.parse(f"p{number}-1.0~b+c-1.noarch")
        ref = PackageRef(nevra, ContentDigest.of(data), len(data), "", _location(number))
        wanted.append(Wanted(ref, into / f"{ref.pkgid}.rpm", Mirrors.parse(*bases)))
    return wanted


def _complete(wanted: Sequence[Wanted]) -> bool:
    return all(ContentDigest.of(item.destination.read_bytes()) == item.ref.pkgid for item in wanted)


def test_packages_arrive_verified(published: Path, mirror: LyingMirror, tmp_path: Path) -> None:
    wanted = _wanted(published, tmp_path / "into", mirror.url)
    traffic = Traffic()
    seen = []
    for item in fetch_packages(wanted, network=Network(limits=QUICK, traffic=traffic)):
        assert item.destination.stat().st_size == item.ref.size
        seen.append(item)
    assert sorted(map(id, seen)) == sorted(map(id, wanted))
    assert _complete(wanted)
    assert not list((tmp_path / "into").glob("*.part"))
    assert traffic.bytes("rpm") == mirror.sent() == sum(item.ref.size for item in wanted)
    assert mirror.connections <= QUICK.parallel


def test_nothing_wanted_asks_nobody() -> None:
    assert list(fetch_packages([])) == []


def test_same_rpm_twice_is_fetched_once(
    published: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url, count=1)
    assert len(list(fetch_packages(wanted * 2, network=Network(limits=QUICK)))) == 1


def test_first_is_handed_over_while_others_are_coming(
    published: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url)
    mirror.stall(after=1000, path=_location(COUNT - 1))
    arriving = fetch_packages(wanted, network=Network(limits=replace(QUICK, stall_seconds=60)))
    for _ in range(COUNT - 1):
        next(arriving)
    arriving.close()
    assert sorted(tmp_path.glob("*.part"))


def test_slow_taker_holds_downloads_back(
    published: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url)
    arriving = fetch_packages(wanted, network=Network(limits=QUICK), window=2 * SIZE + 100)
    next(arriving)
    time.sleep(0.3)
    assert len(mirror.log) <= 3
    assert len(list(arriving)) == COUNT - 1


def test_package_larger_than_the_window_is_fetched(
    published: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url, count=3)
    assert len(list(fetch_packages(wanted, network=Network(limits=QUICK), window=10))) == 3


def test_verified_files_are_kept_and_damaged_ones_fetched_again(
    published: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url, count=4)
    list(fetch_packages(wanted, network=Network(limits=QUICK)))
    before = len(mirror.log)
    wanted[2].destination.write_bytes(b"x" * wanted[2].ref.size)
    wanted[3].destination.write_bytes(b"x" * (wanted[3].ref.size + 1))
    assert len(list(fetch_packages(wanted, network=Network(limits=QUICK)))) == 4
    assert _complete(wanted)
    assert len(mirror.log) == before + 2


def test_partial_file_is_continued(published: Path, mirror: LyingMirror, tmp_path: Path) -> None:
    [item] = wanted = _wanted(published, tmp_path, mirror.url, count=1)
    part = item.destination.with_name(item.destination.name + ".part")
    part.write_bytes((published / item.ref.location).read_bytes()[:200_000])
    list(fetch_packages(wanted, network=Network(limits=QUICK)))
    assert _complete(wanted)
    assert mirror.sent() == item.ref.size - 200_000


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * SIZE, b"x" * (SIZE + 1)])
def test_wrong_partial_file_is_started_over(
    published: Path, mirror: LyingMirror, tmp_path: Path, left: bytes
) -> None:
    [item] = wanted = _wanted(published, tmp_path, mirror.url, count=1)
    item.destination.with_name(item.destination.name + ".part").write_bytes(left)
    list(fetch_packages(wanted, network=Network(limits=QUICK)))
    assert _complete(wanted)


def test_wrong_bytes_come_from_the_next_mirror(
    published: Path, mirror: LyingMirror, second: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url, second.url, count=3)
    mirror.flip_bit(_location(1), 1000)
    assert len(list(fetch_packages(wanted, network=Network(limits=QUICK)))) == 3
    assert _complete(wanted)
    assert second.requests(_location(1))


def test_wrong_bytes_everywhere_say_what_was_expected(
    published: Path, mirror: LyingMirror, second: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url, second.url, count=1)
    mirror.flip_bit(_location(0), 1000)
    second.flip_bit(_location(0), 1000)
    with pytest.raises(ChecksumMismatch) as caught:
        list(fetch_packages(wanted, network=Network(limits=QUICK)))
    error = caught.value
    assert (error.what, error.exit_status) == ("p0-1.0~b+c-1.noarch", 3)
    assert error.expected == str(wanted[0].ref.pkgid)
    assert error.actual != error.expected
    told = "\n".join(error.details)
    assert mirror.url in told
    assert second.url in told
    assert not wanted[0].destination.exists()
    assert all(path.stat().st_size == 0 for path in tmp_path.glob("*.part"))


def test_rpm_of_another_size_is_refused_before_it_moves(
    published: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    [item] = _wanted(published, tmp_path, mirror.url, count=1)
    smaller = replace(item, ref=replace(item.ref, size=item.ref.size - 1))
    with pytest.raises(BoundExceeded):
        list(fetch_packages([smaller], network=Network(limits=QUICK)))
    assert not list(tmp_path.glob("*.rpm"))


def test_endless_rpm_is_cut_at_its_size(
    published: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    [item] = wanted = _wanted(published, tmp_path, mirror.url, count=1)
    mirror.endless(_location(0))
    with pytest.raises(BoundExceeded):
        list(fetch_packages(wanted, network=Network(limits=QUICK)))
    assert all(path.stat().st_size <= item.ref.size for path in tmp_path.glob("*.part"))


def test_missing_rpm_names_package_and_mirrors(
    published: Path, mirror: LyingMirror, second: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url, second.url)
    mirror.drop(_location(3))
    second.drop(_location(3))
    seen: list[Wanted] = []
    with pytest.raises(NotFound, match="p3-1") as caught:
        seen.extend(fetch_packages(wanted, network=Network(limits=QUICK)))
    assert len(caught.value.details) == 2
    assert sum(item.destination.exists() for item in wanted) == COUNT - 1  # the others did come


def test_moved_rpms_are_looked_up_once(
    published: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url)
    (published / "pool").mkdir()
    for number in (2, 5):
        (published / _location(number)).rename(published / f"pool/{number}.rpm")
    asked = []

    def relocate(packages: Sequence[PackageRef]) -> list[Wanted]:
        asked.append(len(packages))
        return [_moved(one, wanted, f"pool/{one.nevra.name[1:]}.rpm") for one in packages]

    assert (
        len(list(fetch_packages(wanted, network=Network(limits=QUICK), elsewhere=[relocate])))
        == COUNT
    )
    assert asked == [2]
    assert _complete(wanted)


def _moved(package: PackageRef, wanted: Sequence[Wanted], location: str) -> Wanted:
    (item,) = [item for item in wanted if item.ref == package]
    return replace(item, ref=replace(package, location=location))


def test_rpm_that_is_nowhere_is_reported_after_the_look_up(
    published: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url, count=2)
    mirror.drop(_location(1))
    with pytest.raises(NotFound, match="p1-1"):
        list(fetch_packages(wanted, network=Network(limits=QUICK), elsewhere=[lambda packages: []]))


def test_local_repository_serves(published: Path, tmp_path: Path) -> None:
    wanted = _wanted(published, tmp_path / "into", published.as_uri())
    assert len(list(fetch_packages(wanted, network=Network(limits=QUICK)))) == COUNT
    assert _complete(wanted)


def test_dead_mirror_is_named(published: Path, tmp_path: Path) -> None:
    wanted = _wanted(published, tmp_path, "http://127.0.0.1:1/", count=1)
    with pytest.raises(FetchFailed, match=r"p0-1\.0.*could not be fetched") as caught:
        list(fetch_packages(wanted, network=Network(limits=QUICK)))
    assert "http://127.0.0.1:1/Packages/p0" in caught.value.details[0]


def test_progress_counts_bytes(published: Path, mirror: LyingMirror, tmp_path: Path) -> None:
    steps: list[Step] = []
    wanted = _wanted(published, tmp_path, mirror.url)
    list(fetch_packages(wanted, network=Network(limits=QUICK), report=steps.append))
    assert steps[-1].done == steps[-1].total == sum(item.ref.size for item in wanted)
    assert [step.done for step in steps] == sorted(step.done for step in steps)


def test_two_processes_do_not_write_one_file(
    published: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    wanted = _wanted(published, tmp_path, mirror.url, count=1)
    mirror.stall(after=1000)
    program = _program(mirror.url, published, tmp_path, count=1)
    with subprocess.Popen([sys.executable, "-c", program]) as other:
        try:
            _wait_until(lambda: any(path.stat().st_size for path in tmp_path.glob("*.part")))
            with pytest.raises(ComposerError, match="another process"):
                list(fetch_packages(wanted, network=Network(limits=QUICK)))
        finally:
            other.kill()


def test_killed_run_is_continued(published: Path, mirror: LyingMirror, tmp_path: Path) -> None:
    wanted = _wanted(published, tmp_path, mirror.url)
    mirror.stall(after=250_000, path=_location(COUNT - 1))
    program = _program(mirror.url, published, tmp_path, count=COUNT)
    with subprocess.Popen([sys.executable, "-c", program]) as other:
        _wait_until(lambda: len(list(tmp_path.glob("*.rpm"))) == COUNT - 1)
        _wait_until(lambda: any(part.stat().st_size for part in tmp_path.glob("*.part")))
        other.send_signal(signal.SIGKILL)
    mirror.honest()
    before = mirror.sent()
    assert len(list(fetch_packages(wanted, network=Network(limits=QUICK)))) == COUNT
    assert _complete(wanted)
    assert mirror.sent() - before < SIZE


def test_full_disk_is_explained(
    published: Path, mirror: LyingMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("composer.net.packages.os.write", full)
    with pytest.raises(NoSpace):
        list(
            fetch_packages(_wanted(published, tmp_path, mirror.url), network=Network(limits=QUICK))
        )


def _program(url: str, published: Path, into: Path, *, count: int) -> str:
    return textwrap.dedent(
        f"""
        from pathlib import Path
        from composer.net.network import Limits, Network
        from composer.net.packages import fetch_packages
        from tests.net.test_packages import _wanted
        wanted = _wanted(Path({str(published)!r}), Path({str(into)!r}), {url!r}, count={count})
        list(fetch_packages(wanted, network=Network(limits=Limits(stall_seconds=60))))
        """
    )


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_descriptors_are_closed(published: Path, mirror: LyingMirror, tmp_path: Path) -> None:
    list(fetch_packages(_wanted(published, tmp_path, mirror.url), network=Network(limits=QUICK)))
    before = len(os.listdir("/proc/self/fd"))
    mirror.drop(_location(0))
    for number in range(3):
        into = tmp_path / str(number)
        with pytest.raises(NotFound):
            list(
                fetch_packages(_wanted(published, into, mirror.url), network=Network(limits=QUICK))
            )
    # The mirror runs in this process: its ends of connections close a moment later.
    _wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)
