"""CVE-2021-35937, -35938, -35939: rpm follows a symlink that was put where it unpacks.

There, somebody with a directory of their own swaps it for a link while rpm writes, sets
modes and owners, or removes.  In a compose nobody but scriptlets runs beside rpm, in a
sandbox whose root is the tree; a client never unpacks a package at its paths at all.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from composer.compose.install import TransactionFailed
from tests.client.published import fsck
from tests.commands import jigdo, ostree
from tests.compose.conftest import Install, install_specs, shell_rpm
from tests.compose.rpms import File, Spec, needs_root
from tests.rpm.crafted import RpmFile, rpm_bytes, symlink

__all__ = ["install_specs", "shell_rpm"]

_FILES = 400


def _identity(path: Path) -> tuple[object, ...]:
    seen = path.lstat()
    content = path.read_bytes() if path.is_file() else sorted(os.listdir(path))
    return (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, content)


@needs_root
@pytest.mark.parametrize("climb", ["absolute", "relative"])
def test_cve_2021_35937_swapped_directory_leads_nowhere(
    install_specs: Install, tmp_path: Path, climb: str
) -> None:
    """A package is unpacked below a directory that a process keeps swapping for a link."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o751)
    (outside / "f0").write_text("mine")
    before = {path: _identity(path) for path in (outside, outside / "f0")}
    goal = outside if climb == "absolute" else f"../../../../../../../..{outside}"
    swapping = (
        f"( while true; do rm -rf /usr/share/race; ln -s {goal}"
        " /usr/share/race; rm -f /usr/share/race; mkdir /usr/share/race; done )"
        " </dev/null >/dev/null 2>&1 &"
    )
    # Setuid, and of another owner: what modes and owners would be set on.
    files = {f"/usr/share/race/f{n}": File("x" * 3000, "4755", "bin", "bin") for n in range(_FILES)}
    files["/usr/lib/sysusers.d/race.conf"] = File("u bin 1\n")
    # rpm finds its directory gone: the compose stops, which is as good.
    with suppress(TransactionFailed):
        install_specs(
            Spec("aaa", scripts={"%post": f"mkdir -p /usr/share\n{swapping}"}),
            Spec("race", files=files, headers=["Requires(pre): aaa"]),
        )
    assert {path: _identity(path) for path in before} == before


@needs_root
def test_cve_2021_35938_modes_and_owners_are_set_in_the_tree_alone(
    install_specs: Install, tmp_path: Path
) -> None:
    """A link stands where a package's file and directory are to be, before they come."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "file").write_text("mine")
    before = {path: _identity(path) for path in (outside, outside / "file")}
    links = f"mkdir -p /usr/share; ln -s {outside} /usr/share/d; ln -s {outside}/file /usr/share/f"
    files = {
        "/usr/share/d": File(mode="0777", owner="bin", directory=True),
        "/usr/share/d/file": File("theirs", "4755", "bin"),
        "/usr/share/f": File("theirs", "4755", "bin"),
        "/usr/lib/sysusers.d/late.conf": File("u bin 1\n"),
    }
    tree = install_specs(
        Spec("aaa", scripts={"%post": links}),
        Spec("late", files=files, headers=["Requires(pre): aaa"]),
    )
    assert {path: _identity(path) for path in before} == before
    assert not (tree.root / "usr/share/f").is_symlink()


def test_cve_2021_35939_client_writes_at_no_path_of_a_package(tmp_path: Path) -> None:
    """A package has a link, and files at paths through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    before = _identity(outside)
    repo = tmp_path / "repo"
    ostree(repo, "init", "--mode=bare-user")
    data = rpm_bytes(
        [
            symlink("/usr/link", str(outside)),
            RpmFile("/usr/link/planted", b"planted"),
            RpmFile(f"/usr{'/..' * 9}{outside}/climbed", b"climbed"),
        ],
        payload_digest=True,
    )
    (tmp_path / "crafted-1-1.noarch.rpm").write_bytes(data)
    done = jigdo("repo", "import", tmp_path / "crafted-1-1.noarch.rpm", "--repo", repo, status=3)
    assert "not clean" in done.err
    assert _identity(outside) == before
    assert not ostree(repo, "refs").split()
    fsck(repo)
