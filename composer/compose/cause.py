"""Why two composes of one input wrote different bytes.

Pure: two byte strings and what is known of the two composes go in, words come out.
Formats that hold others (gzip, xz, zstd, cpio, SQLite, zip) are opened, so that the
cause is that of the member, not of the container.  What is read may be hostile, so
everything unpacked is bounded, and a format that cannot be read is only a difference.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

# An initramfs of a whole distribution is below; more is compared as it is.
_MOST = 256 << 20
_DEPTH = 4
_CLUSTERS = 4096
_SLACK = 2.0
_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")

_UUID = re.compile(rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_HEX = re.compile(rb"(?<![0-9a-fA-F])(?:[0-9a-fA-F]{16}){1,8}(?![0-9a-fA-F])")
_NUMBER = re.compile(rb"\d+")
_EPOCH = re.compile(rb"(?<!\d)\d{10}(?:\.\d+)?(?!\d)")
_MONTH = rb"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_DAY = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_CLOCK = rb"\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?[AP]M)?"
_ZONE = rb"(?: ?(?:Z|UTC|GMT|[A-Z]{3,5}|[+-]\d\d:?\d\d))?"
_DATE = re.compile(
    rb"\d{4}[-/.]?\d\d[-/.]?\d\d(?:[T _-]\d\d:?\d\d(?::?\d\d)?(?:[.,]\d+)?)?" + _ZONE
    + rb"|(?:" + _DAY + rb",? +)?(?:\d{1,2} +)?" + _MONTH
    + rb"(?: +\d{1,2},?)?(?: +\d{4})?(?: +" + _CLOCK + _ZONE + rb")?(?: +\d{4})?"
    + rb"|" + _CLOCK + _ZONE
)  # fmt: skip

Unpack = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Marks:
    """What one compose could leave in a file.

    ``started`` and ``ended`` are seconds since 1970, by the clock that its programs saw.
    """

    directory: str
    started: float
    ended: float
    home: str = ""
    host: str = ""


def cause(name: str, first: bytes, second: bytes, marks: tuple[Marks, Marks]) -> str:
    """Say why the two contents of the file ``name`` differ, in a few words.

    ``marks`` are those of the compose that wrote ``first`` and of the other.
    """
    return _cause(name, first, second, marks, 0)


def _cause(name: str, first: bytes, second: bytes, marks: tuple[Marks, Marks], depth: int) -> str:
    if depth < _DEPTH:
        for is_one, told in _FORMATS:
            if is_one(name, first) and is_one(name, second):
                found = told(name, first, second, marks, depth)
                if found:
                    return found
    return _of_bytes(first, second, marks)


# Any bytes


def _of_bytes(first: bytes, second: bytes, marks: tuple[Marks, Marks]) -> str:
    masks: tuple[tuple[str, Callable[[bytes, Marks], bytes]], ...] = (
        ("the directory of the compose", lambda data, m: _without(data, m.directory)),
        ("the home directory", lambda data, m: _without(data, m.home)),
        ("the host name", lambda data, m: _without(data, m.host)),
        ("the time of the compose", _without_time),
        ("a random id (UUID)", lambda data, m: _UUID.sub(b"", data)),
        ("a random id or a checksum (hexadecimal)", lambda data, m: _HEX.sub(b"", data)),
        ("numbers (a process id, an inode, a counter, a date)", _without_numbers),
    )
    if ordered := _of_order(first, second):
        return ordered
    for label, mask in masks:
        if mask(first, marks[0]) == mask(second, marks[1]):
            return label
    if binary := _of_binary(first, second, marks):
        return binary
    one, other, used = first, second, []
    for label, mask in masks:
        left, right = mask(one, marks[0]), mask(other, marks[1])
        if (left, right) != (one, other):
            used.append(label)
        one, other = left, right
        if one == other:
            return ", and ".join(used)
        if ordered := _of_order(one, other):
            return ", and ".join([*used, ordered])
    at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    if at is None:
        return f"one is longer: {len(first)} and {len(second)} bytes"
    near = f"{_shown(first[at : at + 24])} and {_shown(second[at : at + 24])}"
    return f"not recognised; the first difference is at byte {at}: {near}"


def _shown(data: bytes) -> str:
    return repr(data)[2:-1]


def _without(data: bytes, text: str) -> bytes:
    return data.replace(text.encode(errors="surrogateescape"), b"") if len(text) > 2 else data


def _without_numbers(data: bytes, marks: Marks) -> bytes:
    return data if b"\0" in data else _NUMBER.sub(b"0", data)


def _without_time(data: bytes, marks: Marks) -> bytes:
    def replaced(match: re.Match[bytes]) -> bytes:
        return b"T" if _is_then(float(match[0]), marks) else match[0]

    return _DATE.sub(b"D", _EPOCH.sub(replaced, data))


def _is_then(seconds: float, marks: Marks) -> bool:
    return marks.started - _SLACK <= seconds <= marks.ended + _SLACK


def _of_binary(first: bytes, second: bytes, marks: tuple[Marks, Marks]) -> str:
    """Find integers of 4 or 8 bytes that are times, where both have the same length."""
    if len(first) != len(second) or len(first) < 4:
        return ""
    at = 0
    for _ in range(_CLUSTERS):
        at = _next_difference(first, second, at)
        if at == len(first):
            return "the time of the compose, as a binary number"
        if not (end := _end_of_time(first, second, at, marks)):
            return ""
        at = end
    return ""


def _next_difference(first: bytes, second: bytes, at: int) -> int:
    step = 1 << 16
    while at < len(first) and first[at : at + step] == second[at : at + step]:
        at += step
    at = min(at, len(first))
    while at < len(first) and first[at] == second[at]:
        at += 1
    return at


def _end_of_time(first: bytes, second: bytes, at: int, marks: tuple[Marks, Marks]) -> int:
    """Return where the time that covers byte ``at`` ends, or 0."""
    for start in range(max(0, at - 3), min(at, len(first) - 4) + 1):
        for order in _ORDERS:
            a = int.from_bytes(first[start : start + 4], order)
            b = int.from_bytes(second[start : start + 4], order)
            if _is_then(a, marks[0]) and _is_then(b, marks[1]):
                return start + 4
    return 0


def _of_order(first: bytes, second: bytes) -> str:
    if first == second:
        return ""
    for separator, what in ((b"\n", "lines"), (b"\0", "entries"), (b" ", "words")):
        one, other = first.split(separator), second.split(separator)
        if len(one) > 2 and len(one) == len(other) and sorted(one) == sorted(other):
            return f"the order of {what}"
    if len(first) == len(second):
        for width in (32, 16, 8, 4):
            if len(first) % width == 0 and _words(first, width) == _words(second, width):
                return "the order of entries"
    return ""


def _words(data: bytes, width: int) -> list[bytes]:
    return sorted(data[i : i + width] for i in range(0, len(data), width))


# Formats


def _of_pyc(
    name: str, first: bytes, second: bytes, marks: tuple[Marks, Marks], depth: int
) -> str | None:
    if first[:4] != second[:4]:
        return "compiled by another Python"
    if first[16:] == second[16:] and first[4:8] == second[4:8] == bytes(4):
        return "the time of the source file, in the header of the .pyc"
    if first[:16] == second[:16] or first[4:8] == second[4:8]:
        return "the code in the .pyc: " + _of_bytes(first[16:], second[16:], marks)
    return None


def _of_gzip(
    name: str, first: bytes, second: bytes, marks: tuple[Marks, Marks], depth: int
) -> str | None:
    if first[4:8] != second[4:8] and first[:4] + first[8:] == second[:4] + second[8:]:
        return "the time in the gzip header"
    return _of_packed(name, first, second, marks, depth, "gzip", _gunzip)


def _of_packed(
    name: str,
    first: bytes,
    second: bytes,
    marks: tuple[Marks, Marks],
    depth: int,
    what: str,
    unpack: Unpack,
) -> str | None:
    one, other = unpack(first), unpack(second)
    if not one or not other:
        return None
    if one == other:
        return f"the same content, compressed otherwise by {what} (threads, level or version)"
    return f"in the {what}: {_cause(name.rpartition('.')[0], one, other, marks, depth + 1)}"


def _gunzip(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            return _bounded(stream.read(_MOST + 1))
    except (OSError, EOFError, zlib.error):
        return b""


def _unxz(data: bytes) -> bytes:
    try:
        return _bounded(lzma.LZMADecompressor(memlimit=_MOST).decompress(data, _MOST + 1))
    except (lzma.LZMAError, EOFError):
        return b""


def _unzstd(data: bytes) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data) as stream:
            return _bounded(stream.read(_MOST + 1))
    except zstandard.ZstdError:
        return b""


def _bounded(data: bytes) -> bytes:
    return data if len(data) <= _MOST else b""


@dataclass(frozen=True, slots=True)
class _Member:
    """An entry of a cpio archive in the "new ASCII" format."""

    fields: tuple[int, ...]  # inode, mode, uid, gid, nlink, mtime, size, ...
    data: bytes


def _members(data: bytes) -> tuple[Mapping[str, _Member], bytes]:
    """Read an archive; returns it and what follows it, without padding."""
    found: dict[str, _Member] = {}
    at = 0
    while data[at : at + 6] in (b"070701", b"070702"):
        header = data[at + 6 : at + 110]
        fields = tuple(int(header[i : i + 8], 16) for i in range(0, 104, 8))
        start = at + 110 + fields[11]
        name = data[at + 110 : start - 1].decode(errors="replace")
        start += -start % 4
        end = start + fields[6]
        if end > len(data) or fields[11] < 1:
            raise ValueError("a cpio archive that ends early")
        at = end + -end % 4
        if name == "TRAILER!!!":
            break
        found[name] = _Member(fields, data[start:end])
    return found, data[at:].lstrip(b"\0")


def _of_cpio(
    name: str, first: bytes, second: bytes, marks: tuple[Marks, Marks], depth: int
) -> str | None:
    try:
        (one, rest), (other, remaining) = _members(first), _members(second)
    except ValueError:
        return None
    if (found := next(_member_causes(one, other, marks, depth), "")) or rest == remaining:
        return found or ("the order of members" if list(one) != list(other) else None)
    return _cause(name, rest, remaining, marks, depth + 1)


def _member_causes(
    one: Mapping[str, _Member], other: Mapping[str, _Member], marks: tuple[Marks, Marks], depth: int
) -> Iterator[str]:
    if lone := sorted(set(one) ^ set(other)):
        yield f"member {lone[0]} is only in one archive"
    for name in sorted(set(one) & set(other)):
        if one[name].data != other[name].data:
            inner = _cause(name, one[name].data, other[name].data, marks, depth + 1)
            yield f"member {name}: {inner}"
    for name in sorted(set(one) & set(other)):
        for index, what in enumerate(("inode", "mode", "owner", "group", "links", "time")):
            if one[name].fields[index] != other[name].fields[index]:
                yield f"the {what} of member {name}"


def _of_sqlite(
    name: str, first: bytes, second: bytes, marks: tuple[Marks, Marks], depth: int
) -> str | None:
    try:
        one, other = _tables(first), _tables(second)
    except sqlite3.Error:
        return None
    if one == other:
        return "the same rows, laid out otherwise in the SQLite file"
    for table in sorted(set(one) | set(other)):
        left, right = one.get(table, []), other.get(table, [])
        if left == right:
            continue
        if sorted(map(repr, left)) == sorted(map(repr, right)):
            return f"the order of rows in the table {table}"
        a, b = next(((a, b) for a, b in zip(left, right, strict=False) if a != b), (None, None))
        if a is None or b is None:
            return f"the number of rows in the table {table}: {len(left)} and {len(right)}"
        return f"table {table}: {_of_rows(a, b, marks, depth)}"
    return None


def _of_rows(
    first: tuple[object, ...], second: tuple[object, ...], marks: tuple[Marks, Marks], depth: int
) -> str:
    for a, b in zip(first, second, strict=False):
        if a == b:
            continue
        if isinstance(a, bytes) and isinstance(b, bytes):
            if tags := _tags(a, b):
                return tags
            return _cause("", a, b, marks, depth + 1)
        return _of_bytes(str(a).encode(), str(b).encode(), marks)
    return "rows of other lengths"


def _tags(first: bytes, second: bytes) -> str:
    """Name the tags in which two headers of the rpmdb differ."""
    import rpm

    try:
        one, other = rpm.hdr(_with_magic(first)), rpm.hdr(_with_magic(second))
        keys = sorted(set(one.keys()) | set(other.keys()))
        tags = [rpm.tagnames.get(key, str(key)) for key in keys if one[key] != other[key]]
        package = one["name"]
    except (rpm.error, ValueError, TypeError, KeyError):
        return ""
    return f"{', '.join(tags)} of {package}" if tags else f"the layout of the header of {package}"


def _with_magic(data: bytes) -> bytes:
    return b"\x8e\xad\xe8\x01\0\0\0\0" + data


def _tables(data: bytes) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(data)
        names = [
            n for (n,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        quoted = {name: '"' + name.replace('"', '""') + '"' for name in names}
        return {
            name: database.execute(f"SELECT * FROM {quoted[name]}").fetchall() for name in names
        }


def _of_ld_cache(
    name: str, first: bytes, second: bytes, marks: tuple[Marks, Marks], depth: int
) -> str | None:
    one, other = (set(re.findall(rb"[ -~]{4,}", data)) for data in (first, second))
    if lone := sorted(one ^ other):
        return f"libraries that only one cache has: {_shown(lone[0])}"
    return "the same libraries in another order or with other numbers"


def _of_zip(
    name: str, first: bytes, second: bytes, marks: tuple[Marks, Marks], depth: int
) -> str | None:
    try:
        with zipfile.ZipFile(io.BytesIO(first)) as a, zipfile.ZipFile(io.BytesIO(second)) as b:
            one, other = a.infolist(), b.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None
    names = [info.filename for info in one], [info.filename for info in other]
    if names[0] != names[1]:
        same = sorted(names[0]) == sorted(names[1])
        return "the order of members in the zip" if same else "the members of the zip"
    for left, right in zip(one, other, strict=True):
        if left.CRC != right.CRC:
            return f"the content of the zip's member {left.filename}"
        if left.date_time != right.date_time:
            return f"the time of the zip's member {left.filename}"
    return None


_FORMATS: tuple[
    tuple[
        Callable[[str, bytes], bool],
        Callable[[str, bytes, bytes, tuple[Marks, Marks], int], str | None],
    ],
    ...,
] = (
    (lambda n, d: n.endswith((".pyc", ".pyo")) and len(d) > 16, _of_pyc),
    (lambda n, d: d[:3] == b"\x1f\x8b\x08", _of_gzip),
    (
        lambda n, d: d[:6] == b"\xfd7zXZ\0",
        lambda n, a, b, m, depth: _of_packed(n, a, b, m, depth, "xz", _unxz),
    ),
    (
        lambda n, d: d[:4] == b"\x28\xb5\x2f\xfd",
        lambda n, a, b, m, depth: _of_packed(n, a, b, m, depth, "zstd", _unzstd),
    ),
    (lambda n, d: d[:6] in (b"070701", b"070702"), _of_cpio),
    (lambda n, d: d[:16] == b"SQLite format 3\0", _of_sqlite),
    (lambda n, d: n.endswith("ld.so.cache"), _of_ld_cache),
    (lambda n, d: d[:4] == b"PK\x03\x04", _of_zip),
)
