"""The benchmark of the compose: ours against ``dnf --installroot``, and a second against the first.

    python -m tests.bench.compose [--corpus DIR] [--out FILE.md] [--times N] [--work DIR]
        [--treefile FILE] [--repository ID=DIR] [--add PACKAGE]

DIR holds v1/ and v2/ (rpm-md repositories) and debrpm.yaml, the treefile.  With triggers:
--repository and --add name where os-triggers is and the package (both repeatable), and
--treefile a treefile that asks for an initramfs.  Both sides find their packages and their
rpm-md here, and what earlier runs left to be written is written before a run begins.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from composer.compose.treefile import load
from tests.bench.measure import Measured, measure, median
from tests.bench.run import JIGDO, TOP, make_corpus, workdir

_PHASES = (
    "solve",
    "fetch",
    "transaction",
    "scriptlets",
    "postprocess",
    "initramfs",
    "commit",
    "clean up",
)


@dataclass(frozen=True, slots=True)
class Composed:
    """One of our composes: from outside, and by phase as the program told it."""

    whole: Measured
    seconds: Mapping[str, float]

    @property
    def without_commit(self) -> float:
        """Seconds of wall clock up to the finished tree."""
        return self.whole.wall - self.seconds["commit"]


@dataclass(frozen=True, slots=True)
class Peer:
    """``dnf --installroot``, then ``ostree commit``."""

    install: Measured
    commit: Measured


class Bench:
    """Runs everything in turn, and keeps all figures."""

    def __init__(self, options: argparse.Namespace, corpus: Path, work: Path) -> None:
        self.corpus, self.work, self.times = corpus, work, options.times
        self.extra = dict(pair.split("=", 1) for pair in options.repository)
        self.treefile = work / "bench.yaml"
        given = options.treefile or corpus / "debrpm.yaml"
        layer = {"include": str(given.resolve()), "packages": options.add}
        if self.extra:
            layer["repos"] = sorted(self.extra)
        self.treefile.write_text(yaml.safe_dump(layer))
        self.flat = load(self.treefile, basearch="x86_64")

    def ours(self, generation: str, *, status: int = 0) -> Composed:
        """Compose a generation of the corpus into the repository."""
        words = ["compose", self.treefile, "--repo", self.work / "repo", "--json"]
        words += ["--cachedir", self.work / "cache", "--basearch", "x86_64"]
        for name, place in self._repositories(generation).items():
            words += ["--repository", f"{name}={place}"]
        out = self.work / "out.json"
        os.sync()
        whole = measure([*JIGDO, *words], stdout=out, status=status)
        return Composed(whole, json.loads(out.read_text())["seconds"] if not status else {})

    def peer(self) -> Peer:
        """Install v1 with dnf, and commit the tree with ostree."""
        root, repo = self._empty("root"), self.work / "peer-repo"
        argv: list[object] = ["dnf", "-y", "--quiet", "--installroot", root, "--nogpgcheck"]
        argv += ["--noplugins", "--releasever=1", "--setopt=reposdir=/nonexistent"]
        argv += [f"--setopt=cachedir={self.work / 'dnf-cache'}", "--setopt=ignorearch=True"]
        argv += [f"--setopt=install_weak_deps={self.flat.recommends}"]
        argv += [f"--setopt=tsflags={'' if self.flat.documentation else 'nodocs'}"]
        for name, place in self._repositories("v1").items():
            argv += [f"--repofrompath={name},{place}", f"--repo={name}"]
        os.sync()
        install = measure([*argv, "install", *self.flat.packages])
        shutil.rmtree(repo, ignore_errors=True)
        subprocess.run(["ostree", f"--repo={repo}", "init", "--mode=bare-user"], check=True)
        commit = ["ostree", f"--repo={repo}", "commit", "--branch=peer", f"--tree=dir={root}"]
        return Peer(install, measure(commit))

    def _repositories(self, generation: str) -> dict[str, str]:
        return {"debrpm": str(self.corpus / generation), **self.extra}

    def round(self) -> tuple[Peer, Composed, Composed, Composed]:
        """Run the peer, and ours: the first, the second generation, nothing new."""
        peer = self.peer()
        shutil.rmtree(self.work / "repo", ignore_errors=True)
        first = self.ours("v1")
        second = self.ours("v2")
        return peer, first, second, self.ours("v2", status=77)

    def _empty(self, name: str) -> Path:
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path


def table(rounds: list[tuple[Peer, Composed, Composed, Composed]]) -> Iterator[str]:
    """Write the comparison, then the phases, as Markdown."""
    peers, firsts, seconds, nothing = zip(*rounds, strict=True)
    install = statistics.median(peer.install.wall for peer in peers)
    both = statistics.median(peer.install.wall + peer.commit.wall for peer in peers)
    ours = statistics.median(run.without_commit for run in firsts)
    first = statistics.median(run.whole.wall for run in firsts)
    second = statistics.median(run.whole.wall for run in seconds)
    same = statistics.median(run.whole.wall for run in nothing)
    peak = max(run.whole.peak for run in (*firsts, *seconds))
    yield "| what | ours | theirs | ratio | limit |"
    yield "|---|---|---|---|---|"
    yield f"| full compose, without commit; `dnf --installroot` | {_row(ours, install)} | 1.3x |"
    yield f"| full compose; `dnf --installroot` and `ostree commit` | {_row(first, both)} | |"
    yield f"| second compose (v2 after v1); the first | {_row(second, first)} | 0.9x |"
    yield f"| nothing new | {same:.1f} s | | | 3 s |"
    yield f"| peak memory of the process tree | {peak / 1e6:.0f} MB | | | 500 MB |"
    if flattened := _flattening():
        yield f"| flatten {flattened[0]} | {flattened[1]:.2f} s | | | 0.3 s |"
    cpu = median([run.whole for run in firsts]).cpu, median([run.whole for run in seconds]).cpu
    yield ""
    yield "| seconds | " + " | ".join(_PHASES) + " | all | CPU |"
    yield "|---" * (len(_PHASES) + 3) + "|"
    for what, runs, spent in (("v1", firsts, cpu[0]), ("v2 after v1", seconds, cpu[1])):
        phases = [statistics.median(run.seconds.get(p, 0.0) for run in runs) for p in _PHASES]
        whole = statistics.median(run.whole.wall for run in runs)
        figures = " | ".join(f"{figure:.1f}" for figure in (*phases, whole, spent))
        yield f"| {what} | {figures} |"


def _row(ours: float, theirs: float) -> str:
    return f"{ours:.1f} s | {theirs:.1f} s | {ours / theirs:.2f}x"


def _flattening() -> tuple[str, float] | None:
    """Return the name of the real treefile that takes longest to flatten, and the seconds."""
    place = Path(os.environ.get("JIGDO_SHARED") or TOP.parent / "shared") / "treefiles"
    found = []
    for path in sorted(place.rglob("*.yaml")):
        try:
            load(path, basearch="x86_64").require_complete()
        except Exception:  # a part of another, or one for other tools
            continue
        found.append((path, _flatten(path)))
    if not found:
        return None
    path, _ = max(found, key=lambda pair: pair[1])
    return path.name, statistics.median(_flatten(path) for _ in range(5))


def _flatten(path: Path) -> float:
    return measure([*JIGDO, "treefile", path, "--basearch", "x86_64"]).wall


def main() -> None:
    """Run everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--out", type=Path, default=TOP / ".cache" / "bench-compose.md")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--treefile", type=Path)
    parser.add_argument("--repository", action="append", default=[])
    parser.add_argument("--add", action="append", default=[])
    options = parser.parse_args()
    if shutil.which("dnf") is None:
        sys.exit("error: dnf is not installed; run: bash packaging/setup.sh test")
    with workdir(options.work) as work:
        bench = Bench(options, (options.corpus or make_corpus()).resolve(), work)
        rounds = [bench.round() for _ in range(options.times)]
        text = "\n".join(table(rounds)) + "\n"
    print(text, end="")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text)
    raw = [[asdict(part) for part in one] for one in rounds]
    options.out.with_suffix(".json").write_text(json.dumps(raw, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
