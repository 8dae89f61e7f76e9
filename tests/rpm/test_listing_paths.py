"""Files of packages as an rpmdb has them (composer.rpm.listing.read_paths)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from composer.errors import FormatError
from composer.rpm.listing import read_paths
from composer.rpm.package import Nevra
from tests.fixtures_os.packages import install
from tests.rpm.crafted import RpmFile, rpm_bytes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="rpm --root calls chroot")

# More than a line of the answer holds, and a name that is no text.
FILES = [
    *(RpmFile(f"/usr/{'long/' * 30}{number:04}") for number in range(1500)),
    RpmFile(os.fsdecode(b"/usr/\xff")),
]
WANTED, OTHER = Nevra("crafted", 0, "1", "1", "noarch"), Nevra("other", 0, "1", "1", "noarch")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    paths = [tmp_path / "a.rpm", tmp_path / "b.rpm"]
    paths[0].write_bytes(rpm_bytes(FILES))
    paths[1].write_bytes(rpm_bytes([RpmFile("/usr/other")], name="other"))
    (tmp_path / "root").mkdir()
    install(paths, tmp_path / "root", "--nodeps", "--justdb", "--nodigest", "--nosignature")
    shutil.copytree(tmp_path / "root/usr/share/rpm", tmp_path / "rpmdb")
    return tmp_path / "rpmdb"


def test_paths_are_in_the_order_of_the_header(database: Path) -> None:
    found = read_paths(database, [WANTED])
    assert found == {WANTED: [file.path for file in FILES]}


def test_another_version_is_not_taken(database: Path) -> None:
    newer = Nevra("crafted", 0, "2", "1", "noarch")
    assert read_paths(database, [newer, OTHER]) == {OTHER: ["/usr/other"]}
    assert read_paths(database, []) == {}


def test_what_is_no_database_is_refused(database: Path) -> None:
    (database / "rpmdb.sqlite").write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(FormatError, match="cannot read the rpm database"):
        read_paths(database, [WANTED])
