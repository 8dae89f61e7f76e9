"""``set build``, ``set inspect``, ``set verify``: what they report and what they refuse."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from composer.jigdo.container import DESCRIPTION, Kind
from composer.mirror.making import open_set
from composer.ostree.locking import changing, removing
from composer.ostree.repo import Repository
from fixtures.rpms.build import SPECS, build_repository
from tests.client.published import MINIMAL, Gpg, Published, SetRpm, copy_of, fsck, put
from tests.client.pulling import Client, check_message, run_here
from tests.commands import Done, jigdo, ostree


def _run(*words: object, status: int = 0) -> Done:
    done = run_here(*words)
    assert done.status == status, done.err
    return done


@pytest.fixture
def rpm(published: Published) -> SetRpm:
    return published.set_rpm(MINIMAL, 2)


@pytest.fixture
def plain(rpm: SetRpm, tmp_path: Path) -> Path:
    """The .jigdo file by itself."""
    path = tmp_path / "set.jigdo"
    end = rpm.start + rpm.jigdo.place.offset + rpm.jigdo.place.size + 80
    path.write_bytes(rpm.path.read_bytes()[rpm.start : end])
    return path


@pytest.fixture
def impostor(tmp_path: Path) -> Path:
    """An RPM with the NEVRA of generation 2's paint, and another content."""
    spec = tmp_path / "paint.spec"
    spec.write_text((SPECS / "paint.spec").read_text().replace("--size 200k", "--size 201k"))
    (rpm,) = build_repository([spec], tmp_path / "impostor", generation=2)
    return rpm


def test_inspect_reports_as_json(published: Published, rpm: SetRpm, plain: Path) -> None:
    document = _run("set", "inspect", rpm.path, "--json").document
    assert document == _run("set", "inspect", plain, "--json").document
    assert document["ref"] == MINIMAL
    assert document["commit"] == published.commit(MINIMAL, 2)
    assert document["signed"] is True
    assert [section["kind"] for section in document["sections"]] == [k.name.lower() for k in Kind]
    assert {"nevra", "pkgid", "size", "repository", "location"} < set(document["packages"][0])
    totals = document["totals"]
    assert totals["objects"] == totals["package_objects"] + totals["new_objects"]


def test_inspect_shows_a_person_the_same(rpm: SetRpm) -> None:
    said = _run("set", "inspect", rpm.path).out
    assert f"ref:        {MINIMAL}\n" in said
    assert "signed:     yes\n" in said


def test_verify_proves_a_good_set(published: Published, rpm: SetRpm, plain: Path) -> None:
    for file in (rpm.path, plain):
        words = ["set", "verify", file, "--packages", published.packages(2)]
        document = _run(*words, "--json").document
        assert document == {
            "ref": MINIMAL,
            "commit": published.commit(MINIMAL, 2),
            "verified": True,
        }


def test_verify_with_the_older_commits_counts_what_it_proved(
    published: Published, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = _build(published, out, tmp_path / "cache")
    words[words.index("none")] = published.commit(MINIMAL, 1)
    made = _run(*words, "--json").document
    words = ["set", "verify", out / Path(made["rpm"]).relative_to(out)]
    words += ["--packages", published.packages(2)]
    assert "deltas from 1 older commits are not proven" in _run(*words).out
    words += ["--repo", published.repo]
    [proof] = _run(*words, "--json").document["deltas"]
    assert proof["from"] == published.commit(MINIMAL, 1)
    assert proof["proven"] is True
    assert proof["patched"] > 0
    assert proof["skipped"] == 0
    assert f"deltas from {published.commit(MINIMAL, 1)}" in _run(*words).out


def test_verify_leaves_nothing_behind(published: Published, rpm: SetRpm, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    words = ["set", "verify", rpm.path, "--workdir", work, "--packages"]
    _run(*words, published.packages(2))
    _run(*words, published.packages(1), status=1)
    assert list(work.iterdir()) == []


def test_verify_without_the_packages_names_them(published: Published, rpm: SetRpm) -> None:
    words = ["set", "verify", rpm.path, "--packages", published.packages(1)]
    done = _run(*words, status=1)
    check_message(done.err[done.err.index("error:") :], "paint-5.1-1.fx", "--packages")


def test_verify_refuses_another_package_of_the_same_name(
    published: Published, rpm: SetRpm, impostor: Path, tmp_path: Path
) -> None:
    packages = copy_of(published.packages(2), tmp_path / "packages")
    put(packages / rpm.locations()["paint"], impostor.read_bytes())
    words = ["set", "verify", rpm.path, "--packages", packages]
    done = _run(*words, status=3)
    check_message(done.err[done.err.index("error:") :], "paint-5.1-1.fx", "expected")
    # Where rpm-md knows it, the package that the set needs is not there at all.
    subprocess.run(["createrepo_c", "--quiet", packages], check=True)
    done = _run(*words, status=1)
    check_message(done.err[done.err.index("error:") :], "paint-5.1-1.fx")


@pytest.mark.parametrize("kind", [*DESCRIPTION, Kind.DATA])
def test_verify_refuses_a_bit_flipped_anywhere(
    kind: Kind, published: Published, plain: Path
) -> None:
    data = bytearray(plain.read_bytes())
    frame = next(open_set(plain).index.of(kind))
    data[frame.offset + frame.size // 2] ^= 1
    plain.write_bytes(data)
    words = ["set", "verify", plain, "--packages", published.packages(2)]
    done = _run(*words, status=3)
    assert kind.name.lower() in done.err
    assert "error: " in done.err


@pytest.mark.parametrize("command", ["inspect", "verify"])
@pytest.mark.parametrize("cut", ["start", "half", "one byte", "everything", "tail replaced"])
def test_cut_file_is_refused(command: str, cut: str, published: Published, plain: Path) -> None:
    data = plain.read_bytes()
    plain.write_bytes(
        {
            "start": data[:20],
            "half": data[: len(data) // 2],
            "one byte": data[:-1],
            "everything": b"",
            "tail replaced": data[:-200] + bytes(200),
        }[cut]
    )
    more = ["--packages", published.packages(2)] if command == "verify" else []
    done = _run("set", command, plain, *more, status=3)
    assert "Traceback" not in done.err
    assert done.err.startswith("error: ")


def test_cut_rpm_is_refused(rpm: SetRpm, tmp_path: Path) -> None:
    cut = tmp_path / "cut.rpm"
    data = rpm.path.read_bytes()
    for size in (50, 3000, rpm.start + 4, rpm.start + 1000, len(data) - 200):
        cut.write_bytes(data[:size])
        assert "error: " in _run("set", "inspect", cut, status=3).err


def test_other_files_are_refused_by_name(fixture_rpm: Path, tmp_path: Path) -> None:
    done = _run("set", "inspect", fixture_rpm, status=3)
    assert fixture_rpm.name in done.err
    other = tmp_path / "text"
    other.write_text("hello")
    check_message(_run("set", "inspect", other, status=3).err, str(other))


@pytest.fixture
def fixture_rpm(published: Published) -> Path:
    (path,) = published.packages(1).rglob("zones-*.rpm")
    return path


# Building


def _build(published: Published, output: Path, scratch: Path, *more: object) -> list[object]:
    words = ["set", "build", "--repo", published.repo, "--ref", MINIMAL, "--output", output]
    words += ["--from", "none"]
    return [*words, "--packages", published.packages(2), "--cachedir", scratch, *more]


def test_build_reports_as_json(published: Published, tmp_path: Path) -> None:
    words = _build(published, tmp_path / "out", tmp_path / "cache", "--json")
    document = _run(*words).document
    keys = {"rpm", "ref", "version", "commit", "jigdo_bytes", "rpm_bytes", "totals"}
    keys |= {"bases", "undescribed"}
    assert set(document) == keys
    assert Path(document["rpm"]).stat().st_size == document["rpm_bytes"]
    assert document["commit"] == published.commit(MINIMAL, 2)


def test_build_beside_a_pull_goes_on_and_beside_a_prune_is_told(
    published: Published, tmp_path: Path
) -> None:
    words = _build(published, tmp_path / "out", tmp_path / "cache")
    repo = Repository.open(published.repo)
    with removing(repo):
        check_message(_run(*words, status=75).err, "another process is at work in it", "--wait")
    assert not (tmp_path / "out").exists()
    with changing(repo):
        _run(*words)


def test_two_builds_are_the_same_bytes(published: Published, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        words = _build(published, tmp_path / name, tmp_path / f"cache-{name}", "--json")
        made.append(Path(_run(*words).document["rpm"]).read_bytes())
    assert made[0] == made[1] == published.set_rpm(MINIMAL, 2).path.read_bytes()


def test_signed_build_is_signed_and_pulls(published: Published, tmp_path: Path) -> None:
    with Gpg.home() as gpg:
        key = gpg.make_key("mirror", algorithm="rsa3072")
        words = _build(published, tmp_path / "out", tmp_path / "cache", "--json")
        words += ["--gpg-sign", key, "--gpg-homedir", gpg.directory]
        made = Path(_run(*words).document["rpm"])
    assert (
        "(none)"
        not in subprocess.check_output(["rpm", "-qpi", made], text=True)
        .partition("Signature")[2]
        .splitlines()[0]
    )
    copy_of(published.packages(2) / "Packages", tmp_path / "out/Packages")
    client = Client.create(tmp_path / "client", published)
    client.add_remote(tmp_path / "out")
    client.completes()


def test_build_without_the_packages_names_them(published: Published, tmp_path: Path) -> None:
    words = ["set", "build", "--repo", published.repo, "--ref", MINIMAL]
    words += ["--packages", published.packages(1), "--output", tmp_path / "out"]
    done = _run(*words, "--cachedir", tmp_path / "cache", status=1)
    check_message(done.err, "paint-5.1-1.fx", "--packages")
    assert not (tmp_path / "out").exists()


def test_build_refuses_a_package_that_changed(
    published: Published, rpm: SetRpm, tmp_path: Path
) -> None:
    packages = copy_of(published.packages(2), tmp_path / "packages")
    path = packages / rpm.locations()["paint"]
    data = path.read_bytes()
    put(path, data[:-3000] + bytes(3000))
    out = copy_of(published.root / "mirror1", tmp_path / "out")
    before = (out / "repodata/repomd.xml").read_bytes()
    words = ["set", "build", "--repo", published.repo, "--ref", MINIMAL, "--output", out]
    done = _run(*words, "--packages", packages, "--cachedir", tmp_path / "cache", status=3)
    assert "paint-5.1-1.fx" in done.err[done.err.index("error:") :]
    assert (out / "repodata/repomd.xml").read_bytes() == before


def test_build_refuses_another_package_of_the_same_name(
    published: Published, rpm: SetRpm, impostor: Path, tmp_path: Path
) -> None:
    """Its files have other numbers: clients would look for the right content in the wrong place."""
    packages = copy_of(published.packages(2), tmp_path / "packages")
    put(packages / rpm.locations()["paint"], impostor.read_bytes())
    words = _build(published, tmp_path / "out", tmp_path / "cache", "--packages", packages)
    words.remove(published.packages(2))
    words.remove("--packages")
    done = _run(*words, status=3)
    assert "paint-5.1-1.fx" in done.err[done.err.index("error:") :]


@pytest.mark.parametrize(
    ("option", "value", "status", "named"),
    [
        ("--repo", "/nonexistent", 1, "/nonexistent"),
        ("--ref", "no/such/ref", 1, "no/such/ref"),
        ("--packages", "/nonexistent", 1, "/nonexistent"),
        ("--packages", "=/usr", 1, "=/usr"),
        ("--name", "a b", 1, "a b"),
    ],
)
def test_build_refuses_what_it_cannot_use(
    option: str, value: str, status: int, named: str, published: Published, tmp_path: Path
) -> None:
    words = _build(published, tmp_path / "out", tmp_path / "cache", option, value)
    done = _run(*words, status=status)
    assert named in done.err[done.err.index("error:") :]
    assert "Traceback" not in done.err


def test_wrong_signing_key_leaves_the_repository_as_it_was(
    published: Published, tmp_path: Path
) -> None:
    out = copy_of(published.root / "mirror1", tmp_path / "out")
    before = sorted(path.relative_to(out) for path in out.rglob("*"))
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    words = _build(published, out, tmp_path / "cache", "--gpg-sign", "ABCD")
    done = _run(*words, "--gpg-homedir", home, status=1)
    check_message(done.err[done.err.index("error:") :], "rpmsign", "secret key")
    assert sorted(path.relative_to(out) for path in out.rglob("*")) == before


def test_set_of_an_imported_package_can_be_built_and_pulled(
    published: Published, fixture_rpm: Path, tmp_path: Path
) -> None:
    """A commit that no compose made: all packages that are given are its packages."""
    repo, mirror, client = (tmp_path / name for name in ("repo", "mirror", "client"))
    env = {"JIGDO_COMPOSER_CONFIG": str(tmp_path / "config")}
    for place in (repo, client):
        ostree(place, "init", "--mode=bare-user")
    (mirror / "Packages").mkdir(parents=True)
    shutil.copy(fixture_rpm, mirror / "Packages")
    (row,) = _run("repo", "import", fixture_rpm, "--repo", repo, "--json").document["imported"]
    words = ["set", "build", "--repo", repo, "--ref", row["ref"], "--output", mirror]
    _run(*words, "--packages", mirror, "--cachedir", tmp_path / "cache")
    jigdo("remote", "add", "x", mirror, "--trust", "none", env=env)
    jigdo("pull", row["ref"], "--repo", client, env=env)
    assert ostree(client, "rev-parse", row["ref"]) == row["commit"]
    fsck(client)
