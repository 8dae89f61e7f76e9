"""What a checker says of objects that it may not read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from composer.ostree.repo import Repository
from tests.jigdo.sets import write_tree

_CHECK = """
import os, sys
from pathlib import Path
import gi
gi.require_version("OSTree", "1.0")
from gi.repository import OSTree
from composer.ostree.checking import Checker
from composer.ostree.repo import Repository
repo = Repository.open(Path(sys.argv[1]))
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
print(Checker(repo).check(repo.refs().values()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
@pytest.mark.parametrize("kind", ["file", "dirtree"])
def test_object_of_another_user_is_not_taken_for_a_damaged_one(kind: str, tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents[:-1]):
        place.chmod(place.stat().st_mode | 0o5)
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    write_tree(repo, "/usr/bin/sh 0100755 0:0 shell\n/usr/empty 0100644 0:0\n")
    for path in repo.path.glob(f"objects/??/*.{kind}"):
        path.chmod(0o600)
    argv = [sys.executable, "-c", _CHECK, str(repo.path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "not yours to read" in done.stderr, done.stdout + done.stderr
