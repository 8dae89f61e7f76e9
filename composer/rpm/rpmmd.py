"""Repositories of RPM metadata (rpm-md): repomd.xml, its records, the packages in primary.

Format: https://createrepo.baseurl.org, and what createrepo_c writes.  Rules kept
here: XML with entities off and without a DTD; a record's size and checksum are
checked before a byte of it is used; decompression stops at the declared size.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import re
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from composer.checksum import ContentDigest
from composer.errors import BoundExceeded, ChecksumMismatch, ComposerError, FormatError
from composer.rpm.package import Nevra, PackageRef, find_rpms, read_ref

REPOMD = "repodata/repomd.xml"
MAX_REPOMD = 1 << 20
MAX_PACKED = 1 << 30
MAX_UNPACKED = 1 << 32
_NAMESPACE = "{http://linux.duke.edu/metadata/repo}"
_CHUNK = 1 << 20
_MAX_WINDOW = 1 << 27
_XML = re.compile(
    rb"""(\xef\xbb\xbf)?(<\?xml\s+version\s*=\s*["']1\.0["']
    (\s+encoding\s*=\s*["'](utf-?8|us-ascii)["'])?
    (\s+standalone\s*=\s*["'](yes|no)["'])?\s*\?>)?\s*<[!a-z]""",
    re.IGNORECASE | re.VERBOSE,
)
_DOCTYPE = b"<!DOCTYPE"


@dataclass(frozen=True, slots=True)
class Record:
    """One ``<data>`` of repomd.xml: a file of the repository, and what it must be.

    Sizes in bytes, None where repomd.xml does not say; ``checksum`` is of the file
    as it lies there, None where it is of another type than SHA-256.
    """

    type: str
    location: str
    checksum: ContentDigest | None
    size: int | None
    open_size: int | None


@dataclass(frozen=True, slots=True)
class Repomd:
    """What repomd.xml says."""

    revision: str
    records: tuple[Record, ...]

    def find(self, type: str) -> Record | None:
        """The first record of ``type``, or None."""
        return next((record for record in self.records if record.type == type), None)

    def require(self, type: str) -> Record:
        """The first record of ``type``; raises FormatError when there is none."""
        if (record := self.find(type)) is None:
            raise FormatError(f"repomd.xml: has no data of type {type}")
        return record


def parse_repomd(data: bytes) -> Repomd:
    """Parse repomd.xml; raises FormatError for what is none."""
    from lxml import etree

    if len(data) > MAX_REPOMD:
        raise BoundExceeded(what="repomd.xml", bound=MAX_REPOMD)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise FormatError(f"repomd.xml: {error}") from None
    if cast("Any", root.getroottree().docinfo).doctype:
        raise FormatError("repomd.xml: has a document type, which rpm-md never has")
    if root.tag != f"{_NAMESPACE}repomd":
        raise FormatError(f"repomd.xml: the document is a <{str(root.tag)[:80]}>")
    records = tuple(_record(node) for node in root.findall(f"{_NAMESPACE}data"))
    return Repomd(root.findtext(f"{_NAMESPACE}revision") or "", records)


def _record(node: Any) -> Record:
    type = node.get("type") or ""
    location = node.find(f"{_NAMESPACE}location")
    href = location.get("href") if location is not None else None
    if not type or not href:
        raise FormatError("repomd.xml: a data record without type or location")
    _require_below(href, "repomd.xml")
    return Record(
        type=type,
        location=href,
        checksum=_checksum(node, type),
        size=_number(node, type, "size"),
        open_size=_number(node, type, "open-size"),
    )


def _require_below(location: str, what: str) -> None:
    """Refuse a location that leads out of the repository (CVE-2020-14352 in librepo)."""
    if location.startswith("/") or ".." in location.split("/") or "\0" in location:
        raise FormatError(f"{what}: location {location[:200]!r} leads out of the repository")


def _checksum(node: Any, type: str) -> ContentDigest | None:
    checksum = node.find(f"{_NAMESPACE}checksum")
    if checksum is None or checksum.get("type") != "sha256":
        return None
    try:
        return ContentDigest.parse((checksum.text or "").strip())
    except ValueError as error:
        raise FormatError(f"repomd.xml: {type}: checksum: {error}") from None


def _number(node: Any, type: str, name: str) -> int | None:
    text = (node.findtext(f"{_NAMESPACE}{name}") or "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise FormatError(f"repomd.xml: {type}: {name}: expected a number, got {text[:80]!r}")
    return int(text)


def unpack_record(
    packed: BinaryIO, record: Record, into: IO[bytes], *, limit: int = MAX_UNPACKED
) -> None:
    """Check ``packed``, the file of ``record``, then decompress it into ``into``.

    At most ``open_size`` bytes, and never more than ``limit``, are written.  Raises
    ChecksumMismatch, BoundExceeded, or FormatError for damaged or unknown compression.
    """
    check_record(packed, record)
    packed.seek(0)
    what = f"{record.type} of rpm-md"
    bound = limit if record.open_size is None else min(limit, record.open_size)
    written = 0
    for piece in _pieces(packed, record, what):
        written += len(piece)
        if written > bound:
            raise BoundExceeded(what=what, bound=bound)
        into.write(piece)
    if record.open_size is not None and written != record.open_size:
        raise FormatError(f"{what}: {written} bytes where {record.open_size} were declared")


def _pieces(packed: BinaryIO, record: Record, what: str) -> Iterator[bytes]:
    stream = _decompressed(packed, record)
    try:
        while piece := stream.read(_CHUNK):
            yield piece
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise FormatError(f"{what}: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise FormatError(f"{what}: {error}") from error  # gzip and bz2 mean the data


def check_record(packed: BinaryIO, record: Record) -> None:
    """Raise ChecksumMismatch when ``packed`` is not the file of ``record``."""
    if record.checksum is None:
        raise FormatError(
            f"repomd.xml: the checksum of {record.type} is not SHA-256",
            hint="make the metadata again: createrepo_c --checksum sha256",
        )
    state = hashlib.sha256()
    while piece := packed.read(_CHUNK):
        state.update(piece)
    if state.digest() != record.checksum:
        raise ChecksumMismatch(
            what=record.location, expected=str(record.checksum), actual=state.hexdigest()
        )


def unpack_small(packed: bytes, record: Record, *, limit: int) -> bytes:
    """The same in memory, for what has at most ``limit`` bytes."""
    into = io.BytesIO()
    unpack_record(io.BytesIO(packed), record, into, limit=limit)
    return into.getvalue()


def _decompressed(packed: BinaryIO, record: Record) -> BinaryIO:
    # liblzma allocates what a header claims, but touches only what it writes: the bound.
    openers: dict[str, Callable[[BinaryIO], object]] = {
        ".gz": lambda file: gzip.GzipFile(fileobj=file),
        ".xz": lzma.LZMAFile,
        ".bz2": bz2.BZ2File,
        ".zst": _zstd,
        ".xml": lambda file: file,
        ".json": lambda file: file,
    }
    suffix = Path(record.location).suffix
    if suffix not in openers:
        raise FormatError(f"{record.location}: unknown compression")
    return cast("BinaryIO", openers[suffix](packed))


def _zstd(file: BinaryIO) -> object:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
    return _ZstdReader(decompressor.stream_reader(file, read_across_frames=True))


class _ZstdReader:
    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        import zstandard

        try:
            return bytes(self._reader.read(size))
        except zstandard.ZstdError as error:
            raise EOFError(str(error)) from error


def find_packages(
    primary: Path, pkgids: Collection[ContentDigest], nevras: Collection[Nevra]
) -> list[PackageRef]:
    """Find packages by pkgid or by name in primary.xml, uncompressed, at ``primary``."""
    keys, names = {str(pkgid) for pkgid in pkgids}, {nevra.name for nevra in nevras}
    found = _packages(primary, lambda package: package.pkgId in keys or package.name in names)
    references = (_reference(package, "") for package in found)
    return [one for one in references if one.pkgid in pkgids or one.nevra in nevras]


def read_packages(directory: Path, repository: str = "") -> list[PackageRef]:
    """List the RPMs of a local directory, sorted: by its rpm-md, or else by reading each.

    ``repository`` is the id to give them.  Raises FormatError for rpm-md that is
    damaged or names packages by another checksum than SHA-256, PackageRefused.
    """
    if not (directory / REPOMD).is_file():
        paths = find_rpms([directory])
        places = [(path, path.relative_to(directory).as_posix()) for path in paths]
        return sorted(
            (read_ref(path, repository=repository, location=place) for path, place in places),
            key=_order,
        )
    with _local_primary(directory) as primary:
        found = _packages(primary, lambda package: True)
        return sorted((_reference(package, repository) for package in found), key=_order)


def _order(package: PackageRef) -> tuple[str, ContentDigest]:
    return str(package.nevra), package.pkgid


@contextmanager
def _local_primary(directory: Path) -> Iterator[Path]:
    try:
        record = parse_repomd((directory / REPOMD).read_bytes()).require("primary")
        with (
            (directory / record.location).open("rb") as packed,
            tempfile.NamedTemporaryFile(suffix=".xml") as plain,
        ):
            unpack_record(packed, record, plain)
            plain.flush()
            yield Path(plain.name)
    except ComposerError as error:
        raise error.within(str(directory)) from None


def each_package(primary: Path, found: Callable[[PackageRef], object]) -> None:
    """Call ``found`` with each package of an uncompressed primary.xml; none is held."""
    _parse_primary(primary, lambda package: found(_reference(package, "")))


def _packages(primary: Path, wanted: Callable[[Any], bool]) -> list[Any]:
    """The createrepo_c packages of an uncompressed primary.xml that are ``wanted``."""
    found: list[Any] = []

    def keep(package: Any) -> None:
        if wanted(package):
            found.append(package)

    _parse_primary(primary, keep)
    return found


def _parse_primary(primary: Path, each: Callable[[Any], object]) -> None:
    import createrepo_c

    with primary.open("rb") as stream:
        require_harmless(stream, "primary.xml")
    failed: list[Exception] = []

    def call(package: Any) -> None:
        try:
            each(package)
        except Exception as error:
            failed.append(error)  # createrepo_c tells another
            raise

    try:
        createrepo_c.xml_parse_primary(str(primary), None, call, None, 0)
    except createrepo_c.CreaterepoCError as error:
        raise failed[0] if failed else FormatError(f"primary.xml: {error}") from error


def require_harmless(stream: BinaryIO, what: str) -> None:
    """Refuse XML that createrepo_c must not see; rpm-md is UTF-8 and has no document type.

    It dies (SIGSEGV) of some damaged documents in an encoding that libxml2 converts.
    """
    head = stream.read(_CHUNK)
    if not _XML.match(head):
        raise FormatError(f"{what}: not XML in UTF-8")
    last = b""
    while head:
        # It has to stand before the first element, but comments of any length may too.
        if _DOCTYPE in last + head:
            raise FormatError(f"{what}: has a document type, which rpm-md never has")
        last, head = head[1 - len(_DOCTYPE) :], stream.read(_CHUNK)


def _reference(package: Any, repository: str) -> PackageRef:
    nevra = (
        f"{package.name}-{package.epoch or 0}:{package.version}-{package.release}.{package.arch}"
    )
    needed = ("name", "version", "release", "arch", "pkgId", "location_href")
    if lacks := [field for field in needed if not getattr(package, field)]:
        raise FormatError(f"primary.xml: {nevra[:200]}: a package without {lacks[0]}")
    if package.checksum_type != "sha256":
        raise FormatError(
            f"primary.xml: {nevra}: its checksum is {package.checksum_type}, not sha256",
            hint="make the metadata again: createrepo_c --checksum sha256",
        )
    _require_below(package.location_href, "primary.xml")
    try:
        parsed, pkgid = Nevra.parse(nevra), ContentDigest.parse(package.pkgId)
    except ValueError as error:
        raise FormatError(f"primary.xml: {nevra}: {error}") from None
    return PackageRef(parsed, pkgid, package.size_package, repository, package.location_href)
