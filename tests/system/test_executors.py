"""Clusters that cannot be used are told from those that can, in time and in words."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from composer.errors import MissingRequirement, UsageError
from composer.system import executors
from composer.system.executors import Farm, Tls, Unanswered, Work, opened_executor, spread
from tests.farms import Cluster, cluster, farm, farm_cluster
from tests.net.authority import Authority

__all__ = ("farm", "farm_cluster")

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_CONNECT_SECONDS", 3.0)


@pytest.mark.parametrize(
    "url",
    ["dask://", "dask://host", "dask://host:0", "dask://host:x", "tcp://host:1", "threads", ""],
)
def test_urls_that_name_nothing_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="expected processes or dask://HOST:PORT"):
        opened_executor(url).__enter__()


def test_processes_are_no_farm() -> None:
    with opened_executor("processes") as opened:
        assert opened is None


def test_scheduler_that_is_not_there_is_told_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(Unanswered, match=r"dask://127.0.0.1:9: no Dask scheduler answers"):
        opened_executor("dask://127.0.0.1:9").__enter__()
    assert time.monotonic() - began < 20


def test_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingRequirement, match="distributed"):
        opened_executor("dask://127.0.0.1:9").__enter__()


def test_scheduler_without_workers_is_told(tmp_path: Path) -> None:
    with cluster(tmp_path) as made, pytest.raises(Unanswered, match="has no workers"):
        opened_executor(made.url).__enter__()


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ("version", r"zstandard 0\.1 \(here \d"),
        ("package", "ModuleNotFoundError|No module named"),
    ],
)
def test_worker_of_another_kind_is_named_with_what_differs(
    tmp_path: Path, odd: str, told: str
) -> None:
    with cluster(tmp_path) as made:
        preload = ("--preload", str(ROOT / "tests/odd_worker.py"))
        made.add_worker("odd", more=preload, environment={"ODD": odd})
        made.add_worker("plain")
        made.wait_for(2)
        with pytest.raises(Unanswered, match="1 of 2 workers") as caught:
            opened_executor(made.url).__enter__()
    (line,) = caught.value.details
    assert re.search(told, line), line


def test_with_tls_both_sides_prove_who_they_are(tmp_path: Path) -> None:
    own, other = Authority.found(tmp_path / "own"), Authority.found(tmp_path / "other")
    names = ("--tls-ca-file", own.root, "--tls-cert", own.client[0], "--tls-key", own.client[1])
    with cluster(tmp_path, tls=tuple(map(str, names))) as made:
        made.add_worker("w")
        with opened_executor(made.url, Tls(own.root, *own.client)) as opened:
            assert opened
            assert opened.submit(_double, 2, b"").result(30) == 4
        for tls in (Tls(), Tls(own.root, *other.client), Tls(other.root, *own.client)):
            with pytest.raises(Unanswered, match="no Dask scheduler answers"):
                opened_executor(made.url, tls).__enter__()


def test_certificate_without_its_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(Unanswered):
        opened_executor("dask://127.0.0.1:9", Tls(tmp_path / "no.pem")).__enter__()


def _double(number: int, data: bytes) -> int:
    return 2 * number + len(data)


def test_results_come_in_order_and_what_is_not_loaded_is_done_here(farm: Farm) -> None:
    here: list[int] = []

    def do_here(number: int) -> int:
        here.append(number)
        return 2 * number

    def load(number: int) -> tuple[tuple[int, bytes], int] | None:
        return None if number % 5 == 0 else ((number, b""), 1)

    work = Work(_double, load, lambda item, args, result: int(result), do_here)
    assert [*spread(farm, work, range(60), workers=2)] == [2 * n for n in range(60)]
    assert sorted(here) == [*range(0, 60, 5)]


def test_few_bytes_are_under_way_at_once(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_BYTES_AHEAD", 1000)
    under_way, most = 0, 0

    def load(number: int) -> tuple[tuple[int, bytes], int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        return (number, b"x" * 400), 400

    def judge(number: int, args: tuple[object, ...], result: object) -> int:
        nonlocal under_way
        under_way -= 1
        assert isinstance(result, int)
        return result

    work = Work(_double, load, judge, int)
    assert [*spread(farm, work, range(40), workers=1)] == [2 * n + 400 for n in range(40)]
    assert most == 3


def test_error_of_this_machine_ends_it(farm: Farm) -> None:
    def fail(number: int) -> int:
        raise ValueError(f"no {number}")

    work: Work[int, int] = Work(_double, lambda n: None, lambda i, a, r: int(r), fail)
    with pytest.raises(ValueError, match="no 1"):
        list(spread(farm, work, [1, 2, 3], workers=1))


def test_identity_names_what_decides_results(farm_cluster: Cluster) -> None:
    found = executors.identity()
    assert {"jigdo-composer's code", "Python", "hdiffpatch", "zstandard"} <= found.keys()
