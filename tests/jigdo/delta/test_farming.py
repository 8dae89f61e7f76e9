"""Patches of a farm are those of this machine, whatever its workers do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from composer.errors import ComposerError
from composer.jigdo.delta import codecs
from composer.jigdo.delta.farming import farmed_patches
from composer.jigdo.delta.making import Pair, Patch, best_patches
from composer.system import executors
from composer.system.executors import Farm, opened_executor
from tests.farms import Cluster, cluster, farm, farm_cluster, machines
from tests.jigdo.delta.contents import revised

__all__ = ("farm", "farm_cluster")

ROOT = Path(__file__).parents[3]


def _source(seed: int, which: int, prefix: bytes = b"") -> bytes:
    return prefix + revised(seed, 20_000)[which]


def _pairs(count: int, trap_at: int = -1) -> Iterator[Pair]:
    for number in range(count):
        prefix = b"trap" if number == trap_at else b""
        new = partial(_source, number, 1, prefix)
        # So that there are a few of them in a task.
        yield Pair(number, partial(_source, number, 0), new, sizes=(500_000, 500_000))


class Slow(codecs.HDiff):
    """Takes its time."""

    def make(self, base: bytes, target: bytes) -> bytes:
        time.sleep(0.05)
        return super().make(base, target)


class Fatal(codecs.HDiff):
    """Ends the process it is in, for one content."""

    number = codecs.CodecNumber.BSDIFF

    def make(self, base: bytes, target: bytes) -> bytes:
        if target.startswith(b"trap"):
            os.abort()
        return super().make(base, target)


def _here(pairs: Iterator[Pair], *makers: codecs.Codec) -> list[Patch]:
    return list(best_patches(pairs, workers=2, makers=makers))


def _told(farm: Farm) -> str:
    return "\n".join(farm.troubles)


def test_patches_are_those_of_this_machine(farm: Farm) -> None:
    made = list(farmed_patches(_pairs(40), farm=farm, workers=1, effort="high"))
    assert made == list(best_patches(_pairs(40), workers=1, effort="high"))
    assert farm.tasks >= 10
    assert not farm.troubles


def test_what_is_large_stays_here(farm: Farm) -> None:
    before = farm.tasks
    pair = Pair("large", bytes(1000), bytes(900), sizes=(60 << 20, 60 << 20))
    assert [*farmed_patches([pair], farm=farm, workers=1)] == [*best_patches([pair], workers=1)]
    assert farm.tasks == before


def test_source_that_cannot_be_read_stops_with_its_name(farm: Farm, tmp_path: Path) -> None:
    with pytest.raises(ComposerError, match="the missing one"):
        list(farmed_patches([Pair("the missing one", tmp_path / "no", b"x")], farm=farm, workers=1))


def test_killed_worker_costs_its_task_only(tmp_path: Path) -> None:
    with cluster(tmp_path) as made:
        victim = made.add_worker("victim")
        made.add_worker("other")
        made.wait_for(2)
        with opened_executor(made.url) as opened:
            assert opened
            patches = farmed_patches(_pairs(60), farm=opened, workers=1, makers=(Slow(),))
            found = [next(patches)]
            victim.kill()  # with two tasks or three
            found += patches
            assert opened.tasks >= 15
            # Another worker has them: nothing is done here.
            assert not opened.troubles
    assert found == _here(_pairs(60), codecs.HDiff())


def test_workers_on_machines_of_their_own_share_nothing(tmp_path: Path) -> None:
    """In network namespaces; one of three is killed at work."""
    with machines(3) as (address, others), cluster(tmp_path, host=address) as made:
        started = [
            made.add_worker(f"w{number}", host=host, prefix=prefix)
            for number, (host, prefix) in enumerate(others)
        ]
        made.wait_for(3)
        with opened_executor(made.url) as opened:
            assert opened
            patches = farmed_patches(_pairs(80), farm=opened, workers=1, makers=(Slow(),))
            found = [next(patches)]
            started[0].kill()
            found += patches
            assert not opened.troubles
    assert found == _here(_pairs(80), codecs.HDiff())


def test_codec_that_kills_workers_is_tried_here_in_a_guarded_way(tmp_path: Path) -> None:
    with cluster(tmp_path, environment={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}) as c:
        for number in range(2):
            c.add_worker(f"w{number}", nanny=True)
        c.wait_for(2)
        makers = (Fatal(), codecs.HDiff())
        with opened_executor(c.url) as opened:
            assert opened
            found = [*farmed_patches(_pairs(12, 5), farm=opened, workers=1, makers=makers)]
            assert _told(opened) == "it killed its workers"
    assert found == _here(_pairs(12, 5), *makers)
    assert found[5].lost == ("fatal: killed by SIGABRT",)


def test_stopped_worker_does_not_hold_up_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_PATIENCE", 1.0)
    with cluster(tmp_path) as made:
        stopped = made.add_worker("stopped")
        made.add_worker("other")
        made.wait_for(2)
        with opened_executor(made.url) as opened:
            assert opened
            patches = farmed_patches(_pairs(40), farm=opened, workers=1, makers=(Slow(),))
            found = [next(patches)]
            stopped.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            found += patches
            assert time.monotonic() - began < 30
            assert _told(opened) == "no result in time"
    assert found == _here(_pairs(40), codecs.HDiff())


@pytest.mark.parametrize("lie", ["bytes", "length", "codec", "shape", "raise"])
def test_wrong_results_do_not_count(tmp_path: Path, lie: str) -> None:
    with cluster(tmp_path) as made:
        preload = ("--preload", str(ROOT / "tests/lying_worker.py"))
        made.add_worker("liar", more=preload, environment={"LIE": lie})
        made.wait_for(1)
        with opened_executor(made.url) as opened:
            assert opened
            found = [*farmed_patches(_pairs(8), farm=opened, workers=1, makers=(codecs.HDiff(),))]
            assert sum(opened.troubles.values()) == opened.tasks == 2
    assert found == _here(_pairs(8), codecs.HDiff())


def test_scheduler_that_goes_away_leaves_the_rest_to_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_CONNECT_SECONDS", 3.0)
    with cluster(tmp_path) as made:
        made.add_worker("w")
        made.wait_for(1)
        with opened_executor(made.url) as opened:
            assert opened
            patches = farmed_patches(_pairs(40), farm=opened, workers=2, makers=(Slow(),))
            found = [next(patches)]
            made.stop()
            found += patches
            assert opened.troubles
    assert found == _here(_pairs(40), codecs.HDiff())


def test_stopping_early_leaves_nothing_behind(farm: Farm, farm_cluster: Cluster) -> None:
    patches = farmed_patches(_pairs(40), farm=farm, workers=1, makers=(Slow(),))
    next(patches)
    patches.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("here")]
    # The workers are free for others at once.
    began = time.monotonic()
    assert farm.submit(os.getpid).result(30)
    assert time.monotonic() - began < 10
