"""What goes into a bundle, as it comes: documents and ranges in a spool, RPMs in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from composer.checksum import ContentDigest
from composer.client.sources import RemotePackages
from composer.net.bundle import BundledFile, BundledRef, dump_index, dump_start
from composer.net.fetch import Fetcher
from composer.rpm.beginnings import Beginning
from composer.rpm.package import PackageRef
from composer.system.files import writing

# Neighbours that are nearer than this are read with one request (composer.jigdo.reader).
_GAP = 2048


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of a file, and where they are: in the spool, or (``path``) in a file of their own."""

    first: int
    length: int
    offset: int
    path: Path | None = None

    @property
    def end(self) -> int:
        return self.first + self.length

    def after(self, first: int) -> _Piece:
        """The part from ``first`` on."""
        cut = max(first - self.first, 0)
        return _Piece(self.first + cut, self.length - cut, self.offset + cut, self.path)


class Spool:
    """Documents and ranges of the sets' repository; call it as a composer.net.fetch.Keep."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._ranges: dict[str, list[_Piece]] = {}
        self._whole: dict[str, _Piece] = {}

    def __call__(self, location: str, first: int, data: bytes, whole: bool) -> None:
        """Keep what came."""
        if not data:
            return
        piece = _Piece(first, len(data), self._stream.seek(0, 2))
        self._stream.write(data)
        if whole:
            self._whole[location] = piece
        else:
            self._ranges.setdefault(location, []).append(piece)

    def fill(self, fetcher: Fetcher) -> None:
        """Fetch the small gaps between ranges: a machine that lacks less reads across them."""
        for location in [*self._ranges]:
            pieces = self._pieces(location)
            for before, after in pairwise(pieces):
                if 0 < (gap := after.first - before.end) <= _GAP:
                    fetcher.fetch_range(location, first=before.end, length=gap)

    def files(self) -> Iterator[tuple[BundledFile, list[_Piece]]]:
        """Yield the files, with where their pieces are."""
        for location in self._whole.keys() | self._ranges.keys():
            if whole := self._whole.get(location):
                yield BundledFile("", location, ((0, whole.length),), True), [whole]
                continue
            pieces = self._pieces(location)
            runs: list[tuple[int, int]] = []
            for piece in pieces:
                if runs and sum(runs[-1]) == piece.first:
                    runs[-1] = (runs[-1][0], runs[-1][1] + piece.length)
                else:
                    runs.append((piece.first, piece.length))
            yield BundledFile("", location, tuple(runs)), pieces

    def _pieces(self, location: str) -> list[_Piece]:
        """The ranges of a file in order, none of them twice."""
        found: list[_Piece] = []
        for piece in sorted(self._ranges[location], key=lambda one: (one.first, -one.length)):
            left = piece.after(found[-1].end) if found else piece
            if left.length > 0:
                found.append(left)
        return found

    def copy(self, piece: _Piece, into: BinaryIO) -> None:
        """Write a piece's bytes to ``into``."""
        if piece.path is None:
            self._stream.flush()
            _copy(self._stream, piece, into)
        else:
            with piece.path.open("rb") as stream:
                _copy(stream, piece, into)


def _copy(stream: BinaryIO, piece: _Piece, into: BinaryIO) -> None:
    stream.seek(piece.offset)
    left = piece.length
    while left:
        data = stream.read(min(left, 1 << 20))
        if not data:
            raise OSError(f"{stream.name}: shorter than it was")
        into.write(data)
        left -= len(data)


class Rpms:
    """RPMs, or beginnings of them, of all refs; each once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: dict[ContentDigest, tuple[PackageRef, Path, int]] = {}

    def fetch(
        self, source: RemotePackages, wanted: Sequence[tuple[PackageRef, Beginning | None]]
    ) -> None:
        """Fetch as much of each as is wanted, unless it is here; raises PackagesLost at the end."""
        sizes = {ref.pkgid: part.size if part else ref.size for ref, part in wanted}
        lacking = [
            (ref, part)
            for ref, part in wanted
            if ref.pkgid not in self._held or self._held[ref.pkgid][2] < sizes[ref.pkgid]
        ]
        beginnings: Mapping[ContentDigest, Beginning] = {
            ref.pkgid: part for ref, part in lacking if part is not None
        }
        with closing(source.fetch([ref for ref, _ in lacking], beginnings)) as arriving:
            for ref, path in arriving:
                self._held[ref.pkgid] = ref, path, sizes[ref.pkgid]

    def files(self) -> Iterator[tuple[BundledFile, list[_Piece]]]:
        """Yield the files, with where their pieces are."""
        for ref, path, size in self._held.values():
            piece = _Piece(0, size, 0, path)
            whole = size == ref.size
            yield BundledFile(ref.repository, ref.location, ((0, size),), whole), [piece]


def write_bundle(into: Path, refs: Sequence[BundledRef], spool: Spool, rpms: Rpms) -> int:
    """Write the bundle, sorted; returns its size."""
    files = sorted([*spool.files(), *rpms.files()], key=lambda f: (f[0].repository, f[0].location))
    index = dump_index(refs, [file for file, _ in files])
    with writing(into) as stream:
        stream.write(dump_start(index))
        stream.write(index)
        for _, pieces in files:
            for piece in pieces:
                spool.copy(piece, stream)
        return stream.tell()
