"""RPMs that were made anew since the set was built: other files, the same contents."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.client.published import MINIMAL, Published, copy_of, fsck, put
from tests.client.pulling import Client, check_message, run_here
from tests.commands import Done, jigdo


@pytest.fixture
def packages(published: Published, updatable: Client, tmp_path: Path) -> Path:
    """The repository ``os`` of a set that is on another mirror."""
    sets, packages = tmp_path / "sets", copy_of(published.packages(2), tmp_path / "packages")
    words = ["set", "build", "--repo", published.repo, "--ref", MINIMAL, "--output", sets]
    words += ["--from", "none", "--cachedir", tmp_path / "cache"]
    jigdo(*words, "--packages", f"os={packages}")
    words = ["remote", "add", "demo", sets, "--repository", f"os={packages.as_uri()}"]
    jigdo(*words, "--gpg-key", published.key, env=updatable.env)
    return packages


def _replace(packages: Path, name: str, *, behind: bytes = b"", moved: bool = False) -> None:
    """Give a package another pkgid: its lead's name, which nobody reads, says something else."""
    (path,) = [p for p in packages.rglob(f"{name}-*.rpm") if p.name[len(name) + 1].isdigit()]
    data = bytearray(path.read_bytes())
    data[10:76] = b"anew".ljust(66, b"\0")
    path.unlink()
    put(path.with_name("anew.rpm") if moved else path, bytes(data) + behind)
    subprocess.run(["createrepo_c", "-q", packages], check=True, stdin=subprocess.DEVNULL)


def _pull(client: Client, *words: str) -> Done:
    return run_here(*client.words(), *words, "--config-dir", client.config)


@pytest.mark.parametrize("moved", [False, True])
def test_an_rpm_that_was_made_anew_serves(
    moved: bool, published: Published, updatable: Client, packages: Path
) -> None:
    _replace(packages, "paint", behind=bytes(100), moved=moved)
    done = _pull(updatable)
    assert done.status == 0, done.err
    assert updatable.head() == published.commit(MINIMAL, 2)
    fsck(updatable.repo)
    assert not list(updatable.repo.glob("tmp/jigdo-packages/*"))


def test_strict_pkgid_refuses_it(updatable: Client, packages: Path) -> None:
    before = updatable.head()
    _replace(packages, "paint")
    done = _pull(updatable, "--strict-pkgid")
    assert done.status == 3
    check_message(done.err, "paint", "checksum mismatch")
    updatable.require_unchanged(before)


def test_one_that_is_much_larger_is_not_fetched(updatable: Client, packages: Path) -> None:
    before = updatable.head()
    _replace(packages, "paint", behind=bytes(10 << 20), moved=True)
    done = _pull(updatable)
    assert done.status == 3
    check_message(done.err, "paint", "not found on any mirror", "more than the declared")
    updatable.require_unchanged(before)


def test_other_contents_under_the_name_are_refused(
    published: Published, updatable: Client, packages: Path
) -> None:
    before = updatable.head()
    (path,) = [p for p in packages.rglob("paint-*.rpm") if p.name[6].isdigit()]
    data = bytearray(path.read_bytes())
    data[len(data) - 40] ^= 1
    put(path, bytes(data))
    subprocess.run(["createrepo_c", "-q", packages], check=True, stdin=subprocess.DEVNULL)
    done = _pull(updatable)
    assert done.status in (1, 3)
    check_message(done.err, "paint")
    updatable.require_unchanged(before)
