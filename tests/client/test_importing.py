"""Local RPMs into a repository, by ``repo import``."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from fixtures.rpms.build import build_repository
from tests.client.published import MINIMAL, Published, fsck
from tests.client.pulling import Client, await_true, check_message, rpm_requests, run_here
from tests.commands import Done, jigdo, ostree
from tests.fixtures_os.repos import FixtureRepos
from tests.net.lying_mirror import LyingMirror

_ACCOUNTS = Path(__file__).resolve().parents[2] / "fixtures/rpms/sources/setup"
_TABLES = ["--passwd", _ACCOUNTS / "passwd", "--group", _ACCOUNTS / "group"]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    place = tmp_path / "repo"
    ostree(place, "init", "--mode=bare-user")
    ostree(place, "config", "set", "core.fsync", "false")
    return place


def _rpm(repos: FixtureRepos, name: str) -> Path:
    (path,) = repos.gen1.rglob(f"{name}.rpm")
    return path


def _import(repo: Path, *words: object, status: int = 0) -> Done:
    done = run_here("repo", "import", *words, "--repo", repo, "--json")
    assert done.status == status, done.err
    return done


def _built(scratch: Path, text: str) -> Path:
    spec = scratch / "odd.spec"
    spec.write_text(text)
    (rpm,) = build_repository([spec], scratch / "odd")
    return rpm


def test_package_gets_a_ref_and_its_pkgid(repo: Path, fixture_repos: FixtureRepos) -> None:
    rpm = _rpm(fixture_repos, "vcs-2.47.0-1.fx.x86_64")
    (row,) = _import(repo, rpm).document["imported"]
    pkgid = str(ContentDigest.of(rpm.read_bytes()))
    assert row == {
        "nevra": "vcs-2.47.0-1.fx.x86_64",
        "pkgid": pkgid,
        "ref": "jigdo/pkg/vcs/2.47.0-1.fx.x86_64",
        "commit": ostree(repo, "rev-parse", "jigdo/pkg/vcs/2.47.0-1.fx.x86_64"),
        "left_out": [],
    }
    shown = ostree(repo, "show", "--print-metadata-key=jigdo-composer.pkgid", row["commit"])
    assert shown == f"'{pkgid}'"
    fsck(repo)


def test_objects_are_the_packages_files(repo: Path, fixture_repos: FixtureRepos) -> None:
    rpm = _rpm(fixture_repos, "privileges-1.3-1.fx.x86_64")
    (row,) = _import(repo, rpm, *_TABLES).document["imported"]
    listed = ostree(repo, "ls", "-R", "-X", row["commit"])
    lines = {line.split()[-1]: line for line in listed.splitlines()}
    assert lines["/usr/bin/become"].startswith("-04111 0 0 ")
    assert "security.capability" in lines["/usr/bin/probe"]
    assert lines["/usr/share/dropbox"].startswith("d01777 0 0 ")
    games = next(
        line.split(":")[2]
        for line in (_ACCOUNTS / "group").read_text().splitlines()
        if line.startswith("games:")
    )
    assert lines["/usr/libexec/write-score"].startswith(f"-02755 0 {games} ")
    assert ostree(repo, "cat", row["commit"], "/etc/become.d/rules") == "wheel ALL"


def test_hard_links_and_odd_names_are_all_there(repo: Path, fixture_repos: FixtureRepos) -> None:
    for name in ("vcs-2.47.0-1.fx.x86_64", "legacy-fonts-1.0-1.fx.noarch"):
        _import(repo, _rpm(fixture_repos, name))
    listed = ostree(repo, "ls", "-R", "jigdo/pkg/vcs/2.47.0-1.fx.x86_64")
    assert listed.count("/usr/libexec/vcs-core/vcs-") == 11
    fsck(repo)


def test_import_again_gives_the_same_commit(repo: Path, fixture_repos: FixtureRepos) -> None:
    rpm = _rpm(fixture_repos, "zones-2024a-1.fx.noarch")
    assert _import(repo, rpm).document == _import(repo, rpm).document


@pytest.mark.parametrize("mode", ["bare", "archive"])
def test_every_mode_gives_the_same_commit(
    mode: str, repo: Path, fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    ostree(other, "init", f"--mode={mode}")
    rpm = _rpm(fixture_repos, "privileges-1.3-1.fx.x86_64")
    assert _import(repo, rpm, *_TABLES).document == _import(other, rpm, *_TABLES).document
    fsck(other)


def test_directories_are_searched_and_results_are_sorted(
    repo: Path, fixture_repos: FixtureRepos
) -> None:
    rows = _import(repo, fixture_repos.gen1 / "Packages/c").document["imported"]
    assert [row["nevra"].split("-")[0] for row in rows] == [
        "ca",
        "canvas",
        "canvas",
        "color",
        "coreutils",
    ]
    assert len(ostree(repo, "refs").splitlines()) == 5


def test_versions_that_no_ref_can_have_stay_apart(repo: Path, tmp_path: Path) -> None:
    text = """\
Name: odd++
Epoch: 2
Version: {version}
Release: 1
Summary: x
License: x
BuildArch: noarch
%description
x
%files
"""
    refs = set()
    versions = ("1.0~rc1", "1.0_7erc1", "1.0^rc1", "1.0+rc1", "1.0_rc1", "1.0.rc1")
    for number, version in enumerate(versions):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        rpm = _built(scratch, text.format(version=version))
        (row,) = _import(repo, rpm).document["imported"]
        assert row["nevra"] == f"odd++-2:{version}-1.noarch"
        refs.add(row["ref"])
    assert len(refs) == len(versions)
    assert set(ostree(repo, "refs").splitlines()) == refs


def test_device_nodes_are_left_out_and_listed(repo: Path, tmp_path: Path) -> None:
    rpm = _built(
        tmp_path,
        """\
Name: nodes
Version: 1
Release: 1
Summary: x
License: x
BuildArch: noarch
%description
x
%install
mkdir -p %{buildroot}/dev
%files
%dev(c,1,3) %attr(0666,root,root) /dev/null
""",
    )
    done = _import(repo, rpm)
    (row,) = done.document["imported"]
    assert row["left_out"] == ["/dev/null"]
    assert "warning: nodes-1-1.noarch: /dev/null: left out" in done.err
    fsck(repo)


# Refused


def test_unknown_owner_is_an_error_that_names_file_and_owner(
    repo: Path, fixture_repos: FixtureRepos
) -> None:
    done = _import(repo, _rpm(fixture_repos, "paint-5.0-1.fx.x86_64"), status=1)
    check_message(done.err, "paint-5.0-1", "/var/lib/paint", "'painter'", "--passwd")
    assert ostree(repo, "refs") == ""
    fsck(repo)


def test_broken_account_table_is_an_error_that_names_the_file(
    repo: Path, fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    table = tmp_path / "passwd"
    table.write_text("root:x:zero:0\n")
    rpm = _rpm(fixture_repos, "zones-2024a-1.fx.noarch")
    done = _import(repo, rpm, "--passwd", table, status=3)
    assert str(table) in done.err
    assert "line 1" in done.err


def _flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]


@pytest.mark.parametrize("fault", ["payload", "header", "truncated", "half", "garbage", "empty"])
def test_damaged_package_is_refused_by_name(
    fault: str, repo: Path, fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    good = _rpm(fixture_repos, "vcs-2.47.0-1.fx.x86_64").read_bytes()
    data = {
        "payload": _flipped(good, len(good) - 5000),
        "header": _flipped(good, good.rindex(b"\x8e\xad\xe8\x01") + 500),
        "truncated": good[:-1],
        "half": good[: len(good) // 2],
        "garbage": b"not an RPM\n" * 100,
        "empty": b"",
    }[fault]
    bad = tmp_path / "vcs-2.47.0-1.fx.x86_64.rpm"
    bad.write_bytes(data)
    done = _import(repo, bad, status=3)
    check_message(done.err, bad.name)
    assert ostree(repo, "refs") == ""
    fsck(repo)


def test_packages_before_a_bad_one_stay(
    repo: Path, fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    first = tmp_path / "a.rpm"
    shutil.copy(_rpm(fixture_repos, "zones-2024a-1.fx.noarch"), first)
    (tmp_path / "b.rpm").write_bytes(b"bad")
    done = _import(repo, first, tmp_path / "b.rpm", status=3)
    assert "b.rpm" in done.err
    assert ostree(repo, "refs") == "jigdo/pkg/zones/2024a-1.fx.noarch"
    fsck(repo)


def test_what_is_not_there_is_an_error(repo: Path, tmp_path: Path) -> None:
    check_message(_import(repo, tmp_path / "no.rpm", status=1).err, "no.rpm")
    empty = tmp_path / "empty"
    empty.mkdir()
    check_message(_import(repo, empty, status=1).err, str(empty), "no RPM")


def test_import_into_what_is_no_repository_is_an_error(
    fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    rpm = _rpm(fixture_repos, "zones-2024a-1.fx.noarch")
    done = _import(tmp_path / "nowhere", rpm, status=1)
    check_message(done.err, "nowhere", "not an OSTree repository")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_import_keeps_what_is_whole(
    number: signal.Signals, repo: Path, fixture_repos: FixtureRepos
) -> None:
    rpms = [
        path
        for path in sorted(fixture_repos.gen1.rglob("*.rpm"))
        if not path.name.startswith(("messaged-", "trouble-owner-"))  # owners without a number
    ]
    argv = ["repo", "import", *rpms, "--repo", repo, *_TABLES]
    with subprocess.Popen(
        [sys.executable, "-m", "composer", *map(str, argv)], stderr=subprocess.PIPE, text=True
    ) as process:
        await_true(lambda: list(repo.glob("refs/heads/jigdo/pkg/*/*")))
        process.send_signal(number)
        _, err = process.communicate()
    assert "Traceback" not in err
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    before = set(ostree(repo, "refs").splitlines())
    fsck(repo)
    jigdo(*argv)
    refs = set(ostree(repo, "refs").splitlines())
    assert before < refs
    assert len(refs) == len(rpms)
    fsck(repo)


# What is imported need not be pulled


def test_pull_fetches_no_package_that_was_imported(
    published: Published, mirror: LyingMirror, client: Client
) -> None:
    """The same objects as those of a compose, where it leaves files as they are."""
    rpm = published.set_rpm(MINIMAL, 2)
    locations = rpm.locations()
    local = ["busybox", "kernel-core", "kernel-modules", "paint-manual", "libhue"]
    files = [mirror.directory / locations[name] for name in local]
    words = ["repo", "import", *files, "--repo", client.repo, *_TABLES]
    jigdo(*words)
    client.add_remote(mirror.url)
    client.completes()
    asked = {one.path for one in rpm_requests(mirror.log)}
    assert not asked & {locations[name] for name in local}
    assert locations["paint"] in asked


def test_half_imported_package_is_not_taken_for_a_whole_one(
    published: Published, mirror: LyingMirror, client: Client
) -> None:
    """What counts is the object, not the package's ref."""
    location = published.set_rpm(MINIMAL, 2).locations()["libhue"]
    jigdo("repo", "import", mirror.directory / location, "--repo", client.repo)
    largest = max(client.repo.glob("objects/*/*.file"), key=lambda path: path.stat().st_size)
    largest.unlink()
    ostree(client.repo, "refs", "--delete", "jigdo/pkg/libhue")
    ostree(client.repo, "prune", "--refs-only")
    client.add_remote(mirror.url)
    client.completes()
    assert location in {one.path for one in rpm_requests(mirror.log)}
