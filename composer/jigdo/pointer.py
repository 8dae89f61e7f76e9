"""The pointer: per ref, which RPM is its newest set and where the index lies in it.

docs/format/pointer.md section 2 is the norm; section 4 that of the other versions.  Pure:
bytes in, frozen values out, and back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import FormatError, NotFound
from composer.jigdo.container import MAX_BASES, IndexPlace

RECORD_TYPE = "jigdo"
VERSIONS_TYPE = "jigdo-versions"
MAX_POINTER = 1 << 20
MAX_VERSIONS = 1 << 23
MAX_UPDATE = 1 << 27
_FORMAT = 1
_HINT = "the mirror may be damaged or in the middle of an update: try again later"
_HEX = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_SIZE = Annotated[int, Field(ge=0, lt=1 << 62)]


@dataclass(frozen=True, slots=True)
class UpdatePlace:
    """One update of a set: from which commit, where in the .jigdo file, and what it must be."""

    base: ObjectChecksum
    offset: int
    size: int
    uncompressed: int
    digest: ContentDigest


@dataclass(frozen=True, slots=True)
class PointerEntry:
    """One set of a ref.

    ``location``, ``pkgid`` and ``size`` are the RPM's; the ``.jigdo`` file is the
    ``length`` bytes from ``offset`` on in it, and ``index`` counts from that file's
    start.  ``timestamp`` is the commit's.
    """

    ref: str
    version: str
    commit: ObjectChecksum
    timestamp: int
    location: str
    pkgid: ContentDigest
    size: int
    offset: int
    length: int
    index: IndexPlace
    updates: tuple[UpdatePlace, ...] = ()


@dataclass(frozen=True, slots=True)
class Pointer:
    """The newest set of every ref of a repository, sorted by ref."""

    entries: tuple[PointerEntry, ...] = ()

    def get(self, ref: str) -> PointerEntry | None:
        """The entry of ``ref``, or None."""
        return next((entry for entry in self.entries if entry.ref == ref), None)

    def find(self, ref: str) -> PointerEntry:
        """The entry of ``ref``; raises NotFound that lists what there is."""
        if (entry := self.get(ref)) is not None:
            return entry
        known = [entry.ref for entry in self.entries]
        raise NotFound(
            f"{ref}: the repository has no jigdo set of this ref",
            details=[f"it has: {', '.join(known[:20])}" if known else "it has none at all"],
            hint="check the spelling; or another remote has it: `remote list`",
        )

    def with_entry(self, entry: PointerEntry) -> Pointer:
        """The same with ``entry`` in place of its ref's old one."""
        others = [other for other in self.entries if other.ref != entry.ref]
        return Pointer(tuple(sorted([*others, entry], key=lambda one: one.ref)))

    def dump(self) -> bytes:
        """Serialise; equal pointers give equal bytes."""
        return _dump(self.entries)


@dataclass(frozen=True, slots=True)
class Versions:
    """The sets of a repository that are not their refs' newest, sorted by ref and time."""

    entries: tuple[PointerEntry, ...] = ()

    def with_entry(self, entry: PointerEntry) -> Versions:
        """The same with ``entry`` in place of its commit's old one."""
        others = self.without(entry.ref, entry.commit).entries
        return Versions(tuple(sorted([*others, entry], key=_version_key)))

    def without(self, ref: str, commit: ObjectChecksum) -> Versions:
        """The same without the set of a commit."""
        kept = (one for one in self.entries if (one.ref, one.commit) != (ref, commit))
        return Versions(tuple(kept))

    def of(self, ref: str) -> Versions:
        """The same with the entries of one ref alone."""
        return Versions(tuple(entry for entry in self.entries if entry.ref == ref))

    def digest(self, ref: str) -> ContentDigest | None:
        """What a statement says of a ref's entries: the digest of their dump; None for none."""
        own = self.of(ref)
        return ContentDigest.of(own.dump()) if own.entries else None

    def dump(self) -> bytes:
        """Serialise; equal values give equal bytes."""
        return _dump(self.entries)


NO_VERSIONS = Versions()


def find_version(newest: PointerEntry, others: Sequence[PointerEntry], wanted: str) -> PointerEntry:
    """Find the set of a version, the latest that has it, or of a commit by its checksum.

    ``others`` are older sets of the ref, by time.  Raises NotFound that lists the versions.
    """
    entries = [*others, newest]
    for entry in reversed(entries):
        if wanted in (str(entry.commit), entry.version):
            return entry
    known = list(dict.fromkeys(one.version or str(one.commit) for one in reversed(entries)))
    raise NotFound(
        f"{newest.ref}: the repository has no set of version {wanted}",
        details=[f"it has: {', '.join(known[:20])}"],
        hint="older versions are there as long as the publisher keeps their sets",
    )


def _version_key(entry: PointerEntry) -> tuple[str, int, ObjectChecksum]:
    return entry.ref, entry.timestamp, entry.commit


def _dump(entries: Sequence[PointerEntry]) -> bytes:
    document = {"format": _FORMAT, "refs": [dump_entry(entry) for entry in entries]}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode() + b"\n"


class _Set(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    location: Annotated[str, Field(min_length=1, max_length=4096)]
    pkgid: _HEX
    size: _SIZE
    offset: _SIZE
    length: _SIZE


class _Index(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    offset: _SIZE
    size: _SIZE
    uncompressed: _SIZE
    digest: _HEX


class _Update(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    base: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", alias="from")]
    offset: _SIZE
    size: Annotated[int, Field(ge=0, le=MAX_UPDATE)]
    uncompressed: Annotated[int, Field(ge=0, le=MAX_UPDATE)]
    digest: _HEX


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    ref: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/+-]{1,500}$")]
    version: Annotated[str, Field(max_length=4096)]
    commit: _HEX
    timestamp: _SIZE
    set: _Set
    index: _Index
    updates: Annotated[list[_Update], Field(max_length=MAX_BASES)] = []


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    format: Annotated[int, Field(ge=_FORMAT, le=_FORMAT)]
    refs: Annotated[list[_Entry], Field(max_length=1 << 14)]


def parse_pointer(data: bytes) -> Pointer:
    """Parse and check a pointer; raises FormatError that says where."""
    entries = _parse(data, "pointer", MAX_POINTER)
    if any(later.ref <= earlier.ref for earlier, later in pairwise(entries)):
        raise FormatError("pointer: its refs are not in order, or one occurs twice", hint=_HINT)
    return Pointer(entries)


def parse_versions(data: bytes) -> Versions:
    """Parse and check the list of other versions; raises FormatError that says where."""
    entries = _parse(data, "versions", MAX_VERSIONS)
    if any(_version_key(later) <= _version_key(earlier) for earlier, later in pairwise(entries)):
        raise FormatError("versions: they are not in order, or one occurs twice", hint=_HINT)
    return Versions(entries)


def _parse(data: bytes, what: str, limit: int) -> tuple[PointerEntry, ...]:
    if len(data) > limit:
        raise FormatError(f"{what}: larger than {limit} bytes", hint=_HINT)
    try:
        document = _Document.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise FormatError(f"{what}: {where}: {problem['msg']}", hint=_HINT) from None
    return tuple(_checked(entry) for entry in document.refs)


def _checked(entry: _Entry) -> PointerEntry:
    rpm, index = entry.set, entry.index
    if rpm.offset + rpm.length > rpm.size or index.offset + index.size > rpm.length:
        raise FormatError(f"pointer: {entry.ref}: bytes outside their file", hint=_HINT)
    return PointerEntry(
        ref=entry.ref,
        version=entry.version,
        commit=ObjectChecksum.parse(entry.commit),
        timestamp=entry.timestamp,
        location=rpm.location,
        pkgid=ContentDigest.parse(rpm.pkgid),
        size=rpm.size,
        offset=rpm.offset,
        length=rpm.length,
        index=IndexPlace(
            index.offset, index.size, index.uncompressed, ContentDigest.parse(index.digest)
        ),
        updates=_checked_updates(entry),
    )


def _checked_updates(entry: _Entry) -> tuple[UpdatePlace, ...]:
    start = entry.index.offset + entry.index.size
    if any(u.offset < start or u.offset + u.size > entry.set.length for u in entry.updates):
        raise FormatError(f"pointer: {entry.ref}: an update outside its place", hint=_HINT)
    if any(later.base <= earlier.base for earlier, later in pairwise(entry.updates)):
        raise FormatError(f"pointer: {entry.ref}: its updates are not in order", hint=_HINT)
    return tuple(
        UpdatePlace(
            ObjectChecksum.parse(update.base),
            update.offset,
            update.size,
            update.uncompressed,
            ContentDigest.parse(update.digest),
        )
        for update in entry.updates
    )


def parse_entry(document: object) -> PointerEntry:
    """Check the JSON object of one entry; raises FormatError that says where."""
    try:
        return _checked(_Entry.model_validate(document))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise FormatError(f"entry: {where}: {problem['msg']}", hint=_HINT) from None


def dump_entry(entry: PointerEntry) -> dict[str, Any]:
    """Return the JSON object of one entry, as it is in a pointer."""
    updates = [
        {
            "from": str(update.base),
            "offset": update.offset,
            "size": update.size,
            "uncompressed": update.uncompressed,
            "digest": str(update.digest),
        }
        for update in entry.updates
    ]
    return {
        **({"updates": updates} if updates else {}),
        "ref": entry.ref,
        "version": entry.version,
        "commit": str(entry.commit),
        "timestamp": entry.timestamp,
        "set": {
            "location": entry.location,
            "pkgid": str(entry.pkgid),
            "size": entry.size,
            "offset": entry.offset,
            "length": entry.length,
        },
        "index": {
            "offset": entry.index.offset,
            "size": entry.index.size,
            "uncompressed": entry.index.uncompressed,
            "digest": str(entry.index.digest),
        },
    }
