"""Both generations solve with dnf and install with rpm, scriptlets and all."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import dnf.exceptions
import pytest

from tests.fixtures_os.packages import (
    BASE,
    WHOLE_OS,
    files_of,
    find_rpm,
    install,
    package_name,
    solve,
)
from tests.fixtures_os.repos import FixtureRepos

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="rpm --root calls chroot")

_BROUGHT_BY_DEPENDENCIES = {
    *("kernel-core", "kernel-modules", "libhue", "libtint", "color-data"),
    *("docs-viewer-themes", "docs-viewer-search"),
}


def _names(paths: list[Path]) -> set[str]:
    return {package_name(path) for path in paths}


def _as_sysusers_would(root: Path) -> None:
    """Create messaged's user and groups; rpm 4.18 itself gives their files to root."""
    with (root / "etc/passwd").open("a") as passwd:
        passwd.write("messaged:x:81:81:Message daemon:/var/lib/messaged:/usr/sbin/nologin\n")
    with (root / "etc/group").open("a") as group:
        group.write("messaged:x:81:\nmessages:x:999:messaged\n")


def _install_whole_os(repository: Path, root: Path, scratch: Path) -> list[Path]:
    chosen = solve(repository, scratch, WHOLE_OS)
    base = [path for path in chosen if package_name(path) in BASE]
    root.mkdir()
    install(base, root)
    _as_sysusers_would(root)
    install([path for path in chosen if path not in base], root)
    return chosen


@pytest.fixture(scope="module")
def root(fixture_repos: FixtureRepos, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tree with the whole of generation 1 installed; tests only look at it."""
    scratch = tmp_path_factory.mktemp("installed")
    _install_whole_os(fixture_repos.gen1, scratch / "tree", scratch)
    return scratch / "tree"


# --- solving


def test_whole_os_solves_in_generation_1(fixture_repos: FixtureRepos, tmp_path: Path) -> None:
    chosen = _names(solve(fixture_repos.gen1, tmp_path, WHOLE_OS))
    assert len(chosen & {"canvas-gl", "canvas-soft"}) == 1
    assert chosen - set(WHOLE_OS) - {"canvas-gl", "canvas-soft"} == _BROUGHT_BY_DEPENDENCIES | {
        "brush-classic",
        "farewell",
    }


def test_whole_os_solves_in_generation_2(fixture_repos: FixtureRepos, tmp_path: Path) -> None:
    chosen = _names(solve(fixture_repos.gen2, tmp_path, WHOLE_OS))
    assert chosen - set(WHOLE_OS) - {"canvas-gl", "canvas-soft"} == _BROUGHT_BY_DEPENDENCIES | {
        "brush",
        "greeter",
    }


def test_old_name_still_finds_the_renamed_package(
    fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    assert "brush" in _names(solve(fixture_repos.gen2, tmp_path, ["brush-classic"]))


def test_weak_dependencies_can_be_left_out(fixture_repos: FixtureRepos, tmp_path: Path) -> None:
    chosen = _names(solve(fixture_repos.gen1, tmp_path, ["docs-viewer", "paint"], recommends=False))
    assert {"docs-viewer", "paint", "paint-manual"} <= chosen
    assert not chosen & {"docs-viewer-themes", "docs-viewer-search", "docs-viewer-extras"}


def test_condition_of_a_rich_dependency_decides(
    fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    assert "paint-manual" not in _names(solve(fixture_repos.gen1, tmp_path, ["paint"]))


def test_group_brings_its_packages(fixture_repos: FixtureRepos, tmp_path: Path) -> None:
    chosen = _names(solve(fixture_repos.gen1, tmp_path, ["@core"]))
    assert {*BASE, "fixture-release", "zones"} <= chosen
    assert "vcs" not in chosen


@pytest.mark.parametrize(
    ("specs", "problem"),
    [
        (["trouble-requires"], "nothing provides no-such-capability"),
        (["canvas-gl", "canvas-soft"], "conflicts with canvas"),
    ],
)
def test_what_cannot_solve_does_not(
    fixture_repos: FixtureRepos, tmp_path: Path, specs: list[str], problem: str
) -> None:
    with pytest.raises(dnf.exceptions.DepsolveError, match=problem):
        solve(fixture_repos.gen1, tmp_path, specs)


# --- installing


@needs_root
@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("usr/share/scriptlets/paint-pre", "pre 1\n"),
        ("usr/share/scriptlets/paint-post", "post 1 uid=0 palette=yes\n"),
        ("usr/share/scriptlets/paint-posttrans", "posttrans 1\n"),
        ("usr/share/scriptlets/messaged-post-lua", "lua 1\n"),
        ("usr/share/scriptlets/plugin-index-lua-trigger", "3 tables\n"),
        ("usr/share/scriptlets/plugin-index-triggerin", "plugin-red\n"),
        (
            "usr/share/scriptlets/plugin-index-filetrigger",
            "/usr/lib/plugins/blue.plugin\n/usr/lib/plugins/red.plugin\n",
        ),
        (
            "usr/lib/plugins/index",
            "/usr/lib/plugins/blue.plugin\n/usr/lib/plugins/red.plugin\n",
        ),
        ("usr/share/fonts/fonts.dir", "bold.pcf\nroman.pcf\n"),
    ],
)
def test_scriptlet_leaves_its_product(root: Path, path: str, content: str) -> None:
    assert (root / path).read_text() == content


@needs_root
def test_posttrans_joins_the_certificates(root: Path) -> None:
    parts = sorted((root / "usr/share/ca").iterdir())
    assert (root / "etc/pki/bundle.pem").read_bytes() == b"".join(p.read_bytes() for p in parts)


@needs_root
def test_post_lists_the_modules_of_the_kernel(root: Path) -> None:
    lines = (root / "usr/lib/modules/6.1.10-1.fx.x86_64/modules.dep").read_text().splitlines()
    assert len(lines) == 10
    assert lines[0] == "kernel/crypto/aes.ko:"


@needs_root
@pytest.mark.parametrize(
    ("path", "mode", "uid", "gid"),
    [
        ("usr/bin/become", 0o4111, 0, 0),
        ("usr/libexec/write-score", 0o2755, 0, 20),
        ("usr/libexec/messaged-launch", 0o4750, 0, 81),
        ("usr/share/scriptlets/paint-post", 0o640, 42, 42),
        ("var/lib/paint/state.json", 0o640, 42, 42),
        ("var/log/messaged", 0o2750, 81, 999),
        ("etc/shadow", 0, 0, 0),
        ("tmp", 0o1777, 0, 0),
    ],
)
def test_installed_file_has_mode_and_owner(
    root: Path, path: str, mode: int, uid: int, gid: int
) -> None:
    status = (root / path).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, uid, gid)


@needs_root
def test_capabilities_are_set(root: Path) -> None:
    assert os.getxattr(root / "usr/bin/probe", "security.capability").startswith(b"\1\0\0\2")


@needs_root
def test_hard_links_share_an_inode(root: Path) -> None:
    commands = [root / "usr/bin/vcs", *(root / "usr/libexec/vcs-core").iterdir()]
    assert len(commands) == 12
    assert len({command.stat().st_ino for command in commands}) == 1


@needs_root
def test_shell_runs_in_the_tree(root: Path) -> None:
    done = subprocess.run(
        ["chroot", str(root), "/bin/sh", "-c", ". /etc/os-release; echo $VERSION_ID; id -un"],
        env={"PATH": "/usr/bin:/usr/sbin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\nroot\n"


@needs_root
def test_generation_1_updates_to_generation_2(fixture_repos: FixtureRepos, tmp_path: Path) -> None:
    first = _install_whole_os(fixture_repos.gen1, tmp_path / "tree", tmp_path)
    second = solve(fixture_repos.gen2, tmp_path / "again", WHOLE_OS)
    old = {path.name for path in first}
    install([path for path in second if path.name not in old], tmp_path / "tree")
    tree = tmp_path / "tree/usr"
    assert "VERSION_ID=2" in (tree / "lib/os-release").read_text()
    assert [link.name for link in sorted((tree / "lib64").iterdir())] == [
        *("libhue.so.1", "libhue.so.1.4.1", "libtint.so.2", "libtint.so.2.0.0")
    ]
    assert (tree / "share/greeter").is_dir()
    assert (tree / "share/color/wheel.tbl").is_file()


@needs_root
def test_language_and_documentation_can_be_left_out(
    fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    chosen = solve(fixture_repos.gen1, tmp_path, ["paint"])
    (tmp_path / "tree").mkdir()
    install(chosen, tmp_path / "tree", "--excludedocs", "--define", "_install_langs de")
    share = tmp_path / "tree/usr/share"
    assert [path.parts[-3] for path in share.glob("locale/*/LC_MESSAGES/paint.mo")] == ["de"]
    assert not (share / "doc/paint/README").exists()
    assert (share / "licenses/paint/COPYING").exists()


@needs_root
@pytest.mark.parametrize("name", ["trouble-pre"])
def test_failing_scriptlet_stops_the_installation(
    fixture_repos: FixtureRepos, tmp_path: Path, name: str
) -> None:
    (tmp_path / "tree").mkdir()
    chosen = solve(fixture_repos.gen1, tmp_path, [name])
    with pytest.raises(subprocess.CalledProcessError) as failure:
        install(chosen, tmp_path / "tree")
    assert "the reason why" in failure.value.stdout
    assert not (tmp_path / f"tree/usr/share/{name}").exists()


def test_stranger_is_in_no_passwd(fixture_repos: FixtureRepos, root: Path) -> None:
    owner = files_of(fixture_repos.gen1, "trouble-owner")["/usr/share/trouble-owner"].user
    assert f"\n{owner}:" not in (root / "etc/passwd").read_text()
    assert find_rpm(fixture_repos.gen1, "trouble-owner").is_file()
