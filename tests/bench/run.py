"""The benchmark of the main job: ours against ostree and rpm, on the same machine in one run.

    python -m tests.bench.run [--corpus DIR] [--out FILE.md] [--times N] [--work DIR]

DIR holds v1/ (an rpm-md repository) and debrpm.yaml (its treefile); without it, the
tool in $JIGDO_SHARED (or ../shared) makes it, once.  nginx serves both sides.
Writes a Markdown table of ratios, and a JSON file beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.measure import Measured, in_turn, measure, median
from tests.net.real_servers import nginx

TOP = Path(__file__).resolve().parents[2]
JIGDO = [sys.executable, "-m", "composer", "--quiet"]


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison: what, both sides, the ratio that counts and its limit."""

    what: str
    ours: str
    theirs: str
    ratio: str
    limit: str


class Bench:
    """Holds the work directory and collects lines."""

    def __init__(self, corpus: Path, work: Path, times: int) -> None:
        self.corpus, self.work, self.times = corpus, work, times
        self.repo, self.archive = work / "compose-repo", work / "archive-repo"
        self.mirror, self.cache = work / "mirror", work / "cache"
        self.lines: list[Line] = []
        self.raw: dict[str, object] = {}
        treefile = (corpus / "debrpm.yaml").read_text()
        self.ref = next(
            line.split(":", 1)[1].strip()
            for line in treefile.splitlines()
            if line.startswith("ref:")
        )

    def add(self, line: Line, **raw: Measured) -> None:
        """Keep and show a line."""
        self.lines.append(line)
        self.raw[line.what] = {name: asdict(value) for name, value in raw.items()}
        print(f"{line.what}: {line.ours} | {line.theirs} | {line.ratio} (limit {line.limit})")

    def compose(self) -> None:
        """Compose v1 against ``rpm -i --root`` and ``ostree commit`` of the same packages."""
        rpms = sorted(map(str, (self.corpus / "v1").rglob("*.rpm")))
        treefile = self.corpus / "debrpm.yaml"
        command = [*JIGDO, "compose", treefile, "--cachedir", self.cache, "--force-nocache"]
        command += ["--repository", f"debrpm={self.corpus / 'v1'}", "--no-parent"]

        def ours() -> Measured:
            self._remake(self.repo, "bare-user")
            return measure([*command, "--repo", self.repo])

        def theirs() -> Measured:
            root, peer = self._empty("root"), self.work / "peer-repo"
            self._remake(peer, "bare-user")
            install = ["rpm", "-i", "--nodeps", "--noscripts", "--notriggers", "--root", root]
            first = measure([*install, "--dbpath", "/usr/share/rpm", *rpms])
            commit = ["ostree", f"--repo={peer}", "commit", "--branch=peer", f"--tree=dir={root}"]
            second = measure(commit)
            return Measured(
                first.wall + second.wall, first.cpu + second.cpu, max(first.peak, second.peak)
            )

        self._compare("compose v1, packages here", "wall", "2.0x", ours, theirs)

    def build_set(self) -> None:
        """Build the set of v1, with nothing remembered."""
        shutil.copytree(self.corpus / "v1", self.mirror, copy_function=os.link)
        command = [*JIGDO, "set", "build", "--repo", self.repo, "--ref", self.ref]
        command += ["--packages", self.mirror, "--output", self.mirror]
        run = measure([*command, "--cachedir", self._empty("digests")])
        text = f"{run.wall:.1f} s, {run.peak / 1e6:.0f} MB"
        self.add(Line("set build v1 (and publish)", text, "", "", "30 s"), run=run)

    def pull(self) -> None:
        """Pull v1 afresh against ``ostree pull``, durable and not, from one nginx."""
        self._remake(self.archive, "archive")
        local = ["ostree", f"--repo={self.archive}", "pull-local", "--disable-fsync"]
        subprocess.run([*local, self.repo, self.ref], check=True, stdout=subprocess.DEVNULL)
        with ExitStack() as stack:
            ours_url = stack.enter_context(nginx(self.mirror)).url
            theirs_url = stack.enter_context(nginx(self.archive)).url
            config = self._empty("remotes")
            remote = ["remote", "add", "bench", ours_url, "--trust", "none"]
            measure([*JIGDO, *remote, "--config-dir", config])
            for durable in (False, True):
                self._pull(config, theirs_url, durable=durable)

    def _pull(self, config: Path, theirs_url: str, *, durable: bool) -> None:
        fsync = [] if durable else ["--disable-fsync"]
        client, peer = self.work / "client", self.work / "peer-client"

        def ours() -> Measured:
            self._remake(client, "bare-user")
            command = [*JIGDO, "pull", f"bench:{self.ref}", "--repo", client]
            return measure([*command, "--config-dir", config, *fsync])

        def theirs() -> Measured:
            self._remake(peer, "bare-user")
            add = ["ostree", f"--repo={peer}", "remote", "add", "--no-gpg-verify", "peer"]
            subprocess.run([*add, theirs_url], check=True)
            return measure(["ostree", f"--repo={peer}", "pull", *fsync, "peer", self.ref])

        what = f"fresh pull v1, {'durable' if durable else 'no fsync'}"
        a, b = in_turn(self.times, ours, theirs)
        self._show(f"{what}: wall", "wall", "1.0x", a, b)
        self._show(f"{what}: CPU", "cpu", "0.75x", a, b)
        peak = max(run.peak for run in a)
        line = Line(f"{what}: peak memory", f"{peak / 1e6:.0f} MB", "", "", "150 MB")
        self.add(line, ours=median(a), theirs=median(b))
        self._same(client, peer)

    def payload(self) -> None:
        """Objects from RPM payload against ``rpm -i`` of the same packages into an empty root."""
        rpms = sorted(map(str, (self.corpus / "v1").rglob("*.rpm")))
        made = next(self.mirror.rglob("jigdo-*.rpm"))

        def ours() -> Measured:
            repo = self.work / "payload-repo"
            self._remake(repo, "bare-user")
            return measure([sys.executable, "-m", "tests.bench.payload", made, self.mirror, repo])

        def theirs() -> Measured:
            root = self._empty("root")
            install = ["rpm", "-i", "--nodeps", "--noscripts", "--notriggers", "--root", root]
            return measure([*install, "--dbpath", "/usr/share/rpm", *rpms])

        a, b = in_turn(self.times, theirs, ours)  # a rate: the other way round
        self._show("rate of objects from payload, to rpm -i's", "wall", "at least 0.6x", a, b)

    def help(self) -> None:
        """Show the help page."""
        runs = [measure([*JIGDO, "--help"]) for _ in range(5)]
        best = median(runs)
        self.add(Line("--help", f"{best.wall:.2f} s", "", "", "0.2 s"), run=best)

    def _compare(
        self,
        what: str,
        figure: str,
        limit: str,
        ours: Callable[[], Measured],
        theirs: Callable[[], Measured],
    ) -> None:
        self._show(what, figure, limit, *in_turn(self.times, ours, theirs))

    def _show(
        self, what: str, figure: str, limit: str, a: list[Measured], b: list[Measured]
    ) -> None:
        first, second = getattr(median(a), figure), getattr(median(b), figure)
        line = Line(what, f"{first:.1f} s", f"{second:.1f} s", f"{first / second:.2f}x", limit)
        self.add(line, ours=median(a), theirs=median(b))

    def _same(self, *repos: Path) -> None:
        commits = {
            subprocess.run(
                ["ostree", f"--repo={repo}", "rev-parse", self.ref],
                check=True,
                capture_output=True,
            ).stdout
            for repo in repos
        }
        if len(commits) != 1:
            sys.exit(f"error: the repositories have different commits: {commits}")

    def _remake(self, repo: Path, mode: str) -> None:
        shutil.rmtree(repo, ignore_errors=True)
        subprocess.run(["ostree", f"--repo={repo}", "init", f"--mode={mode}"], check=True)

    def _empty(self, name: str) -> Path:
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path


@contextmanager
def workdir(given: Path | None) -> Iterator[Path]:
    if given is not None:
        shutil.rmtree(given, ignore_errors=True)
        given.mkdir(parents=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="jigdo-bench-") as directory:
        yield Path(directory)


def make_corpus() -> Path:
    """Make the whole corpus (about 5 minutes), or find what was made before."""
    shared = Path(os.environ.get("JIGDO_SHARED") or TOP.parent / "shared")
    tool = shared / "tools" / "make_debrpm.py"
    if not tool.exists():
        sys.exit(f"error: {tool} is not there; name a corpus with --corpus")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    corpus = cache / "jigdo-composer" / "corpus-full"
    if not (corpus / "debrpm.yaml").exists():
        subprocess.run(["/usr/bin/python3", tool, "--out", corpus], check=True)
    return corpus


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--out", type=Path, default=TOP / ".cache" / "bench.md")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with workdir(options.work) as work:
        bench = Bench((options.corpus or make_corpus()).resolve(), work, options.times)
        for part in (bench.help, bench.compose, bench.build_set, bench.pull, bench.payload):
            part()
    rows = ["| what | ours | theirs | ratio | limit |", "|---|---|---|---|---|"]
    rows += [f"| {x.what} | {x.ours} | {x.theirs} | {x.ratio} | {x.limit} |" for x in bench.lines]
    options.out.write_text("\n".join(rows) + "\n")
    options.out.with_suffix(".json").write_text(json.dumps(bench.raw, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
