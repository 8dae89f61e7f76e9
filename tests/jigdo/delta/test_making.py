"""Patches are made on all cores, whatever a codec does to its process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from composer.errors import ComposerError
from composer.jigdo.delta import codecs
from composer.jigdo.delta.columns import HeldFile
from composer.jigdo.delta.linking import Linked
from composer.jigdo.delta.making import Limits, Pair, Patch, best_patches
from composer.jigdo.delta.moving import Shared
from composer.jigdo.delta.steps import Steps
from composer.progress import Step
from tests.jigdo.delta.contents import revised
from tests.jigdo.delta.modules import Kernel, module

NOTHING = Shared(Steps(), Steps()).dump()


class _Named:
    number = codecs.CodecNumber.BSDIFF

    def _is_meant(self, target: bytes) -> bool:
        return target.startswith(b"trap")

    def make(self, base: bytes, target: bytes) -> bytes:
        if self._is_meant(target):
            self.trap()
        return codecs.HDiff().make(base, target)

    def trap(self) -> None:
        raise NotImplementedError


class _Aborts(_Named):
    def trap(self) -> None:
        os.abort()


class _Exits(_Named):
    def trap(self) -> None:
        os._exit(0)


class _Spins(_Named):
    def trap(self) -> None:
        while True:
            pass


class _Sleeps(_Named):
    def trap(self) -> None:
        time.sleep(1000)


class _Eats(_Named):
    def trap(self) -> None:
        eaten = []
        while True:
            eaten.append(bytes(1 << 26))


class _Lies(_Named):
    def make(self, base: bytes, target: bytes) -> bytes:
        other = target[:-1] + bytes([target[-1] ^ 1])
        return codecs.HDiff().make(base, other)


def _source(seed: int, which: int, prefix: bytes = b"") -> bytes:
    return prefix + revised(seed, 6000)[which]


def _pairs(count: int, trap_at: int | None = None) -> Iterator[Pair]:
    for number in range(count):
        prefix = b"trap" if number == trap_at else b""
        yield Pair(number, partial(_source, number, 0), partial(_source, number, 1, prefix))


def _applied(patch: Patch, base: bytes) -> bytes:
    return b"".join(
        piece
        for part in patch.parts
        for piece in codecs.apply(
            patch.codec, base, part.data, size=part.length, max_memory=1 << 30
        )
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_and_do_not_depend_on_workers(workers: int) -> None:
    made = list(best_patches(_pairs(12), workers=workers, effort="high"))
    assert [patch.key for patch in made] == list(range(12))
    for patch in made:
        assert _applied(patch, _source(patch.key, 0)) == _source(patch.key, 1)
        assert not patch.lost
    assert made == list(best_patches(_pairs(12), workers=1, effort="high"))


@pytest.mark.parametrize(
    ("codec", "why"),
    [
        (_Aborts, "killed by SIGABRT"),
        (_Exits, "ended with status 0"),
        (_Spins, "took too much CPU time|no answer in time"),
        (_Sleeps, "no answer in time"),
        (_Eats, "MemoryError|killed by"),
    ],
)
def test_codec_that_fails_costs_itself_and_not_the_build(codec: type[_Named], why: str) -> None:
    limits = Limits(
        memory=1 << 30,
        cpu_seconds=1,
        cpu_seconds_per_mib=0,
        wall_factor=3 if codec is _Sleeps else 5,
    )
    makers = (codec(), codecs.HDiff())
    made = list(best_patches(_pairs(5, trap_at=2), workers=2, makers=makers, limits=limits))
    assert [patch.key for patch in made] == list(range(5))
    assert [bool(patch.lost) for patch in made] == [False, False, True, False, False]
    (lost,) = made[2].lost
    name, _, reason = lost.partition(": ")
    assert name == codec.__name__.lower()
    assert any(part in reason for part in why.split("|")), reason
    assert made[2].codec == codecs.CodecNumber.HDIFF
    assert _applied(made[2], _source(2, 0)) == b"trap" + _source(2, 1)


def test_last_codec_that_fails_leaves_the_content_whole() -> None:
    (patch,) = best_patches(_pairs(1, trap_at=0), workers=1, makers=(_Aborts(),))
    assert patch.codec == codecs.CodecNumber.FULL
    assert b"".join(part.data for part in patch.parts) == b"trap" + _source(0, 1)


def test_patch_that_makes_something_else_does_not_count() -> None:
    (patch,) = best_patches(_pairs(1), workers=1, makers=(_Lies(),))
    assert patch.codec == codecs.CodecNumber.FULL
    assert patch.lost == ("_lies: ValueError: the patch does not make the target",)


def test_content_that_shares_nothing_travels_whole() -> None:
    pair = Pair("x", partial(_source, 1, 0), b"something else altogether")
    (patch,) = best_patches([pair], workers=1)
    assert (patch.codec, patch.parts[0].data) == (codecs.CodecNumber.FULL, pair.target)


def test_empty_target_and_empty_base_are_ordinary() -> None:
    pairs = [Pair("target", b"abc", b""), Pair("base", b"", b"abc"), Pair("both", b"", b"")]
    for patch, pair in zip(best_patches(pairs, workers=1, effort="high"), pairs, strict=True):
        assert not patch.lost
        assert _applied(patch, pair.base) == pair.target  # type: ignore[arg-type]


@pytest.mark.parametrize("effort", ["normal", "high"])
def test_what_the_own_maker_makes_the_others_need_not_try(effort: str) -> None:
    old, new = Kernel(100_000, 1_000_000), Kernel(100_037, 1_000_411)
    pair = Pair("module", module(1, old), module(1, new, inserted=7), Linked(NOTHING))
    (patch,) = best_patches([pair], workers=1, effort=effort)
    assert (patch.codec, patch.lost) == (codecs.CodecNumber.LINKED, ())
    # What it cannot make, they do.
    (patch,) = best_patches(
        [Pair("text", b"a" * 999, b"a" * 998 + b"b", Linked(NOTHING))], workers=1
    )
    assert (patch.codec, patch.lost) == (codecs.CodecNumber.HDIFF, ())


def test_what_patches_share_does_not_make_them_look_large() -> None:
    old, new = Kernel(100_000, 1_000_000), Kernel(100_037, 1_000_411)
    shared = Shared(Steps.of([(n * 977, n * n) for n in range(20_000)]), Steps()).dump()
    base, target = module(1, old), module(1, new, inserted=7)
    assert len(shared) > len(target)
    (patch,) = best_patches([Pair("module", base, target, Linked(shared))], workers=1)
    assert patch.codec == codecs.CodecNumber.LINKED


def test_unreadable_source_stops_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ComposerError, match="the missing one") as caught:
        list(best_patches([Pair("the missing one", tmp_path / "no", b"x")], workers=1))
    assert "FileNotFoundError" in caught.value.details[0]


def test_large_target_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # The worker imports the module anew: call what it calls.
    from composer.jigdo.delta import making

    monkeypatch.setattr(making, "PART", 1000)
    base, target = revised(9, 3500)
    parts = tuple(making._parts(codecs.HDiff(), base, target))
    assert [part.length for part in parts] == [1000, 1000, 1000, len(target) - 3000]
    assert _applied(Patch("k", 1, parts, 0), base) == target


def test_large_base_is_searched_around_the_place_of_each_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from composer.jigdo.delta import making

    for name, value in (("PART", 1000), ("_WHOLE_BASE", 2000), ("_AROUND", 300)):
        monkeypatch.setattr(making, name, value)
    base, target = revised(9, 5000)[0], b"new" + revised(9, 5000)[0][:-700]
    parts = tuple(making._parts(codecs.HDiff(), base, target))
    assert _applied(Patch("k", 1, parts, 0), base) == target
    assert sum(len(part.data) for part in parts) < 200
    longer = tuple(making._parts(codecs.HDiff(), base[:2500], target))
    assert _applied(Patch("k", 1, longer, 0), base[:2500]) == target


def test_file_is_read_where_it_is_needed(tmp_path: Path) -> None:
    from composer.jigdo.delta import making

    base, target = revised(10, 5000)
    (tmp_path / "base").write_bytes(base)
    read = making.read(tmp_path / "base")
    assert isinstance(read, HeldFile)
    parts = tuple(making._parts(codecs.HDiff(), read, target))
    assert _applied(Patch("k", 1, parts, 0), base) == target
    read.close()


def test_large_content_is_not_shipped_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in it is known: whoever wants it takes it from elsewhere, and nobody holds it."""
    from composer.jigdo.delta import making

    said: list[tuple[str, object]] = []
    monkeypatch.setattr(making, "PART", 1000)
    connection = SimpleNamespace(send=said.append)
    pair = Pair("k", bytes(2000), bytes(3000))
    making._serve(connection, pair, [codecs.Full()], Limits())  # type: ignore[arg-type]
    assert said == [("size", 5000), ("made", (3000, 0, ()))]


def test_pairs_that_take_much_memory_are_made_one_after_the_other(tmp_path: Path) -> None:
    """Each says when it begins and ends; of the large ones no two are under way at once."""
    log = tmp_path / "log"
    pairs = [
        Pair(
            n, partial(_logged, log, n), b"target", sizes=(60 << 20, 60 << 20) if n % 2 else (0, 0)
        )
        for n in range(8)
    ]
    assert [patch.key for patch in best_patches(pairs, workers=2)] == [*range(8)]
    large = [word for word in log.read_text().split() if int(word[1:]) % 2]
    assert large == [f"{what}{n}" for n in (1, 3, 5, 7) for what in "be"]


def _logged(log: Path, number: int) -> bytes:
    for what in "be":
        with log.open("a") as stream:
            stream.write(f"{what}{number}\n")
        time.sleep(0.05)
    return b"base"


def test_progress_counts_and_workers_are_gone_at_the_end() -> None:
    import multiprocessing

    steps: list[Step] = []
    made = best_patches(_pairs(4), workers=2, report=steps.append, total=4)
    next(made)
    assert multiprocessing.active_children()
    list(made)
    assert [(step.done, step.total) for step in steps] == [(n, 4) for n in (1, 2, 3, 4)]
    assert not multiprocessing.active_children()


def test_workers_are_gone_when_the_caller_stops_early() -> None:
    import multiprocessing

    made = best_patches(_pairs(40), workers=2)
    next(made)
    made.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_worker_killed_from_outside_is_replaced() -> None:
    import multiprocessing

    made = best_patches(_pairs(30), workers=1)
    results = [next(made)]
    (child,) = multiprocessing.active_children()
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    results += made
    assert [patch.key for patch in results] == list(range(30))
    assert sum(len(patch.lost) for patch in results) <= 1
