"""What a repository on mirrors says: where its newest sets are, where its RPMs are.

The pointer (docs/format/pointer.md) is read when anything is wanted; the package
list, which is large, only when a location turned out to be wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from composer.errors import FormatError, NotFound, VerificationFailed
from composer.jigdo.pointer import MAX_POINTER, RECORD_TYPE, Pointer, PointerEntry, parse_pointer
from composer.net.fetch import Fetcher
from composer.net.location import safe_location
from composer.rpm.package import PackageRef
from composer.rpm.rpmmd import (
    MAX_PACKED,
    MAX_REPOMD,
    REPOMD,
    Record,
    Repomd,
    check_record,
    find_packages,
    parse_repomd,
    unpack_record,
    unpack_small,
)

_Got = TypeVar("_Got")


def find_entry(fetcher: Fetcher, ref: str) -> PointerEntry:
    """The newest set of ``ref``; raises NotFound when the repository has none."""
    return read_pointer(fetcher).find(ref)


def read_pointer(fetcher: Fetcher) -> Pointer:
    """Fetch the pointer: two small files.  Raises NotFound when there is none."""

    def read(repomd: Repomd) -> Pointer:
        record = repomd.find(RECORD_TYPE)
        if record is None:
            raise NotFound(
                f"{fetcher.mirrors}: the repository carries no jigdo sets",
                hint="is this the right URL?  `set build --output` publishes sets there",
            )
        packed = fetcher.fetch_small(
            record.location,
            limit=_size(record, MAX_POINTER),
            check=lambda data: _parse_pointer(data, record),
        )
        return _parse_pointer(packed, record)

    return _with_repomd(fetcher, read)


def _parse_pointer(packed: bytes, record: Record) -> Pointer:
    try:
        pointer = parse_pointer(unpack_small(packed, record, limit=MAX_POINTER))
        for entry in pointer.entries:
            safe_location(entry.location)
    except VerificationFailed as error:
        raise error.within(record.location) from None
    return pointer


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
    def read(repomd: Repomd) -> _Got:
        record = repomd.require("primary")
        with (
            tempfile.TemporaryFile(dir=spool) as packed,
            tempfile.NamedTemporaryFile(dir=spool, suffix=".xml") as plain,
        ):
            fetcher.fetch_file(
                record.location,
                length=_size(record, MAX_PACKED),
                into=cast("BinaryIO", packed),
                check=lambda file: check_record(file, record),
            )
            packed.seek(0)
            unpack_record(packed, record, plain)
            plain.flush()
            return look(Path(plain.name))

    return _with_repomd(fetcher, read)


def _size(record: Record, limit: int) -> int:
    if record.size is None or record.size > limit:
        raise FormatError(f"repomd.xml: {record.type}: a size of at most {limit} is needed")
    return record.size


def _with_repomd(fetcher: Fetcher, read: Callable[[Repomd], _Got]) -> _Got:
    """Fetch repomd.xml and ``read`` by it; once more when its files have gone meanwhile."""
    repomd = _fetch_repomd(fetcher)
    try:
        return read(repomd)
    except NotFound:
        # A mirror that is being updated may have replaced what the old repomd.xml names.
        if (again := _fetch_repomd(fetcher)) == repomd:
            raise
        return read(again)


def _fetch_repomd(fetcher: Fetcher) -> Repomd:
    return parse_repomd(fetcher.fetch_small(REPOMD, limit=MAX_REPOMD, check=parse_repomd))
