"""docs/format/pointer.md section 2: what is written comes back, and nothing else is accepted."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import FormatError, NotFound
from composer.jigdo.container import IndexPlace
from composer.jigdo.pointer import (
    MAX_POINTER,
    MAX_UPDATE,
    MAX_VERSIONS,
    Pointer,
    PointerEntry,
    Versions,
    find_version,
    parse_pointer,
    parse_versions,
)

_SMALL = st.integers(0, 1 << 40)
_DIGESTS = st.binary(min_size=32, max_size=32)
_REFS = st.text("aZ09._/+-", min_size=1, max_size=20)
_TEXT = st.text('a 1.-~+/\\"\n\x7fé漢😀', max_size=20)


@st.composite
def _entries(draw: st.DrawFn) -> PointerEntry:
    index = IndexPlace(draw(_SMALL), draw(_SMALL), draw(_SMALL), ContentDigest(draw(_DIGESTS)))
    offset, beyond = draw(_SMALL), draw(_SMALL)
    length = index.offset + index.size + beyond
    return PointerEntry(
        ref=draw(_REFS),
        version=draw(_TEXT),
        commit=ObjectChecksum(draw(_DIGESTS)),
        timestamp=draw(_SMALL),
        location=draw(_TEXT.filter(bool)),
        pkgid=ContentDigest(draw(_DIGESTS)),
        size=offset + length + draw(_SMALL),
        offset=offset,
        length=length,
        index=index,
    )


@given(st.lists(_entries(), max_size=5))
def test_pointer_comes_back_as_it_was_written(entries: list[PointerEntry]) -> None:
    pointer = Pointer()
    for entry in entries:
        pointer = pointer.with_entry(entry)
    assert parse_pointer(pointer.dump()) == pointer
    assert parse_pointer(pointer.dump()).dump() == pointer.dump()


@given(st.lists(_entries(), max_size=3), st.data())
def test_damaged_pointer_gives_nothing_but_format_errors(
    entries: list[PointerEntry], data: st.DataObject
) -> None:
    pointer = Pointer()
    for entry in entries:
        pointer = pointer.with_entry(entry)
    document = bytearray(pointer.dump())
    for _ in range(data.draw(st.integers(1, 4))):
        document[data.draw(st.integers(0, len(document) - 1))] = data.draw(st.integers(0, 255))
    with suppress(FormatError):
        parse_pointer(bytes(document))


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(FormatError, match="pointer"):
        parse_pointer(noise)


def _entry(ref: str = "os/stable") -> PointerEntry:
    return PointerEntry(
        ref=ref,
        version="42.1",
        commit=ObjectChecksum(b"c" * 32),
        timestamp=1_760_000_000,
        location="jigdo/os-stable-42.1-1.noarch.rpm",
        pkgid=ContentDigest(b"p" * 32),
        size=1_003_700,
        offset=3_600,
        length=1_000_000,
        index=IndexPlace(990_000, 8_000, 21_000, ContentDigest(b"i" * 32)),
    )


def _edited(path: str, value: object) -> bytes:
    document: Any = json.loads(Pointer((_entry(),)).dump())
    place = document
    *parents, last = path.split(".")
    for part in parents:
        place = place[int(part)] if part.isdecimal() else place[part]
    place[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2),
        ("format", "1"),
        ("refs", {}),
        ("refs.0.ref", ""),
        ("refs.0.ref", "a b"),
        ("refs.0.ref", "a" * 501),
        ("refs.0.ref", "a\n"),
        ("refs.0.version", 42),
        ("refs.0.commit", "C" * 64),
        ("refs.0.commit", "c" * 63),
        ("refs.0.timestamp", -1),
        ("refs.0.timestamp", 1 << 62),
        ("refs.0.timestamp", 1.5),
        ("refs.0.set", None),
        ("refs.0.set.location", ""),
        ("refs.0.set.size", True),
        ("refs.0.set.size", 1_003_599),
        ("refs.0.set.offset", 3_701),
        ("refs.0.set.length", 997_999),
        ("refs.0.index.size", 10_001),
        ("refs.0.index.digest", "x" * 64),
        ("refs.0.index.offset", "0"),
    ],
)
def test_wrong_value_is_refused(path: str, value: object) -> None:
    with pytest.raises(FormatError, match="pointer"):
        parse_pointer(_edited(path, value))


def test_error_names_the_place() -> None:
    with pytest.raises(FormatError, match=r"refs\.0\.set\.size"):
        parse_pointer(_edited("refs.0.set.size", -1))


def test_refs_twice_or_out_of_order_are_refused() -> None:
    for refs in (["a", "a"], ["b", "a"]):
        with pytest.raises(FormatError, match="order"):
            parse_pointer(Pointer(tuple(_entry(ref) for ref in refs)).dump())


def test_unknown_keys_are_ignored() -> None:
    assert parse_pointer(_edited("refs.0.later", [1])) == Pointer((_entry(),))


def test_pointer_above_the_bound_is_refused() -> None:
    with pytest.raises(FormatError, match="larger"):
        parse_pointer(b" " * (MAX_POINTER + 1))


def test_unknown_ref_lists_the_known_ones() -> None:
    with pytest.raises(NotFound) as caught:
        Pointer((_entry("a"), _entry("b"))).find("c")
    assert caught.value.details == ("it has: a, b",)


def test_new_version_replaces_the_old() -> None:
    pointer = Pointer((_entry("b"),)).with_entry(_entry("a")).with_entry(_entry("b"))
    assert [entry.ref for entry in pointer.entries] == ["a", "b"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", MAX_UPDATE + 1),
        ("uncompressed", MAX_UPDATE + 1),
        ("offset", 997_999),
        ("size", 2001),
        ("size", -1),
        ("digest", "0"),
        ("from", "C" * 64),
    ],
)
def test_update_that_lies_is_refused(key: str, value: object) -> None:
    """What is read and unpacked before anything is proven has a bound of its own."""
    update = {
        "from": "c" * 64,
        "offset": 998_000,
        "size": 2000,
        "uncompressed": 1,
        "digest": "d" * 64,
    }
    assert parse_pointer(_edited("refs.0.updates", [update])).entries[0].updates
    with pytest.raises(FormatError):
        parse_pointer(_edited("refs.0.updates", [update | {key: value}]))


def test_updates_that_name_one_base_twice_are_refused() -> None:
    update = {
        "from": "c" * 64,
        "offset": 998_000,
        "size": 10,
        "uncompressed": 1,
        "digest": "d" * 64,
    }
    with pytest.raises(FormatError, match="not in order"):
        parse_pointer(_edited("refs.0.updates", [update, update]))


# Other versions (section 4)


def _version(version: str, timestamp: int, ref: str = "os/stable") -> PointerEntry:
    commit = ObjectChecksum(f"{version} {timestamp}".encode().rjust(32))
    return replace(_entry(ref), version=version, timestamp=timestamp, commit=commit)


@given(st.lists(_entries(), max_size=5))
def test_versions_come_back_as_they_were_written(entries: list[PointerEntry]) -> None:
    versions = Versions()
    for entry in entries:
        versions = versions.with_entry(entry)
    assert parse_versions(versions.dump()) == versions
    for entry in entries:
        versions = versions.without(entry.ref, entry.commit)
    assert versions == Versions()


def test_versions_of_one_ref_are_sorted_by_time_and_a_commit_is_there_once() -> None:
    new, old = _version("2", 20), _version("1", 10)
    again = replace(old, location="jigdo/again.rpm")
    versions = Versions().with_entry(new).with_entry(old).with_entry(again)
    assert versions.entries == (again, new)


def test_versions_out_of_order_or_twice_are_refused() -> None:
    new, old = _version("2", 20), _version("1", 10)
    for entries in ((new, old), (old, old)):
        with pytest.raises(FormatError, match="versions: they are not in order"):
            parse_versions(Versions(entries).dump())


def test_versions_above_the_bound_are_refused() -> None:
    with pytest.raises(FormatError, match="larger"):
        parse_versions(b" " * (MAX_VERSIONS + 1))


def test_version_is_found_by_its_name_the_latest_first_and_by_commit() -> None:
    others = [_version("1", 10), _version("2", 20), _version("2", 30)]
    newest = _version("3", 40)
    assert find_version(newest, others, "2") == others[2]
    assert find_version(newest, others, str(others[1].commit)) == others[1]
    assert find_version(newest, others, "3") == newest
    with pytest.raises(NotFound) as caught:
        find_version(newest, others, "4")
    assert caught.value.details == ("it has: 3, 2, 1",)
