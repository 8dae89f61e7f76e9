"""`compose` with lockfiles, dry runs and local RPMs, as a person calls it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from composer.ostree.repo import Repository
from tests.compose.rpms import Spec, build, index, needs_root, repository, shell
from tests.compose.test_cli import call

pytestmark = needs_root


class Place:
    """A treefile, its repository, and the command run beside them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rpms = repository(path / "rpms", [shell(), Spec("lib"), Spec("gone")])
        self.write("[shell, lib, gone]")

    def write(self, packages: str, keys: str = "") -> None:
        text = f"ref: os\nrepos: [base]\npackages: {packages}\nselinux: false\n{keys}"
        (self.path / "os.yaml").write_text(text)

    def add(self, *specs: Spec) -> None:
        for spec in specs:
            build(spec, self.rpms)
        index(self.rpms)

    def compose(self, *more: str, repo: str = "r") -> subprocess.CompletedProcess[str]:
        words = ["compose", "os.yaml", "--repo", repo, "--cachedir", "c", "--basearch", "x86_64"]
        return call(*words, "--repository", f"base={self.rpms}", *more, cwd=self.path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_dry_run_shows_what_changes(place: Place) -> None:
    assert place.compose().returncode == 0
    place.add(Spec("lib", version="10"), Spec("more"))
    place.write("[shell, lib, more]")
    done = place.compose("--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "lib-10-1.noarch",
        "more-1-1.noarch",
        "shell-1-1.noarch",
        "Upgraded: 1",
        "  lib.noarch 1-1 -> 10-1",
        "Added: 1",
        "  more-1-1.noarch",
        "Removed: 1",
        "  gone-1-1.noarch",
    ]
    assert "of them 0 B to download; nothing was written" in done.stderr
    document = json.loads(place.compose("--dry-run", "--json").stdout)
    assert document["changes"] == {
        "added": ["more-1-1.noarch"],
        "removed": ["gone-1-1.noarch"],
        "upgraded": [{"name": "lib", "from": "lib-1-1.noarch", "to": "lib-10-1.noarch"}],
        "downgraded": [],
    }
    assert document["download_bytes"] == 0
    assert document["commit"] is None
    place.write("[shell, lib, gone]", "exclude-packages: [more]\n")
    place.compose()
    done = place.compose("--dry-run", "--lockfile", str(lockfile(place, lib="1-1")))
    assert done.stdout.endswith("Downgraded: 1\n  lib.noarch 10-1 -> 1-1\n")


def lockfile(place: Place, **packages: str) -> Path:
    path = place.path / "by-hand.json"
    path.write_text(json.dumps({"packages": {n: {"evr": evr} for n, evr in packages.items()}}))
    return path


def test_lockfile_gives_the_same_commit_when_the_repository_moved_on(place: Place) -> None:
    first = place.compose("--json", "--write-lockfile", "os.lock")
    assert first.returncode == 0, first.stderr
    written = (place.path / "os.lock").read_bytes()
    assert set(json.loads(written)["packages"]) == {"shell", "lib", "gone"}
    place.add(Spec("lib", version="2"))
    locked = ("--lockfile", "os.lock", "--strict-lockfile")
    again = place.compose("--json", *locked, repo="other")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["commit"] == json.loads(first.stdout)["commit"]
    done = place.compose(*locked, "--write-lockfile", "new.lock")
    assert done.returncode == 77
    packages = [json.loads(data)["packages"] for data in (written, read(place, "new.lock"))]
    assert packages[0] == packages[1]
    assert place.compose("--dry-run").returncode == 0


def read(place: Place, name: str) -> bytes:
    return (place.path / name).read_bytes()


def test_strict_without_a_lockfile_is_a_wrong_call(place: Place) -> None:
    done = place.compose("--strict-lockfile")
    assert done.returncode == 2
    assert "--strict-lockfile needs --lockfile" in done.stderr


def test_unlocked_packages_are_listed_and_nothing_is_written(place: Place) -> None:
    lockfile(place, shell="1-1")
    done = place.compose("--lockfile", "by-hand.json", "--strict-lockfile")
    assert done.returncode == 1
    assert "not in the lockfiles: gone-1-1.noarch, lib-1-1.noarch" in done.stderr
    assert not (place.path / "r").exists()


def test_local_rpm_travels_with_the_set(place: Place) -> None:
    build(Spec("mine"), place.path).rename(place.path / "mine.rpm")
    place.write("[shell, mine.rpm]")
    done = place.compose("--rpm-repo", "mirror", "--json")
    assert done.returncode == 0, done.stderr
    commit = json.loads(done.stdout)["commit"]
    (copied,) = (place.path / "mirror/local").iterdir()
    assert copied.read_bytes() == (place.path / "mine.rpm").read_bytes()
    assert place.compose("--rpm-repo", "mirror").returncode == 77
    # The client has the mirrors alone.
    (place.path / "mine.rpm").unlink()
    known = ("--config-dir", str(place.path / "config"))
    where = ("--trust", "none", "--repository", f"base={place.rpms}")
    added = call("remote", "add", "m", "mirror", *where, *known, cwd=place.path)
    assert added.returncode == 0, added.stderr
    Repository.create(place.path / "client", mode="bare-user")
    pulled = call("pull", "m:os", "--repo", "client", *known, cwd=place.path)
    assert pulled.returncode == 0, pulled.stderr
    pulled_refs = Repository.open(place.path / "client").refs()
    assert [str(checksum) for checksum in pulled_refs.values()] == [commit]
