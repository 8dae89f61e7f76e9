"""Real RPMs by many builders import as ``rpm2cpio | cpio`` and ``ostree commit`` have them."""

from __future__ import annotations

import csv
import os
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from composer.client.importing import import_rpms
from composer.errors import ComposerError
from composer.ostree.repo import Repository
from composer.rpm.package import PackageRefused
from composer.rpm.payload import FileList, opened_payload
from composer.system.accounts import AccountTable
from tests.shared import shared

RPMS = shared("real-rpms")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="setting owners takes root")


@dataclass(frozen=True, slots=True)
class Row:
    path: Path
    kind: str
    readable: bool


def _rows() -> list[Row]:
    with (RPMS / "manifest.tsv").open(encoding="utf-8", errors="replace") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return [
        Row(
            RPMS / row["path"],
            row["kind"],
            row["rpm_query_ok"] == row["rpm_digests_ok"] == "yes",
        )
        for row in rows
    ]


ROWS = _rows()
READABLE = [row for row in ROWS if row.readable]
REFUSED = [row for row in ROWS if not row.readable]


class _EveryName(dict[str, int]):
    """A passwd table that knows everybody: a stable id for each name."""

    def __missing__(self, name: str) -> int:
        return 0 if name == "root" else 1000 + sum(name.encode()) % 60000


ACCOUNTS = AccountTable(_EveryName(), _EveryName())


def _import(path: Path, repo: Repository) -> Any:
    return import_rpms([path], repo, ACCOUNTS)[0]


def _unpack(row: Row, into: Path) -> None:
    """Unpack without our code: rpm2cpio and cpio; rpm itself for archives that they refuse."""
    into.mkdir()
    unpacked = subprocess.run(["rpm2cpio", str(row.path)], check=False, capture_output=True)
    if unpacked.returncode:
        # librpm installs what its rpm2cpio 4.18 refuses, 07070X archives for one.
        argv = ["rpm", "-i", "--nodeps", "--noscripts", "--notriggers", "--ignorearch"]
        argv += ["--ignoreos", "--nosignature", "--root", str(into), "--dbpath", "/.rpmdb"]
        subprocess.run([*argv, str(row.path)], check=True, capture_output=True)
        subprocess.run(["rm", "-rf", str(into / ".rpmdb")], check=True)
        return
    if unpacked.stdout:
        argv = ["cpio", "--extract", "--make-directories", "--quiet", "--no-absolute-filenames"]
        subprocess.run(argv, cwd=into, input=unpacked.stdout, check=True, capture_output=True)


def _apply_header(files: FileList, root: Path) -> None:
    """Give everything the owner, mode and capabilities of the header; drop what OSTree can't."""
    for index, path in enumerate(files.paths):
        full = root / path.lstrip("/")
        if not os.path.lexists(full):
            continue
        mode = files.modes[index]
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            full.unlink()
            continue
        uid, gid = ACCOUNTS.users[files.owners[index]], ACCOUNTS.groups[files.groups[index]]
        os.chown(full, uid, gid, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            os.chmod(full, stat.S_IMODE(mode))
        if files.capabilities[index] and stat.S_ISREG(mode):
            subprocess.run(["setcap", files.capabilities[index], str(full)], check=True)


def test_the_collection_is_what_we_think_it_is() -> None:
    assert len(READABLE) > 80
    assert len(REFUSED) > 5


@needs_root
@pytest.mark.parametrize("row", READABLE, ids=lambda row: row.path.name)
def test_import_equals_unpacking_and_committing(row: Row, tmp_path: Path) -> None:
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    imported = _import(row.path, repo)
    root = tmp_path / "root"
    _unpack(row, root)
    os.chmod(root, 0o755)
    with opened_payload(row.path) as (_, files, _contents):
        _apply_header(files, root)
    argv = ["ostree", f"--repo={repo.path}", "commit", "--branch=peer", f"--tree=dir={root}"]
    subprocess.run(argv, check=True, capture_output=True)
    ours, theirs = repo.commit(imported.commit), repo.commit(repo.require("peer"))
    assert (ours.tree, ours.meta) == (theirs.tree, theirs.meta)
    subprocess.run(["ostree", f"--repo={repo.path}", "fsck"], check=True, capture_output=True)


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.path.name)
def test_what_rpm_refuses_is_refused_with_the_reason(row: Row, tmp_path: Path) -> None:
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    with pytest.raises(PackageRefused) as refusal:
        _import(row.path, repo)
    assert row.path.name in refusal.value.message
    assert len(refusal.value.message) > len(row.path.name) + 10
    assert repo.refs() == {}


def test_an_unknown_owner_is_an_error_not_root(tmp_path: Path) -> None:
    path = next(row.path for row in READABLE if row.path.name.startswith("koji-builder"))
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    with pytest.raises(ComposerError, match="unknown owner 'kojibuilder'"):
        import_rpms([path], repo, AccountTable.parse("", ""))
    assert repo.refs() == {}
