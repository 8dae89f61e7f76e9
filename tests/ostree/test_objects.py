"""Objects as values: the dirtree parser against GLib and libostree themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from gi.repository import GLib
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ObjectChecksum
from composer.errors import FormatError
from composer.ostree import objects
from composer.ostree.objects import Header, parse_commit, parse_dirtree
from composer.ostree.repo import Repository
from tests.ostree.dirtrees import TYPE, dump_dirtree, is_normal

_CHECKSUM = st.binary(min_size=32, max_size=32).map(ObjectChecksum)
_NAME = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1)
    | st.integers(1, 300).map(lambda length: "n" * length)
).filter(lambda name: name not in (".", ".."))
_FILES = st.dictionaries(_NAME, _CHECKSUM, max_size=12)
_DIRECTORIES = st.dictionaries(_NAME, st.tuples(_CHECKSUM, _CHECKSUM), max_size=8)


def _sum(number: int) -> ObjectChecksum:
    return ObjectChecksum(number.to_bytes(32, "big"))


@given(_FILES, _DIRECTORIES)
def test_any_dirtree_is_read_as_glib_writes_it(
    files: dict[str, ObjectChecksum],
    directories: dict[str, tuple[ObjectChecksum, ObjectChecksum]],
) -> None:
    directories = {name: both for name, both in directories.items() if name not in files}
    data = dump_dirtree(files, directories)
    assert objects.dump_dirtree(files, directories) == data
    tree = parse_dirtree(data)
    assert [(entry.name, entry.checksum) for entry in tree.files] == sorted(
        files.items(), key=lambda item: item[0].encode()
    )
    assert [(entry.name, (entry.tree, entry.meta)) for entry in tree.directories] == sorted(
        directories.items(), key=lambda item: item[0].encode()
    )


# Offsets are 1, 2 or 4 bytes wide, by the size of an entry, of an array and of the whole.
@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 200, 1700, 1800])
@pytest.mark.parametrize("length", [3, 180, 222, 255])
def test_dirtree_is_read_at_every_width_of_offsets(count: int, length: int) -> None:
    names = [f"{number:x}".rjust(length, "n") for number in range(count)]
    files = {name: _sum(number) for number, name in enumerate(names)}
    directories = {f"{name[1:]}-": (_sum(1), _sum(2)) for name in names[: count // 3]}
    data = dump_dirtree(files, directories)
    assert objects.dump_dirtree(files, directories) == data
    tree = parse_dirtree(data)
    assert {entry.name: entry.checksum for entry in tree.files} == files
    assert {entry.name: (entry.tree, entry.meta) for entry in tree.directories} == directories


@pytest.mark.parametrize("size", range(245, 265))
def test_dirtree_is_read_around_the_first_change_of_width(size: int) -> None:
    # One name of every length makes the whole, the array and the entry cross 255 bytes.
    for files, directories in (
        ({"n" * size: _sum(1)}, {}),
        ({}, {"n" * (size - 64): (_sum(1), _sum(2))}),
        ({"n" * (size - 120): _sum(1)}, {"m" * 30: (_sum(1), _sum(2))}),
        ({"n" * (size - 33): _sum(3)}, {}),
        ({"n" * (size - 36): _sum(3)}, {}),
    ):
        data = dump_dirtree(files, directories)
        assert objects.dump_dirtree(files, directories) == data
        assert {f.name: f.checksum for f in parse_dirtree(data).files} == files
        assert {d.name: (d.tree, d.meta) for d in parse_dirtree(data).directories} == directories


def _committed(tmp_path: Path, tree: Path) -> tuple[Repository, ObjectChecksum]:
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    argv = ["ostree", f"--repo={repo.path}", "commit", "-b", "test", f"--tree=dir={tree}"]
    subprocess.run(argv, check=True, capture_output=True)
    return repo, repo.require("test")


@pytest.mark.parametrize("count", [0, 1, 7, 300, 2000])
def test_dirtree_that_libostree_wrote_names_what_it_was_given(tmp_path: Path, count: int) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    names = {f"{number}-ä ø\n"[: 3 + number % 5] + str(number) for number in range(count)}
    for name in names:
        (tree / name).write_text(name)
    for number in range(count // 10):
        (tree / f"directory {number}").mkdir()
    repo, commit = _committed(tmp_path, tree)
    root = repo.dirtree(repo.commit(commit).tree)
    assert {entry.name for entry in root.files} == names
    assert {entry.name for entry in root.directories} == {
        f"directory {number}" for number in range(count // 10)
    }
    listed = subprocess.run(
        ["ostree", f"--repo={repo.path}", "ls", "-C", "test"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for entry in root.files[:50]:
        assert str(entry.checksum) in listed
    for directory in root.directories[:50]:
        assert str(directory.tree) in listed
        assert str(directory.meta) in listed


# --- hostile dirtrees


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(dump_dirtree(draw(_FILES), draw(_DIRECTORIES)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        if draw(st.booleans()):
            data[at] = draw(st.integers(0, 255))
        elif draw(st.booleans()):
            del data[at : at + draw(st.integers(1, 40))]
        else:
            data[at:at] = draw(st.binary(max_size=40))
        if not data:
            break
    return bytes(data)


def _refused_or_normal(data: bytes) -> None:
    try:
        tree = parse_dirtree(data)
    except FormatError:
        return
    # What is accepted means the same to GLib, and has only one serialisation.
    assert is_normal(data)
    files = {entry.name: entry.checksum for entry in tree.files}
    directories = {entry.name: (entry.tree, entry.meta) for entry in tree.directories}
    assert dump_dirtree(files, directories) == data


@given(_damaged())
def test_damaged_dirtree_is_refused_or_what_glib_reads(data: bytes) -> None:
    _refused_or_normal(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_dirtree_or_what_glib_reads(data: bytes) -> None:
    _refused_or_normal(data)


@pytest.mark.parametrize("directories", [False, True])
def test_every_flipped_bit_is_refused_or_what_glib_reads(directories: bool) -> None:
    below = {"d": (_sum(1), _sum(2)), "e" * 200: (_sum(3), _sum(4))} if directories else {}
    data = dump_dirtree({"a": _sum(5), "bb": _sum(6)}, below)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        _refused_or_normal(bytes(changed))
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse_dirtree(data[:length])


@pytest.mark.parametrize(
    "names", [["b", "a"], ["a", "a"], ["é", "z"], [""], ["."], [".."], ["a/b"], ["/"]]
)
@pytest.mark.parametrize("kind", ["files", "directories"])
def test_bad_names_are_refused(names: list[str], kind: str) -> None:
    if kind == "files":
        value: tuple[object, object] = ([(name, _sum(1)) for name in names], [])
    else:
        value = ([], [(name, _sum(1), _sum(2)) for name in names])
    data = GLib.Variant(TYPE, value).get_data_as_bytes().get_data()
    with pytest.raises(FormatError, match="not a dirtree object"):
        parse_dirtree(data)


def test_name_that_is_a_file_and_a_directory_is_refused() -> None:
    with pytest.raises(FormatError):
        parse_dirtree(dump_dirtree({"a": _sum(1)}, {"a": (_sum(2), _sum(3))}))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_checksum_of_another_length_is_refused(length: int) -> None:
    values: list[tuple[object, object]] = [
        ([("a", bytes(length))], []),
        ([], [("a", bytes(length), bytes(64 - length))]),
    ]
    for value in values:
        data = GLib.Variant(TYPE, value).get_data_as_bytes().get_data()
        with pytest.raises(FormatError):
            parse_dirtree(data)


# --- commits


def _commit(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "metadata": {"version": GLib.Variant("s", "1.2")},
        "parent": b"",
        "related": [],
        "subject": "a subject",
        "body": "",
        "timestamp": int.from_bytes((1_700_000_000).to_bytes(8, "big"), "little"),
        "tree": bytes(_sum(1)),
        "meta": bytes(_sum(2)),
    } | changes
    variant = GLib.Variant("(a{sv}aya(say)sstayay)", tuple(fields.values()))
    data = variant.get_data_as_bytes().get_data()
    assert isinstance(data, bytes)
    return data


def test_commit_is_read() -> None:
    commit = parse_commit(_commit())
    assert (commit.version, commit.subject, commit.parent) == ("1.2", "a subject", None)
    assert (commit.timestamp, commit.tree, commit.meta) == (1_700_000_000, _sum(1), _sum(2))
    assert parse_commit(_commit(parent=bytes(_sum(3)))).parent == _sum(3)
    assert parse_commit(_commit(metadata={})).version == ""


def test_commit_of_libostree_is_read(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    repo, checksum = _committed(tmp_path, tmp_path / "tree")
    commit = repo.commit(checksum)
    assert commit.parent is None
    assert commit.timestamp > 1_600_000_000
    assert repo.dirtree(commit.tree).files == ()
    assert repo.has("dirmeta", commit.meta)


@pytest.mark.parametrize(
    "changes",
    [{"tree": b""}, {"tree": bytes(31)}, {"meta": bytes(33)}, {"parent": bytes(5)}],
)
def test_commit_with_a_bad_checksum_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(FormatError, match="not a commit object"):
        parse_commit(_commit(**changes))


def test_damaged_commit_is_refused_or_read() -> None:
    data = _commit(parent=bytes(_sum(3)))
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            parse_commit(bytes(changed))
        except FormatError:
            continue
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse_commit(data[:length])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_commit_or_read(data: bytes) -> None:
    try:
        parse_commit(data)
    except FormatError:
        return


def test_deeply_nested_commit_metadata_is_refused_or_read() -> None:
    value = GLib.Variant("s", "deep")
    for _ in range(120):
        value = GLib.Variant("v", value)
    try:
        assert "deep" in str(parse_commit(_commit(metadata={"nested": value})).metadata)
    except FormatError:
        return


def test_header_gives_attributes_as_libostree_takes_them() -> None:
    header = Header(0, 0, 0o100644, ((b"security.capability", b"\1\2"), (b"user.x", b"")))
    variant = header.variant()
    assert variant.get_type_string() == "a(ayay)"
    assert [(bytes(n), bytes(v)) for n, v in variant.unpack()] == [
        (b"security.capability\0", b"\1\2"),
        (b"user.x\0", b""),
    ]
    assert not header.is_symlink
    assert Header(0, 0, 0o120777).is_symlink


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300),
    st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.binary(max_size=300)), max_size=3),
)
def test_header_is_serialized_as_glib_does(target: str, pairs: list[tuple[bytes, bytes]]) -> None:
    header = Header(1, 70000, 0o120777, tuple(pairs))
    swapped = [int.from_bytes(n.to_bytes(4, "little"), "big") for n in (1, 70000, 0o120777)]
    named = [(name + b"\0", value) for name, value in pairs]
    variant = GLib.Variant("(uuuusa(ayay))", (*swapped, 0, target, named))
    data = variant.get_data_as_bytes().get_data()
    assert header.serialized(target.encode()) == len(data).to_bytes(4, "big") + bytes(4) + data


def test_target_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        Header(0, 0, 0o120777).serialized(b"\xff")
