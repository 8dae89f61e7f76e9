"""Which older content a new one is made from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.jigdo.delta.pairing import Bases, without_versions


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/usr/lib/libfoo.so.1.2", "/usr/lib/libfoo.so.1.10"),
        ("/usr/lib/x/libcrypto.so.3", "/usr/lib/x/libcrypto.so.4"),
        ("/lib/modules/6.1.0-25-amd64/kernel/xfs.ko", "/lib/modules/6.1.0-26-amd64/kernel/xfs.ko"),
        ("/usr/lib/modules/6.1.0-25/vmlinuz", "/usr/lib/modules/6.12.1-1.fc41/vmlinuz"),
        ("/usr/share/doc/foo-1.2.3/README", "/usr/share/doc/foo-1.3/README"),
        ("/usr/lib/python3.11/os.py", "/usr/lib/python3.12/os.py"),
        ("/usr/lib/a/tool", "/usr/libexec/b/tool"),
        ("/usr/lib/a/libz.so.1.2", "/usr/lib64/libz.so.1.3"),
    ],
)  # fmt: skip
def test_moved_and_renewed_file_finds_itself(old: str, new: str) -> None:
    places = [(old, 3, 1000), ("/usr/bin/other", 4, 1000), ("/usr/lib/libother.so.1", 5, 1000)]
    assert Bases(places).find([new], 1100) == 3


def test_same_path_wins_whatever_its_size() -> None:
    bases = Bases([("/a/lib.so.1", 0, 10), ("/a/lib.so.2", 1, 5000)])
    assert bases.find(["/a/lib.so.1"], 5000) == 0


def test_any_of_the_paths_is_looked_at() -> None:
    assert Bases([("/a/x", 7, 50)]).find(["/b/y", "/a/x"], 50) == 7


def test_of_several_the_nearest_in_size_is_taken_and_the_first_of_equals() -> None:
    bases = Bases([(f"/m/{n}.0/f", n, size) for n, size in enumerate([100, 480, 520, 900])])
    assert bases.find(["/m/9.9/f"], 500) == 1
    assert bases.find(["/m/9.9/f"], 880) == 3


def test_names_that_differ_in_a_number_alone_are_files_of_their_own() -> None:
    old, new = "/lib/modules/6.1.0-25/kernel/sha", "/lib/modules/6.1.0-26/kernel/sha"
    bases = Bases([(f"{old}256.ko", 0, 900), (f"{old}512.ko", 1, 500)])
    assert bases.find([f"{new}512.ko"], 900) == 1
    assert bases.find([f"{new}256.ko"], 500) == 0
    assert bases.find([f"{new}384.ko"], 500) == 1, "a name that is new takes what is near"


def test_nothing_alike_is_no_partner() -> None:
    bases = Bases([("/a/f", 0, 10), ("/a/empty", 1, 0)])
    assert bases.find(["/b/g"], 10) is None
    assert bases.find(["/b/f"], 1000) is None, "a hundred times as large"
    assert bases.find(["/a/empty"], 10) is None, "nothing is in it"
    assert bases.find([], 10) is None


@given(st.text(max_size=60))
def test_path_without_versions_has_one_form(path: str) -> None:
    once = without_versions(path)
    assert without_versions(once) == once


def test_numbers_of_different_length_become_one() -> None:
    assert without_versions("/l/6.1.0-25-amd64/x") == without_versions("/l/6.12.0-5-amd64/x")
