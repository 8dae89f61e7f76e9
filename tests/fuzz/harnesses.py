"""One function per reader of untrusted bytes: any input gives a value or one of our own errors.

A harness takes what an attacker controls as one run of bytes, reads it the way the program
does, and asserts what must hold of what came out.  :data:`HARNESSES` has them by name; the
same name is a directory of seeds.  ``memory`` is what a reader may take beside its input.
"""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError, FormatError
from composer.jigdo.container import (
    TRAILER_SIZE,
    Check,
    Codec,
    Frame,
    Index,
    IndexPlace,
    Kind,
    RangeReader,
    check_start,
    decompressed,
    parse_trailer,
)
from composer.jigdo.delta import codecs
from composer.jigdo.delta.frames import decompress_update, join_patches, split_patches
from composer.jigdo.delta.needs import usable
from composer.jigdo.delta.table import DeltaTable, dump_table, parse_table
from composer.jigdo.description import apply_update, parse_update, split_description
from composer.jigdo.manifest import (
    dump_contents,
    dump_head,
    dump_headers,
    dump_map,
    parse_contents,
    parse_head,
    parse_headers,
    parse_map,
)
from composer.jigdo.pointer import parse_pointer
from composer.jigdo.reader import JigdoSet
from composer.jigdo.repack import Packer, Recipe, opened, repack, unpack
from composer.jigdo.tree import Ordinals, walk
from composer.net.body import AttemptFailed, Body, Span
from composer.net.bundle import Bundle, parse_index
from composer.net.location import parse_base, safe_location
from composer.net.mirrorlist import parse_mirrorlist
from composer.net.network import origin
from composer.net.statement import entry_of, expiry_of, require_delegation, start
from composer.ostree.objects import Header, parse_commit, parse_dirmeta, parse_dirtree
from composer.rpm.listing import listed
from composer.rpm.package import nevra_of
from composer.rpm.payload import opened_payload
from composer.rpm.rpmmd import Record, find_packages, parse_repomd, unpack_small

MIB = 1 << 20
OBJECTS = 1000
HEADERS = tuple(Header(0, 0, 0o100644, ((b"n%d" % n, b""),)) for n in range(8))
PATCH_FRAMES = range(4, 12)
BASE = b"".join(struct.pack("<I", n * n) for n in range(4096))
"""What patches, updates and deltas are applied to."""

_UPDATE_MEMORY = 64 * MIB
_MAX_MEMORY = 96 * MIB
_INNER = 4 * MIB
_PROGRAMS = (Packer.GNU_GZIP, Packer.ZSTD_PROGRAM, Packer.XZ_PROGRAM)


@dataclass(frozen=True, slots=True)
class Harness:
    """``read`` is given bytes from afar; ``memory`` bounds what it takes.

    ``untouched`` bytes more may be asked of the kernel, if they are never written to.
    """

    read: Callable[[bytes], object]
    memory: int
    untouched: int = 0

    def __call__(self, data: bytes) -> bool:
        """Tell whether the data was read, not refused; any other error comes out."""
        try:
            self.read(data)
        except ComposerError:
            return False
        return True


class Ranges(RangeReader):
    """A file in memory that asserts that nothing past its end is asked for, but in error."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, first: int, length: int, check: Check) -> bytes:
        assert first >= 0
        assert length >= 0
        piece = self._data[first : first + length]
        if len(piece) != length:
            raise FormatError("cut")
        check(piece)
        return piece


# The set


def read_set(data: bytes) -> None:
    """Open a .jigdo file and read all of it, as whoever pulls, inspects or verifies it does."""
    check_start(data[:16])
    place = parse_trailer(data[-TRAILER_SIZE:], file_size=len(data))
    jigdo = JigdoSet(Ranges(data), place)
    start, _, headers, table = jigdo.read_start()
    trees = dict(jigdo.dirtrees(jigdo.index.of(Kind.TREE)))

    def load(checksum: ObjectChecksum) -> bytes:
        if checksum not in trees:
            raise FormatError("no such dirtree")
        return trees[checksum]

    ordinals = Ordinals()
    for visit in walk(start.commit.tree, load):
        ordinals.add(visit.tree)
    count = len(ordinals)
    contents = jigdo.contents(table, objects=count, headers=headers)
    assert len(contents.offsets) - 1 <= count
    maps = jigdo.maps(range(len(jigdo.head.packages)), objects=count, headers=headers)
    assert all(ordinal < count for mapping in maps.values() for ordinal in mapping.ordinals)
    for base in jigdo.head.bases:
        deltas = jigdo.deltas(base.commit, objects=count, headers=headers)
        assert deltas is not None
        _use_table(deltas)
    for kind in (Kind.DATA, Kind.PATCH):
        for frame, whole in jigdo.frames(jigdo.index.of(kind)):
            assert len(whole) == frame.uncompressed


def read_index(data: bytes) -> None:
    """The index; the offset where it stands comes first."""
    if len(data) < 8:
        return
    (offset,) = struct.unpack_from("<Q", data)
    index = Index.parse(data[8:], index_offset=offset)
    assert index.dump() == data[8:]
    frames = [index[number] for number in range(len(index))]
    assert all(frame.size > 0 and frame.end <= offset for frame in frames)
    assert all(a.end == b.offset for a, b in pairwise(frames))


def read_trailer(data: bytes) -> None:
    """The size of the file, then its trailer."""
    if len(data) < 8:
        return
    (size,) = struct.unpack_from("<Q", data)
    place = parse_trailer(data[8:], file_size=size)
    assert place.offset + place.size <= size


def read_frame(data: bytes) -> None:
    """One compressed frame: codec, window, declared size, then bytes."""
    if len(data) < 6:
        return
    number, window, size = struct.unpack_from("<BBI", data)
    if number not in Codec.__members__.values():
        return
    size, window = size % (8 * MIB), min(window, 22)
    digest = ContentDigest(bytes(32))
    frame = Frame(0, Kind.DATA, Codec(number), window, 16, len(data) - 6, size, digest)
    made = 0
    try:
        for piece in decompressed((data[6:],), frame):
            made += len(piece)
    finally:
        assert made <= size


def read_head(data: bytes) -> None:
    """The head: what it says again is the same head."""
    head = parse_head(data)
    assert parse_head(dump_head(head)) == head


def read_headers(data: bytes) -> None:
    """The table of headers has one form."""
    assert dump_headers(parse_headers(data)) == data


def read_map(data: bytes) -> None:
    """A map of a set with some objects and headers."""
    mapping = parse_map(data, objects=OBJECTS, headers=HEADERS)
    assert dump_map(mapping) == data
    assert all(ordinal < OBJECTS for ordinal in mapping.ordinals)


def read_contents(data: bytes) -> None:
    """The contents table; the size of the data frames comes first."""
    if len(data) < 8:
        return
    (stream,) = struct.unpack_from("<Q", data)
    contents = parse_contents(data[8:], objects=OBJECTS, headers=HEADERS, stream=stream)
    assert dump_contents(contents) == data[8:]
    assert contents.offsets[-1] == stream


def read_pointer(data: bytes) -> None:
    """The pointer of a repository."""
    pointer = parse_pointer(data)
    assert parse_pointer(pointer.dump()) == pointer
    for entry in pointer.entries:
        assert entry.offset + entry.length <= entry.size
        assert all(update.offset + update.size <= entry.length for update in entry.updates)


def read_description(data: bytes) -> None:
    """What an update makes: the index's size, where it ends, then the whole description."""
    if len(data) < 12:
        return
    size, offset = struct.unpack_from("<IQ", data)
    body = data[12:]
    place = IndexPlace(offset, 1, size, ContentDigest.of(body[:size]))
    _, frames = split_description(body, place)
    assert sum(map(len, frames.values())) + size == len(body)


# Deltas


def read_table(data: bytes) -> None:
    """A deltas frame: its table, and what a client asks of each content."""
    table = parse_table(data, objects=OBJECTS, headers=HEADERS, frames=PATCH_FRAMES)
    assert dump_table(table) == data
    _use_table(table)


def _use_table(table: DeltaTable) -> None:
    for content in table.contents[:64]:
        usable(table, content, room=_MAX_MEMORY)


def read_patches(data: bytes) -> None:
    """A frame of patches: how many, their codecs, then the pool."""
    numbers = data[1 : 1 + min(data[0], 64)] if data else b""
    patches = split_patches(data[1 + len(numbers) :], numbers)
    assert len(patches) == len(numbers)
    known = [codecs.CodecNumber.FULL if n not in (1, 2, 3, 4, 5) else n for n in numbers]
    if known == list(numbers):
        assert split_patches(join_patches(list(zip(known, patches, strict=True))), known) == patches


def read_patch(data: bytes) -> None:
    """One patch: codec, bytes that it makes, then the patch."""
    if len(data) < 5:
        return
    codec, size = data[0], int.from_bytes(data[1:5], "little") % (4 * MIB)
    _apply(codec, BASE, data[5:], size)


def read_linked(data: bytes) -> None:
    """A patch whose base is moved: bytes of the base, bytes that it makes, base, patch."""
    if len(data) < 8:
        return
    length, size = struct.unpack_from("<II", data)
    length %= len(data)
    _apply(codecs.CodecNumber.LINKED, data[8 : 8 + length], data[8 + length :], size % (4 * MIB))


def _apply(codec: int, base: bytes, patch: bytes, size: int) -> None:
    made = 0
    try:
        for piece in codecs.apply(codec, base, patch, size=size, max_memory=_MAX_MEMORY):
            made += len(piece)
    finally:
        assert made <= size
    assert made == size


def read_recipe(data: bytes) -> None:
    """A recipe, and packing some bytes by it where they would be few enough."""
    recipe = Recipe.parse(data)
    assert recipe.dump() == data
    assert recipe.cost >= 0
    if recipe.memory > _MAX_MEMORY or recipe.inner_size > MIB or len(recipe.segments) > 4:
        return
    if any(segment.packer in _PROGRAMS for segment in recipe.segments):
        return  # a process each: too slow here, and they are given the same bytes
    made = 0
    try:
        for piece in repack(recipe, iter([bytes(recipe.inner_size)]), size=recipe.size):
            made += len(piece)
    finally:
        assert made <= recipe.size


def read_container(data: bytes) -> None:
    """A content that may be a container, as a base is opened."""
    recipe = opened(data, inner_limit=_INNER)
    if recipe is None:
        return
    assert recipe.size == len(data)
    if recipe.memory <= _MAX_MEMORY:
        made = sum(map(len, unpack(data, recipe)))
        assert made == recipe.inner_size <= _INNER + len(data)
    assert Recipe.parse(recipe.dump()) == recipe


def read_update(data: bytes) -> None:
    """An update, decompressed, applied to a description that is the one it wants."""
    update = parse_update(ContentDigest.of(BASE) + data)
    description, deltas = apply_update(update, BASE, max_memory=_UPDATE_MEMORY)
    assert (len(description), len(deltas)) == (update.size, update.deltas)


def read_packed_update(data: bytes) -> None:
    """An update as it comes."""
    assert len(decompress_update(data, size=2 * MIB)) <= 2 * MIB


# OSTree


def read_dirtree(data: bytes) -> None:
    """A dirtree object."""
    tree = parse_dirtree(data)
    names = [entry.name for entry in tree.files] + [entry.name for entry in tree.directories]
    assert all(name and "/" not in name and name not in (".", "..") for name in names)


def read_commit(data: bytes) -> None:
    """A commit object, and the list of packages in it."""
    commit = parse_commit(data)
    with suppress(FormatError):
        listed(commit.metadata)


def read_dirmeta(data: bytes) -> None:
    """A dirmeta object."""
    parse_dirmeta(data)


# What RPM repositories have


def read_repomd(data: bytes) -> None:
    """repomd.xml."""
    for record in parse_repomd(data).records:
        assert not record.location.startswith("/")
        assert ".." not in record.location.split("/")


_SUFFIXES = (".xml.gz", ".xml.xz", ".xml.bz2", ".xml.zst", ".xml", ".json.zst")


def read_record(data: bytes) -> None:
    """A compressed file of rpm-md whose checksum is right: whoever made the repository lies."""
    if not data:
        return
    suffix, packed = _SUFFIXES[data[0] % len(_SUFFIXES)], data[1:]
    digest = ContentDigest.of(packed)
    record = Record("primary", f"repodata/p{suffix}", digest, len(packed), None)
    assert len(unpack_small(packed, record, limit=MIB)) <= MIB


def read_primary(data: bytes) -> None:
    """primary.xml, by createrepo_c."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        find_packages(Path(file.name), [ContentDigest(bytes(32))], [])


def read_rpm(data: bytes) -> None:
    """An RPM: identity, files, payload, by librpm."""
    with tempfile.NamedTemporaryFile(suffix=".rpm") as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        with opened_payload(path) as (header, files, contents):
            nevra_of(header, path)
            for content in contents():
                if content.size <= 8 * MIB:
                    assert sum(map(len, content.pieces())) == content.size
            for group in files.link_groups().values():
                assert all(files.is_file(index) for index in group)
            for index in range(len(files)):
                (files.digests[index], files.owners[index], files.groups[index])
                (files.capabilities[index], files.targets[index], files.is_symlink(index))


# The net


def read_answer(data: bytes) -> None:
    """A server's answer to a range: the span, status and headers, a blank line, the body."""
    head, _, body = data.partition(b"\n\n")
    lines = head.decode("latin-1").split("\n")
    numbers = [int(n) for n in lines[0].split()[:3] if n.isascii() and n.isdecimal() and len(n) < 5]
    first, length, status = (*numbers, 0, 0, 0)[:3]
    flags = lines[0].split()[3:]
    span = Span(first, length, exact="bound" not in flags, whole="whole" in flags)
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    answer = Body(span, "answer")
    kept = 0
    try:
        answer.begin(status, headers)
        for piece in _thirds(body):
            kept += len(answer.take(piece))
            if answer.complete:
                break
    except AttemptFailed:
        return
    finally:
        assert kept <= span.length
    answer.end()


def _thirds(body: bytes) -> Iterable[bytes]:
    step = len(body) // 3 + 1
    source = io.BytesIO(body)
    return iter(lambda: source.read(step), b"")


def read_bundle(data: bytes) -> None:
    refs, files = parse_index(data)
    opened = Bundle(Path("/x.bundle"), refs, files, 100)
    end = 100 + sum(length for file in files for _, length in file.pieces)
    for file in files:
        inside = opened.of(file.repository)
        for first, length in file.pieces:
            for ask in ((first, length), (first + length - 1, 1)):
                found = inside.find(file.location, *ask)
                assert found is not None
                assert found[1] >= 100
                assert found[1] + found[2] <= end
            assert inside.find(file.location, first, length + 1) is None
        inside.find(file.location, 0, None)
    assert inside_nothing(opened)


def inside_nothing(opened: Bundle) -> bool:
    """Tell whether what is not in a bundle is not found in it."""
    return opened.of("nowhere\0").find("x", 0, 1) is None


STATEMENT_REF = "os/x86_64/stable"


def read_statement(data: bytes) -> None:
    """Signed statements, whose signature is right: a root, or what a role says of a ref.

    The first byte says which: a root; the targets that delegate; the role of the ref.
    """
    from tuf.api.metadata import Metadata, Targets
    from tuf.api.serialization import DeserializationError

    kind, body = data[:1], data[1:]
    if kind == b"0":
        root = start(body).root
        assert root.roles["root"].threshold >= 1
        expiry_of(body)
        return
    try:
        said = Metadata[Targets].from_bytes(body).signed
    except DeserializationError:
        return
    if said.type != "targets":
        return
    seeds = Path(__file__).parent / "seeds" / "statement"
    other = "role" if kind == b"1" else "targets"
    told = Metadata[Targets].from_bytes((seeds / other).read_bytes()[1:]).signed
    targets, signed = (said, told) if kind == b"1" else (told, said)
    require_delegation(targets, STATEMENT_REF)
    entry = entry_of(STATEMENT_REF, targets, signed)
    assert entry.ref == STATEMENT_REF
    assert safe_location(entry.location)
    assert entry.offset + entry.length <= entry.size


def read_mirrorlist(data: bytes) -> None:
    """A list of mirrors, lines or a metalink."""
    found = parse_mirrorlist(data)
    assert 0 < len(found) <= 20
    assert len(set(found)) == len(found)
    for base in found:
        assert base.startswith(("http://", "https://"))
        assert parse_base(base) == base
        assert origin(base)
        assert "@" not in base.split("/")[2]


HARNESSES: dict[str, Harness] = {
    "set": Harness(read_set, 64 * MIB),
    "index": Harness(read_index, 4 * MIB),
    "trailer": Harness(read_trailer, MIB),
    "frame": Harness(read_frame, 24 * MIB),
    "head": Harness(read_head, 8 * MIB),
    "headers": Harness(read_headers, 4 * MIB),
    "map": Harness(read_map, 4 * MIB),
    "contents": Harness(read_contents, 4 * MIB),
    "pointer": Harness(read_pointer, 8 * MIB),
    "description": Harness(read_description, 8 * MIB),
    "table": Harness(read_table, 8 * MIB),
    "patches": Harness(read_patches, 8 * MIB),
    "patch": Harness(read_patch, _MAX_MEMORY),
    "linked": Harness(read_linked, _MAX_MEMORY),
    "recipe": Harness(read_recipe, _MAX_MEMORY + 16 * MIB),
    "container": Harness(read_container, _MAX_MEMORY + 16 * MIB),
    "update": Harness(read_update, 3 * _UPDATE_MEMORY),
    "packed-update": Harness(read_packed_update, 48 * MIB),
    "dirtree": Harness(read_dirtree, 4 * MIB),
    "commit": Harness(read_commit, 8 * MIB),
    "dirmeta": Harness(read_dirmeta, 4 * MIB),
    "repomd": Harness(read_repomd, 16 * MIB),
    "record": Harness(read_record, 160 * MIB),
    "primary": Harness(read_primary, 32 * MIB),
    "rpm": Harness(read_rpm, 64 * MIB, 8192 * MIB),
    "answer": Harness(read_answer, MIB),
    "bundle": Harness(read_bundle, 32 * MIB),
    "statement": Harness(read_statement, 16 * MIB),
    "mirrorlist": Harness(read_mirrorlist, 16 * MIB),
}
