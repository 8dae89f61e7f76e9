"""fixtures/rpms/build.py: same bytes everywhere, complete or not there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fixtures.rpms import build as builder
from fixtures.rpms.build import FixtureError, build_repository
from tests.fixtures_os.packages import package_name, read_header, rpms
from tests.fixtures_os.repos import FixtureRepos

_HOSTILE_MACROS = """\
%_buildhost elsewhere.example
%_binary_payload w1.gzdio
%dist .other
%_dbpath /nonexistent/rpmdb
%_topdir /nonexistent/rpmbuild
"""

_ODD_SPEC = """\
Name:           odd
Version:        1
Release:        1%{dist}
Summary:        A package of one test
License:        MIT
BuildArch:      noarch
%description
%{summary}.
%install
mkdir -p %{buildroot}/usr/share/odd
echo '%{words}' > %{buildroot}/usr/share/odd/words
%files
/usr/share/odd
"""


def _tree(top: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(top)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(top.rglob("*"))
        if path.is_file()
    }


def test_build_is_the_same_under_another_user_set_up(
    fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    (tmp_path / ".rpmmacros").write_text(_HOSTILE_MACROS)
    out = tmp_path / "out"
    subprocess.run(
        [sys.executable, builder.__file__, "--out", str(out), "--jobs", "1"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "LC_ALL": "C",
            "TZ": "Pacific/Kiritimati",
            "SOURCE_DATE_EPOCH": "7",
        },
        umask=0o077,
        check=True,
    )
    assert _tree(out) == _tree(fixture_repos.gen1.parent)


def test_build_leaves_a_complete_directory_alone(fixture_repos: FixtureRepos) -> None:
    before = fixture_repos.gen1.stat().st_ino
    builder.build(fixture_repos.gen1.parent)
    assert fixture_repos.gen1.stat().st_ino == before


def test_build_refuses_a_directory_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years of work")
    with pytest.raises(FixtureError, match="holds something else"):
        builder.build(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_killed_build_shows_nothing_and_the_next_one_completes(
    fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    argv = [sys.executable, builder.__file__, "--out", str(tmp_path / "out")]
    with subprocess.Popen(argv) as running:
        while not list(tmp_path.glob(".out.new.*/fresh/gen1/Packages/*/*.rpm")):
            assert running.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        running.kill()
    assert not (tmp_path / "out").exists()
    subprocess.run(argv, check=True)
    assert _tree(tmp_path / "out") == _tree(fixture_repos.gen1.parent)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "out"]


def test_failed_build_shows_the_last_lines_and_leaves_nothing(tmp_path: Path) -> None:
    spec = tmp_path / "odd.spec"
    spec.write_text(_ODD_SPEC.replace("mkdir -p", "echo the reason why >&2; false"))
    with pytest.raises(FixtureError, match=r"odd\.spec: exit status 1[^$]*the reason why"):
        build_repository([spec], tmp_path / "repository", defines={"words": "x"})
    assert not (tmp_path / "repository").exists()


def test_one_spec_with_two_defines_is_one_nevra_with_two_payloads(tmp_path: Path) -> None:
    spec = tmp_path / "odd.spec"
    spec.write_text(_ODD_SPEC)
    (one,) = build_repository([spec], tmp_path / "one", defines={"words": "first"})
    (two,) = build_repository([spec], tmp_path / "two", defines={"words": "second"})
    assert read_header(one)["nevra"] == read_header(two)["nevra"] == "odd-1-1.fx.noarch"
    assert one.read_bytes() != two.read_bytes()


def test_missing_program_is_named_with_its_package(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, builder.__file__, "--out", str(tmp_path / "out")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "error: rpmbuild is not installed: apt-get install rpm, or dnf install rpm-build\n"
    )


def test_unchanged_packages_are_one_file_in_both_generations(fixture_repos: FixtureRepos) -> None:
    first = {path.name: path.stat().st_ino for path in rpms(fixture_repos.gen1)}
    second = {path.name: path.stat().st_ino for path in rpms(fixture_repos.gen2)}
    same = first.keys() & second.keys()
    assert len(same) >= 15
    assert all(first[name] == second[name] for name in same)


def test_packages_come_go_and_change_between_generations(fixture_repos: FixtureRepos) -> None:
    first = {package_name(path): path.name for path in rpms(fixture_repos.gen1)}
    second = {package_name(path): path.name for path in rpms(fixture_repos.gen2)}
    assert first.keys() - second.keys() == {"brush-classic", "farewell"}
    assert second.keys() - first.keys() == {"brush", "greeter"}
    assert {name for name in first.keys() & second.keys() if first[name] != second[name]} == {
        *("atlas", "ca-bundle", "color-data", "fixture-release"),
        *("kernel", "kernel-core", "kernel-modules"),
        *("libhue", "libtint", "libtint-devel", "messaged", "paint", "paint-manual"),
        *("vcs", "zones"),
    }
