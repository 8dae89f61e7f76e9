"""Histories of small systems whose versions share packages, published with their sets.

Two refs; six and two versions.  Packages differ in how often they change, so that some belong
to one version and some to all.  Sets have deltas from the two versions before.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.jigdo.pointer import PointerEntry
from composer.mirror.lists import read_lists
from composer.ostree.repo import Repository
from tests.client.generations import revised
from tests.client.pulling import run_here
from tests.jigdo.sets import local_packages, write_files
from tests.rpm.crafted import RpmFile, rpm_bytes

STABLE, TESTING = "os/stable", "os/testing"
COUNTS = {STABLE: 6, TESTING: 2}
TIME = 1_700_000_000
DAY = 86_400
PACKAGES = "pool"
# A package has a new release every so many versions.
_EVERY = {"always": 1, "often": 2, "seldom": 4, "never": 100}
_SIZE = 20_000


@dataclass(frozen=True, slots=True)
class History:
    """The mirror, and the repository with all commits; ``commits`` are by ref, oldest first."""

    root: Path
    commits: Mapping[str, Sequence[str]]

    @property
    def repo(self) -> Path:
        return self.root / "repo"

    @property
    def upstream(self) -> Path:
        """A repository of all packages alone; the mirror has them at the same places."""
        return self.root / "upstream"

    @property
    def mirror(self) -> Path:
        return self.root / "mirror"

    def entries(self) -> list[PointerEntry]:
        """All that is published, by ref, oldest first."""
        return sorted(read_lists(self.mirror).entries, key=lambda one: (one.ref, one.timestamp))


def make(root: Path, published: Callable[[str, int], object] = lambda ref, number: None) -> History:
    """Write packages and commits, and publish a set of each, a day after the other.

    ``published`` is called after each.
    """
    repo = Repository.create(root / "repo", mode="bare-user")
    for place in ("upstream", "mirror"):
        (root / place / PACKAGES).mkdir(parents=True)
    commits: dict[str, list[str]] = {ref: [] for ref in COUNTS}
    for ref, count in COUNTS.items():
        for number in range(1, count + 1):
            commits[ref].append(_commit(root, repo, ref, number))
            bases = [f"1.{other}" for other in range(max(1, number - 2), number)]
            build(root, root / "mirror", ref, f"1.{number}", bases)
            published(ref, number)
    return History(root, commits)


def build(root: Path, mirror: Path, ref: str, version: str, bases: Sequence[str] = ()) -> None:
    """Build and publish the set of a version."""
    words: list[object] = ["set", "build", "--repo", root / "repo", "--ref", ref]
    words += ["--output", mirror, "--commit", version, "--cachedir", root / "cache"]
    words += ["--packages", root / "upstream", "--rpm-deltas", "all"]
    words += [word for base in bases or ["none"] for word in ("--from", base)]
    done = run_here(*words)
    assert done.status == 0, done.err


def _commit(root: Path, repo: Repository, ref: str, number: int) -> str:
    # testing has what stable will have next: they share packages.
    step = number if ref == STABLE else number + COUNTS[STABLE] - 1
    files: dict[str, bytes] = {"/usr/lib/no-package": f"{ref} {number}".encode()}
    paths = []
    for name, data, release in _packages(step):
        files[f"/usr/bin/{name}"] = data
        path = root / "upstream" / PACKAGES / f"{name}-{release}-1.noarch.rpm"
        if not path.exists():
            own = [RpmFile(f"/usr/bin/{name}", data)]
            path.write_bytes(rpm_bytes(own, name=name, version=str(release)))
            os.link(path, root / "mirror" / PACKAGES / path.name)
        paths.append(path)
    subprocess.run(["createrepo_c", "-q", "--update", root / "upstream"], check=True)
    rows = sorted(
        (str(one.ref.nevra), str(one.ref.pkgid), one.ref.size) for one in local_packages(paths)
    )
    listed = ", ".join(f"({nevra!r}, {pkgid!r}, uint64 {size})" for nevra, pkgid, size in rows)
    argv = ["ostree", f"--repo={repo.path}", "commit", "-b", ref, "--fsync=no"]
    argv += [f"--tree=ref={write_files(repo, files)}"]
    argv += [f"--add-metadata-string=version=1.{number}"]
    argv += [f"--timestamp=@{TIME + number * DAY}"]
    argv += [f"--add-metadata=jigdo-composer.packages=[{listed}]"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def _packages(step: int) -> Iterator[tuple[str, bytes, int]]:
    for name, every in _EVERY.items():
        data = random.Random(name).randbytes(_SIZE)
        release = 1 + (step - 1) // every
        for one in range(2, release + 1):
            data = revised(data, f"{name}{one}")
        yield name, data, release
