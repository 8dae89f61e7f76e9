"""Deltas on a Dask cluster in numbers: one worker, two, as many as there are cores.

``python -m tests.bench.farm REPO PACKAGES --ref REF [--from REV] [--workers 1 2]``: builds the
newest set of REF with deltas from the version before it.  Each worker is pinned to a core of
its own.  What is measured is the time from the first step of looking, learning and making
deltas to the last, and the whole command; the sets have to be the same, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.farms import cluster

_PHASES = ("look inside", "learn", "deltas")


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds by the wall: the phases together, each, and the whole command; and what came out."""

    phases: dict[str, float]
    whole: float
    digest: str
    troubles: str

    @property
    def deltas(self) -> float:
        """Of looking, learning and making together."""
        return sum(self.phases.values())


def build(options: argparse.Namespace, cache: Path, out: Path, executor: str) -> Run:
    """Build the set with an empty store of patches; the commit's digests are known."""
    for path in (cache / "patches.sqlite", out):
        if path.is_dir():
            shutil.rmtree(path)
        for one in path.parent.glob(path.name + "*"):
            one.unlink()
    argv = [sys.executable, "-m", "composer", "set", "build", "--json", "--ref", options.ref]
    argv += ["--repo", options.repo, "--packages", options.packages, "--output", out]
    argv += ["--cachedir", cache, "--rpm-deltas", "all", "--from", options.start]
    argv += ["--executor", executor]
    began = last = time.monotonic()
    phases = dict.fromkeys(_PHASES, 0.0)
    told = []
    process = subprocess.Popen(
        [str(word) for word in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        now = time.monotonic()
        try:
            phase = json.loads(line).get("phase", "")
        except ValueError:
            told.append(line.strip())
            continue
        # The time up to a step is what that step took.
        if phase in phases:
            phases[phase] += now - last
        last = now
    if process.wait():
        raise SystemExit("\n".join(told))
    whole = time.monotonic() - began
    (rpm,) = (out / "jigdo").glob("*.rpm")
    return Run(phases, whole, hashlib.sha256(rpm.read_bytes()).hexdigest(), "; ".join(told))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("repo", type=Path)
    parser.add_argument("packages")
    parser.add_argument("--ref", required=True)
    parser.add_argument("--from", dest="start", required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=options.work) as directory:
        work = Path(directory)
        runs = {"processes": build(options, work / "cache", work / "out", "processes")}
        # Once more: now the digests are known.
        runs["processes"] = build(options, work / "cache", work / "out", "processes")
        for count in options.workers:
            where = work / f"farm{count}"
            where.mkdir()
            with cluster(where) as made:
                for number in range(count):
                    core = str(cores[number % len(cores)])
                    made.add_worker(f"w{number}", prefix=("taskset", "-c", core))
                made.wait_for(count)
                runs[f"{count} workers"] = build(options, work / "cache", work / "out", made.url)
    load = " ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{len(cores)} cores, load {load}")
    print(f"{'':12}{'looking':>9}{'learning':>9}{'making':>9}{'deltas':>9}{'whole':>9}")
    for name, run in runs.items():
        seconds = "".join(f"{run.phases[phase]:9.1f}" for phase in _PHASES)
        print(f"{name:12}{seconds}{run.deltas:9.1f}{run.whole:9.1f}  {run.troubles}")
    if len({run.digest for run in runs.values()}) != 1:
        raise SystemExit("the sets differ")
    first = runs[f"{options.workers[0]} workers"].deltas
    for count in options.workers[1:]:
        ratio = first / runs[f"{count} workers"].deltas
        print(f"{count} workers against {options.workers[0]}: {ratio:.2f}x")


if __name__ == "__main__":
    main()
