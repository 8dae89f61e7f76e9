"""Many published versions out of two: what `make bench-site` is run on.

``python -m tests.bench.versions --repo R --old COMMIT --new COMMIT --packages [ID=]DIR...
--work DIR [--count N]``; R is an archive repository with both commits, of which nothing is
changed.  Version k is the older tree in which the packages that differ are, one by one, the
newer ones: at each step a few change, forth and, once all are new, back.  Each is a commit of its
own with a list of its packages, and its set is built by `set build`, from the three before it,
without deltas of what is in RPMs.  What no package owns is the older tree's, but for the
rpmdb, which is left out: to compress it is half of the work.  With `--count` larger than before, a
run goes on where the last one ended.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.checksum import ObjectChecksum
from composer.jigdo.tree import Ordinals, walk
from composer.mirror.lists import read_lists
from composer.mirror.making import open_set
from composer.ostree.repo import Repository

REF = "bench/x86_64/server"
_RPMDB = "/usr/share/rpm/"
_EACH = 3
_START = 1_750_000_000
_LIST = "jigdo-composer.packages"


@dataclass(slots=True)
class _Tree:
    """A whole tree: files and directories' dirmetas by path, packages' rows by name."""

    files: dict[str, ObjectChecksum] = field(default_factory=dict)
    metas: dict[str, ObjectChecksum] = field(default_factory=dict)
    rows: dict[str, tuple[str, str, int]] = field(default_factory=dict)


def make(source: Path, old: str, new: str, packages: Sequence[str], work: Path, count: int) -> Path:
    """Make the versions below ``work``; returns the published repository."""
    output, repo_path = work / "mirror", work / "repo"
    if not repo_path.exists():
        subprocess.run(["cp", "-al", source, repo_path], check=True)
    repo = Repository.open(repo_path)
    commits = [ObjectChecksum.parse(text) for text in (old, new)]
    trees = [_read(repo, commit) for commit in commits]
    owners = [_owners(repo, one, packages, work) for one in commits]
    steps = [*_steps(trees[0], trees[1])]
    chosen: set[str] = set()
    done = read_lists(output).entries if output.exists() else []
    previous = max(done, key=lambda one: one.timestamp).commit if done else None
    for number in range(count):
        for name in steps[number * _EACH % len(steps) :][:_EACH] if number else ():
            chosen ^= {name}
        if number < len(done):
            continue
        tree = _mixed(trees, owners, chosen)
        previous = _commit(repo, tree, commits[0], previous, number)
        _build(repo_path, packages, output, work / "cache")
        print(f"{number + 1}/{count}: {previous}", flush=True)
    return output


def _read(repo: Repository, commit: ObjectChecksum) -> _Tree:
    tree, start = _Tree(), repo.commit(commit)
    stack = [("", start.tree, start.meta)]
    while stack:
        path, checksum, meta = stack.pop()
        tree.metas[path] = meta
        here = repo.dirtree(checksum)
        tree.files |= {f"{path}/{one.name}": one.checksum for one in here.files}
        stack += [(f"{path}/{one.name}", one.tree, one.meta) for one in here.directories]
    rows: Any = start.metadata[_LIST]
    tree.rows = {nevra.rsplit("-", 2)[0]: (nevra, pkgid, time) for nevra, pkgid, time in rows}
    return tree


def _owners(
    repo: Repository, commit: ObjectChecksum, packages: Sequence[str], work: Path
) -> dict[ObjectChecksum, str]:
    """Tell by a set of the commit which package (its name) has an object."""
    output = work / "owners" / str(commit)[:8]
    (repo.path / "refs/heads/owners").write_text(f"{commit}\n")
    if not output.exists():
        _build(repo.path, packages, output, work / "cache", ref="owners")
    [entry] = read_lists(output).entries
    jigdo = open_set(output / entry.location)
    start, _, headers, _ = jigdo.read_start()
    ordinals = Ordinals()
    for visit in walk(start.commit.tree, lambda one: repo.metadata("dirtree", one)):
        ordinals.add(visit.tree)
    maps = jigdo.maps(range(len(jigdo.head.packages)), objects=len(ordinals), headers=headers)
    return {
        ordinals.checksums[ordinal]: jigdo.head.packages[number].ref.nevra.name
        for number, mapping in sorted(maps.items(), reverse=True)
        for ordinal in mapping.ordinals
    }


def _steps(old: _Tree, new: _Tree) -> Iterator[str]:
    """Yield what can change on its own: packages that both have."""
    for name in sorted(old.rows.keys() & new.rows.keys()):
        if old.rows[name] != new.rows[name]:
            yield name


def _mixed(
    trees: Sequence[_Tree], owners: Sequence[Mapping[ObjectChecksum, str]], chosen: set[str]
) -> _Tree:
    """The older tree with the newer files of the chosen packages."""
    old, new = trees
    mixed = _Tree({}, {**new.metas, **old.metas}, dict(old.rows))
    mixed.files = {p: c for p, c in old.files.items() if owners[0].get(c) not in chosen}
    mixed.files |= {p: c for p, c in new.files.items() if owners[1].get(c) in chosen}
    mixed.rows |= {name: new.rows[name] for name in chosen}
    for path in [path for path in mixed.files if path.startswith(_RPMDB)]:
        del mixed.files[path]
    return mixed


def _commit(
    repo: Repository,
    tree: _Tree,
    like: ObjectChecksum,
    parent: ObjectChecksum | None,
    number: int,
) -> ObjectChecksum:
    from gi.repository import GLib

    directories: dict[str, tuple[dict[str, ObjectChecksum], set[str]]] = {}
    for path in [*tree.files, *_parents(tree.files)]:
        above, _, name = path.rpartition("/")
        files, names = directories.setdefault(above, ({}, set()))
        if path in tree.files:
            files[name] = tree.files[path]
        else:
            names.add(name)
    for path in tree.metas:  # those that are empty
        if path not in directories and path.rpartition("/")[0] in directories:
            directories[path] = ({}, set())
            directories[path.rpartition("/")[0]][1].add(path.rpartition("/")[2])
    written: dict[str, ObjectChecksum] = {}
    rows = [tree.rows[name] for name in sorted(tree.rows)]
    with repo.transaction():
        for path in sorted(directories, key=lambda one: -one.count("/")):
            files, names = directories[path]
            below = {n: (written[f"{path}/{n}"], tree.metas[f"{path}/{n}"]) for n in names}
            written[path] = repo.write_dirtree(files, below)
    with repo.transaction(), repo.libostree() as (kind, real):
        mtree = kind.MutableTree.new_from_checksum(real, str(written[""]), str(tree.metas[""]))
        _, root = real.write_mtree(mtree, None)
        values = {
            "version": GLib.Variant("s", f"12.{number}"),
            "ostree.bootable": GLib.Variant("b", True),
            _LIST: GLib.Variant("a(sst)", rows),
        }
        metadata = GLib.Variant("a{sv}", values)
        _, made = real.write_commit_with_time(
            str(parent) if parent else None, "", None, metadata, root, _START + number * 86400, None
        )
        repo.set_ref(REF, ObjectChecksum.parse(made))
    return ObjectChecksum.parse(made)


def _parents(paths: Mapping[str, object]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        while (path := path.rpartition("/")[0]) and path not in found:
            found.add(path)
    return found


def _build(
    repo: Path, packages: Sequence[str], output: Path, cache: Path, *, ref: str = REF
) -> None:
    words = ["-m", "composer", "-q", "set", "build", "--repo", repo, "--ref", ref]
    words += ["--output", output, "--cachedir", cache, "--rpm-deltas", "none"]
    words += [word for place in packages for word in ("--packages", place)]
    subprocess.run([sys.executable, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", type=Path, required=True)
    parser.add_argument("--old", required=True)
    parser.add_argument("--new", required=True)
    parser.add_argument("--packages", action="append", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    make(given.repo, given.old, given.new, given.packages, given.work, given.count)


if __name__ == "__main__":
    main()
