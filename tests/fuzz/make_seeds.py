"""Write the seeds of every harness out of a real set, a real update and real RPMs.

``python -m tests.fuzz.make_seeds``: the same bytes each time, small.  Seeds that a fuzzer
found are kept beside them under other names, and stay.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import zstandard

from composer.checksum import ContentDigest, ObjectChecksum
from composer.jigdo.container import TRAILER_SIZE, Codec, Frame, IndexPlace, Kind, compress
from composer.jigdo.delta.building import DeltaOptions
from composer.jigdo.delta.codecs import BsDiff, HDiff, Zstd
from composer.jigdo.delta.frames import compress_update, join_patches
from composer.jigdo.delta.linking import Learning, Linked, moves_of
from composer.jigdo.delta.table import DeltaContent, Piece, dump_table, make_table
from composer.jigdo.description import join_description, make_update
from composer.jigdo.encoding import prefixed, uvarint
from composer.jigdo.manifest import dump_contents, dump_map, make_contents, make_map
from composer.jigdo.pointer import Pointer, PointerEntry, UpdatePlace
from composer.jigdo.reader import JigdoSet
from composer.jigdo.repack import analyse
from composer.net.bundle import BundledFile, BundledRef, dump_index
from composer.net.statement import CUSTOM, role_of
from composer.ostree.repo import Repository
from tests.fuzz.harnesses import BASE, STATEMENT_REF
from tests.jigdo.delta.modules import Kernel, module
from tests.jigdo.delta.programs import library
from tests.jigdo.sets import SetOnDisk, build, local_packages, place_of, write_files
from tests.rpm.crafted import RpmFile, rpm_bytes, symlink

SEEDS = Path(__file__).parent / "seeds"
TEXT = b"".join(b"line %d of a manual page\n" % n for n in range(60))
NEW = BASE[:3000] + b"put in" + BASE[3100:9000] + b"\x01" + BASE[9001:]


def main() -> None:
    """Write all seeds."""
    with tempfile.TemporaryDirectory() as directory:
        made = _set(Path(directory))
    _of_set(made)
    _of_deltas()
    _of_repository(made)
    _of_rpm()
    _of_statements()
    _of_mirrorlists()


def _save(harness: str, name: str, data: bytes) -> None:
    place = SEEDS / harness
    place.mkdir(parents=True, exist_ok=True)
    (place / name).write_bytes(data)


def _set(where: Path) -> SetOnDisk:
    """Build a set of two packages with deltas from an older commit."""
    repo = Repository.create(where / "source", mode="bare-user")
    label = ((b"security.selinux", b"system_u:object_r:usr_t:s0\0"),)
    old = {"/usr/lib/prog": BASE[:4000], "/usr/man.gz": gzip.compress(TEXT, 9, mtime=0)}
    new = {"/usr/lib/prog": NEW[:4000], "/usr/man.gz": gzip.compress(TEXT + b"more\n", 9, mtime=0)}
    base = write_files(repo, old | {"/usr/own": b"own 1\n" * 40}, xattrs=label)
    files = new | {"/usr/own": b"own 2\n" * 40, "/usr/new": b"new\n"}
    commit = write_files(repo, files, xattrs=label)
    paths = []
    for name, path in (("prog", "/usr/lib/prog"), ("man", "/usr/man.gz")):
        paths.append(where / f"{name}.rpm")
        paths[-1].write_bytes(rpm_bytes([RpmFile(path, new[path])], name=name))
    return build(
        repo,
        commit,
        local_packages(paths),
        where,
        deltas=DeltaOptions(bases=(base,), rpm="all"),
    )


def _of_set(made: SetOnDisk) -> None:
    jigdo, data = made.open(), made.data
    _save("set", "deltas", data)
    place = place_of(data)
    index = jigdo.index.dump()
    _save("index", "deltas", struct.pack("<Q", place.offset) + index)
    _save("trailer", "deltas", struct.pack("<Q", len(data)) + data[-TRAILER_SIZE:])
    frames = {frame.kind: (frame, whole) for frame, whole in jigdo.frames(_all(jigdo))}
    _save("head", "deltas", frames[Kind.HEAD][1])
    _save("headers", "labelled", frames[Kind.HEADERS][1])
    _save("map", "one", frames[Kind.MAP][1])
    _save("table", "none", frames[Kind.DELTAS][1])
    contents = frames[Kind.CONTENTS][1]
    stream = sum(frame.uncompressed for frame in jigdo.index.of(Kind.DATA))
    _save("contents", "deltas", struct.pack("<Q", stream) + contents)
    wholes = {frame.number: whole for frame, whole in jigdo.frames(_all(jigdo))}
    description = join_description(jigdo.index, lambda frame: wholes[frame.number])
    assert description is not None
    _save("description", "deltas", struct.pack("<IQ", len(index), place.offset) + description)
    for frame, whole in jigdo.frames(_all(jigdo)):
        if frame.kind in (Kind.COMMIT, Kind.PATCH, Kind.TREE):
            packed = data[frame.offset : frame.end]
            head = struct.pack("<BBI", frame.codec, frame.window, len(whole))
            _save("frame", frame.kind.name.lower(), head + packed)
        if frame.kind is Kind.PATCH:
            count = whole[0]
            _save("patches", f"frame-{frame.number}", bytes([count]) + b"\1" * count + whole)
    for name, size in (("bomb", 0), ("short", 100_000)):
        packed, codec, window = compress(bytes(100_000))
        _save("frame", f"zstd-{name}", struct.pack("<BBI", codec, window, size) + packed)
        _save("frame", f"xz-{name}", struct.pack("<BBI", Codec.XZ, 17, size) + _xz(bytes(100_000)))
    start = jigdo.read_commit()
    _save("commit", "deltas", start.data)
    _save("dirmeta", "labelled", jigdo.read_start()[1][0])
    for number, (_, tree) in enumerate(jigdo.dirtrees(jigdo.index.of(Kind.TREE))):
        _save("dirtree", f"tree-{number}", tree)
    rows = [(0, 3, 0, 10), (0, 4, 1, 10), (2, 999, 7, 1 << 40)]
    _save("map", "several", dump_map(make_map(ContentDigest.of(b""), rows)))
    table = make_contents([5, 300, 0], [(0, 0, 0), (7, 1, 2), (999, 2, 7)])
    _save("contents", "several", struct.pack("<Q", 305) + dump_contents(table))


def _all(jigdo: JigdoSet) -> list[Frame]:
    return [jigdo.index[number] for number in range(len(jigdo.index))]


def _xz(data: bytes) -> bytes:
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 17}
    return lzma.compress(data, lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=[lzma2])


def _of_deltas() -> None:
    patches = [(int(codec.number), codec.make(BASE, NEW)) for codec in (HDiff(), Zstd(), BsDiff())]
    for number, patch in patches:
        size = len(NEW).to_bytes(4, "little")
        _save("patch", f"codec-{number}", bytes([number]) + size + patch)
    _save("patch", "full", b"\0" + (4).to_bytes(4, "little") + b"full")
    _save("patch", "claims-much", b"\1" + b"\xff\xff\x3f\0" + patches[0][1])
    old, new = Kernel(100_000, 1_000_000), Kernel(100_037, 1_000_411)
    base, target = module(1, old, functions=6), module(1, new, functions=6, inserted=3)
    learning = Learning()
    learning.add(moves_of(base, target))
    linked = Linked(learning.shared()).make(base, target)
    _save("linked", "module", struct.pack("<II", len(base), len(target)) + base + linked)
    old_image, new_image = library(1, functions=6), library(1, functions=6, inserted=3)
    moved = Linked().make(old_image, new_image)
    sizes = struct.pack("<II", len(old_image), len(new_image))
    _save("linked", "image", sizes + old_image + moved)
    pool = join_patches([*patches, (0, b"whole"), (5, linked), (5, linked)])
    _save("patches", "mixed", bytes([6, 1, 2, 3, 0, 5, 5]) + pool)
    packed = gzip.compress(TEXT, 9, mtime=0)
    recipe = analyse(packed)
    assert recipe is not None
    pieces = (Piece(1, 7, 4, 0), Piece(0, 8, 4, 1), Piece(3, 1 << 20, 9, 0))
    contents = [
        DeltaContent(0, 15, 1, pieces[:2]),
        DeltaContent(9, len(packed), 2, pieces[2:]),
        DeltaContent(7, 1 << 33, 0, ()),
    ]
    objects = [(0, 0, 0), (5, 1, 3), (5, 2, 7), (999, 2, 1)]
    table = make_table(ObjectChecksum(bytes(32)), [recipe.dump()], contents, objects)
    _save("table", "several", dump_table(table))
    containers = {
        "gzip": packed,
        "xz": lzma.compress(TEXT),
        "zstd": zstandard.ZstdCompressor(19).compress(TEXT),
        "bzip2": bz2.compress(TEXT),
    }
    containers["several"] = b"070701" + b"".join(containers.values()) + bytes(20) + packed
    for name, data in containers.items():
        _save("container", name, data)
        if found := analyse(data):
            _save("recipe", name, found.dump())
    for name, compressor in (("gzip", gzip.compress), ("xz", lzma.compress), ("bz2", bz2.compress)):
        _save("container", f"{name}-bomb", compressor(bytes(5 << 20)))
    _save("container", "zstd-bomb", zstandard.ZstdCompressor(19).compress(bytes(5 << 20)))
    update, length, _ = make_update(BASE, NEW, b"deltas")
    plain = lzma.decompress(update)
    assert len(plain) == length
    _save("update", "plain", plain[32:])
    _save("packed-update", "small", update)
    _save("packed-update", "bomb", compress_update(bytes(3 << 20)))
    claims = uvarint(32 << 20) + uvarint(0) + prefixed(b"\1") + uvarint(32 << 20)
    _save("update", "claims-much", claims + join_patches([(1, patches[0][1])]))


def _of_repository(made: SetOnDisk) -> None:
    place = place_of(made.data)
    update = UpdatePlace(made.commit, place.offset + place.size, 0, 10, ContentDigest.of(b""))
    entry = PointerEntry(
        ref="test/x86_64/os",
        version="1",
        commit=made.commit,
        timestamp=1_700_000_000,
        location="sets/jigdo-test.rpm",
        pkgid=ContentDigest.of(b"rpm"),
        size=len(made.data) + 500,
        offset=500,
        length=len(made.data),
        index=place,
        updates=(update,),
    )
    _save("pointer", "one", Pointer((entry,)).dump())
    _save("repomd", "two", _REPOMD.encode())
    _save("repomd", "entities", _ENTITIES.encode())
    primary = _PRIMARY.encode()
    _save("primary", "one", primary)
    _save("record", "gz", b"\0" + gzip.compress(primary, mtime=0))
    _save("record", "xz", b"\1" + lzma.compress(primary))
    _save("record", "bz2", b"\2" + bz2.compress(primary))
    _save("record", "zst", b"\3" + zstandard.ZstdCompressor().compress(primary))
    for number, packer in ((0, _gzip), (1, lzma.compress), (2, bz2.compress), (3, _zstd)):
        _save("record", f"bomb-{number}", bytes([number]) + packer(bytes(3 << 20)))
    refs = [
        BundledRef("test/os", "2", made.commit, made.commit, "1"),
        BundledRef("test/x", "", made.commit),
    ]
    files = [
        BundledFile("", "repodata/repomd.xml", ((0, 300),), True),
        BundledFile("", "sets/jigdo-test.rpm", ((500, 100), (900, 1), (902, 5000))),
        BundledFile("base", "Packages/prog.rpm", ((0, 7000),)),
    ]
    _save("bundle", "three", dump_index(refs, files))
    _save("answer", "part", b"10 5 206\ncontent-range: bytes 10-14/100\n\nabcde")
    _save("answer", "whole", b"10 5 200\ncontent-length: 20\n\n0123456789abcdefghij")
    _save("answer", "bound", b"0 50 200 bound\ncontent-length: 5\n\nabcde")
    _save("answer", "error", b"0 50 404 whole\ncontent-type: text/html\n\n<html>")


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _zstd(data: bytes) -> bytes:
    return bytes(zstandard.ZstdCompressor().compress(data))


_REPOMD = """<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision>
<data type="primary"><checksum type="sha256">{0}</checksum><location href="repodata/p.xml.gz"/>
<size>10</size><open-size>20</open-size></data>
<data type="jigdo"><checksum type="sha256">{0}</checksum><location href="repodata/j.json.zst"/>
<size>10</size></data></repomd>
""".format("0" * 64)
_ENTITIES = """<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>&b;</revision></repomd>
"""
_PRIMARY = """<?xml version="1.0" encoding="UTF-8"?>
<metadata xmlns="http://linux.duke.edu/metadata/common"
 xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="1"><package type="rpm">
<name>prog</name><arch>noarch</arch><version epoch="0" ver="1" rel="1"/>
<checksum type="sha256" pkgid="YES">{}</checksum><summary>s</summary><description>d</description>
<time file="1" build="1"/><size package="10" installed="10" archive="10"/>
<location href="Packages/prog.rpm"/><format><rpm:header-range start="1" end="2"/></format>
</package></metadata>
""".format("0" * 64)


def _of_rpm() -> None:
    files = [
        RpmFile("/usr/bin/prog", b"program\n"),
        RpmFile("/usr/lib/a", b"twin\n", inode=7),
        RpmFile("/usr/lib/b", b"twin\n", inode=7),
        symlink("/usr/bin/link", "prog"),
    ]
    for compressor in ("gzip", "xz", "zstd", "bzip2"):
        # Without its digest a change in the header reaches the code behind librpm's check.
        data = rpm_bytes(files, compressor=compressor, header_digest=False)
        _save("rpm", compressor, data)


def _of_statements() -> None:
    """Metadata as :mod:`composer.mirror.trust` makes it, by a key that is no secret."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import (
        DelegatedRole,
        Delegations,
        Metadata,
        Root,
        TargetFile,
        Targets,
    )
    from tuf.api.serialization.json import JSONSerializer

    until = datetime(2099, 1, 1, tzinfo=UTC)
    signer = CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    key, role = signer.public_key, role_of(STATEMENT_REF)
    root = Root(version=2, expires=until, consistent_snapshot=True)
    for name in ("root", "timestamp", "snapshot", "targets"):
        root.add_key(key, name)
    found = PointerEntry(
        ref=STATEMENT_REF,
        version="1",
        commit=ObjectChecksum(bytes(32)),
        timestamp=1_700_000_000,
        location="jigdo/os-1-1.noarch.rpm",
        pkgid=ContentDigest.of(b"rpm"),
        size=9000,
        offset=1000,
        length=8000,
        index=IndexPlace(4000, 500, 900, ContentDigest.of(b"index")),
    )
    own = json.loads(Pointer((found,)).dump())["refs"][0]
    file = TargetFile(9000, {"sha256": str(found.pkgid)}, found.location, {"custom": {CUSTOM: own}})
    delegated = DelegatedRole(role, [key.keyid], 1, True, paths=["jigdo/*"])
    delegations = Delegations({key.keyid: key}, {role: delegated})
    documents: dict[tuple[str, bytes], Root | Targets] = {
        ("root", b"0"): root,
        ("targets", b"1"): Targets(expires=until, delegations=delegations),
        ("role", b"2"): Targets(expires=until, targets={found.location: file}),
    }
    for (name, kind), signed in documents.items():
        metadata: Metadata[Any] = Metadata(signed)
        metadata.sign(signer)
        _save("statement", name, kind + metadata.to_bytes(JSONSerializer(compact=False)))


def _of_mirrorlists() -> None:
    _save(
        "mirrorlist", "lines", b"# a list\nhttps://a.example/os/\nhttp://b.example/os\nftp://c/\n"
    )
    url = "<url protocol='https' preference='%d'>https://%s.example/repodata/repomd.xml</url>"
    urls = "".join(url % (100 - n, name) for n, name in enumerate("abc"))
    _save("mirrorlist", "metalink", f"<metalink version='3.0'>{urls}</metalink>".encode())
    urls = urls.replace("preference", "priority")
    name = "urn:ietf:params:xml:ns:metalink"
    _save("mirrorlist", "metalink-4", f"<metalink xmlns='{name}'>{urls}</metalink>".encode())
    _save("mirrorlist", "entities", _ENTITIES.encode())


if __name__ == "__main__":
    main()
