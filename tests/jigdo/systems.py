"""Two generations of a system, in two sizes: crafted in no time, and the fixture OS by rpm."""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.jigdo.build import LocalPackage
from composer.ostree.repo import Repository
from tests.fixtures_os.packages import WHOLE_OS, install, solve
from tests.fixtures_os.repos import FixtureRepos
from tests.jigdo.sets import REF, SetOnDisk, build, local_packages, write_tree
from tests.rpm.crafted import GHOST, MD5, RpmFile, rpm_bytes, symlink

BIG = 3 << 20
"""Bytes of a file that is streamed and, in the set itself, takes several frames."""

TREE = """
/usr/bin/prog 0100755 0:0 program {v}
/usr/bin/sh 0100755 0:0 shell
/usr/bin/bash 0120777 0:0 sh
/usr/bin/su 0104755 0:5 su {v}
/usr/etc/prog.conf 0100644 0:0 conf
/usr/etc/local.conf 0100600 7:7 conf
/usr/lib/old-style 0100644 0:0 md5
/usr/lib/twin-1 0100644 0:0 twin
/usr/lib/twin-2 0100644 0:0 twin
/usr/lib/moved/here 0100644 0:0 moved {v}
/usr/lib/big 0100644 0:0 *3145728
/usr/lib/big-copy 0100600 1:1 *3145728
/usr/share/empty 0100644 0:0
/usr/share/new-{v} 0100644 0:0 only in the set {v}
/usr/share/new-copy 0100640 3:4 only in the set {v}
/usr/share/new-link 0120777 0:0 nowhere/{v}
/usr/share/same 0100644 0:0 the same in both
/usr/share 0040750 0:9
"""


def crafted_packages(where: Path, version: str) -> tuple[LocalPackage, ...]:
    """Write the RPMs of a generation: "1" or "2"."""
    where.mkdir(parents=True, exist_ok=True)
    v = version.encode()
    files: dict[str, list[RpmFile]] = {
        "prog": [
            RpmFile("/usr/bin/prog", b"program " + v + b"\n"),
            RpmFile("/etc/prog.conf", b"conf\n"),
            RpmFile("/var/log/prog", b"only in the set " + v + b"\n", flags=GHOST),
        ],
        "sh": [RpmFile("/bin/sh", b"shell\n"), symlink("/bin/bash", "sh")],
        "su": [RpmFile("/usr/bin/su", b"su " + v + b"\n", mode=0o104755)],
        "old": [RpmFile("/usr/lib/old-style", b"md5\n")],
        "twins": [
            RpmFile("/usr/lib/twin-1", b"twin\n", inode=7),
            RpmFile("/usr/lib/twin-2", b"twin\n", inode=7),
        ],
        "moved": [RpmFile("/usr/share/there", b"moved " + v + b"\n")],
        "big": [RpmFile("/usr/lib/big", b"x" * BIG)],
        "empty": [RpmFile("/usr/share/empty"), RpmFile("/usr/share/dropped", b"not there")],
    }
    changed = {"prog", "su", "moved"}
    paths = []
    for name, contents in files.items():
        path = where / f"{name}.rpm"
        number = version if name in changed else "1"
        algorithm = MD5 if name == "old" else 8
        path.write_bytes(rpm_bytes(contents, name=name, version=number, algorithm=algorithm))
        paths.append(path)
    return local_packages(paths)


def crafted_set(where: Path, version: str = "1") -> SetOnDisk:
    """Make a generation of the crafted system: packages, commit, set."""
    repo = Repository.create(where / "source", mode="bare-user")
    packages = crafted_packages(where / f"packages-{version}", version)
    commit = write_tree(repo, TREE.format(v=version), metadata={"version": version})
    commit = with_package_list(repo, commit, packages)
    return build(repo, commit, packages, where)


def with_package_list(
    repo: Repository, commit: ObjectChecksum, packages: Sequence[LocalPackage]
) -> ObjectChecksum:
    """Commit the same tree again with the list of packages in its metadata."""
    return _commit(repo, f"--tree=ref={commit}", repo.commit(commit).version, packages)


def _commit(
    repo: Repository, tree: str, version: str, packages: Sequence[LocalPackage]
) -> ObjectChecksum:
    rows = sorted((str(p.ref.nevra), str(p.ref.pkgid), p.ref.size) for p in packages)
    text = ", ".join(f"({n!r}, {i!r}, uint64 {s})" for n, i, s in rows)
    argv = [
        *("ostree", f"--repo={repo.path}", "commit", "-b", REF, tree, "--parent=none"),
        *(f"--add-metadata-string=version={version}", "--timestamp=@1700000000"),
        f"--add-metadata=jigdo-composer.packages=[{text}]",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return ObjectChecksum.parse(done.stdout.strip())


# The fixture OS


@dataclass(frozen=True, slots=True)
class Generations:
    """Both generations of the fixture OS."""

    first: SetOnDisk
    second: SetOnDisk


def fixture_generations(repos: FixtureRepos, shared: Path) -> Generations:
    """Compose and build both generations below ``shared``, once for all processes of a run."""
    shared.mkdir(parents=True, exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "done").exists():
            Repository.create(shared / "repo", mode="bare-user")
            for number in (1, 2):
                _compose(repos.generation(number), shared, number)
            (shared / "done").touch()
    return Generations(_load(shared, 1), _load(shared, 2))


def _compose(repository: Path, shared: Path, number: int) -> None:
    repo = Repository.open(shared / "repo")
    scratch = shared / f"compose-{number}"
    tree = scratch / "tree"
    tree.mkdir(parents=True)
    chosen = solve(repository, scratch, WHOLE_OS)
    install(chosen, tree)
    (tree / "etc").rename(tree / "usr" / "etc")
    packages = local_packages(chosen)
    commit = _commit(repo, f"--tree=dir={tree}", str(number), packages)
    made = build(repo, commit, packages, shared)
    (shared / f"{number}.jigdo").write_bytes(made.data)
    facts = {"commit": str(commit), "packages": [str(path) for path in chosen]}
    (shared / f"{number}.json").write_text(json.dumps(facts))
    subprocess.run(["rm", "-rf", str(scratch)], check=True)


def _load(shared: Path, number: int) -> SetOnDisk:
    facts = json.loads((shared / f"{number}.json").read_text())
    return SetOnDisk(
        Repository.open(shared / "repo"),
        ObjectChecksum.parse(facts["commit"]),
        local_packages([Path(path) for path in facts["packages"]]),
        (shared / f"{number}.jigdo").read_bytes(),
    )
