"""`mirror verify` in numbers: many files fast, every byte against sha256sum, memory.

``python -m tests.bench.verify MIRROR [--files N...]``; MIRROR is a directory with published
sets, which is copied by hard links.  To its package list files are added that have the
size of one RPM and are links to it, until there are N.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from composer.rpm.rpmmd import REPOMD, parse_repomd

# So many links one file may have, on ext4.
_LINKS = 60_000
_PACKAGE = """<package type="rpm"><name>p{number}</name><arch>noarch</arch>\
<version epoch="0" ver="1" rel="1"/><checksum type="sha256" pkgid="YES">{pkgid}</checksum>\
<summary/><description/><packager/><url/><time file="1" build="1"/>\
<size package="{size}" installed="1" archive="1"/><location href="{location}"/>\
<format><rpm:license>none</rpm:license></format></package>
"""


@dataclass(frozen=True, slots=True)
class Run:
    """How long a command took, by the wall and by the CPU, and its peak of memory in bytes."""

    wall: float
    cpu: float
    memory: int


def measured(*words: object) -> Run:
    """Run a command with nothing to print, below time(1): this process is no part of its peak."""
    with tempfile.NamedTemporaryFile("r") as report:
        argv = ["time", "-f", "%e %U %S %M", "-o", report.name, *map(str, words)]
        done = subprocess.run(
            argv, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if done.returncode:
            raise SystemExit(f"{argv[5:12]}: status {done.returncode}")
        wall, user, system, peak = map(float, report.read().split())
    return Run(wall, user + system, int(peak) << 10)


def verify(directory: Path, *options: str) -> Run:
    """Measure one verification."""
    words = ["-m", "composer", "-q", "mirror", "verify", "--json", "--all-packages"]
    return measured(sys.executable, *words, *options, directory)


def enlarge(directory: Path, count: int) -> int:
    """Add packages to a mirror until it has ``count``; returns how many there are."""
    import createrepo_c

    repomd = createrepo_c.Repomd(str(directory / REPOMD))
    location = parse_repomd((directory / REPOMD).read_bytes()).require("primary").location
    text = gzip.decompress((directory / location).read_bytes()).decode()
    have = text.count("<package ")
    added = "".join(_linked(directory, number) for number in range(count - have))
    text = re.sub(r' packages="[0-9]+"', f' packages="{max(count, have)}"', text, count=1)
    text = text.replace("</metadata>", f"{added}</metadata>")
    path = directory / "repodata/primary.xml.gz"
    path.write_bytes(gzip.compress(text.encode(), 1))
    record = createrepo_c.RepomdRecord("primary", str(path))
    record.fill(createrepo_c.SHA256)
    repomd.set_record(record)
    (directory / REPOMD).unlink()
    (directory / REPOMD).write_text(repomd.xml_dump())
    return max(count, have)


def _linked(directory: Path, number: int) -> str:
    location = f"Packages/fake/{number // 1000}/p{number}-1-1.noarch.rpm"
    path = directory / location
    if number % 1000 == 0:
        path.parent.mkdir(parents=True)
    if number % _LINKS == 0:
        path.write_bytes(b"RPM\n")
    else:
        first = number - number % _LINKS
        os.link(directory / f"Packages/fake/{first // 1000}/p{first}-1-1.noarch.rpm", path)
    pkgid = "0123456789abcdef" * 4
    return _PACKAGE.format(number=number, pkgid=pkgid, size=4, location=location)


def rate(directory: Path, rounds: int) -> list[tuple[Run, Run]]:
    """Measure ``--full`` and sha256sum of the same files, in turn."""
    files = [str(path) for path in sorted(directory.rglob("*.rpm"))]
    runs = []
    for _ in range(rounds):
        runs.append((verify(directory, "--full"), measured("sha256sum", *files)))
    return runs


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mirror", type=Path)
    parser.add_argument("--files", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workdir", type=Path)
    options = parser.parse_args()
    size = sum(path.stat().st_size for path in options.mirror.rglob("*.rpm"))
    pairs = rate(options.mirror, options.rounds)
    ours, theirs = (min(runs, key=lambda run: run.wall) for runs in zip(*pairs, strict=True))
    print(f"full, {size / 1e6:.0f} MB: {ours.wall:.2f} s wall, {ours.cpu:.2f} s CPU; ", end="")
    print(f"sha256sum {theirs.wall:.2f} s; {theirs.wall / ours.wall:.2f} of its rate")
    for count in options.files:
        with tempfile.TemporaryDirectory(dir=options.workdir) as place:
            copy = Path(place) / "mirror"
            shutil.copytree(options.mirror, copy, copy_function=os.link)
            have = enlarge(copy, count)
            run = verify(copy)
            print(
                f"fast, {have} files: {run.wall:.1f} s wall, {run.cpu:.1f} s CPU, "
                f"{run.memory / 1e6:.0f} MB"
            )


if __name__ == "__main__":
    main()
