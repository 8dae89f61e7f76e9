"""`mirror verify`: what is wrong with a mirror is told, and nothing else; with real servers."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from composer.rpm.rpmmd import parse_repomd
from tests.client.published import (
    MINIMAL,
    Published,
    SetRpm,
    put,
    read_pointer,
    write_pointer,
)
from tests.client.pulling import run_here
from tests.client.test_pull_resigned import sign
from tests.commands import jigdo
from tests.farms import Cluster, farm_cluster
from tests.net.lying_mirror import LyingMirror

__all__ = ("farm_cluster",)

_SCHEMA = Path(__file__).resolve().parents[2] / "docs/mirror-verify.schema.json"
_CHECKER = jsonschema.Draft202012Validator(json.loads(_SCHEMA.read_text()))


def verified(*words: object, status: int = 0) -> list[Any]:
    """Verify mirrors; returns their rows of ``--json``, held against the schema."""
    done = run_here("mirror", "verify", *words, "--json")
    assert done.status == status, f"{done.status}\n{done.out}\n{done.err}"
    document = done.document
    _CHECKER.validate(document)
    assert document["sound"] == (status == 0)
    rows: list[Any] = document["mirrors"]
    return rows


def problem(*words: object, status: int) -> Any:
    """Verify a mirror with one problem, and return that."""
    [row] = verified(*words, status=status)
    assert len(row["problems"]) == 1, row["problems"]
    return row["problems"][0]


@pytest.fixture
def directory(published: Published, tmp_path: Path) -> Path:
    """A mirror at generation 2 that may be changed."""
    return published.mirror(2, tmp_path / "copy")


def package(published: Published, name: str = "paint") -> str:
    """Where a package of the newest small version is."""
    return published.set_rpm(MINIMAL, 2).locations()[name]


@pytest.mark.parametrize("options", [[], ["--full"]], ids=["fast", "full"])
def test_sound_mirror_is_sound_by_directory_and_by_http(
    mirror: LyingMirror, options: list[str]
) -> None:
    local, remote = verified(mirror.directory, mirror.url, "--all-packages", *options)
    assert local["files"] == remote["files"] > 50
    assert local["bytes"] == remote["bytes"]
    assert len(local["refs"]) == 2
    assert local["versions"] == 4
    asked = [one for one in mirror.log if one.path.endswith(".rpm")]
    listed = set(mirror.directory.rglob("*.rpm"))
    assert {mirror.directory / one.path for one in asked} == listed
    packages = [one for one in asked if one.path.startswith("Packages/")]
    sizes = sum(os.stat(mirror.directory / one.path).st_size for one in packages)
    assert sum(one.sent for one in packages) == (sizes if options else len(packages))


@pytest.mark.parametrize("http", [False, True], ids=["directory", "http"])
def test_missing_package_is_told_with_the_versions_that_need_it(
    mirror: LyingMirror, published: Published, http: bool
) -> None:
    location = package(published)
    (mirror.directory / location).unlink()
    where = mirror.url if http else mirror.directory
    found = problem(where, status=5)
    assert (found["kind"], found["location"]) == ("missing", location)
    assert f"{MINIMAL} 1.1" in found["needed_by"]
    shown = run_here("mirror", "verify", where)
    assert shown.status == 5
    assert f"missing: {location} (needed by" in shown.out


def test_cut_package_is_found_fast_and_a_flipped_bit_by_full(
    directory: Path, published: Published
) -> None:
    location = package(published)
    data = (directory / location).read_bytes()
    put(directory / location, data[:-1])
    found = problem(directory, status=3)
    assert found["kind"] == "damaged"
    assert f"{len(data) - 1} bytes, {len(data)} are needed" in found["reason"]
    put(directory / location, bytes([data[0] ^ 1]) + data[1:])
    verified(directory)
    found = problem(directory, "--full", status=3)
    assert (found["kind"], found["location"]) == ("damaged", location)
    with LyingMirror(directory) as mirror:
        assert problem(mirror.url, "--full", status=3)["location"] == location


def test_missing_set_is_told_and_the_others_are_looked_at(
    directory: Path, published: Published
) -> None:
    location = SetRpm.of(directory, MINIMAL).location
    (directory / location).unlink()
    (directory / package(published)).unlink()
    [row] = verified(directory, status=5)
    assert {one["location"] for one in row["problems"]} == {location, package(published)}


def test_damaged_metadata_of_a_set_is_found_fast(directory: Path) -> None:
    rpm = SetRpm.of(directory, MINIMAL)
    index = rpm.start + rpm.jigdo.place.offset + 5
    data = bytearray(rpm.path.read_bytes())
    data[index] ^= 1
    put(rpm.path, bytes(data))
    assert problem(directory, status=3)["location"] == rpm.location


def test_retained_package_serves_and_one_that_rpm_md_lists_is_missed(
    directory: Path, published: Published
) -> None:
    location = package(published)
    [pkgid] = [
        str(one.ref.pkgid)
        for one in published.set_rpm(MINIMAL, 2).jigdo.head.packages
        if one.ref.location == location
    ]
    retained = directory / "retained" / pkgid / Path(location).name
    retained.parent.mkdir(parents=True)
    shutil.move(directory / location, retained)
    # dnf goes by the package list alone.
    verified(directory, "--all-packages", status=5)
    [row] = verified(directory)
    assert [one["kind"] for one in row["notes"]] == ["moved"]
    pointers = read_pointer(directory)
    subprocess.run(["createrepo_c", "-q", directory], check=True)
    write_pointer(directory, pointers)
    [row] = verified(directory, "--ref", f"{MINIMAL}@1.1", "--proof")
    [note] = row["notes"]
    assert (note["kind"], note["location"]) == ("moved", location)
    assert f"retained/{pkgid}/" in note["reason"]
    retained.unlink()
    assert verified(directory, "--ref", f"{MINIMAL}@1.1", status=5)


def test_package_that_was_signed_anew_is_judged_by_the_proof(
    directory: Path, published: Published, tmp_path: Path
) -> None:
    """Of another size, but with the same contents, and listed anew."""
    location = package(published)
    sign(directory / location, tmp_path)
    pointers = read_pointer(directory)
    subprocess.run(["createrepo_c", "-q", directory], check=True)
    write_pointer(directory, pointers)
    only = ["--ref", f"{MINIMAL}@1.1"]
    found = problem(directory, *only, status=3)
    assert found["kind"] == "replaced"
    [row] = verified(directory, *only, "--proof")
    assert [one["kind"] for one in row["notes"]] == ["replaced"]


def test_repodata_that_is_older_than_packages_is_damage(
    directory: Path, published: Published
) -> None:
    other = published.packages(1) / "Packages"
    location = package(published)
    replacement = max(other.rglob("*.rpm"), key=lambda path: path.stat().st_size)
    put(directory / location, replacement.read_bytes())
    assert problem(directory, status=3)["location"] == location


def test_proof_reassembles_every_version(directory: Path, published: Published) -> None:
    [row] = verified(directory, "--proof", "--ref", MINIMAL)
    assert {one["commit"] for one in row["proofs"]} == {
        published.commit(MINIMAL, generation) for generation in (1, 2)
    }
    assert not any(one["reason"] for one in row["proofs"])


def test_version_that_does_not_come_out_is_unproven(directory: Path, published: Published) -> None:
    location = package(published)
    data = bytearray((directory / location).read_bytes())
    data[len(data) // 2] ^= 1
    put(directory / location, bytes(data))
    [row] = verified(directory, "--proof", "--ref", f"{MINIMAL}@1.1", status=3)
    assert [one["kind"] for one in row["problems"]] == ["unproven"]
    assert row["proofs"][0]["reason"]


def test_proofs_on_a_cluster_side_by_side(mirror: LyingMirror, farm_cluster: Cluster) -> None:
    words = ("mirror", "verify", mirror.url, "--proof", "--executor", farm_cluster.url, "--json")
    done = run_here(*words)
    assert done.status == 0, done.err
    assert "were done here" not in done.err
    [row] = done.document["mirrors"]
    assert len(row["proofs"]) == 4
    assert not any(one["reason"] for one in row["proofs"])


def test_proof_that_fails_on_a_cluster_is_tried_here(
    mirror: LyingMirror, published: Published, farm_cluster: Cluster
) -> None:
    location = package(published)
    data = bytearray((mirror.directory / location).read_bytes())
    data[len(data) // 2] ^= 1
    put(mirror.directory / location, bytes(data))
    words = ("mirror", "verify", mirror.url, "--proof", "--ref", f"{MINIMAL}@1.1", "--json")
    done = run_here(*words, "--executor", farm_cluster.url)
    assert done.status == 3
    [row] = done.document["mirrors"]
    assert [one["kind"] for one in row["problems"]] == ["unproven"]
    assert "1 of 1 tasks were done here instead" in done.err


def test_mirrors_side_by_side_show_who_is_behind(directory: Path, published: Published) -> None:
    old = published.root / "mirror1"
    new, behind = verified(directory, old, status=6)
    assert (new["sound"], behind["sound"]) == (True, False)
    assert [one["newest"]["version"] for one in behind["behind"]] == ["1.1", "1.1"]
    assert not behind["problems"]
    years = 100 * 365 * 24
    _, behind = verified(directory, old, "--max-lag", years)
    assert behind["behind"]
    shown = run_here("mirror", "verify", directory, old)
    assert f"{MINIMAL}: lacks 1.1" in shown.out


def test_repositories_of_other_names_are_looked_at_where_clients_do(
    published: Published, tmp_path: Path
) -> None:
    """A set whose packages are in another repository than the set itself."""
    mirror, packages = tmp_path / "sets", published.packages(2)
    words = ["set", "build", "--from", "none", "--repo", published.repo, "--ref", MINIMAL]
    words += ["--output", mirror, "--packages", f"fixture={packages}"]
    jigdo(*words, "--cachedir", tmp_path / "cache")
    verified(mirror, status=5)
    [row] = verified(mirror, "--repository", f"fixture={packages}", "--proof")
    assert row["files"] > 10
    copy = tmp_path / "packages"
    shutil.copytree(packages, copy)
    location = package(published)
    (copy / location).unlink()
    found = problem(mirror, "--repository", f"fixture={copy}", status=5)
    assert (found["repository"], found["location"]) == ("fixture", location)


# Statements.


@pytest.fixture
def signed(directory: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The mirror with statements, and their root, which a person has."""
    keys = tmp_path / "keys"
    jigdo("mirror", "keys", "init", directory, "--tuf-keys", keys)
    return directory, Path(shutil.copy(directory / "tuf/1.root.json", tmp_path / "root.json"))


def test_statements_are_checked_by_the_given_root_or_the_mirrors_own(
    signed: tuple[Path, Path], published: Published
) -> None:
    directory, root = signed
    [row] = verified(directory)
    assert row["signed"]["root"] == "own"
    [row] = verified(directory, "--tuf-root", root)
    assert row["signed"]["root"] == "given"
    assert row["signed"]["expires"]
    assert problem(published.root / "mirror2", "--tuf-root", root, status=5)["location"] == "tuf/"


def test_expired_and_forged_statements_are_told(signed: tuple[Path, Path], tmp_path: Path) -> None:
    directory, _ = signed
    other = tmp_path / "other"
    shutil.copytree(directory, other, ignore=shutil.ignore_patterns("tuf"))
    jigdo("mirror", "keys", "init", other, "--tuf-keys", tmp_path / "other-keys")
    found = problem(directory, "--tuf-root", other / "tuf/1.root.json", status=3)
    assert found["kind"] == "untrusted"
    found = sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed")
    old = tmp_path / "old"
    shutil.copytree(directory, old, ignore=shutil.ignore_patterns("tuf"))
    words = ["mirror", "keys", "init", old, "--tuf-keys", tmp_path / "old-keys"]
    jigdo(*words, env={"LD_PRELOAD": str(found[0]), "FAKETIME": "-30d"})
    [row] = verified(old, status=6)
    assert row["signed"]["expires"]
    [told] = row["problems"]
    assert (told["kind"], told["location"]) == ("expired", "tuf/")
    assert "expired on" in told["reason"]


def test_statements_and_pointer_that_differ_are_told(
    signed: tuple[Path, Path], published: Published, tmp_path: Path
) -> None:
    directory, root = signed
    words = ["set", "build", "--from", "none", "--repo", published.repo, "--ref", MINIMAL]
    words += ["--packages", published.packages(2), "--output", directory, "--full", "paint"]
    jigdo(*words, "--cachedir", tmp_path / "cache")
    found = problem(directory, "--tuf-root", root, status=3)
    assert found["kind"] == "untrusted"
    assert "the pointer" in found["reason"]


# Mirrors that cannot be relied on.


def test_repository_without_sets_is_not_sound(published: Published, tmp_path: Path) -> None:
    assert "no jigdo sets" in problem(published.packages(1), status=5)["reason"]
    empty = tmp_path / "empty"
    empty.mkdir()
    [row] = verified(empty, status=1)
    assert "repomd.xml" in row["error"]
    assert run_here("mirror", "verify", tmp_path / "nowhere").status == 2


def test_repository_with_other_checksums_is_told(directory: Path, tmp_path: Path) -> None:
    plain = tmp_path / "md5"
    shutil.copytree(directory, plain, ignore=shutil.ignore_patterns("repodata"))
    subprocess.run(["createrepo_c", "-q", "--checksum", "sha1", plain], check=True)
    [row] = verified(plain, status=3)
    assert any("SHA-256" in one["reason"] for one in row["problems"])


def test_package_list_that_repomd_does_not_mean_is_told(directory: Path) -> None:
    repomd = parse_repomd((directory / "repodata/repomd.xml").read_bytes())
    primary = directory / repomd.require("primary").location
    put(primary, gzip.compress(gzip.decompress(primary.read_bytes()) + b"\n"))
    [row] = verified(directory, status=3)
    assert {"damaged"} == {one["kind"] for one in row["problems"]}


def test_html_and_redirects_in_circles_are_told_and_elsewhere_is_followed(
    mirror: LyingMirror, published: Published
) -> None:
    locations = list(published.set_rpm(MINIMAL, 2).locations().values())[:3]
    mirror.html(locations[0])
    mirror.redirect_loop(locations[1])
    with LyingMirror(published.root / "mirror2") as other:
        mirror.redirect(locations[2], other.url + locations[2])
        [row] = verified(mirror.url, status=1)
        assert [one.path for one in other.log] == [locations[2]]
    reasons = {one["location"]: one["reason"] for one in row["problems"]}
    assert reasons.keys() == set(locations[:2])
    assert "an HTML page instead" in reasons[locations[0]]
    assert "more than 5 redirects" in reasons[locations[1]]


def test_mirror_that_is_down_is_an_error_of_its_own(directory: Path) -> None:
    sound, down = verified(directory, "http://127.0.0.1:9/", status=1)
    assert sound["sound"]
    assert down["error"]


def test_location_that_leads_out_of_the_repository_is_refused(directory: Path) -> None:
    document = read_pointer(directory)
    document["refs"][0]["set"]["location"] = "../../etc/passwd"
    write_pointer(directory, document)
    [row] = verified(directory, status=3)
    assert "leads out of the repository" in row["error"]
