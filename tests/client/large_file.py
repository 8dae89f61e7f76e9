"""A package with a large file, in two versions that differ a little, published with deltas.

Run as a program, it measures a fresh pull and an update: ``large_file.py DIR MEBIBYTES``.
"""

from __future__ import annotations

import gzip
import json
import lzma
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures.rpms.build import build_repository
from tests.bench.measure import Measured, measure
from tests.commands import jigdo, ostree

REF = "test/large"
_SPEC = """\
%global _binary_payload w1.zstdio
%global __os_install_post %{nil}
Name: large
Version: %{gen}
Release: 1
Summary: One large file, and some that are compressed
License: GPL-2.0-or-later
BuildArch: noarch
%description
%{summary}.
%install
mkdir -p %{buildroot}/usr/share/large
ln %{contents}/* %{buildroot}/usr/share/large/
%files
%defattr(0644,root,root,0755)
/usr/share/large
"""
_PIECE = 1 << 16


def _pieces(size: int, generation: int) -> Iterator[bytes]:
    """Yield what compresses to a quarter; from one generation to the next a little changes."""
    line = b"The quick brown fox jumps over the lazy dog, again and again. "
    for number in range(size // _PIECE):
        noise = random.Random(number).randbytes(_PIECE // 4)
        piece = noise + line * (_PIECE * 3 // 4 // len(line))
        if generation > 1 and number % 100 == 7:
            yield b"inserted" * generation
        yield piece.ljust(_PIECE, b".")


def _write_contents(place: Path, size: int, generation: int) -> None:
    place.mkdir()
    with (place / "blob").open("wb") as stream:
        stream.writelines(_pieces(size, generation))
    text = b"".join(_pieces(8 << 20, generation))
    (place / "text.xz").write_bytes(lzma.compress(text, preset=1))
    for number in range(4):
        page = b"".join(_pieces(1 << 20, generation + number))
        (place / f"page{number}.gz").write_bytes(gzip.compress(page, mtime=0))


@dataclass(frozen=True, slots=True)
class Large:
    """Mirrors of both generations, and a client that knows them by the same name."""

    place: Path
    commits: tuple[str, str]
    build: Measured

    @classmethod
    def make(cls, place: Path, size: int) -> Large:
        """Build the packages, import them, build the sets: the second one with deltas."""
        spec, repo = place / "large.spec", place / "repo"
        spec.write_text(_SPEC)
        ostree(repo, "init", "--mode=bare-user")
        ostree(repo, "config", "set", "core.fsync", "false")
        commits: list[str] = []
        for generation in (1, 2):
            contents, mirror = place / "contents", place / f"mirror{generation}"
            _write_contents(contents, size, generation)
            defines = {"contents": str(contents)}
            (rpm,) = build_repository([spec], mirror, generation=generation, defines=defines)
            shutil.rmtree(contents)
            [done] = jigdo("repo", "import", rpm, "--repo", repo, "--json").document["imported"]
            commits.append(done["commit"])
            if generation == 2:
                ostree(repo, "refs", "--delete", REF)
            ostree(repo, "refs", f"--create={REF}", commits[-1])
            words: list[object] = ["set", "build", "--repo", repo, "--ref", REF]
            words += ["--packages", mirror, "--output", mirror, "--cachedir", place / "cache"]
            words += ["--from", commits[0] if generation == 2 else "none", "--rpm-deltas", "all"]
            build = measure([sys.executable, "-m", "composer", *words])
        shutil.rmtree(repo)
        return cls(place, (commits[0], commits[1]), build)

    def client(self, mode: str) -> Client:
        """Make an empty one, which knows the mirrors of both generations."""
        client = Client(self, self.place / f"client-{mode}")
        ostree(client.repo, "init", f"--mode={mode}")
        for generation in (1, 2):
            words = ["remote", "add", f"mirror{generation}", self.place / f"mirror{generation}"]
            jigdo(*words, "--trust", "none", "--replace", "--config-dir", client.config)
        return client


@dataclass(frozen=True, slots=True)
class Client:
    """A repository that pulls."""

    made: Large
    repo: Path

    @property
    def config(self) -> Path:
        return self.repo.with_name(self.repo.name + ".conf")

    def pull(self, generation: int, *options: object) -> tuple[int, Measured, dict[str, Any]]:
        """Plan and pull; returns the memory that was announced, what was taken, what was told."""
        common: list[object] = [f"mirror{generation}:{REF}", "--json"]
        common += ["--repo", self.repo, "--config-dir", self.config]
        announced = int(jigdo("plan", *common, *options).document["memory"])
        out = self.made.place / "out.json"
        words = ["-m", "composer", "pull", *common, "--disable-fsync", *options]
        taken = measure([sys.executable, *words], stdout=out)
        return announced, taken, json.loads(out.read_text())


def main() -> None:
    """Measure, and say it in lines."""
    place, size = Path(sys.argv[1]).resolve(), int(sys.argv[2]) << 20
    place.mkdir()
    made = Large.make(place, size)
    print(f"set build with deltas: {made.build.peak:,} bytes, {made.build.cpu:.0f} s CPU")
    for mode in ("bare-user", "archive"):
        client = made.client(mode)
        for generation, what in ((1, "fresh"), (2, "update")):
            announced, taken, told = client.pull(generation)
            moved = {kind: one["bytes"] for kind, one in told["moved"].items() if one["bytes"]}
            print(
                f"{mode}, {what}: announced {announced:,}, taken {taken.peak:,} bytes", flush=True
            )
            print(f"  {taken.wall:.0f} s, {taken.cpu:.0f} s CPU; moved {moved}", flush=True)
        shutil.rmtree(client.repo)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
