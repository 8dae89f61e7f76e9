"""Our own side: compose, build the sets, pull over HTTP; counted by us and by the server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench.measure import Measured, measure
from tests.bench.peers import Counted, new_client, point, prove_commit
from tests.bench.result import FRESH, NOTHING, UPDATE, Result, WrongTree, require_same
from tests.bench.trees import link_all, names, query, rpms_in
from tests.net.real_servers import RealServer, nginx

JIGDO = [sys.executable, "-m", "composer", "--quiet"]
_OPTION_OF_DELTAS = "--rpm-deltas"


@dataclass(frozen=True, slots=True)
class Variant:
    """A choice of the operator's and of the client's; {old} is the commit to update from.

    It is left out, by name, while the program does not know one of its options.
    """

    key: str
    title: str
    build: Sequence[str] = ()
    pull: Sequence[str] = ()


VARIANTS: Sequence[Variant] = (
    Variant("none", "jigdo set, without deltas", ("--from", "none")),
    Variant("rest", "jigdo set, deltas of non-RPM content",
            ("--from", "{old}", "--rpm-deltas", "none")),
    Variant("auto", "jigdo set, chosen deltas", ("--from", "{old}", "--rpm-deltas", "auto")),
    Variant("all", "jigdo set, all deltas", ("--from", "{old}", "--rpm-deltas", "all")),
    Variant("bytes", "jigdo set, all deltas, pull --prefer bytes",
            ("--from", "{old}", "--rpm-deltas", "all"), ("--prefer", "bytes")),
    Variant("cpu", "jigdo set, all deltas, pull --prefer cpu",
            ("--from", "{old}", "--rpm-deltas", "all"), ("--prefer", "cpu")),
)  # fmt: skip


def build_options(variant: Variant, olds: Sequence[str]) -> list[str]:
    """Return a variant's options of ``set build``, with ``--from`` for each of these commits."""
    words = list(variant.build)
    if "{old}" in words:
        at = words.index("{old}") - 1
        words[at : at + 2] = [word for old in olds for word in (variant.build[at], old)]
    return words


class Unknown(Exception):
    """This program does not know an option (yet)."""


def require_options(variant: Variant) -> None:
    """Raise Unknown, naming the option, when the program lacks one of a variant's."""
    for command, words in ((["set", "build"], variant.build), (["pull"], variant.pull)):
        known = run_jigdo(*command, "--help")
        for word in words:
            if word.startswith("--") and word not in known.split():
                raise Unknown(f"{' '.join(command)} has no {word}")


def run_jigdo(*words: object) -> str:
    """Run the program; returns what it prints."""
    argv = [*JIGDO, *map(str, words)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def measure_json(
    work: Path, *words: object, seconds: float | None = None
) -> tuple[Measured, dict[str, Any]]:
    """Measure the program with ``--json``; returns its document too."""
    out = work / "out.json"
    run = measure([*JIGDO, *words, "--json"], stdout=out, seconds=seconds)
    return run, json.loads(out.read_text())


# --- composing


@dataclass(frozen=True, slots=True)
class Composed:
    """A version in the repository that was composed into."""

    ref: str
    commit: str
    packages: Path
    rpms: Sequence[Path]
    run: Measured


def compose(treefile: Path | None, packages: Path, repo: Path, work: Path) -> Composed:
    """Compose a version of ``packages``: a treefile's, or of every package there is."""
    place = work / "treefile.yaml"
    if treefile is None:
        place.write_text(generic_treefile(packages))
        treefile = place
    flat = json.loads(run_jigdo("treefile", treefile, "--json"))
    words: list[object] = ["compose", treefile, "--repo", repo, "--cachedir", work / "cache"]
    for name in flat["repos"]:
        words += ["--repository", f"{name}={packages}"]
    run, document = measure_json(work, *words)
    wanted = set(document["packages"])
    found = rpms_in(packages)
    labels = query(found, "%{NEVRA}\n")
    rpms = [path for path, label in zip(found, labels, strict=True) if label in wanted]
    return Composed(document["ref"], document["commit"], packages, rpms, run)


def generic_treefile(packages: Path) -> str:
    """Return a treefile of all packages in a repository."""
    listed = sorted(set(names(rpms_in(packages))))
    document = {
        "ref": "bench/all",
        "repos": ["bench"],
        "selinux": False,
        "recommends": False,
        "no-initramfs": True,
        "boot-location": "modules",
        "automatic-version-prefix": "1",
        "packages": listed,
    }
    return json.dumps(document, indent=1)  # which YAML reads too


# --- a mirror, a client


class Side:
    """A mirror with sets of some versions, and a client; copies are hard links."""

    def __init__(self, place: Path, seconds: float) -> None:
        self.place, self.seconds = place, seconds
        self.mirror, self.client, self.config = place / "mirror", place / "client", place / "conf"
        self.cache = place / "digests"

    @classmethod
    def empty(cls, place: Path, seconds: float) -> Side:
        """Make a mirror with nothing in it and a client that has nothing."""
        side = cls(place, seconds)
        for path in (place, side.mirror, side.config):
            path.mkdir()
        new_client(side.client)
        return side

    def copy(self, place: Path) -> Side:
        """Make another that may go its own way."""
        shutil.rmtree(place, ignore_errors=True)
        # What is linked is replaced by renames; the cache may be written in place.
        subprocess.run(["cp", "--archive", "--link", self.place, place], check=True)
        copy = Side(place, self.seconds)
        if self.cache.exists():
            shutil.rmtree(copy.cache)
            shutil.copytree(self.cache, copy.cache)
        return copy

    def with_client(self, client: Path) -> Side:
        """Return the same mirror with another client."""
        other = Side(self.place, self.seconds)
        other.client, other.cache = client, self.cache
        return other

    def publish(
        self, repo: Path, version: Composed, options: Sequence[str] = (), *, newest: str = ""
    ) -> tuple[Measured, int]:
        """Add a version's packages and build its set; returns the cost, and the set's bytes.

        ``newest`` is the ref's newest commit, unless it is the version.
        """
        link_all(rpms_in(version.packages), version.packages, self.mirror)
        point(repo, version.ref, newest or version.commit)
        if newest:
            options = ["--commit", version.commit, *options]
        words = [
            "set",
            "build",
            "--repo",
            repo,
            "--ref",
            version.ref,
            "--packages",
            version.packages,
        ]
        words += ["--output", self.mirror, "--cachedir", self.cache, *options]
        run, built = measure_json(self.place, *words, seconds=self.seconds)
        return run, int(built["rpm_bytes"])

    def announced(self, ref: str, options: Sequence[str] = ()) -> int:
        """Return the memory that pulling the newest commit is said to take."""
        words = ["plan", f"bench:{ref}", "--repo", self.client, "--config-dir", self.config]
        return int(json.loads(run_jigdo(*words, *options, "--json"))["memory"])

    def pull(self, ref: str, options: Sequence[str] = ()) -> tuple[Measured, dict[str, Any]]:
        """Pull the newest commit; returns the cost, and what the program says it moved."""
        words = ["pull", f"bench:{ref}", "--repo", self.client, "--config-dir", self.config]
        return measure_json(self.place, *words, *options, seconds=self.seconds)


@contextmanager
def serving(place: Path) -> Iterator[tuple[RealServer, Path]]:
    """Serve what the yielded link leads to, so that all copies of a mirror have one URL."""
    root = place / "served"
    root.mkdir()
    with nginx(root) as server:
        yield server, root / "mirror"


def counted_pull(
    server: RealServer,
    side: Side,
    version: Composed,
    case: str,
    options: Sequence[str] = (),
    *,
    by_name: bool = False,
) -> Result:
    """Pull, and require that the program and the server counted the same bytes.

    The version is the newest, or asked for ``by_name``.
    """
    what = version.ref + f"@{version.commit}" * by_name
    announced = side.announced(what, options)
    before = Counted.of(server)
    run, document = side.pull(what, options)
    sent = Counted.of(server).since(before)
    require_same("commit that was pulled", version.commit, document["commit"])
    kinds = {kind: moved["bytes"] for kind, moved in document["moved"].items()}
    if sum(kinds.values()) != sent.bytes:
        raise WrongTree(f"pull counted {sum(kinds.values())} bytes, the server sent {sent.bytes}")
    return Result(
        case, "", sent.bytes, sent.requests, apply=run, kinds=kinds, ours=True,
        packing=document["packing"], announced=announced,
    )  # fmt: skip


def repoint(link: Path, target: Path) -> None:
    """Make a link lead elsewhere."""
    beside = link.with_name("next")
    beside.symlink_to(target)
    os.replace(beside, link)


def add_remote(side: Side, url: str) -> None:
    """Let the client know where the mirror is."""
    run_jigdo("remote", "add", "bench", url, "--trust", "none", "--config-dir", side.config)


@dataclass(frozen=True, slots=True)
class Journey:
    """What our side needs: both versions in one repository; ``new`` may be missing."""

    work: Path
    repo: Path
    old: Composed
    new: Composed | None
    seconds: float

    def results(self, variants: Sequence[Variant] = VARIANTS) -> Iterator[Result]:
        """Yield the fresh install of ``old``, then for each variant the update."""
        base = Side.empty(self.work / "base", self.seconds)
        with serving(self.work) as (server, link):
            made, size = base.publish(self.repo, self.old)
            add_remote(base, f"{server.url}mirror/")
            repoint(link, base.mirror)
            fresh = counted_pull(server, base, self.old, FRESH)
            proof = prove_commit(base.client, self.old.ref, self.old.commit)
            yield _named(fresh, "jigdo set", made, proof, size)
            if self.new is None:
                return
            for variant in variants:
                yield from self._update(variant, base, server, link)
                shutil.rmtree(self.work / "variant", ignore_errors=True)

    def _update(
        self, variant: Variant, base: Side, server: RealServer, link: Path
    ) -> Iterator[Result]:
        assert self.new is not None
        try:
            require_options(variant)
        except Unknown as reason:
            yield Result(UPDATE, variant.title, skipped=str(reason), ours=True)
            return
        side = base.copy(self.work / "variant")
        options = build_options(variant, [self.old.commit])
        made, size = side.publish(self.repo, self.new, options)
        repoint(link, side.mirror)
        update = counted_pull(server, side, self.new, UPDATE, variant.pull)
        proof = prove_commit(side.client, self.new.ref, self.new.commit)
        yield _named(update, variant.title, made, proof, size)
        nothing = counted_pull(server, side, self.new, NOTHING, variant.pull)
        yield _named(nothing, variant.title, None, proof, 0)


def _named(result: Result, way: str, made: Measured | None, proof: str, size: int) -> Result:
    note = f"the set is {size:,} bytes; make: set build" if made else ""
    return replace(result, way=way, make=made, proof=proof, note=note)
