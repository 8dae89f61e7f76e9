"""Five versions of a system of ten packages, each of which changes every time.

A library whose soname's version changes, a kernel whose modules move to another directory,
programs, texts and gzipped manuals; and a file in no package, as an rpmdb is.  What a version
changes is changed in what the one before it was, as in rebuilds.
"""

from __future__ import annotations

import gzip
import random
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.jigdo.build import LocalPackage
from composer.ostree.repo import Repository
from tests.client.pulling import run_here
from tests.jigdo.sets import REF, local_packages, write_files
from tests.rpm.crafted import RpmFile, rpm_bytes

COUNT = 5
_PROGRAMS, _MODULES = 8, 6
_CODE = 40_000


def revised(data: bytes, seed: str) -> bytes:
    """Return ``data`` with bytes changed here and there and a new passage."""
    drawn, out = random.Random(seed), bytearray(data)
    for _ in range(40):
        at = drawn.randrange(len(out) - 16)
        out[at : at + 12] = drawn.randbytes(12)
    at = drawn.randrange(len(out))
    out[at:at] = drawn.randbytes(1500)
    return bytes(out)


def text(seed: str, lines: int = 300) -> bytes:
    """Return a text."""
    drawn = random.Random(seed)
    rows = (" ".join(f"word{drawn.randrange(3000)}" for _ in range(8)) for _ in range(lines))
    return "\n".join(rows).encode()


def _line_added(data: bytes, seed: str) -> bytes:
    rows = data.split(b"\n")
    drawn = random.Random(seed)
    for number in range(10):
        rows.insert(drawn.randrange(len(rows)), text(f"{seed}{number}", 1))
    return b"\n".join(rows)


def contents(version: int) -> tuple[dict[str, dict[str, bytes]], dict[str, bytes]]:
    """Return the files of each package, and those that are in none; by path."""
    code = {name: random.Random(name).randbytes(_CODE) for name in _names()}
    manuals = {name: text(name) for name in _names()}
    for number in range(2, version + 1):
        code = {name: revised(data, f"{name}{number}") for name, data in code.items()}
        manuals = {name: _line_added(data, f"{name}{number}") for name, data in manuals.items()}
    packages: dict[str, dict[str, bytes]] = {
        "libtint": {
            f"/usr/lib/libtint.so.1.{version}": code["libtint"],
            "/usr/share/doc/libtint/changelog": manuals["libtint"],
        },
        "kernel": {
            f"/usr/lib/modules/6.1.0-{version}/kernel/m{number}.ko": code[f"m{number}"][
                : _CODE // 3
            ]
            for number in range(_MODULES)
        },
    }
    for name in (f"program{number}" for number in range(_PROGRAMS)):
        packages[name] = {
            f"/usr/bin/{name}": code[name],
            f"/usr/share/man/{name}.1.gz": gzip.compress(manuals[name], 9, mtime=0),
            f"/usr/share/{name}/same": f"{name}: the same in all versions\n".encode(),
        }
    return packages, {"/usr/share/rpm/rpmdb.sqlite": code["rpmdb"]}


def _names() -> list[str]:
    programs = [f"program{number}" for number in range(_PROGRAMS)]
    return ["libtint", "rpmdb", *programs, *(f"m{number}" for number in range(_MODULES))]


@dataclass(frozen=True, slots=True)
class Version:
    """A commit and the directory of its RPMs."""

    commit: ObjectChecksum
    directory: Path
    packages: tuple[LocalPackage, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """A repository with all versions, and a mirror with the set of each, deltas from all others."""

    root: Path
    versions: Sequence[Version]

    @property
    def repo(self) -> Path:
        return self.root / "repo"

    @property
    def mirror(self) -> Path:
        return self.root / "mirror"

    def build(
        self, number: int, bases: Sequence[int] | None = None, **more: Path
    ) -> Mapping[str, object]:
        """Build the set of version ``number`` with deltas from ``bases`` by number."""
        output = more.get("output", self.mirror)
        words = ["set", "build", "--repo", self.repo, "--ref", REF, "--output", output]
        words += ["--commit", f"1.{number}", "--rpm-deltas", "all", "--json"]
        words += ["--cachedir", self.root / "cache"]
        if bases is not None:
            named = [f"1.{base}" for base in bases] or ["none"]
            words += [word for base in named for word in ("--from", base)]
        for version in self.versions:
            words += ["--packages", version.directory]
        done = run_here(*words)
        assert done.status == 0, done.err
        document = done.document
        assert isinstance(document, dict)
        return document


def make(root: Path, count: int = COUNT) -> Published:
    """Write packages and commits of all versions, and an empty mirror with all packages."""
    repo = Repository.create(root / "repo", mode="bare-user")
    (root / "mirror").mkdir()
    return Published(root, [_version(root, repo, number) for number in range(1, count + 1)])


def _version(root: Path, repo: Repository, number: int) -> Version:
    packages, loose = contents(number)
    directory = root / "mirror" / f"packages{number}"
    directory.mkdir()
    paths = list(_rpms(directory, packages, number))
    local = local_packages(paths)
    files = {path: data for own in packages.values() for path, data in own.items()}
    tree = write_files(repo, files | loose)
    rows = sorted((str(p.ref.nevra), str(p.ref.pkgid), p.ref.size) for p in local)
    listed = ", ".join(f"({n!r}, {i!r}, uint64 {s})" for n, i, s in rows)
    argv = [
        "ostree",
        f"--repo={repo.path}",
        "commit",
        "-b",
        REF,
        f"--tree=ref={tree}",
        "--fsync=no",
    ]
    argv += [f"--add-metadata-string=version=1.{number}", f"--timestamp=@{1_700_000_000 + number}"]
    argv += [f"--add-metadata=jigdo-composer.packages=[{listed}]"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return Version(ObjectChecksum.parse(done.stdout.strip()), directory, local)


def _rpms(
    directory: Path, packages: Mapping[str, Mapping[str, bytes]], number: int
) -> Iterator[Path]:
    for name, own in packages.items():
        files = [RpmFile(path, data) for path, data in sorted(own.items())]
        path = directory / f"{name}-{number}.rpm"
        path.write_bytes(rpm_bytes(files, name=name, version=str(number)))
        yield path
