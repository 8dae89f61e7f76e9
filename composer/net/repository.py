"""What a repository on mirrors says: where its newest sets are, where its RPMs are.

The pointer (docs/format/pointer.md) is read when anything is wanted; the package
list, which is large, only when a location turned out to be wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from composer.checksum import ContentDigest
from composer.errors import FormatError, NotFound, VerificationFailed
from composer.jigdo.pointer import (
    MAX_POINTER,
    MAX_VERSIONS,
    RECORD_TYPE,
    VERSIONS_TYPE,
    Pointer,
    PointerEntry,
    Versions,
    find_version,
    parse_pointer,
    parse_versions,
)
from composer.net.fetch import Fetcher
from composer.net.location import safe_location
from composer.net.statement import STATEMENTS, Untrusted, versions_name
from composer.rpm.package import PackageRef
from composer.rpm.rpmmd import (
    MAX_PACKED,
    MAX_REPOMD,
    REPOMD,
    Record,
    Repomd,
    check_record,
    each_package,
    find_packages,
    parse_repomd,
    unpack_record,
    unpack_small,
)

_Got = TypeVar("_Got")


@dataclass(frozen=True, slots=True)
class Listing:
    """What the rpm-md of a repository says at one moment; ``data`` is its repomd.xml.

    The lists are empty where it carries no sets.
    """

    data: bytes
    repomd: Repomd
    pointer: Pointer
    versions: Versions

    @property
    def entries(self) -> tuple[PointerEntry, ...]:
        """All sets: the newest of each ref, then the others."""
        return (*self.pointer.entries, *self.versions.entries)


def read_listing(fetcher: Fetcher) -> Listing:
    """Fetch repomd.xml and the two lists of sets that it names."""
    read: list[bytes] = []

    def listing(repomd: Repomd) -> Listing:
        carries = repomd.find(RECORD_TYPE) is not None
        pointer = _read_pointer(fetcher, repomd) if carries else Pointer()
        return Listing(read[-1], repomd, pointer, _read_versions(fetcher, repomd))

    def check(data: bytes) -> None:
        read.append(data)
        parse_repomd(data)

    return _with_repomd(fetcher, listing, check)


def read_packages_of(
    fetcher: Fetcher, repomd: Repomd, found: Callable[[PackageRef], object]
) -> None:
    """Call ``found`` with each package of the package list that ``repomd`` names."""

    def look(primary: Path) -> None:
        each_package(primary, found)

    _unpacked_primary(fetcher, repomd, None, look)


def find_entry(fetcher: Fetcher, ref: str, wanted: str = "") -> PointerEntry:
    """The newest set of ``ref``, or that of a version or commit.

    Only for the latter the list of other versions is read.  Raises NotFound when the
    repository has no such set.
    """

    def read(repomd: Repomd) -> PointerEntry:
        newest = _read_pointer(fetcher, repomd).find(ref)
        if wanted in ("", newest.version, str(newest.commit)):
            return newest
        others = _read_versions(fetcher, repomd).entries
        return find_version(newest, [one for one in others if one.ref == ref], wanted)

    return _with_repomd(fetcher, read)


def find_signed_version(
    fetcher: Fetcher, newest: PointerEntry, digest: str, wanted: str
) -> PointerEntry:
    """The set of a version or commit that is not the newest, by a list whose digest is signed.

    Raises NotFound when it has no such set, Untrusted when the list is another.
    """
    versions = _read_signed_versions(fetcher, newest.ref, digest) if digest else Versions()
    return find_version(newest, versions.entries, wanted)


def _read_signed_versions(fetcher: Fetcher, ref: str, digest: str) -> Versions:
    """Read the list from beside the statements, or from rpm-md where a copy has that alone."""

    def check(data: bytes) -> None:
        if str(ContentDigest.of(data)) != digest:
            raise _other_list(fetcher, ref)

    location = f"{STATEMENTS}/{versions_name(digest)}"
    try:
        data = fetcher.fetch_small(location, limit=MAX_VERSIONS, check=check)
    except (NotFound, VerificationFailed):
        found = read_versions(fetcher).of(ref)
        if str(found.digest(ref) or "") != digest:
            raise _other_list(fetcher, ref) from None
        return found
    return _checked(parse_versions(data))


def _other_list(fetcher: Fetcher, ref: str) -> Untrusted:
    return Untrusted(
        f"{ref}: the list of its versions is not the one that is signed for",
        details=[f"from {fetcher.mirrors}"],
        hint="a mirror may be in the middle of copying: try again later, or another one; "
        "the publisher signs anew with `mirror refresh`",
    )


def read_pointer(fetcher: Fetcher) -> Pointer:
    """Fetch the pointer: two small files.  Raises NotFound when there is none."""
    return _with_repomd(fetcher, lambda repomd: _read_pointer(fetcher, repomd))


def read_versions(fetcher: Fetcher) -> Versions:
    """Fetch the list of sets that are not the newest; it may be empty."""
    return _with_repomd(fetcher, lambda repomd: _read_versions(fetcher, repomd))


def _read_pointer(fetcher: Fetcher, repomd: Repomd) -> Pointer:
    record = repomd.find(RECORD_TYPE)
    if record is None:
        raise NotFound(
            f"{fetcher.mirrors}: the repository carries no jigdo sets",
            hint="is this the right URL?  `set build --output` publishes sets there",
        )
    return _fetch_list(fetcher, record, MAX_POINTER, parse_pointer)


def _read_versions(fetcher: Fetcher, repomd: Repomd) -> Versions:
    record = repomd.find(VERSIONS_TYPE)
    if record is None:
        return Versions()
    return _fetch_list(fetcher, record, MAX_VERSIONS, parse_versions)


_List = TypeVar("_List", Pointer, Versions)


def _checked(found: _List) -> _List:
    for entry in found.entries:
        safe_location(entry.location)
    return found


def _fetch_list(
    fetcher: Fetcher, record: Record, limit: int, parse: Callable[[bytes], _List]
) -> _List:
    def read(packed: bytes) -> _List:
        try:
            found = _checked(parse(unpack_small(packed, record, limit=limit)))
        except VerificationFailed as error:
            raise error.within(record.location) from None
        return found

    return read(fetcher.fetch_small(record.location, limit=_size(record, limit), check=read))


def locate_packages(
    fetcher: Fetcher, wanted: Collection[PackageRef], *, spool: Path | None = None
) -> list[PackageRef]:
    """Find RPMs in the package list, which passes through a file in ``spool``.

    Returns what has the pkgid of a package that is wanted, or its name (NEVRA): that was
    made anew, or is another.
    """
    pkgids = {package.pkgid for package in wanted}
    nevras = {package.nevra for package in wanted}
    return _with_primary(fetcher, spool, lambda primary: find_packages(primary, pkgids, nevras))


def _with_primary(fetcher: Fetcher, spool: Path | None, look: Callable[[Path], _Got]) -> _Got:
    return _with_repomd(fetcher, lambda repomd: _unpacked_primary(fetcher, repomd, spool, look))


def _unpacked_primary(
    fetcher: Fetcher, repomd: Repomd, spool: Path | None, look: Callable[[Path], _Got]
) -> _Got:
    record = repomd.require("primary")
    with (
        tempfile.TemporaryFile(dir=spool) as packed,
        tempfile.NamedTemporaryFile(dir=spool, suffix=".xml") as plain,
    ):
        fetch_record(fetcher, record, cast("BinaryIO", packed))
        packed.seek(0)
        unpack_record(packed, record, plain)
        plain.flush()
        return look(Path(plain.name))


def fetch_record(fetcher: Fetcher, record: Record, into: BinaryIO) -> None:
    """Fetch a file that repomd.xml names, as it lies there, and check it."""
    fetcher.fetch_file(
        record.location,
        length=_size(record, MAX_PACKED),
        into=into,
        check=lambda file: check_record(file, record),
    )


def _size(record: Record, limit: int) -> int:
    if record.size is None or record.size > limit:
        raise FormatError(f"repomd.xml: {record.type}: a size of at most {limit} is needed")
    return record.size


def _with_repomd(
    fetcher: Fetcher,
    read: Callable[[Repomd], _Got],
    check: Callable[[bytes], object] = parse_repomd,
) -> _Got:
    """Fetch repomd.xml and ``read`` by it; once more when its files have gone meanwhile."""
    repomd = _fetch_repomd(fetcher, check)
    try:
        return read(repomd)
    except NotFound:
        # A mirror that is being updated may have replaced what the old repomd.xml names.
        if (again := _fetch_repomd(fetcher, check)) == repomd:
            raise
        return read(again)


def _fetch_repomd(fetcher: Fetcher, check: Callable[[bytes], object]) -> Repomd:
    return parse_repomd(fetcher.fetch_small(REPOMD, limit=MAX_REPOMD, check=check))
