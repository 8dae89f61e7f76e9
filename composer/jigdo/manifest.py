"""What a set says, as values: the head, the headers, the maps, the contents.

docs/format/jigdo.md sections 4, 6 and 7 are the norm.  Everything here is pure:
bytes in, frozen values out, and back.
"""

from __future__ import annotations

import json
import re
import stat
from array import array
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import FormatError
from composer.jigdo.container import MAX_BASES
from composer.jigdo.encoding import (
    Cursor,
    differences,
    prefixed,
    steps,
    sums,
    svarints,
    unstepped,
    uvarint,
    uvarints,
)
from composer.ostree.objects import Header
from composer.rpm.beginnings import MOST, Beginning
from composer.rpm.package import Nevra, PackageRef

MAX_XATTRS = 1 << 10
_HEX = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_SIZE = Annotated[int, Field(ge=0, lt=1 << 62)]
_TEXT = Annotated[str, Field(max_length=4096)]


@dataclass(frozen=True, slots=True)
class Package:
    """An RPM of the commit and the number of its map frame."""

    ref: PackageRef
    map: int


@dataclass(frozen=True, slots=True)
class Base:
    """An older commit that the set has deltas from, and the number of its deltas frame."""

    commit: ObjectChecksum
    version: str
    deltas: int


class Totals(BaseModel):
    """Sums over the commit; bytes are of contents, before any compression."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    objects: _SIZE
    object_bytes: _SIZE
    dirtrees: _SIZE
    dirmetas: _SIZE
    package_objects: _SIZE
    package_object_bytes: _SIZE
    new_objects: _SIZE
    new_bytes: _SIZE
    package_bytes: _SIZE


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a set.  ``packages`` are sorted by nevra, then pkgid; ``bases`` by commit."""

    name: str
    ref: str
    version: str
    timestamp: int
    commit: ObjectChecksum
    packages: tuple[Package, ...]
    totals: Totals
    bases: tuple[Base, ...] = ()


class _PackageDocument(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    nevra: _TEXT
    pkgid: _HEX
    size: _SIZE
    repository: _TEXT
    location: _TEXT
    map: Annotated[int, Field(ge=0, lt=1 << 20)]


class _BaseDocument(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    commit: _HEX
    version: _TEXT
    deltas: Annotated[int, Field(ge=0, lt=1 << 20)]


class _HeadDocument(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    format: Annotated[int, Field(ge=1, le=1)]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]{1,200}$")]
    ref: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/+-]{1,500}$")]
    version: _TEXT
    timestamp: _SIZE
    commit: _HEX
    packages: Annotated[list[_PackageDocument], Field(max_length=1 << 20)]
    totals: Totals
    bases: Annotated[list[_BaseDocument], Field(max_length=MAX_BASES)] = []


def parse_head(data: bytes) -> Head:
    """Parse and check a head; raises FormatError that says where."""
    try:
        document = _HeadDocument.model_validate_json(data)
    except ValidationError as error:
        raise FormatError(f"head: {_first_problem(error)}") from None
    packages = []
    for position, entry in enumerate(document.packages):
        try:
            nevra = Nevra.parse(entry.nevra)
        except ValueError as error:
            raise FormatError(f"head: packages[{position}].nevra: {error}") from None
        if str(nevra) != entry.nevra:
            raise FormatError(f"head: packages[{position}].nevra: it is written {nevra}")
        pkgid = ContentDigest.parse(entry.pkgid)
        ref = PackageRef(nevra, pkgid, entry.size, entry.repository, entry.location)
        packages.append(Package(ref, entry.map))
    _check_packages(packages)
    return Head(
        name=document.name,
        ref=document.ref,
        version=document.version,
        timestamp=document.timestamp,
        commit=ObjectChecksum.parse(document.commit),
        packages=tuple(packages),
        totals=document.totals,
        bases=_checked_bases(document.bases),
    )


def _checked_bases(documents: Sequence[_BaseDocument]) -> tuple[Base, ...]:
    bases = tuple(Base(ObjectChecksum.parse(d.commit), d.version, d.deltas) for d in documents)
    if any(later.commit <= earlier.commit for earlier, later in pairwise(bases)):
        raise FormatError("head: its bases are not in order")
    if len({base.deltas for base in bases}) != len(bases):
        raise FormatError("head: two bases have one deltas frame")
    return bases


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def _check_packages(packages: Sequence[Package]) -> None:
    keys = [(str(package.ref.nevra), package.ref.pkgid) for package in packages]
    if any(later <= earlier for earlier, later in pairwise(keys)):
        raise FormatError("head: its packages are not in order")
    if len({pkgid for _, pkgid in keys}) != len(keys):
        raise FormatError("head: a package occurs twice")
    if len({package.map for package in packages}) != len(packages):
        raise FormatError("head: two packages have one map")


def dump_head(head: Head) -> bytes:
    """Serialise a head as canonical JSON."""
    packages: list[dict[str, Any]] = [
        {
            "nevra": str(package.ref.nevra),
            "pkgid": str(package.ref.pkgid),
            "size": package.ref.size,
            "repository": package.ref.repository,
            "location": package.ref.location,
            "map": package.map,
        }
        for package in head.packages
    ]
    document: dict[str, Any] = {
        "format": 1,
        "name": head.name,
        "ref": head.ref,
        "version": head.version,
        "timestamp": head.timestamp,
        "commit": str(head.commit),
        "packages": packages,
        "totals": head.totals.model_dump(),
    }
    if head.bases:
        document["bases"] = [
            {"commit": str(base.commit), "version": base.version, "deltas": base.deltas}
            for base in head.bases
        ]
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def set_name(ref: str) -> str:
    """Derive a set's name, which is also its RPM's, from a ref."""
    return "jigdo-" + re.sub(r"[^A-Za-z0-9._+-]+", "-", ref).strip("-.")


# Headers


def dump_headers(headers: Sequence[Header]) -> bytes:
    """Serialise the table of distinct headers, sorted."""
    out = [uvarint(len(headers))]
    for header in headers:
        out.append(uvarints((header.uid, header.gid, header.mode, len(header.xattrs))))
        for name, value in header.xattrs:
            out += (prefixed(name), prefixed(value))
    return b"".join(out)


def parse_headers(data: bytes) -> tuple[Header, ...]:
    """Parse the table of headers; raises FormatError."""
    cursor = Cursor(data, "headers")
    headers = []
    for _ in range(cursor.count(least=4)):
        uid, gid, mode, count = cursor.uvarints(4)
        if max(uid, gid, mode) >= 1 << 32 or count > MAX_XATTRS:
            raise cursor.fail("a header's numbers are out of range")
        if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFLNK) or mode > 0xFFFF:
            raise cursor.fail(f"a header of mode {mode:o} is of no file or symlink")
        xattrs = tuple((cursor.prefixed(), cursor.prefixed()) for _ in range(count))
        names = [name for name, _ in xattrs]
        if any(not name or b"\0" in name for name in names) or names != sorted(set(names)):
            raise cursor.fail("a header's attributes are not in order")
        headers.append(Header(uid, gid, mode, xattrs))
    cursor.end()
    if any(later <= earlier for earlier, later in pairwise(headers)):
        raise cursor.fail("its entries are not in order")
    return tuple(headers)


# Maps


@dataclass(frozen=True, slots=True)
class Map:
    """Which files of one RPM are which content objects, in columns sorted by file, ordinal.

    ``sizes`` are in bytes, of contents; headers are positions in the headers table.
    ``beginnings`` of the RPM serve as many entries as they say, the shortest first.
    """

    pkgid: ContentDigest
    files: array[int]
    ordinals: array[int]
    headers: array[int]
    sizes: array[int]
    beginnings: tuple[Beginning, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def beginning(self, entries: int) -> Beginning | None:
        """Return the shortest beginning that has so many entries; None: it takes the whole."""
        return next((one for one in self.beginnings if one.entries >= entries), None)

    def first(self, entries: int) -> Map:
        """The same with so many entries, the first ones."""
        return replace(
            self,
            files=self.files[:entries],
            ordinals=self.ordinals[:entries],
            headers=self.headers[:entries],
            sizes=self.sizes[:entries],
        )


def make_map(
    pkgid: ContentDigest,
    entries: Iterable[tuple[int, int, int, int]],
    beginnings: Callable[[Sequence[int]], tuple[Beginning, ...]] = lambda files: (),
) -> Map:
    """Make a map of (file index, ordinal, header id, size) entries; sorts them.

    ``beginnings`` is asked for those of its column of files.
    """
    rows = sorted(set(entries))
    columns = [array("q", column) for column in zip(*rows, strict=True)]
    files, ordinals, headers, sizes = columns or [array("q") for _ in range(4)]
    return Map(pkgid, files, ordinals, headers, sizes, beginnings(files))


def dump_map(mapping: Map) -> bytes:
    """Serialise a map."""
    return b"".join(
        (
            mapping.pkgid,
            uvarint(len(mapping)),
            uvarints(differences(mapping.files)),
            svarints(steps(mapping.ordinals)),
            uvarints(mapping.headers),
            uvarints(mapping.sizes),
            uvarint(len(mapping.beginnings)),
            uvarints(differences([one.size for one in mapping.beginnings])),
            uvarints(differences([one.entries for one in mapping.beginnings])),
            *(one.digest for one in mapping.beginnings),
        )
    )


def parse_map(data: bytes, *, objects: int, headers: Sequence[Header]) -> Map:
    """Parse a map; raises FormatError when it names what is not there."""
    cursor = Cursor(data, "map")
    pkgid = ContentDigest(cursor.take(32))
    count = cursor.count(least=4)
    files = sums(cursor.uvarints(count))
    ordinals = unstepped(cursor.svarints(count))
    header_ids, sizes = cursor.uvarints(count), cursor.uvarints(count)
    beginnings = _parse_beginnings(cursor, count)
    cursor.end()
    cursor.require_below(ordinals, objects, "object")
    cursor.require_below(header_ids, len(headers), "header")
    cursor.require_below(files, 1 << 31, "file")
    if any(later <= earlier for earlier, later in pairwise(zip(files, ordinals, strict=True))):
        raise cursor.fail("its entries are not in order")
    return Map(pkgid, files, ordinals, header_ids, sizes, beginnings)


def _parse_beginnings(cursor: Cursor, entries: int) -> tuple[Beginning, ...]:
    count = cursor.count(least=34)
    if count > MOST:
        raise cursor.fail(f"{count} beginnings are more than {MOST}")
    sizes, served = sums(cursor.uvarints(count)), sums(cursor.uvarints(count))
    found = tuple(
        Beginning(size, number, ContentDigest(cursor.take(32)))
        for size, number in zip(sizes, served, strict=True)
    )
    for earlier, later in pairwise((Beginning(0, 0, ContentDigest(bytes(32))), *found)):
        if later.size <= earlier.size or later.entries <= earlier.entries:
            raise cursor.fail("its beginnings are not in order")
    if found and found[-1].entries > entries:
        raise cursor.fail("a beginning has more entries than there are")
    return found


# Contents


@dataclass(frozen=True, slots=True)
class Contents:
    """What the data stream holds and which objects are made of it.

    ``offsets`` has one entry more than there are contents: content i is bytes
    offsets[i] to offsets[i + 1] of the stream.  The other columns are per object,
    sorted by ordinal.
    """

    offsets: array[int]
    ordinals: array[int]
    contents: array[int]
    headers: array[int]

    def size(self, content: int) -> int:
        """Bytes of one content."""
        return self.offsets[content + 1] - self.offsets[content]

    def without(self, contents: Container[int]) -> Contents:
        """The same without the objects that are made of some contents."""
        rows = [row for row, content in enumerate(self.contents) if content not in contents]
        columns = (self.ordinals, self.contents, self.headers)
        return Contents(self.offsets, *(array("q", (c[row] for row in rows)) for c in columns))


def make_contents(sizes: Sequence[int], objects: Iterable[tuple[int, int, int]]) -> Contents:
    """Make a table of content sizes and (ordinal, content number, header id) objects."""
    rows = sorted(objects)
    columns = [array("q", column) for column in zip(*rows, strict=True)]
    return Contents(array("q", [0]) + sums(sizes), *(columns or [array("q") for _ in range(3)]))


def dump_contents(contents: Contents) -> bytes:
    """Serialise the table of contents."""
    sizes = [later - earlier for earlier, later in pairwise(contents.offsets)]
    return b"".join(
        (
            uvarint(len(sizes)),
            uvarints(sizes),
            uvarint(len(contents.ordinals)),
            uvarints(differences(contents.ordinals)),
            svarints(steps(contents.contents)),
            uvarints(contents.headers),
        )
    )


def parse_contents(
    data: bytes, *, objects: int, headers: Sequence[Header], stream: int
) -> Contents:
    """Parse the table; ``stream`` is the size of the data frames in all.  Raises FormatError."""
    cursor = Cursor(data, "contents")
    number = cursor.count()
    if number > objects:
        raise cursor.fail(f"claims {number} contents of {objects} objects")
    sizes = cursor.uvarints(number)
    count = cursor.count(least=3)
    ordinals = sums(cursor.uvarints(count))
    contents = unstepped(cursor.svarints(count))
    header_ids = cursor.uvarints(count)
    cursor.end()
    cursor.require_below(ordinals, objects, "object")
    cursor.require_below(contents, len(sizes), "content")
    cursor.require_below(header_ids, len(headers), "header")
    if any(later <= earlier for earlier, later in pairwise(ordinals)):
        raise cursor.fail("its objects are not in order")
    if sum(sizes) != stream:
        raise cursor.fail(f"its contents have {sum(sizes)} bytes, the data frames {stream}")
    return Contents(array("q", [0]) + sums(sizes), ordinals, contents, header_ids)
