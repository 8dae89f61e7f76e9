"""What a mirror takes from its origin beside RPMs: rpm-md and signed statements, as they are.

All of it is read before anything is fetched, and checked: files of repomd.xml by their
checksums, statements by TUF's rules.  Copies are byte for byte, so signatures hold.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, NotFound
from composer.jigdo.pointer import MAX_VERSIONS, PointerEntry
from composer.mirror.needs import Place, require_place
from composer.net.fetch import Fetcher
from composer.net.network import Network
from composer.net.repository import Listing, fetch_record, read_listing
from composer.net.statement import MAX_ROOT, STATEMENTS, role_of, start, versions_name
from composer.net.trust import Statement, read_statements
from composer.net.trust_store import TrustStore
from composer.rpm.rpmmd import REPOMD, Record, check_record
from composer.system.files import writing

SIGNATURES = (f"{REPOMD}.asc", f"{REPOMD}.key")
_MAX_SIGNATURE = 1 << 20


@dataclass(frozen=True, slots=True)
class Signed:
    """Signed statements by ref, and the files that make them, in the order to publish them."""

    statements: dict[str, Statement]
    files: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Origin:
    """A repository to copy from, at one moment."""

    place: Place
    listing: Listing
    signatures: dict[str, bytes]
    signed: Signed | None

    @property
    def entries(self) -> list[PointerEntry]:
        """All sets that the pointers or the statements name."""
        stated = [one.entry for one in self.signed.statements.values()] if self.signed else []
        found = {(one.ref, one.commit): one for one in (*self.listing.entries, *stated)}
        return list(found.values())

    @property
    def metadata_bytes(self) -> int:
        """Of all metadata."""
        small = [self.listing.data, *self.signatures.values()]
        small += self.signed.files.values() if self.signed else ()
        records = sum(record.size or 0 for record in self.listing.repomd.records)
        return sum(map(len, small)) + records


def read_origin(
    fetcher: Fetcher, place: Place, *, root: bytes | None, trust: Path | None, network: Network
) -> Origin:
    """Read what ``place`` says; ``trust`` remembers statements, so that they never go back.

    Without ``root`` statements have to fit the origin's own first root, and may have expired.
    Raises NotFound, VerificationFailed and their kin.
    """
    listing = read_listing(fetcher)
    for record in listing.repomd.records:
        require_place(record.location, rpm=False)
    signatures = {}
    for location in SIGNATURES:
        try:
            signatures[location] = fetcher.fetch_small(location, limit=_MAX_SIGNATURE)
        except NotFound:
            continue
    return Origin(place, listing, signatures, _read_signed(fetcher, place, root, trust, network))


def _read_signed(
    fetcher: Fetcher, place: Place, root: bytes | None, trust: Path | None, network: Network
) -> Signed | None:
    pinned = root or _root(fetcher, 1)
    if pinned is None:
        return None
    with _store(trust, pinned) as store:
        statements = read_statements(
            place.mirrors, store, ignore_expiry=root is None, network=network
        )
        lists = _version_lists(fetcher, statements)
        roles = [*map(role_of, sorted(statements)), "targets", "snapshot", "timestamp", "root"]
        files = {}
        for role in roles:
            # What follows from the pinned root itself needs none that was read.
            data = store.read(role) or (pinned if role == "root" else None)
            assert data is not None
            files[_location(role, data)] = data
    newest = int(next(reversed(files)).removeprefix(f"{STATEMENTS}/").partition(".")[0])
    # Clients may have been given any of the roots before.
    last = files.popitem()
    for version in range(1, newest):
        if (data := _root(fetcher, version)) is not None:
            files[f"{STATEMENTS}/{version}.root.json"] = data
    return Signed(statements, lists | files | dict([last]))


def _version_lists(fetcher: Fetcher, statements: Mapping[str, Statement]) -> dict[str, bytes]:
    """Fetch the lists that the statements name; one that lacks is in rpm-md, too."""
    found = {}
    for digest in sorted({one.versions for one in statements.values()} - {""}):
        location = f"{STATEMENTS}/{versions_name(digest)}"
        with suppress(NotFound):
            data = fetcher.fetch_small(location, limit=MAX_VERSIONS)
            if str(ContentDigest.of(data)) != digest:
                raise ChecksumMismatch(
                    what=location, expected=digest, actual=str(ContentDigest.of(data))
                )
            found[location] = data
    return found


@contextmanager
def _store(trust: Path | None, pinned: bytes) -> Iterator[TrustStore]:
    if trust is not None:
        yield TrustStore(trust, "origin", pinned)
        return
    with tempfile.TemporaryDirectory(prefix="jigdo-sync.") as place:
        yield TrustStore(Path(place), "origin", pinned)


def _root(fetcher: Fetcher, version: int) -> bytes | None:
    try:
        return fetcher.fetch_small(
            f"{STATEMENTS}/{version}.root.json", limit=MAX_ROOT, check=start, kind="trust"
        )
    except NotFound:
        return None


def _location(role: str, data: bytes) -> str:
    if role == "timestamp":
        return f"{STATEMENTS}/timestamp.json"
    return f"{STATEMENTS}/{int(json.loads(data)['signed']['version'])}.{role}.json"


def stage_records(fetcher: Fetcher, origin: Origin, directory: Path, staging: Path) -> list[str]:
    """Fetch the files that repomd.xml names and ``directory`` lacks; returns their locations.

    They lie in ``staging``, verified, under the same locations.
    """
    fetched = []
    for record in origin.listing.repomd.records:
        if _is_here(directory / record.location, record):
            continue
        if not _is_here(staging / record.location, record):
            with (
                tempfile.TemporaryFile(dir=staging) as whole,
                writing(staging / record.location) as stream,
            ):
                fetch_record(fetcher, record, cast("BinaryIO", whole))
                whole.seek(0)
                shutil.copyfileobj(whole, stream, 1 << 20)
        fetched.append(record.location)
    return fetched


def _is_here(path: Path, record: Record) -> bool:
    try:
        with path.open("rb") as stream:
            check_record(stream, record)
    except (FileNotFoundError, NotADirectoryError, ChecksumMismatch):
        return False
    return True
