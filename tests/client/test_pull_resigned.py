"""RPMs that were made anew since the set was built: other files, the same contents."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from composer.client.sources import most_anew
from composer.mirror.set_rpm import sign_rpm
from composer.ostree.repo import Repository
from fixtures.rpms.build import SPECS, build_repository
from tests.client.published import MINIMAL, Gpg, Published, copy_of, fsck, put
from tests.client.pulling import REMOTE, Client, check_message, run_here
from tests.commands import Done, jigdo
from tests.net.lying_mirror import LyingMirror

PAINT = "paint-5.1-1.fx.x86_64"
Make = Callable[[Path, Path], None]
"""Makes another RPM of the one at the first path, there."""


@pytest.fixture
def mirror(published: Published, updatable: Client, tmp_path: Path) -> LyingMirror:
    """The mirror of the packages, which are the repository ``os`` of a set that is elsewhere."""
    sets = tmp_path / "sets"
    packages = copy_of(published.packages(2), tmp_path / "packages")
    words = ["set", "build", "--repo", published.repo, "--ref", MINIMAL, "--output", sets]
    words += ["--from", "none", "--cachedir", tmp_path / "cache"]
    jigdo(*words, "--packages", f"os={packages}")
    return LyingMirror(packages)


@pytest.fixture
def packages(mirror: LyingMirror, published: Published, updatable: Client, tmp_path: Path) -> Any:
    """The directory of that mirror, while it runs."""
    with mirror:
        words = ["remote", "add", REMOTE, tmp_path / "sets", "--repository", f"os={mirror.url}"]
        jigdo(*words, "--gpg-key", published.key, env=updatable.env)
        yield mirror.directory


def find(packages: Path, name: str) -> Path:
    (path,) = [p for p in packages.rglob(f"{name}-*.rpm") if p.name[len(name) + 1].isdigit()]
    return path


def index(packages: Path) -> None:
    subprocess.run(["createrepo_c", "-q", packages], check=True, stdin=subprocess.DEVNULL)


def sign(path: Path, scratch: Path) -> None:
    with Gpg.home() as gpg:
        key = gpg.make_key("packager", algorithm="rsa2048")
        put(path, path.read_bytes())  # rpmsign must not write what other tests have, too
        sign_rpm(path, key=key, homedir=gpg.directory)


def rebuild(payload: str, *, size: str = "200k") -> Make:
    """Build paint again with another compression, or with another size of its program."""

    def make(path: Path, scratch: Path) -> None:
        spec = scratch / "paint.spec"
        spec.write_text((SPECS / "paint.spec").read_text().replace("--size 200k", f"--size {size}"))
        defines = {"_binary_payload": payload}
        (rpm,) = build_repository([spec], scratch / "again", generation=2, defines=defines)
        put(path, rpm.read_bytes())

    return make


def pull(client: Client, *words: object) -> Done:
    return run_here(*client.words(), *words, "--config-dir", client.config)


def complete(client: Client, *words: object) -> Any:
    done = pull(client, *words)
    assert done.status == 0, done.err
    assert client.head() == client.published.commit(MINIMAL, 2)
    fsck(client.repo)
    assert not list(client.repo.glob("tmp/jigdo-packages/*"))
    return done.document


def bound(published: Published, name: str) -> int:
    """How large another RPM of a package may be, counted here from its objects."""
    made = published.set_rpm(MINIMAL, 2)
    repo = Repository.open(published.repo)
    objects = made.objects()[made.locations()[name]]
    size = (made.mirror / made.locations()[name]).stat().st_size
    return most_anew(size, sum(repo.content(checksum)[1] for checksum in objects))


ANEW = {
    "signed": sign,
    "gzip": rebuild("w1.gzdio"),
    "xz": rebuild("w6.xzdio"),
    "not compressed": rebuild("w.ufdio"),
}


@pytest.mark.parametrize("moved", [False, True], ids=["in its place", "moved"])
@pytest.mark.parametrize("how", ANEW)
def test_an_rpm_that_was_made_anew_serves(
    how: str, moved: bool, updatable: Client, packages: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    path = find(packages, "paint")
    original = path.read_bytes()
    ANEW[how](path, tmp_path)
    assert path.read_bytes() != original
    if moved:
        path.rename(packages / "anew.rpm")
        path = packages / "anew.rpm"
    index(packages)
    [replaced] = complete(updatable)["replaced"]
    assert replaced["package"] == PAINT
    assert replaced["bytes"] == path.stat().st_size
    assert replaced["url"] == mirror.url + str(path.relative_to(packages))


def test_what_was_made_anew_is_said_in_a_plan_that_probes(
    updatable: Client, packages: Path, tmp_path: Path
) -> None:
    path = find(packages, "paint")
    words = ["plan", f"{REMOTE}:{MINIMAL}", "--repo", updatable.repo]
    words += ["--config-dir", updatable.config]
    before = run_here(*words, "--json").document
    size = path.stat().st_size
    rebuild("w1.gzdio")(path, tmp_path)
    index(packages)
    found = run_here(*words, "--json", "--probe").document
    assert [row["package"] for row in found["replaced"]] == [PAINT]
    grown = path.stat().st_size - size
    assert found["bytes"] == before["bytes"] + grown
    text = run_here(*words, "--probe").out
    assert f"made anew: {PAINT}: the RPM at {found['replaced'][0]['url']} serves" in text
    done = run_here(*updatable.words()[:-1], "--config-dir", updatable.config)
    assert f"made anew: {PAINT}" in done.out


def test_strict_pkgid_refuses_it(updatable: Client, packages: Path, tmp_path: Path) -> None:
    before = updatable.head()
    sign(find(packages, "paint"), tmp_path)
    index(packages)
    done = pull(updatable, "--strict-pkgid")
    assert done.status == 3
    check_message(done.err, PAINT, "was made anew, which --strict-pkgid refuses", "expected pkgid")
    updatable.require_unchanged(before)


def test_one_that_is_much_larger_is_not_fetched(
    updatable: Client, packages: Path, mirror: LyingMirror
) -> None:
    before = updatable.head()
    path = find(packages, "paint")
    most = bound(updatable.published, "paint")
    data = path.read_bytes() + bytes(most + 1 - path.stat().st_size)
    path.unlink()
    put(packages / "anew.rpm", data)
    index(packages)
    done = pull(updatable)
    assert done.status == 3
    check_message(done.err, PAINT, "not found on any mirror", f"more than the declared {most}")
    assert not mirror.requests("anew.rpm")
    updatable.require_unchanged(before)


def test_one_just_within_the_bound_is_fetched(updatable: Client, packages: Path) -> None:
    path = find(packages, "paint")
    data = path.read_bytes()
    put(path, data + bytes(bound(updatable.published, "paint") - len(data)))
    index(packages)
    assert [row["package"] for row in complete(updatable)["replaced"]] == [PAINT]


@pytest.mark.parametrize("spoil", ["rebuilt", "flipped", "no RPM"])
def test_other_contents_under_the_name_are_refused(
    spoil: str, updatable: Client, packages: Path, mirror: LyingMirror, tmp_path: Path
) -> None:
    before = updatable.head()
    path = find(packages, "paint")
    good = path.read_bytes()
    if spoil == "rebuilt":
        rebuild("w19.zstdio", size="199k")(path, tmp_path)
        index(packages)
    elif spoil == "flipped":
        data = bytearray(good)
        data[len(data) - 40] ^= 1
        put(path, bytes(data))
        index(packages)
    else:
        sign(path, tmp_path)
        index(packages)
        put(path, bytes(path.stat().st_size))  # not what the list says either
    done = pull(updatable)
    assert done.status == 3
    check_message(done.err, PAINT, str(path.relative_to(packages)), "needed for /usr/")
    updatable.require_unchanged(before)
    assert not list(updatable.repo.glob("tmp/jigdo-packages/*.rpm"))
    put(path, good)
    index(packages)
    complete(updatable)


def test_after_one_with_other_contents_the_next_of_the_name_serves(
    updatable: Client, packages: Path, tmp_path: Path
) -> None:
    path = find(packages, "paint")
    archive = tmp_path / "archive"
    archive.mkdir()
    shutil.copy(path, archive / "signed.rpm")
    sign(archive / "signed.rpm", tmp_path)
    index(archive)
    rebuild("w1.gzdio", size="199k")(path, tmp_path)
    index(packages)
    [replaced] = complete(updatable, "--archive", archive)["replaced"]
    assert replaced["url"] == f"{archive.as_uri()}/signed.rpm"


def test_a_mirror_that_offers_ever_more_of_one_name_is_left(
    updatable: Client, packages: Path, mirror: LyingMirror
) -> None:
    path = find(packages, "paint")
    data = path.read_bytes()
    path.unlink()
    for number in range(12):
        spoilt = bytearray(data)
        spoilt[len(data) - 50 - number] ^= 1
        put(packages / f"{number}.rpm", bytes(spoilt))
    index(packages)
    done = pull(updatable)
    assert done.status == 3
    check_message(done.err, PAINT, "needed for")
    tried = [one for one in mirror.log if one.path.split(".")[0].isdigit()]
    assert 1 < len(tried) <= 4
