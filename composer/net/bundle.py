"""A bundle: pieces of a mirror's files in one file, to be carried to a machine without network.

docs/format/bundle.md is the norm.  A bundle is a mirror that has little: what is asked of
it is judged as from any other.  Rules kept here: it is only read; pieces follow each other
without gaps, so none can lie outside; one that was cut is told by its size.
"""

from __future__ import annotations

import hashlib
import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.checksum import ObjectChecksum
from composer.errors import FormatError

MAGIC = b"JIGDOBND"
VERSION = 1
MAX_INDEX = 1 << 23
MAX_PIECES = 1 << 18
START = struct.Struct("<8sII32s")
_HINT = "copy the bundle again, or have it made anew"
_HEX = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_SIZE = Annotated[int, Field(ge=0, lt=1 << 62)]
_NAME = Annotated[str, Field(min_length=1, max_length=4096)]


@dataclass(frozen=True, slots=True)
class BundledRef:
    """A ref in a bundle: its commit, and the one that a machine must have; None for none."""

    ref: str
    version: str
    commit: ObjectChecksum
    base: ObjectChecksum | None = None
    base_version: str = ""


@dataclass(frozen=True, slots=True)
class BundledFile:
    """Pieces of a file of a repository ("": the sets' own), as (first byte, length), in order.

    ``whole`` says that there is one piece, and that it is the file.
    """

    repository: str
    location: str
    pieces: tuple[tuple[int, int], ...]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle; ``start`` is where its pieces begin."""

    path: Path
    refs: tuple[BundledRef, ...]
    files: tuple[BundledFile, ...]
    start: int
    _parts: dict[str, Bundled] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a bundle; raises FormatError for anything else, and for one that was cut."""
        with path.open("rb") as stream:
            magic, version, size, digest = _start(stream.read(START.size), path)
            if magic != MAGIC:
                raise FormatError(f"{path}: not a bundle")
            if version != VERSION:
                raise FormatError(f"{path}: bundle format {version}; is this program too old?")
            if size > MAX_INDEX:
                raise FormatError(f"{path}: its index claims {size} bytes", hint=_HINT)
            data = stream.read(size)
            held = os.fstat(stream.fileno()).st_size
        if hashlib.sha256(data).digest() != digest:
            raise FormatError(f"{path}: its index is damaged", hint=_HINT)
        refs, files = parse_index(data)
        end = START.size + size + sum(length for file in files for _, length in file.pieces)
        if held != end:
            raise FormatError(f"{path}: it has {held} bytes, not {end}: it was cut", hint=_HINT)
        return cls(path, refs, files, START.size + size)

    @property
    def base(self) -> str:
        """A base URL that names it, for messages; there is nothing below it."""
        return self.path.absolute().as_uri() + "/"

    def of(self, repository: str) -> Bundled:
        """Return the files of a repository."""
        if repository not in self._parts:
            self._parts[repository] = Bundled(self, repository)
        return self._parts[repository]


def is_bundle(path: Path) -> bool:
    """Tell whether a file begins like a bundle."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class Bundled:
    """The files of one repository in a bundle (a composer.net.location.Container)."""

    def __init__(self, bundle: Bundle, repository: str) -> None:
        self._url = bundle.path.absolute().as_uri()
        self._places: dict[str, tuple[list[int], list[tuple[int, int, int]], bool]] = {}
        offset = bundle.start
        for file in bundle.files:
            rows = []
            for first, length in file.pieces:
                rows.append((first, length, offset))
                offset += length
            if file.repository == repository:
                self._places[file.location] = ([row[0] for row in rows], rows, file.whole)

    def find(self, location: str, first: int, length: int | None) -> tuple[str, int, int] | None:
        """Return the URL, first byte and length of a piece; ``length`` None: the whole file."""
        firsts, rows, whole = self._places.get(location, ([], [], False))
        if length is None:
            if not whole:
                return None
            length = rows[0][1] - first
        at = bisect_right(firsts, first) - 1
        if at < 0:
            return None
        begin, held, offset = rows[at]
        if first + length > begin + held:
            return None
        return self._url, offset + first - begin, length


def _start(data: bytes, path: Path) -> tuple[bytes, int, int, bytes]:
    if len(data) != START.size:
        raise FormatError(f"{path}: not a bundle, or cut", hint=_HINT)
    magic, version, size, digest = START.unpack(data)
    return magic, version, size, digest


class _Ref(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    ref: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/+-]{1,500}$")]
    version: Annotated[str, Field(max_length=4096)]
    commit: _HEX
    base: Annotated[_HEX | None, Field(alias="from")] = None
    base_version: Annotated[str, Field(alias="from_version", max_length=4096)] = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    repository: Annotated[str, Field(max_length=200)] = ""
    location: _NAME
    pieces: Annotated[list[_SIZE], Field(min_length=2, max_length=2 * MAX_PIECES)]
    whole: bool = False


class _Index(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    refs: Annotated[list[_Ref], Field(min_length=1, max_length=1 << 10)]
    files: Annotated[list[_File], Field(max_length=1 << 20)]


def parse_index(data: bytes) -> tuple[tuple[BundledRef, ...], tuple[BundledFile, ...]]:
    """Parse and check an index; raises FormatError that says where."""
    try:
        index = _Index.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise FormatError(f"bundle: {where}: {problem['msg']}", hint=_HINT) from None
    if sum(len(file.pieces) for file in index.files) > 2 * MAX_PIECES:
        raise FormatError(f"bundle: more than {MAX_PIECES} pieces", hint=_HINT)
    files = tuple(
        BundledFile(f.repository, f.location, tuple(_pairs(f.pieces)), f.whole) for f in index.files
    )
    keys = [(file.repository, file.location) for file in files]
    if any(later <= earlier for earlier, later in pairwise(keys)):
        raise FormatError("bundle: its files are not in order, or one occurs twice", hint=_HINT)
    for file in files:
        _check_pieces(file)
    refs = tuple(
        BundledRef(
            one.ref,
            one.version,
            ObjectChecksum.parse(one.commit),
            ObjectChecksum.parse(one.base) if one.base else None,
            one.base_version,
        )
        for one in index.refs
    )
    return refs, files


def _pairs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    if len(numbers) % 2:
        raise FormatError("bundle: a piece without a length", hint=_HINT)
    return zip(numbers[::2], numbers[1::2], strict=True)


def _check_pieces(file: BundledFile) -> None:
    end = -1
    for first, length in file.pieces:
        if first <= end or not length:
            raise FormatError(f"bundle: {file.location}: its pieces are not in order", hint=_HINT)
        end = first + length
    if file.whole and (len(file.pieces) != 1 or file.pieces[0][0]):
        raise FormatError(f"bundle: {file.location}: it is not whole", hint=_HINT)


def dump_index(refs: Sequence[BundledRef], files: Iterable[BundledFile]) -> bytes:
    """Serialise; equal values give equal bytes."""
    index = _Index(
        refs=[
            _Ref.model_validate(
                {
                    "ref": one.ref,
                    "version": one.version,
                    "commit": str(one.commit),
                    "from": str(one.base) if one.base else None,
                    "from_version": one.base_version,
                }
            )
            for one in refs
        ],
        files=[
            _File(
                repository=file.repository,
                location=file.location,
                pieces=[number for piece in file.pieces for number in piece],
                whole=file.whole,
            )
            for file in files
        ],
    )
    return index.model_dump_json(by_alias=True).encode()


def dump_start(index: bytes) -> bytes:
    """Return what stands before the index."""
    return START.pack(MAGIC, VERSION, len(index), hashlib.sha256(index).digest())
