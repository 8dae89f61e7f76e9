"""What a set says: docs/format/jigdo.md sections 4, 6 and 7."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import FormatError
from composer.jigdo.encoding import prefixed, svarints, uvarint, uvarints
from composer.jigdo.manifest import (
    Contents,
    Head,
    Package,
    Totals,
    dump_contents,
    dump_head,
    dump_headers,
    dump_map,
    make_contents,
    make_map,
    parse_contents,
    parse_head,
    parse_headers,
    parse_map,
    set_name,
)
from composer.ostree.objects import Header
from composer.rpm.beginnings import MOST, STEP, Beginning
from composer.rpm.package import Nevra, PackageRef

PKGID = ContentDigest(bytes(range(32)))
HEADERS = (
    Header(0, 0, 0o100644),
    Header(0, 0, 0o100755, ((b"security.capability", b"\1\0\2"), (b"user.x", b""))),
    Header(0, 0, 0o120777),
    Header(1000, 20, 0o104755),
)
TOTALS = Totals(
    objects=3,
    object_bytes=100,
    dirtrees=2,
    dirmetas=1,
    package_objects=2,
    package_object_bytes=90,
    new_objects=1,
    new_bytes=10,
    package_bytes=4096,
)


def _package(nevra: str, pkgid: bytes, number: int) -> Package:
    ref = PackageRef(Nevra.parse(nevra), ContentDigest(pkgid), 4096, "updates", "p/x.rpm")
    return Package(ref, number)


HEAD = Head(
    name="jigdo-os",
    ref="fixture/x86_64/os",
    version="1.2",
    timestamp=1_700_000_000,
    commit=ObjectChecksum(b"\xab" * 32),
    packages=(
        _package("bash-5.2-1.fc42.x86_64", b"\1" * 32, 6),
        _package("bash-5.2-1.fc42.x86_64", b"\2" * 32, 5),
        _package("vim-2:9.1-3.noarch", b"\0" * 32, 7),
    ),
    totals=TOTALS,
)


# --- head


def test_head_is_canonical_json() -> None:
    assert dump_head(replace(HEAD, packages=HEAD.packages[2:])) == (
        b'{"commit":"' + b"ab" * 32 + b'","format":1,"name":"jigdo-os","packages":['
        b'{"location":"p/x.rpm","map":7,"nevra":"vim-2:9.1-3.noarch","pkgid":"'
        + b"00"
        * 32
        + b'","repository":"updates","size":4096}],"ref":"fixture/x86_64/os",'
        b'"timestamp":1700000000,"totals":{"dirmetas":1,"dirtrees":2,"new_bytes":10,'
        b'"new_objects":1,"object_bytes":100,"objects":3,"package_bytes":4096,'
        b'"package_object_bytes":90,"package_objects":2},"version":"1.2"}'
    )


def test_head_survives() -> None:
    assert parse_head(dump_head(HEAD)) == HEAD


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), st.integers(0, 2**61))
def test_head_of_any_text_survives(text: str, number: int) -> None:
    head = replace(HEAD, version=text, timestamp=number)
    assert parse_head(dump_head(head)) == head


def _head(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(dump_head(HEAD))
    change(document)
    return json.dumps(document).encode()


def test_unknown_keys_are_ignored() -> None:
    def change(document: dict[str, Any]) -> None:
        document["later"] = [1]
        document["packages"][0]["later"] = {}
        document["totals"]["later"] = 0

    assert parse_head(_head(change)) == HEAD


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 2),
        ("format", "1"),
        ("name", ""),
        ("name", "a/b"),
        ("name", "a\n"),
        ("name", 7),
        ("ref", ""),
        ("ref", "a b"),
        ("ref", "a\n"),
        ("version", None),
        ("version", "x" * 5000),
        ("timestamp", -1),
        ("timestamp", 1.5),
        ("timestamp", 2**62),
        ("timestamp", True),
        ("commit", "ab" * 31),
        ("commit", "AB" * 32),
        ("commit", "ab" * 32 + "\n"),
        ("packages", {}),
        ("packages", [7]),
        ("totals", {}),
        ("totals", TOTALS.model_dump() | {"objects": -1}),
    ],
)
def test_head_with_a_bad_value_is_refused_by_key(key: str, value: object) -> None:
    with pytest.raises(FormatError, match=f"^head: {key}"):
        parse_head(_head(lambda document: document.update({key: value})))


@pytest.mark.parametrize("key", sorted(json.loads(dump_head(HEAD))))
def test_head_without_a_key_is_refused(key: str) -> None:
    with pytest.raises(FormatError, match=f"head: {key}"):
        parse_head(_head(lambda document: document.pop(key)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("nevra", "bash"),
        ("nevra", "bash-5.2-1.x86_64/.."),
        ("nevra", "../bash-5.2-1.x86_64"),
        ("nevra", "bash-0:5.2-1.fc42.x86_64"),  # spelled otherwise, an order is ambiguous
        ("pkgid", "0" * 63),
        ("size", -1),
        ("size", "4096"),
        ("location", 1),
        ("repository", None),
        ("map", -1),
        ("map", 1 << 20),
    ],
)
def test_head_with_a_bad_package_says_which(key: str, value: object) -> None:
    with pytest.raises(FormatError, match=rf"^head: packages[\[.]1\]?.{key}: "):
        parse_head(_head(lambda document: document["packages"][1].update({key: value})))


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        ([1, 0, 2], "not in order"),
        ([0, 2, 1], "not in order"),
        ([0, 0, 1], "not in order"),
    ],
)
def test_packages_out_of_order_are_refused(positions: list[int], reason: str) -> None:
    def change(document: dict[str, Any]) -> None:
        document["packages"] = [document["packages"][p] for p in positions]

    with pytest.raises(FormatError, match=reason):
        parse_head(_head(change))


def test_pkgid_twice_is_refused() -> None:
    def change(document: dict[str, Any]) -> None:
        document["packages"][2]["pkgid"] = document["packages"][0]["pkgid"]

    with pytest.raises(FormatError, match="occurs twice"):
        parse_head(_head(change))


def test_two_packages_with_one_map_are_refused() -> None:
    def change(document: dict[str, Any]) -> None:
        document["packages"][2]["map"] = document["packages"][0]["map"]

    with pytest.raises(FormatError, match="one map"):
        parse_head(_head(change))


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"{", b"\xff", b"{" * 100_000, b"[" * 100_000, b'{"format": 1e999}'],
)
def test_head_that_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^head: "):
        parse_head(data)


@given(st.data())
def test_damaged_head_is_refused_or_read(draw: st.DataObject) -> None:
    data = bytearray(dump_head(HEAD))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        parse_head(bytes(data))
    except FormatError:
        return


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("fixture/x86_64/os", "jigdo-fixture-x86_64-os"),
        ("a//b c", "jigdo-a-b-c"),
        ("plain", "jigdo-plain"),
        ("a/", "jigdo-a"),
    ],
)
def test_name_of_a_set_comes_from_its_ref(ref: str, name: str) -> None:
    assert set_name(ref) == name


# --- headers


def test_headers_have_the_known_bytes() -> None:
    assert dump_headers(HEADERS[:2] + HEADERS[3:]) == (
        b"\x03"
        b"\x00\x00\xa4\x83\x02\x00"
        b"\x00\x00\xed\x83\x02\x02"
        b"\x13security.capability\x03\x01\x00\x02"
        b"\x06user.x\x00"
        b"\xe8\x07\x14\xed\x93\x02\x00"
    )


def test_headers_survive() -> None:
    assert parse_headers(dump_headers(HEADERS)) == HEADERS
    assert parse_headers(dump_headers(())) == ()


_NUMBER = st.integers(0, 2**32 - 1)
_NAME = st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name)
_HEADER = st.builds(
    lambda uid, gid, mode, xattrs: Header(uid, gid, mode, tuple(sorted(xattrs.items()))),
    *(_NUMBER, _NUMBER),
    st.integers(0, 0o7777).map(lambda mode: mode | 0o100000),
    st.dictionaries(_NAME, st.binary(max_size=30), max_size=3),
)


@given(st.sets(_HEADER, max_size=8))
def test_any_headers_survive(headers: set[Header]) -> None:
    assert parse_headers(dump_headers(sorted(headers))) == tuple(sorted(headers))


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([HEADERS[1], HEADERS[0]], "not in order"),
        ([HEADERS[0], HEADERS[0]], "not in order"),
        ([Header(1 << 32, 0, 0o100644)], "out of range"),
        ([Header(0, 1 << 32, 0o100644)], "out of range"),
        ([Header(0, 0, 1 << 32)], "out of range"),
    ],
)
def test_bad_headers_are_refused(headers: list[Header], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_headers(dump_headers(headers))


@pytest.mark.parametrize(
    "header",
    [
        Header(0, 0, 0o100644, ((b"user.b", b""), (b"user.a", b""))),
        Header(0, 0, 0o100644, ((b"user.a", b""), (b"user.a", b"x"))),
        Header(0, 0, 0o100644, ((b"user.a\0b", b""),)),
        Header(0, 0, 0o100644, ((b"", b""),)),
        Header(0, 0, 0o040755),
        Header(0, 0, 0o020644),
        Header(0, 0, 0),
    ],
    ids=["unsorted", "twice", "nul", "nameless", "directory", "device", "typeless"],
)
def test_header_that_no_content_object_has_is_refused(header: Header) -> None:
    # Section 6: attributes sorted by name, no NUL; content objects are files and symlinks.
    with pytest.raises(FormatError):
        parse_headers(dump_headers([header]))


# --- maps


ENTRIES = [(3, 0, 1, 5), (3, 7, 1, 5), (4, 6, 2, 9), (200, 1, 0, 0)]


def test_map_has_the_known_bytes() -> None:
    assert dump_map(make_map(PKGID, ENTRIES)) == (
        bytes(range(32))
        + b"\x04"
        + b"\x03\x00\x01\xc4\x01"  # files: differences 3, 0, 1, 196
        + b"\x00\x0c\x03\x0b"  # ordinals: 0, +6, -2, -6
        + b"\x01\x01\x02\x00"
        + b"\x05\x05\x09\x00"
        + b"\x00"  # no beginnings
    )


def test_map_survives() -> None:
    mapping = make_map(PKGID, reversed(ENTRIES))
    assert parse_map(dump_map(mapping), objects=8, headers=HEADERS) == mapping
    assert next(zip(mapping.files, mapping.ordinals, strict=True)) == (3, 0)


def test_empty_map_survives() -> None:
    mapping = make_map(PKGID, [])
    assert dump_map(mapping) == bytes(range(32)) + b"\0\0"
    assert parse_map(dump_map(mapping), objects=0, headers=()) == mapping


_ENTRY = st.tuples(
    st.integers(0, 10_000), st.integers(0, 99_999), st.integers(0, 3), st.integers(0, 2**61)
)


@given(st.lists(_ENTRY, unique_by=lambda entry: entry[:2]))
def test_any_map_survives(entries: list[tuple[int, int, int, int]]) -> None:
    beginnings = tuple(
        Beginning(STEP * number, number, ContentDigest.of(bytes([number])))
        for number in range(1, min(len(entries), MOST) + 1)
    )
    mapping = make_map(PKGID, entries, lambda files: beginnings)
    assert parse_map(dump_map(mapping), objects=100_000, headers=HEADERS) == mapping
    rows = zip(mapping.files, mapping.ordinals, mapping.headers, mapping.sizes, strict=True)
    assert list(rows) == sorted(entries)


def _raw_map(
    files: list[int],
    ordinals: list[int],
    headers: list[int],
    sizes: list[int],
    beginnings: tuple[list[int], list[int]] = ([], []),
) -> bytes:
    count, (lengths, served) = uvarint(len(files)), beginnings
    columns = uvarints(files) + svarints(ordinals) + uvarints(headers + sizes)
    cuts = uvarint(len(lengths)) + uvarints(lengths + served) + bytes(32 * len(lengths))
    return PKGID + count + columns + cuts


_TWO = ([0, 1], [0, 0], [0, 0], [0, 0])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_raw_map([0], [8], [0], [0]), "object that is not there"),
        (_raw_map([0], [-1], [0], [0]), "object that is not there"),
        (_raw_map([0, 0], [7, 0], [0, 0], [0, 0]), "object that is not there"),
        (_raw_map([0], [0], [4], [0]), "header that is not there"),
        (_raw_map([2**31], [0], [0], [0]), "file that is not there"),
        (_raw_map([2**62] * 4, [0] * 4, [0] * 4, [0] * 4), "out of range"),
        (_raw_map([0] * 4, [2**61] * 4, [0] * 4, [0] * 4), "out of range"),
        (_raw_map([1, 0], [0, -1], [0, 0], [0, 0]), "not in order"),  # the same entry again
        (_raw_map([1, 0], [3, -2], [0, 0], [0, 0]), "not in order"),
        (_raw_map([1], [0], [0], [0]) + b"\0", "too many"),
        (_raw_map([1], [0], [0], [0])[:-2], "more than it can hold"),
        (_raw_map(*_TWO, ([5, 0], [1, 1])), "beginnings are not in order"),
        (_raw_map(*_TWO, ([5, 5], [1, 0])), "beginnings are not in order"),
        (_raw_map(*_TWO, ([0], [1])), "beginnings are not in order"),
        (_raw_map(*_TWO, ([5], [3])), "more entries than there are"),
        (_raw_map(*_TWO, ([2**62] * 4, [1] * 4)), "out of range"),
        (_raw_map(*_TWO, ([1] * 33, [1] * 33)), "more than 32"),
        (_raw_map(*_TWO, ([5], [1]))[:-1], "more than it can hold"),
        (PKGID + uvarint(2**60), "more than it can hold"),
        (PKGID, "middle of a value"),
        (PKGID[:31], "middle of a value"),
    ],
)
def test_bad_map_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_map(data, objects=8, headers=HEADERS)


@given(st.data())
def test_damaged_map_is_refused_or_within_bounds(draw: st.DataObject) -> None:
    data = bytearray(dump_map(make_map(PKGID, ENTRIES)))
    for _ in range(draw.draw(st.integers(1, 5))):
        data[draw.draw(st.integers(32, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        mapping = parse_map(bytes(data), objects=8, headers=HEADERS)
    except FormatError:
        return
    assert all(0 <= ordinal < 8 for ordinal in mapping.ordinals)
    assert all(0 <= header < 4 for header in mapping.headers)


# --- contents


OBJECTS = [(2, 0, 1), (4, 2, 2), (5, 0, 0), (9, 1, 0)]


def test_contents_have_the_known_bytes() -> None:
    assert dump_contents(make_contents([5, 0, 300], OBJECTS)) == (
        b"\x03\x05\x00\xac\x02"  # contents
        b"\x04\x02\x02\x01\x04"  # ordinals: differences 2, 2, 1, 4
        b"\x00\x02\x05\x00"  # content: 0, +1, -3, 0
        b"\x01\x02\x00\x00"
    )


def test_contents_survive() -> None:
    contents = make_contents([5, 0, 300], reversed(OBJECTS))
    assert list(contents.offsets) == [0, 5, 5, 305]
    assert [contents.size(number) for number in range(3)] == [5, 0, 300]
    again = parse_contents(dump_contents(contents), objects=10, headers=HEADERS, stream=305)
    assert again == contents


@given(
    st.lists(st.integers(0, 2**40), min_size=1),
    st.lists(
        st.tuples(st.integers(0, 999), st.integers(0, 10**9), st.integers(0, 3)),
        unique_by=lambda row: row[0],
    ),
)
def test_any_contents_survive(sizes: list[int], rows: list[tuple[int, int, int]]) -> None:
    objects = [(ordinal, content % len(sizes), header) for ordinal, content, header in rows]
    contents = make_contents(sizes, objects)
    data = dump_contents(contents)
    assert parse_contents(data, objects=1000, headers=HEADERS, stream=sum(sizes)) == contents


def test_empty_contents_survive() -> None:
    contents = make_contents([], [])
    assert contents == Contents(array("q", [0]), array("q"), array("q"), array("q"))
    assert dump_contents(contents) == b"\0\0"
    assert parse_contents(b"\0\0", objects=0, headers=(), stream=0) == contents


def _raw_contents(
    sizes: list[int], ordinals: list[int], contents: list[int], headers: list[int]
) -> bytes:
    columns = uvarints(ordinals) + svarints(contents) + uvarints(headers)
    return uvarint(len(sizes)) + uvarints(sizes) + uvarint(len(ordinals)) + columns


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_raw_contents([8], [10], [0], [0]), "object that is not there"),
        (_raw_contents([8], [3, 0], [0, -1], [0, 0]), "not in order"),
        (_raw_contents([8], [3], [1], [0]), "content that is not there"),
        (_raw_contents([8], [3], [-1], [0]), "content that is not there"),
        (_raw_contents([8], [3], [0], [4]), "header that is not there"),
        (_raw_contents([7], [3], [0], [0]), "7 bytes, the data frames 8"),
        (_raw_contents([9], [3], [0], [0]), "9 bytes, the data frames 8"),
        (_raw_contents([2**62] * 4, [], [], []), "9223372036854775808|out of range|bytes"),
        (_raw_contents([8], [2**62, 2**62], [0, 0], [0, 0]), "out of range"),
        (_raw_contents([8], [3], [0], [0]) + b"\0", "too many"),
        (uvarint(2**50), "more than it can hold"),
    ],
)
def test_bad_contents_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_contents(data, objects=10, headers=HEADERS, stream=8)


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_as_contents_or_within_bounds(data: bytes) -> None:
    try:
        contents = parse_contents(data, objects=10, headers=HEADERS, stream=8)
    except FormatError:
        return
    assert contents.offsets[-1] == 8
    assert all(0 <= content < len(contents.offsets) - 1 for content in contents.contents)


def test_prefixed_names_are_bounded() -> None:
    data = b"\x01\0\0\xa4\x83\x02\x01" + prefixed(b"user.a") + uvarint(1 << 40)
    with pytest.raises(FormatError, match="middle of a value"):
        parse_headers(data)
    with pytest.raises(FormatError, match="out of range"):
        parse_headers(b"\x01\0\0\xa4\x83\x02" + uvarint(1 << 40) + bytes(100))
