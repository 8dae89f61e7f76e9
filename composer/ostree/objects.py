"""OSTree's objects as values: headers, dirtrees, dirmetas, commits.

Serialised objects are GVariants (libostree's ostree-core.h gives their types).
A dirtree has one entry per file of a tree, so it is parsed here, straight from
its bytes, instead of through a GVariant for each entry; the format is in the
GVariant specification, "Serialisation Format".  Only normal form is accepted.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from operator import gt, lt
from typing import TYPE_CHECKING, NamedTuple

from composer.checksum import ObjectChecksum
from composer.errors import FormatError

if TYPE_CHECKING:
    from gi.repository import GLib


@dataclass(frozen=True, slots=True, order=True)
class Header:
    """What an OSTree content object's checksum covers beside the bytes.

    ``mode`` is a whole st_mode (type and permissions); ``xattrs`` are sorted
    pairs of name (without the terminating NUL) and value.  A symlink's target
    is its content.
    """

    uid: int
    gid: int
    mode: int
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def is_symlink(self) -> bool:
        """Tell whether this is a symlink's header."""
        return stat.S_ISLNK(self.mode)

    def variant(self) -> GLib.Variant:
        """Return the extended attributes as libostree takes them, ``a(ayay)``."""
        from gi.repository import GLib

        pairs = [(name + b"\0", value) for name, value in self.xattrs]
        return GLib.Variant("a(ayay)", pairs)

    def metadata(self) -> bytes:
        """Return what a bare-user repository has as ``user.ostreemeta``: ``(uuua(ayay))``.

        A directory's dirmeta object has the same form.
        """
        from gi.repository import GLib

        numbers = [_swapped(number) for number in (self.uid, self.gid, self.mode)]
        pairs = [(name + b"\0", value) for name, value in self.xattrs]
        data = GLib.Variant("(uuua(ayay))", (*numbers, pairs)).get_data_as_bytes().get_data()
        assert isinstance(data, bytes)
        return data

    def serialized(self, target: bytes = b"") -> bytes:
        """Return the bytes that stand before the content when libostree checksums it.

        ``(uuuusa(ayay))`` in network byte order (uid, gid, mode, rdev 0, symlink
        target, xattrs), behind its length: ostree-core.c, file header with size.  Raises
        UnicodeDecodeError for a target that is not UTF-8, which libostree does not take.
        """
        target.decode()
        numbers = struct.pack(">IIII", self.uid, self.gid, self.mode, 0)
        body = numbers + target + b"\0"
        end = len(body)
        body += _serialized(self.xattrs)
        data = body + _framed(len(body), [end])
        return len(data).to_bytes(4, "big") + bytes(4) + data


@lru_cache(maxsize=1024)
def _serialized(xattrs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    data = Header(0, 0, 0, xattrs).variant().get_data_as_bytes().get_data()
    assert isinstance(data, bytes)
    return data


def _swapped(number: int) -> int:
    # GLib writes numbers in the machine's order; OSTree has them in network byte order.
    return int.from_bytes(number.to_bytes(4, "little"), "big")


class TreeFile(NamedTuple):  # of which there are many: it is made in a third of the time
    """A file or symlink in a dirtree."""

    name: str
    checksum: ObjectChecksum


class TreeDirectory(NamedTuple):
    """A subdirectory in a dirtree: its own dirtree and its dirmeta."""

    name: str
    tree: ObjectChecksum
    meta: ObjectChecksum


@dataclass(frozen=True, slots=True)
class DirTree:
    """A directory's entries, each list sorted by name."""

    files: tuple[TreeFile, ...]
    directories: tuple[TreeDirectory, ...]


def parse_dirtree(data: bytes) -> DirTree:
    """Parse a serialised dirtree, ``(a(say)a(sayay))``; raises FormatError.

    Names are checked: not empty, ".", "..", without "/", sorted, and unique.
    """
    try:
        return _parse_dirtree(data)
    except (ValueError, IndexError) as error:
        raise FormatError(f"not a dirtree object: {error}") from None


def _parse_dirtree(data: bytes) -> DirTree:
    width = _offset_width(len(data))
    end = len(data) - width
    split = _offset(data, end, width)
    if split > end:
        raise ValueError("the file list ends past the object")
    names, checksums = _named(data[:split], 1)
    below, pairs = _named(data[split:end], 2)
    if not set(names).isdisjoint(below):
        raise ValueError("a name is of a file and of a directory")
    files = map(TreeFile, names, map(_checksum, checksums))
    trees = (_checksum(pair[:32]) for pair in pairs)
    metas = (_checksum(pair[32:]) for pair in pairs)
    return DirTree(tuple(files), tuple(map(TreeDirectory, below, trees, metas)))


# Of bytes whose length is known already.
_checksum = partial(bytes.__new__, ObjectChecksum)


def _offset_width(size: int) -> int:
    if size <= 0xFF:
        return 1
    if size <= 0xFFFF:
        return 2
    return 4 if size <= 0xFFFFFFFF else 8


def _offset(data: bytes, position: int, width: int) -> int:
    if position < 0:
        raise ValueError("too short for its framing offsets")
    return int.from_bytes(data[position : position + width], "little")


def _elements(array: bytes) -> list[bytes]:
    """Split a serialised array of variable-size elements of alignment 1."""
    if not array:
        return []
    width = _offset_width(len(array))
    table = _offset(array, len(array) - width, width)
    length = len(array) - table
    if length <= 0 or length % width:
        raise ValueError("an array's framing offsets do not fit")
    offsets = range(table, len(array), width)
    ends = [int.from_bytes(array[at : at + width], "little") for at in offsets]
    starts = [0, *ends[:-1]]
    if max(ends) > table or any(map(gt, starts, ends)):
        raise ValueError("an array's framing offsets are not in order")
    return [array[start:end] for start, end in zip(starts, ends, strict=True)]


def _named(array: bytes, checksums: int) -> tuple[list[str], list[bytes]]:
    """Split an array of ``s`` followed by ``checksums`` times ``ay`` of 32 bytes each."""
    raws, found = [], []
    for element in _elements(array):
        size = len(element)
        width = 1 if size <= 0xFF else _offset_width(size)
        # The last member needs no offset of its own; the others' stand in reverse order.
        framing = size - checksums * width
        end = framing - 32 * checksums
        raw = element.partition(b"\0")[0]
        if end < 2 or int.from_bytes(element[size - width :], "little") != end:
            raise ValueError("an entry's framing offsets do not fit")
        if checksums == 2 and _offset(element, framing, width) != end + 32:
            raise ValueError("an entry's framing offsets do not fit")
        if len(raw) != end - 1 or b"/" in raw or raw in _NO_NAMES:
            raise ValueError(f"not a file name: {element[: end - 1][:200]!r}")
        raws.append(raw)
        found.append(element[end:framing])
    if not all(map(lt, raws, raws[1:])):
        raise ValueError("entries are not in order")
    return [raw.decode() for raw in raws], found


_NO_NAMES = (b".", b"..")


def parse_dirmeta(data: bytes) -> Header:
    """Parse a serialised dirmeta, ``(uuua(ayay))``; raises FormatError."""
    from gi.repository import GLib

    variant = GLib.Variant.new_from_bytes(
        GLib.VariantType.new("(uuua(ayay))"), GLib.Bytes.new(data), False
    )
    if not variant.is_normal_form():
        raise FormatError("not a dirmeta object: its serialisation is not in normal form")
    *numbers, pairs = variant.unpack()
    # libostree stores the numbers in network byte order.
    uid, gid, mode = (int.from_bytes(n.to_bytes(4, "little"), "big") for n in numbers)
    if not stat.S_ISDIR(mode):
        raise FormatError(f"not a dirmeta object: its mode is {mode:o}")
    xattrs = tuple((bytes(name).rstrip(b"\0"), bytes(value)) for name, value in pairs)
    return Header(uid, gid, mode, xattrs)


def dump_dirtree(
    files: Mapping[str, ObjectChecksum],
    directories: Mapping[str, tuple[ObjectChecksum, ObjectChecksum]],
) -> bytes:
    """Serialise a dirtree in normal form, the reverse of :func:`parse_dirtree`.

    ``directories`` have (dirtree, dirmeta).  Names must be UTF-8.
    """
    # OSTree sorts by bytes.
    named = sorted((name.encode(), checksum) for name, checksum in files.items())
    first = _array([_entry(name, checksum) for name, checksum in named])
    below = sorted((name.encode(), pair) for name, pair in directories.items())
    second = _array([_entry(name, *pair) for name, pair in below])
    body = first + second
    return body + _framed(len(body), [len(first)])


def _entry(name: bytes, *checksums: bytes) -> bytes:
    body = name + b"\0" + b"".join(checksums)
    # The last member needs no offset; the others' stand in reverse order.
    ends = [len(name) + 1 + 32 * index for index in range(len(checksums))]
    return body + _framed(len(body), ends[::-1])


def _array(elements: list[bytes]) -> bytes:
    body = b"".join(elements)
    return body + _framed(len(body), list(accumulate(map(len, elements)))) if elements else b""


def _framed(size: int, offsets: list[int]) -> bytes:
    """Return framing offsets of the smallest width that can address all, themselves included."""
    width = next(w for w in (1, 2, 4, 8) if size + w * len(offsets) < 1 << (8 * w))
    return b"".join(offset.to_bytes(width, "little") for offset in offsets)


@dataclass(frozen=True, slots=True)
class Commit:
    """The parts of a commit object that this program reads.

    ``timestamp`` is in seconds since 1970, UTC.  ``metadata`` values are as
    GLib.Variant.unpack() gives them.
    """

    metadata: dict[str, object]
    parent: ObjectChecksum | None
    subject: str
    timestamp: int
    tree: ObjectChecksum
    meta: ObjectChecksum

    @property
    def version(self) -> str:
        """The ``version`` of the metadata, or "" without one."""
        return str(self.metadata.get("version", ""))


def parse_commit(data: bytes) -> Commit:
    """Parse a serialised commit object, ``(a{sv}aya(say)sstayay)``; raises FormatError."""
    from gi.repository import GLib

    variant = GLib.Variant.new_from_bytes(
        GLib.VariantType.new("(a{sv}aya(say)sstayay)"), GLib.Bytes.new(data), False
    )
    if not variant.is_normal_form():
        raise FormatError("not a commit object: its serialisation is not in normal form")
    parent = variant.get_child_value(1).get_data_as_bytes().get_data()
    try:
        return Commit(
            metadata=variant.get_child_value(0).unpack(),
            parent=ObjectChecksum(parent) if parent else None,
            subject=variant.get_child_value(3).get_string(),
            # libostree stores the timestamp in network byte order.
            timestamp=int.from_bytes(
                variant.get_child_value(5).get_uint64().to_bytes(8, "little"), "big"
            ),
            tree=ObjectChecksum(variant.get_child_value(6).get_data_as_bytes().get_data()),
            meta=ObjectChecksum(variant.get_child_value(7).get_data_as_bytes().get_data()),
        )
    except (ValueError, TypeError) as error:
        raise FormatError(f"not a commit object: {error}") from None
