"""The benchmark of bytes: what an update and a fresh install move, ours and other ways.

    python -m tests.bench.bytes V1 V2 --out FILE.json [--case update|fresh|two|relabel|any5]
        [--quick] [--treefile FILE] [--packages "NAME NAME"] [--docs] [--background]

V1 and V2 are directories of RPMs (rpm-md repositories).  Both are composed, by a treefile or
with every package there is; every way's result is proven to be the same tree.
Composing takes root.  Progress is on standard error; FILE.json has everything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench import ours
from tests.bench.anytoany import AnyToAny, pairs_table
from tests.bench.generations import generations
from tests.bench.goals import goals, goals_table
from tests.bench.measure import TooLong
from tests.bench.peers import PEERS, Peer, Scene, Version, new_client, working_directory
from tests.bench.relabel import Choose, changed, labelled, usual
from tests.bench.report import plot, replace_section, table
from tests.bench.result import FRESH, UPDATE, Result, WrongTree
from tests.bench.trees import export_image, with_updated

_RELABELLED = 10_000
TWO = ("jq", "libjq1")
DOCS = Path(__file__).resolve().parents[2] / "docs"
_VERSIONS = (
    ["ostree", "--version"], ["rpm", "--version"], ["rdiff", "--version"],
    ["zstd", "--version"], ["casync", "--version"], ["gzip", "--version"], ["xz", "--version"],
    ["nginx", "-v"],
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for.  ``ways`` are keys of peers, all of them when empty."""

    v1: Path
    v2: Path
    out: Path
    case: str = UPDATE
    quick: bool = False
    treefile: Path | None = None
    packages: Sequence[str] = ()
    ways: Sequence[str] = ()
    labelled: bool = False
    docs: bool = False
    work: Path | None = None
    seconds: float = 3600.0


class Clock:
    """Progress lines on standard error, each with the time since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """Write one line."""
        print(f"[{self.seconds():6.0f} s] {text}", file=sys.stderr, flush=True)

    def seconds(self) -> float:
        """Return the time since the start."""
        return time.monotonic() - self._started


class Bench:
    """One run in a work directory: collects results, and whether all went well."""

    def __init__(self, options: Options, work: Path, clock: Clock) -> None:
        self.options, self.work, self.clock = options, work, clock
        self.results: list[Result] = []
        self.facts: dict[str, Any] = {}
        self.failed = False
        self.repo = new_client(work / "repo")

    def run(self) -> None:
        """Compose, then our side, then the peers."""
        if self.options.case == "any5":
            self._any_to_any()
            return
        old, new = self._compose("v1", self.options.v1), None
        if self.options.case == "relabel":
            new = self._labelled("v2", old, changed(_RELABELLED))
        elif self.options.case != "fresh":
            new = self._compose("v2", self._second())
        self._ours(old, new)
        scene = self._scene(old, new)
        for peer in PEERS:
            if not self.options.ways or peer.key in self.options.ways:
                self._peer(peer, scene)

    def _any_to_any(self) -> None:
        self.clock.say("making five generations")
        made = generations(self.options.v1, self.work / "generations", self.options.packages)
        self.facts["changed packages"] = list(made.changed)
        repositories = enumerate(made.repositories, 1)
        versions = [self._compose(f"v{number}", place) for number, place in repositories]
        place = self.work / "pairs"
        place.mkdir()
        pairs = AnyToAny(
            place, self.repo, versions, self.options.seconds, self.clock.say,
            direct=not self.options.quick,
        )  # fmt: skip
        for result in pairs.results():
            self._add(result)
        self.facts["bytes of the sets"] = pairs.stored
        self.facts["newest set by bases"] = pairs.grown

    def _second(self) -> Path:
        if self.options.case != "two":
            return self.options.v2
        into = self.work / "two"
        return with_updated(self.options.v1, self.options.v2, self.options.packages or TWO, into)

    def _compose(self, name: str, packages: Path) -> ours.Composed:
        self.clock.say(f"composing {name}")
        composed = ours.compose(self.options.treefile, packages, self.repo, self.work)
        sizes = [path.stat().st_size for path in composed.rpms]
        self.facts[name] = {
            "commit": composed.commit,
            "packages": len(sizes),
            "RPM bytes": sum(sizes),
            "compose": asdict(composed.run),
        }
        if self.options.labelled or self.options.case == "relabel":
            return self._labelled(name, composed, usual)
        return composed

    def _labelled(self, name: str, composed: ours.Composed, choose: Choose) -> ours.Composed:
        self.clock.say(f"labelling {name}")
        commit = labelled(self.repo, composed.commit, choose)
        self.facts[name] = {**self.facts.get(name, self.facts["v1"]), "commit": commit}
        return replace(composed, commit=commit)

    def _ours(self, old: ours.Composed, new: ours.Composed | None) -> None:
        self.clock.say("jigdo set: build, fresh install, update")
        place = self.work / "ours"
        place.mkdir()
        journey = ours.Journey(place, self.repo, old, new, self.options.seconds)
        for result in journey.results():
            self._add(result)
        shutil.rmtree(place)

    def _scene(self, old: ours.Composed, new: ours.Composed | None) -> Scene:
        self.clock.say("writing the images")
        versions = []
        for composed in (old, new):
            if composed is not None:
                path = self.work / f"{composed.commit}.tar"
                image = export_image(self.repo, composed.commit, path)
                versions.append(Version(composed.commit, composed.packages, composed.rpms, image))
        self.facts["image bytes"] = [version.image.size for version in versions]
        second = versions[1] if new else None
        return Scene(
            self.work / "peer", self.repo, old.ref, versions[0], second, self.options.seconds
        )

    def _peer(self, peer: Peer, scene: Scene) -> None:
        case = UPDATE if scene.new else FRESH
        if peer.updates_only and scene.new is None:
            return
        reason = ""
        if peer.slow and self.options.quick:
            reason = "left out by QUICK=1"
        elif missing := peer.missing():
            reason = ", ".join(f"no {n.name} here (package {n.package})" for n in missing)
        if reason:
            self._add(Result(case, peer.title, skipped=reason))
            return
        self.clock.say(f"{peer.title} ...")
        with working_directory(self.work):
            try:
                for result in peer.run(scene):
                    self._add(replace(result, way=peer.title))
            except TooLong as error:
                self._add(Result(case, peer.title, skipped=str(error)))
            except subprocess.CalledProcessError as error:
                self.failed = True
                last = (error.stderr or b"")[-300:]
                self._add(Result(case, peer.title, skipped=f"failed: {error}: {last!r}"))

    def _add(self, result: Result) -> None:
        self.results.append(result)
        what = f"{result.bytes:,} bytes" if result.bytes is not None else f"- {result.skipped}"
        self.clock.say(f"{result.case}: {result.way}: {what}")


# --- what is written


def document(bench: Bench) -> dict[str, Any]:
    """Return everything, as JSON has it."""
    options = bench.options
    return {
        "case": options.case,
        "quick": options.quick,
        "labelled": options.labelled or options.case == "relabel",
        "treefile": options.treefile.name if options.treefile else "every package",
        "updated": list(options.packages or TWO) if options.case == "two" else None,
        "seconds": round(bench.clock.seconds(), 1),
        "machine": machine(),
        "tools": tools(),
        **bench.facts,
        "results": [asdict(result) for result in bench.results],
        "goals": [
            {**asdict(goal), "reached": goal.reached} for goal in goals(options.case, bench.results)
        ],
        "ratios": ratios(bench.results) if options.case != "any5" else None,
    }


def ratios(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Return our bytes over each other way's, by case; for the best of our variants."""
    found: dict[str, dict[str, float]] = {}
    for case in dict.fromkeys(result.case for result in results):
        rows = [r for r in results if r.case == case and r.bytes]
        best = min((r.bytes or 0 for r in rows if r.ours), default=0)
        found[case] = {r.way: round(best / (r.bytes or 1), 3) for r in rows if not r.ours}
    return found


def machine() -> dict[str, Any]:
    """Describe the machine, for reading ratios."""
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count(),
        "memory": memory,
        "architecture": platform.machine(),
        "system": system,
        "python": platform.python_version(),
    }


def tools() -> dict[str, str]:
    """Return what each tool says of its version."""
    found = {}
    for argv in _VERSIONS:
        path = shutil.which(argv[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
        if path is not None:
            done = subprocess.run([path, *argv[1:]], capture_output=True, text=True, check=False)
            text = done.stdout + done.stderr
            dotted = re.search(r"\d+\.\d[\w.]*", text) or re.search(r"\d+", text)
            found[argv[0]] = dotted[0] if dotted else "unknown"
    return found


def against(case: str) -> str:
    """Return the way that ratios in tables are to."""
    return "OSTree object pull" if case == "fresh" else "OSTree static delta"


def markdown(found: dict[str, Any], results: Sequence[Result]) -> str:
    """Return the tables with what they were measured on."""
    on, versions = found["machine"], found["tools"]
    cases = [result for result in results if result.case != FRESH]
    fresh = [result for result in results if result.case == FRESH]
    text = [
        f"Case `{found['case']}`: {found['v1']['packages']} packages,"
        f" {found['v1']['RPM bytes']:,} bytes of RPMs; treefile: {found['treefile']}."
        f" {on['cpus']} CPUs, {on['system']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". The whole run took {found['seconds'] / 60:.0f} minutes."
        + (" QUICK=1: the slowest ways are left out." if found["quick"] else ""),
        "",
    ]
    if held := goals(found["case"], results):
        text += [goals_table(held)]
    if found["case"] == "any5":
        changed = ", ".join(found["changed packages"])
        text += [f"In each generation these packages are other ones: {changed}.", ""]
        text += ["Ratio: to the best delta for that pair alone.", "", pairs_table(results)]
        for way, sizes in found["bytes of the sets"].items():
            text.append(f"Bytes of the sets, {way}: {', '.join(f'{s:,}' for s in sizes)}.")
        if grown := found["newest set by bases"]:
            text.append(
                "Bytes of the newest set with all deltas from none, one, two... versions: "
                + ", ".join(f"{size:,}" for size in grown)
                + "."
            )
        return "\n".join([*text, ""])
    if cases:
        text += ["Ratio: to the OSTree static delta.", "", table(cases, against("update"))]
    if fresh:
        text += ["Ratio: to the OSTree object pull.", "", table(fresh, against("fresh"))]
    return "\n".join(text)


def write_docs(case: str, text: str, results: Sequence[Result], docs: Path = DOCS) -> None:
    """Put table and plot into the documentation."""
    if case != "any5":
        name = "bytes.svg" if case == UPDATE else f"bytes-{case}.svg"
        (docs / "img").mkdir(exist_ok=True)
        drawn = plot(results, f"Bytes moved: {case}", FRESH if case == "fresh" else UPDATE)
        (docs / "img" / name).write_text(drawn)
        text = f"![Bytes moved, a bar for each way](img/{name})\n\n{text}"
    replace_section(docs / "benchmarks.md", case, text)


# --- running


@contextmanager
def work_directory(given: Path | None) -> Iterator[Path]:
    """Give an empty directory, removed afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-bytes.", dir=given) as place:
        yield Path(place)


def run(options: Options) -> int:
    """Run everything and write what was asked for; returns the exit status."""
    clock = Clock()
    with work_directory(options.work) as work:
        bench = Bench(options, work, clock)
        bench.run()
        found = document(bench)
    text = markdown(found, bench.results)
    options.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    options.out.with_suffix(".md").write_text(text)
    if options.docs:
        write_docs(options.case, text, bench.results)
    print(text)
    clock.say(f"done; everything is in {options.out}")
    return 1 if bench.failed else 0


def in_background(arguments: Sequence[str], out: Path) -> int:
    """Start the same run detached from the terminal; says where it writes."""
    log = out.with_suffix(".log")
    argv = [word for word in arguments if word != "--background"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bytes", *argv],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    print(f"running as process {process.pid}: tail -f {log}")
    return 0


def parse(arguments: Sequence[str]) -> tuple[Options, bool]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("v1", type=Path)
    parser.add_argument("v2", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", choices=tuple(CASES), default=UPDATE)
    parser.add_argument("--quick", action="store_true", help="leave out the slowest ways")
    parser.add_argument("--treefile", type=Path, help="default: every package of the repository")
    parser.add_argument("--packages", default="", help="what changes, of --case two and any5")
    parser.add_argument("--ways", default="", help="only these: " + " ".join(p.key for p in PEERS))
    parser.add_argument("--labelled", action="store_true", help="give the trees SELinux labels")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md too")
    parser.add_argument("--work", type=Path, help="where temporary files go")
    parser.add_argument("--seconds", type=float, default=3600.0, help="limit for each command")
    parser.add_argument("--background", action="store_true", help="return at once")
    given = vars(parser.parse_args(arguments))
    background = given.pop("background")
    given["packages"], given["ways"] = given["packages"].split(), given["ways"].split()
    for name in ("v1", "v2", "out"):
        given[name] = given[name].resolve()
    return Options(**given), background


CASES: dict[str, Callable[[Options], int]] = {
    UPDATE: run,
    "fresh": run,
    "two": run,
    "relabel": run,
    "any5": run,
}


def main() -> int:
    """Run what the command line asks for."""
    options, background = parse(sys.argv[1:])
    if background:
        return in_background(sys.argv[1:], options.out)
    try:
        return CASES[options.case](options)
    except subprocess.CalledProcessError as error:
        text = error.stderr if isinstance(error.stderr, str) else (error.stderr or b"").decode()
        print(f"error: {error}\n{text}", file=sys.stderr)
    except (WrongTree, LookupError, TooLong) as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
