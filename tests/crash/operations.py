"""What is interrupted: a state to begin with, a command, and what must hold of what it leaves.

A *root* is a directory that holds all that the command changes, and may be copied anywhere: to a
fast file system for faults, to one on a loop device for power cuts.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from composer.errors import ComposerError
from composer.mirror.lists import read_lists
from composer.mirror.needs import Place
from composer.mirror.verifying import Options, verify
from composer.net.fetch import Fetcher
from composer.net.repository import find_signed_version
from composer.net.trust import Statement, read_statements
from composer.net.trust_store import TrustStore
from composer.sysroot.sysroot import Sysroot
from tests.client.published import BASE, MINIMAL, Published, fsck, staged_objects
from tests.client.pulling import REMOTE
from tests.commands import jigdo, ostree
from tests.mirror.histories import STABLE, TESTING, History
from tests.mirror.reading import by_rpm_md, by_statements, require_set
from tests.net.lying_mirror import LyingMirror
from tests.sysroot.conftest import FILES, KERNEL, OS, REF, Scene

_CHANGES: dict[int, dict[str, str]] = {
    1: {},
    2: {f"{KERNEL}/vmlinuz": "another kernel", "usr/lib/new": "new\n"},
    3: {f"{KERNEL}/vmlinuz": "a third kernel", "usr/lib/newer": "newer\n"},
}


class Operation(Protocol):
    """One command on one state."""

    name: str

    def prepare(self, root: Path) -> None:
        """Make the state to begin with below ``root``, an empty directory."""
        ...

    def words(self, root: Path) -> list[str]:
        """The command."""
        ...

    def check(self, root: Path) -> bool:
        """Require the old state or the new one, whole; tells whether it is the new one."""
        ...

    @property
    def repeatable(self) -> bool:
        """Whether the command may be run again once it was done."""
        ...


@dataclass
class InRepository:
    """A command on a client's repository; ``heads`` are the generations that it is at, 0: none."""

    name: str
    published: Published
    env: dict[str, str]
    begin: Callable[[InRepository, Path], None]
    command: tuple[str, ...]
    heads: tuple[int, ...]
    repeatable: bool = True
    # Objects that are damaged from the start, so that fsck finds them.
    damaged: set[str] = field(default_factory=set)

    def prepare(self, root: Path) -> None:
        self.begin(self, root)

    def words(self, root: Path) -> list[str]:
        return [*self.command, "--repo", str(root / "repo")]

    def head(self, root: Path) -> str:
        path = root / "repo/refs/heads" / MINIMAL
        return path.read_text().strip() if path.exists() else ""

    def check(self, root: Path) -> bool:
        head = self.head(root)
        commits = [self.published.commit(MINIMAL, one) if one else "" for one in self.heads]
        assert head in commits, f"the ref is at {head!r}"
        if self._is_damaged(root):
            return False
        fsck(root / "repo")
        return head == commits[-1]

    def _is_damaged(self, root: Path) -> bool:
        """Tell whether some of what was damaged still is; then nothing else may be."""
        if not self.damaged:
            return False
        argv = ["ostree", f"--repo={root / 'repo'}", "fsck", "--all"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        found = set(re.findall(r"[0-9a-f]{64}\.file", done.stdout + done.stderr))
        assert found <= self.damaged, f"damaged now: {found - self.damaged}"
        return done.returncode != 0


def _at_generation_1(case: InRepository, root: Path) -> None:
    # Not by hard links: what a fault tears must not be torn elsewhere.
    subprocess.run(["cp", "-a", case.published.root / "client", root / "repo"], check=True)


def _empty(case: InRepository, root: Path) -> None:
    ostree(root / "repo", "init", "--mode=bare-user")


def _pulled(case: InRepository, root: Path) -> None:
    _at_generation_1(case, root)
    jigdo("pull", f"{REMOTE}:{MINIMAL}", "--repo", root / "repo", env=case.env)


def _damaged(case: InRepository, root: Path) -> None:
    _at_generation_1(case, root)
    for number, path in enumerate(sorted((root / "repo").glob("objects/??/*.file"))):
        if number % 9 == 0:
            path.unlink()
            case.damaged.add(path.parent.name + path.name)


DELTAS = "deltas"
"""The remote whose set has them."""

_DELTAS = ("pull", f"{DELTAS}:{MINIMAL}", "--json")
_REPAIR = ("repo", "fsck", "--repair", "--remote", REMOTE)
_PULL = ("pull", f"{REMOTE}:{MINIMAL}", "--json")


def in_repositories(published: Published, env: dict[str, str]) -> list[InRepository]:
    """Make the operations on a client's repository; of workers the command decides."""
    return [
        InRepository("pull update", published, env, _at_generation_1, _PULL, (1, 2)),
        InRepository("pull fresh", published, env, _empty, _PULL, (0, 2)),
        InRepository("by deltas", published, env, _at_generation_1, _DELTAS, (1, 2)),
        InRepository("prune", published, env, _pulled, ("repo", "prune"), (2,)),
        InRepository("repair", published, env, _damaged, _REPAIR, (1,)),
    ]


@dataclass
class InSysroot:
    """A command on a sysroot with small systems; ``commits`` boot before and after it."""

    name: str
    deployed: int
    command: tuple[str, ...]
    target: int
    repeatable: bool = False
    commits: list[str] = field(default_factory=list)

    def prepare(self, root: Path) -> None:
        place = root / "sysroot"
        place.mkdir()
        sysroot = Sysroot.create(place)
        sysroot.add_os(OS)
        scene = Scene(sysroot, root.parent / f"{root.name}-trees")
        commits = [scene.commit("1")]
        first = scene.deploy(commits[0])
        (scene.directory(first) / "etc/settings").write_text("changed here\n")
        commits.append(scene.commit("2", _CHANGES[2]))
        if self.deployed == 2:
            scene.deploy(commits[1])
        if self.target == 3:
            commits.append(scene.commit("3", _CHANGES[3]))
        self.commits = [str(commit) for commit in commits]

    def words(self, root: Path) -> list[str]:
        return [*self.command, "--sysroot", str(root / "sysroot")]

    def check(self, root: Path) -> bool:
        place = root / "sysroot"
        fsck(place / "ostree/repo")
        booted = self._booted(place)
        if "undeploy" in self.command:
            assert booted == 2
            return len(list((place / "boot/loader/entries").iterdir())) == 1
        assert booted in (self.deployed, self.target)
        return booted == self.target

    def _booted(self, place: Path) -> int:
        """Do as a boot loader does, and require what it comes to; every entry must lead there."""
        found = {}
        for path in (place / "boot/loader/entries").glob("*.conf"):
            rows = (line.partition(" ") for line in path.read_text().splitlines())
            entry = {key: value for key, _, value in rows}
            found[int(entry["version"])] = self._leads_to(place, entry)
        assert found, "no boot loader entries"
        return found[max(found)]

    def _leads_to(self, place: Path, entry: dict[str, str]) -> int:
        link = re.search(r"ostree=/(\S+)", entry["options"])
        assert link is not None
        deployment = (place / link[1]).resolve()
        version = self.commits.index(deployment.name.partition(".")[0]) + 1
        files = {**FILES, **_CHANGES[version]}
        for name, text in files.items():
            assert (deployment / name).read_text() == text, f"{deployment / name} is torn"
        assert (deployment / "etc/settings").read_text() == "changed here\n"
        assert (deployment / "etc/other").read_text() == files["usr/etc/other"]
        for key, name in (("linux", "vmlinuz"), ("initrd", "initramfs.img")):
            read = (place / "boot" / entry[key].lstrip("/")).read_text()
            assert read == files[f"{KERNEL}/{name}"], f"{entry[key]} is torn"
        return version


def in_sysroots(no_remotes: Path) -> list[InSysroot]:
    """Make the operations on a sysroot; what is deployed was made on this machine."""
    deploy = ("deploy", REF, "--config-dir", str(no_remotes))
    return [
        InSysroot("deploy", 1, deploy, 2, repeatable=True),
        InSysroot("deploy, another goes", 2, deploy, 3, repeatable=True),
        InSysroot("rollback", 2, ("rollback",), 1),
        InSysroot("undeploy", 2, ("undeploy", "1"), 2),
    ]


@dataclass
class InTree:
    """Publishing generation 2 over generation 1, both signed by statements."""

    name: str
    published: Published
    keys: Path
    repeatable: bool = True

    def prepare(self, root: Path) -> None:
        tree = self._tree(root)
        jigdo("mirror", "publish", self.published.root / "mirror1", tree)
        if not self.keys.exists():
            jigdo("mirror", "keys", "init", tree, "--tuf-keys", self.keys)
            shutil.copytree(tree / "tuf", self.keys.with_name("statements"))
        else:
            shutil.copytree(self.keys.with_name("statements"), tree / "tuf")
        mirror = self.published.root / "mirror2"
        subprocess.run(["cp", "-a", mirror, root / "staged"], check=True)

    def words(self, root: Path) -> list[str]:
        words = ["mirror", "publish", root / "staged", self._tree(root), "--tuf-keys", self.keys]
        return list(map(str, words))

    def check(self, root: Path) -> bool:
        tree = self._tree(root)
        first = (self.keys.with_name("statements") / "1.root.json").read_bytes()
        try:
            listed, stated = by_rpm_md(tree), by_statements(tree, first)
        except (ComposerError, OSError) as error:
            raise AssertionError(f"readers are told: {error}") from error
        for state in (listed, stated):
            assert state in (_PUBLISHED[1], _PUBLISHED[2]), state
        # Where the two differ, what both name is there: they have been followed.
        return listed == stated == _PUBLISHED[2]

    @staticmethod
    def _tree(root: Path) -> Path:
        return root / "www"


_PUBLISHED = {
    1: ((BASE, "1", ()), (MINIMAL, "1", ())),
    2: ((BASE, "1.1", ("1",)), (MINIMAL, "1.1", ("1",))),
}


@dataclass
class InMirror:
    """A prune of a repository with signed statements: some sets go, some went and are removed."""

    name: str
    history: History
    repeatable: bool = True

    def prepare(self, root: Path) -> None:
        mirror, keys = root / "mirror", root / "keys"
        subprocess.run(["cp", "-a", self.history.mirror, mirror], check=True)
        jigdo("mirror", "keys", "init", mirror, "--tuf-keys", keys)
        jigdo("mirror", "prune", mirror, "--keep", "1", "--ref", TESTING, "--tuf-keys", keys)

    def words(self, root: Path) -> list[str]:
        options = ["--keep", "2", "--packages-too", "--grace", "0"]
        return ["mirror", "prune", str(root / "mirror"), *options, "--tuf-keys", str(root / "keys")]

    def check(self, root: Path) -> bool:
        mirror = root / "mirror"
        listed = read_lists(mirror).entries
        versions = {one.version for one in listed if one.ref == STABLE}
        assert versions in ({f"1.{n}" for n in range(1, 7)}, {"1.5", "1.6"}), versions
        # What each of them needs is there, byte for byte, and what rpm-md lists for dnf.
        found = verify(Place.of(str(mirror)), Options(full=True, all_packages=True))
        assert found.error is None
        # Between two renames rpm-md and statements differ; each holds by itself.
        assert all(one.kind == "untrusted" for one in found.problems), found.problems
        # A client that goes by statements finds the newest, and versions that stay.
        pinned = (mirror / "tuf/1.root.json").read_bytes()
        with tempfile.TemporaryDirectory() as state:
            store = TrustStore(Path(state), "crash", pinned)
            for statement in read_statements(Place.of(str(mirror)).mirrors, store).values():
                assert statement.entry in listed
                if statement.entry.ref == STABLE:
                    self._finds(mirror, statement, "1.5")
        gone = next(one for one in self.history.entries() if one.ref == TESTING)
        return len(versions) == 2 and found.is_sound and not (mirror / gone.location).exists()

    @staticmethod
    def _finds(mirror: Path, statement: Statement, version: str) -> None:
        with Fetcher(Place.of(str(mirror)).mirrors) as fetcher:
            found = find_signed_version(fetcher, statement.entry, statement.versions, version)
        require_set(mirror, found)


def landed_objects(repo: Path) -> set[str]:
    """Checksums of the content objects that have landed."""
    return {p.parent.name + p.name.partition(".")[0] for p in repo.glob("objects/*/*.file*")}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


class Moved:
    """What a mirror's log says of bytes of RPMs, beside what is on disk."""

    def __init__(self, published: Published, mirror: LyingMirror) -> None:
        self._mirror, self._set = mirror, published.set_rpm(MINIMAL, 2)
        self._objects = self._set.objects()
        self._pkgids = {p.ref.location: str(p.ref.pkgid) for p in self._set.jigdo.head.packages}
        self._seen = 0

    def since(self) -> dict[str, int]:
        """Bytes by RPM since the last time that it was asked."""
        log = self._mirror.log
        found: dict[str, int] = {}
        for one in log[self._seen :]:
            if one.path in self._objects:
                found[one.path] = found.get(one.path, 0) + one.sent
        self._seen = len(log)
        return found

    def require_no_more(self, here: Mapping[str, int]) -> dict[str, int]:
        """Require that of each RPM no more was sent than was not ``here``; returns what was."""
        sent = self.since()
        for location, size in sent.items():
            left = self.size(location) - here.get(location, 0)
            assert size <= left, f"{size} bytes of {location} were fetched, {left} were needed"
        return sent

    def on_disk(self, repo: Path, *, staged: bool = True) -> dict[str, int]:
        """Bytes by RPM that a rerun has no reason to fetch; all where its objects are here."""
        here = staged_objects(repo) if staged else landed_objects(repo)
        found = {}
        for location, objects in self._objects.items():
            size = (self._mirror.directory / location).stat().st_size
            whole = repo / "tmp/jigdo-packages" / f"{self._pkgids[location]}.rpm"
            part = whole.with_name(whole.name + ".part")
            # After a power cut, one that was renamed may have lost its end.
            if {str(one) for one in objects} <= here or _size(whole) == size:
                found[location] = size
            elif part.exists():
                found[location] = part.stat().st_size
        return found

    def size(self, location: str) -> int:
        """Bytes of an RPM."""
        return (self._mirror.directory / location).stat().st_size
