"""RPMs made byte by byte: what rpmbuild never writes, and small ones in no time.

A version 4 package: lead, signature header, header, payload (rpm's docs/manual/format).
The header's digest is right unless asked otherwise, so that a lie in a header is
found by whoever reads the header, not by librpm's checksum.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import zstandard

INT16, INT32, INT64, STRING, BIN, ARRAY, I18N = 3, 4, 5, 6, 7, 8, 9
_ALIGN = {INT16: 2, INT32: 4, INT64: 8}
_PACK = {INT16: "H", INT32: "I", INT64: "Q"}
_MAGIC = b"\x8e\xad\xe8\x01\0\0\0\0"

# Tag numbers, from rpm's include/rpm/rpmtag.h.
NAME, VERSION, RELEASE, EPOCH, SUMMARY, OS, ARCH = 1000, 1001, 1002, 1003, 1004, 1021, 1022
FILESIZES, FILEMODES, FILEMTIMES, FILEDIGESTS, FILELINKTOS = 1028, 1030, 1034, 1035, 1036
FILEFLAGS, FILEUSERNAME, FILEGROUPNAME, FILERDEVS = 1037, 1039, 1040, 1033
FILEDEVICES, FILEINODES, FILELANGS = 1095, 1096, 1097
DIRINDEXES, BASENAMES, DIRNAMES = 1116, 1117, 1118
PAYLOADFORMAT, PAYLOADCOMPRESSOR, PAYLOADFLAGS = 1124, 1125, 1126
FILECAPS, FILEDIGESTALGO = 5010, 5011
PAYLOADDIGEST, PAYLOADDIGESTALGO = 5092, 5093
MD5, SHA256 = 1, 8
GHOST = 1 << 6

Tag = tuple[int, object]
"""Type and value of a tag."""


@dataclass(frozen=True, slots=True)
class RpmFile:
    """A file of a crafted package; ``inode`` equal to another's makes a hard link."""

    path: str
    data: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    target: bytes = b""
    owner: str = "root"
    flags: int = 0
    inode: int = 0
    digest: str | None = None

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)


def symlink(path: str, target: str | bytes) -> RpmFile:
    """Return a symlink."""
    raw = target if isinstance(target, bytes) else target.encode()
    return RpmFile(path, mode=stat.S_IFLNK | 0o777, target=raw)


def rpm_bytes(
    files: Sequence[RpmFile],
    *,
    name: str = "crafted",
    version: str = "1",
    algorithm: int = SHA256,
    compressor: str = "gzip",
    tags: Mapping[int, Tag | None] | None = None,
    payload: bytes | None = None,
    header_digest: bool = True,
    payload_digest: bool = False,
) -> bytes:
    """Return an RPM of ``files``; ``tags`` replaces tags of the header, or with None drops them.

    ``payload`` replaces the uncompressed payload; with ``payload_digest`` rpm believes it.
    """
    packed = _compress(compressor, cpio(_numbered(files)) if payload is None else payload)
    table = _header_tags(_numbered(files), name, version, algorithm, compressor)
    if payload_digest:
        table[PAYLOADDIGEST] = (ARRAY, [hashlib.sha256(packed).hexdigest().encode()])
        table[PAYLOADDIGESTALGO] = (INT32, [SHA256])
    table |= dict(tags or {})
    header = _header(63, {number: tag for number, tag in table.items() if tag is not None})
    digest = hashlib.sha256(header).hexdigest().encode()
    signature: dict[int, Tag] = {1000: (INT32, [(len(header) + len(packed)) & 0xFFFFFFFF])}
    if header_digest:
        signature[273] = (STRING, digest)
    signed = _header(62, signature)
    signed += bytes(-len(signed) % 8)
    lead = struct.pack(">4sBBHH66sHH16s", b"\xed\xab\xee\xdb", 3, 0, 0, 1, b"crafted", 1, 5, b"")
    return lead + signed + header + packed


def _numbered(files: Sequence[RpmFile]) -> list[RpmFile]:
    return [replace(f, inode=f.inode or 1000 + i) for i, f in enumerate(files)]


def _header_tags(
    files: Sequence[RpmFile], name: str, version: str, algorithm: int, compressor: str
) -> dict[int, Tag | None]:
    directories = sorted({file.path.rpartition("/")[0] + "/" for file in files})
    tags: dict[int, Tag | None] = {
        100: (ARRAY, [b"C"]),
        NAME: (STRING, name.encode()),
        VERSION: (STRING, version.encode()),
        RELEASE: (STRING, b"1"),
        SUMMARY: (I18N, [b"crafted"]),
        OS: (STRING, b"linux"),
        ARCH: (STRING, b"noarch"),
        PAYLOADFORMAT: (STRING, b"cpio"),
        PAYLOADCOMPRESSOR: (STRING, compressor.encode()),
        PAYLOADFLAGS: (STRING, b"9"),
    }
    if not files:
        return tags
    columns: dict[int, Tag | None] = {
        FILESIZES: (INT32, [len(f.data) or len(f.target) for f in files]),
        FILEMODES: (INT16, [f.mode for f in files]),
        FILERDEVS: (INT16, [0 for _ in files]),
        FILEMTIMES: (INT32, [0 for _ in files]),
        FILEDIGESTS: (ARRAY, [_digest(f, algorithm) for f in files]),
        FILELINKTOS: (ARRAY, [f.target for f in files]),
        FILEFLAGS: (INT32, [f.flags for f in files]),
        FILEUSERNAME: (ARRAY, [f.owner.encode() for f in files]),
        FILEGROUPNAME: (ARRAY, [f.owner.encode() for f in files]),
        FILEDEVICES: (INT32, [1 for _ in files]),
        FILEINODES: (INT32, [f.inode for f in files]),
        FILELANGS: (ARRAY, [b"" for _ in files]),
        DIRINDEXES: (INT32, [directories.index(f.path.rpartition("/")[0] + "/") for f in files]),
        BASENAMES: (ARRAY, [_raw(f.path.rpartition("/")[2]) for f in files]),
        DIRNAMES: (ARRAY, [_raw(directory) for directory in directories]),
    }
    if algorithm != MD5:  # a package without the tag has MD5 digests
        columns[FILEDIGESTALGO] = (INT32, [algorithm])
    return tags | columns


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _digest(file: RpmFile, algorithm: int) -> bytes:
    if file.digest is not None:
        return file.digest.encode()
    if not file.is_regular:
        return b""
    made = hashlib.md5 if algorithm == MD5 else hashlib.sha256
    return made(file.data).hexdigest().encode()


def _header(region: int, tags: Mapping[int, Tag]) -> bytes:
    store = bytearray()
    entries = []
    for number, (kind, value) in sorted(tags.items()):
        store += bytes(-len(store) % _ALIGN.get(kind, 1))
        data, count = _value(kind, value)
        entries.append(struct.pack(">IIiI", number, kind, len(store), count))
        store += data
    total = len(entries) + 1
    entries.insert(0, struct.pack(">IIiI", region, BIN, len(store), 16))
    store += struct.pack(">IIiI", region, BIN, -16 * total, 16)
    return _MAGIC + struct.pack(">II", total, len(store)) + b"".join(entries) + bytes(store)


def _value(kind: int, value: object) -> tuple[bytes, int]:
    if kind in (STRING, BIN):
        assert isinstance(value, bytes)
        return (value + b"\0", 1) if kind == STRING else (value, len(value))
    assert isinstance(value, list)
    if kind in (ARRAY, I18N):
        return b"".join(item + b"\0" for item in value), len(value)
    return struct.pack(f">{len(value)}{_PACK[kind]}", *value), len(value)


def cpio(files: Sequence[RpmFile]) -> bytes:
    """Return the archive (070701) that rpm writes: a hard-link set's bytes with its last member."""
    out = bytearray()
    last = {file.inode: number for number, file in enumerate(files) if file.is_regular}
    links = [file.inode for file in files if file.is_regular]
    for number, file in enumerate(files):
        if file.flags & GHOST:
            continue
        if file.is_regular:
            data = file.data if last[file.inode] == number else b""
        else:
            data = file.target
        out += entry(file, data, links.count(file.inode) or 1)
    return bytes(out + trailer())


def entry(file: RpmFile, data: bytes, links: int = 1, *, size: int | None = None) -> bytes:
    """Return one entry of the archive; ``size`` is what it claims."""
    name = b"." + _raw(file.path) + b"\0"
    claimed = len(data) if size is None else size
    fields = (file.inode, file.mode, 0, 0, links, 0, claimed, 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)


def trailer() -> bytes:
    """Return the archive's last entry."""
    name = b"TRAILER!!!\0"
    head = b"070701" + b"".join(b"%08x" % v for v in (*[0] * 4, 1, *[0] * 6, len(name), 0)) + name
    return head + bytes(-len(head) % 4)


def _compress(compressor: str, data: bytes) -> bytes:
    if compressor == "gzip":
        return gzip.compress(data, mtime=0)
    if compressor == "xz":
        return lzma.compress(data)
    if compressor == "lzma":
        return lzma.compress(data, format=lzma.FORMAT_ALONE)
    if compressor == "bzip2":
        return bz2.compress(data)
    if compressor == "zstd":
        return zstandard.ZstdCompressor().compress(data)
    return data
