"""Read a set's frames through byte ranges, neighbours in one request.

Where the bytes come from is the :class:`RangeReader`'s matter: a file here, an
RPM here, or a mirror.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ChecksumMismatch, FormatError
from composer.jigdo.container import (
    DESCRIPTION,
    TRAILER_SIZE,
    Check,
    Frame,
    Index,
    IndexPlace,
    Kind,
    Range,
    RangeReader,
    check_start,
    decompress,
    parse_trailer,
    read_index,
)
from composer.jigdo.delta.table import DeltaTable, parse_table
from composer.jigdo.description import join_bare
from composer.jigdo.encoding import Cursor
from composer.jigdo.manifest import (
    Contents,
    Head,
    Map,
    parse_contents,
    parse_head,
    parse_headers,
    parse_map,
)
from composer.ostree.objects import Commit, Header, parse_commit

# Asking for a frame on its own costs more than this many bytes that nobody needs.
_GAP = 2048
# What is read at once, which is what is in memory at once.
_RUN, _RUN_UNCOMPRESSED = 1 << 21, 1 << 23
# A larger description is not held in memory; its next version comes as a whole.
_MOST_KEPT = 1 << 25
START = (Kind.COMMIT, Kind.DIRMETA, Kind.HEADERS, Kind.CONTENTS)
"""What :meth:`JigdoSet.read_start` reads."""
MAX_DIRTREES = 1 << 20


@dataclass(frozen=True, slots=True)
class CommitFrame:
    """The commit object's bytes and its detached metadata's (empty when it has none)."""

    data: bytes
    detached: bytes
    commit: Commit


class JigdoSet:
    """An opened set: its index and head are read and proven."""

    def __init__(
        self,
        reader: RangeReader,
        place: IndexPlace,
        known: tuple[Index, Mapping[int, bytes]] | None = None,
        *,
        offered: Callable[[int, int], bool] = lambda first, length: True,
        whole_start: bool = False,
    ) -> None:
        """Open the set at ``place``; ``known`` has its index and proven frames that are here.

        ``offered`` says whether bytes (first, length) can be read at all.  With
        ``whole_start``, what :meth:`read_start` reads is read at once with the head.
        """
        self._offered = offered
        self._reader = reader
        self.place = place
        self.index, here = known or (read_index(reader, place), {})
        self._known = dict(here)
        sizes = [f.uncompressed for kind in DESCRIPTION for f in self.index.of(kind)]
        self._keeps = sum(sizes) <= _MOST_KEPT
        if whole_start:
            self.prefetch(map(self.index.one, (Kind.HEAD, *START)))
        self.head: Head = parse_head(self._one(Kind.HEAD))
        self._check_numbers()

    def _one(self, kind: Kind) -> bytes:
        return next(data for _, data in self.frames([self.index.one(kind)]))

    def _check_numbers(self) -> None:
        for kind, what, named in (
            (Kind.MAP, "packages", [package.map for package in self.head.packages]),
            (Kind.DELTAS, "bases", [base.deltas for base in self.head.bases]),
        ):
            if sorted(named) != list(self.index.numbers(kind)):
                raise FormatError(
                    f"head: its {what} and the index's {kind.name.lower()} frames differ"
                )

    def offers(self, number: int) -> bool:
        """Tell whether a frame can be read."""
        frame = self.index[number]
        return number in self._known or self._offered(frame.offset, frame.size)

    def frames(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, bytes]]:
        """Yield frames with their proven, uncompressed bytes, in the order of the file.

        Near neighbours are read with one request, a few megabytes at a time; frames that
        are here already with none.
        """
        wanted = sorted(frames, key=lambda frame: frame.offset)
        here = [frame for frame in wanted if frame.number in self._known]
        read = self._read_runs(set(wanted) - set(here))
        if not here:  # merge() would hold the first frame to the end
            yield from read
            return
        known = ((frame, self._known[frame.number]) for frame in here)
        yield from merge(known, read, key=lambda item: item[0].offset)

    @property
    def keeps(self) -> bool:
        """Whether the description is held once it was read; a very large one is not."""
        return self._keeps

    def prefetch(self, frames: Iterable[Frame]) -> None:
        """Read frames of the description that will be asked for one after the other.

        So they cost one round trip together.  Nothing is done where they would not be kept.
        """
        if self._keeps:
            deque(self.frames(frames), maxlen=0)

    def _read_runs(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, bytes]]:
        runs = [_Run(run) for run in _runs(frames)]
        ranges = [Range(run.start, run.length, run.prove, run.unpacked) for run in runs]
        for run, _ in zip(runs, self._reader.read_each(ranges), strict=True):
            if self._keeps:
                here = [(f.number, data) for f, data in run.proven if f.kind in DESCRIPTION]
                self._known |= dict(here)
            proven = run.proven[::-1]
            run.proven.clear()
            while proven:
                yield proven.pop()  # and nothing here holds it while the next run is used

    def description(self, frame: Callable[[Frame], bytes | None] | None = None) -> bytes | None:
        """Return the set's bare description (docs/format/jigdo.md section 9).

        Frames that were not read are read now, or asked of ``frame``; None when it
        has not all.
        """

        def read(wanted: Frame) -> bytes | None:
            known = self._known.get(wanted.number)
            if known is None and frame is not None:
                return frame(wanted)
            return known if known is not None else next(iter(self.frames([wanted])))[1]

        return join_bare(self.index, self.head, read)

    def read_start(self) -> tuple[CommitFrame, list[bytes], tuple[Header, ...], bytes]:
        """Read the frames that every client needs.

        Returns the commit, the dirmeta objects, the headers and the contents table's
        bytes (to be parsed once the number of objects is known).
        """
        read = {f.kind: data for f, data in self.frames(map(self.index.one, START))}
        commit = self._parse_commit(read[Kind.COMMIT])
        dirmetas = _parse_dirmetas(read[Kind.DIRMETA])
        return commit, dirmetas, parse_headers(read[Kind.HEADERS]), read[Kind.CONTENTS]

    def read_commit(self) -> CommitFrame:
        """Read only the commit."""
        return self._parse_commit(self._one(Kind.COMMIT))

    def _parse_commit(self, data: bytes) -> CommitFrame:
        cursor = Cursor(data, "commit frame")
        commit, detached = cursor.prefixed(), cursor.prefixed()
        cursor.end()
        actual = ContentDigest.of(commit)
        if actual != bytes(self.head.commit):
            expected = str(self.head.commit)
            raise ChecksumMismatch(what="commit object", expected=expected, actual=str(actual))
        return CommitFrame(commit, detached, parse_commit(commit))

    def dirtrees(self, frames: Iterable[Frame]) -> Iterator[tuple[ObjectChecksum, bytes]]:
        """Yield the dirtree objects of tree frames, by their own checksum."""
        count = 0
        for _, data in self.frames(frames):
            cursor = Cursor(data, "tree frame")
            while not cursor.at_end:
                tree = cursor.prefixed()
                count += 1
                if count > MAX_DIRTREES:
                    raise cursor.fail(f"the set has more than {MAX_DIRTREES} directories")
                # A metadata object's checksum is over its bytes alone.
                yield ObjectChecksum(ContentDigest.of(tree)), tree

    def maps(
        self, numbers: Iterable[int], *, objects: int, headers: tuple[Header, ...]
    ) -> dict[int, Map]:
        """Read the maps of the packages with these numbers (positions in the head)."""
        by_frame = {self.head.packages[number].map: number for number in numbers}
        found = {}
        for frame, data in self.frames(self.index[n] for n in sorted(by_frame)):
            number = by_frame[frame.number]
            mapping = parse_map(data, objects=objects, headers=headers)
            ref = self.head.packages[number].ref
            if mapping.pkgid != ref.pkgid:
                raise FormatError(f"{ref.nevra}: its map is of another package")
            if any(beginning.size >= ref.size for beginning in mapping.beginnings):
                raise FormatError(f"{ref.nevra}: a beginning of it is no shorter than the RPM")
            found[number] = mapping
        return found

    def deltas(
        self, base: ObjectChecksum, *, objects: int, headers: tuple[Header, ...]
    ) -> DeltaTable | None:
        """Read what can be made for a client that has the commit ``base``, if there is such."""
        number = next((b.deltas for b in self.head.bases if b.commit == base), None)
        if number is None or not self.offers(number):
            return None
        [(_, data)] = self.frames([self.index[number]])
        frames = self.index.numbers(Kind.PATCH)
        table = parse_table(data, objects=objects, headers=headers, frames=frames)
        if table.base != base:
            raise FormatError(f"the deltas from {base} are from {table.base}")
        return table

    def contents(self, data: bytes, *, objects: int, headers: tuple[Header, ...]) -> Contents:
        """Parse the contents table that :meth:`read_start` gave."""
        stream = sum(frame.uncompressed for frame in self.index.of(Kind.DATA))
        return parse_contents(data, objects=objects, headers=headers, stream=stream)


def _parse_dirmetas(data: bytes) -> list[bytes]:
    cursor = Cursor(data, "dirmeta frame")
    # A dirmeta has three numbers of four bytes, and its length before it.
    objects = [cursor.prefixed() for _ in range(cursor.count(least=13))]
    cursor.end()
    return objects


def _runs(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Group frames that are read together: near each other, and not too much at once."""
    run: list[Frame] = []
    for frame in sorted(frames, key=lambda frame: frame.offset):
        if run and (
            frame.offset - run[-1].end > _GAP
            or frame.end - run[0].offset > _RUN
            or sum(other.uncompressed for other in run) + frame.uncompressed > _RUN_UNCOMPRESSED
        ):
            yield run
            run = []
        run.append(frame)
    if run:
        yield run


class _Run:
    """Frames that are read together; ``proven`` has their bytes once they were."""

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = frames
        self.start, self.length = frames[0].offset, frames[-1].end - frames[0].offset
        self.unpacked = sum(frame.uncompressed for frame in frames)
        self.proven: list[tuple[Frame, bytes]] = []

    def prove(self, packed: bytes) -> None:
        """Take the bytes; raises VerificationFailed when they are not right."""
        if len(packed) != self.length:
            raise FormatError(f"{len(packed)} bytes came instead of {self.length}")
        self.proven.clear()
        for frame in self._frames:
            piece = packed[frame.offset - self.start : frame.end - self.start]
            self.proven.append((frame, decompress(piece, frame)))


def requests(frames: Iterable[Frame]) -> list[int]:
    """Return the bytes of each request that reading ``frames`` takes."""
    return [run[-1].end - run[0].offset for run in _runs(frames)]


class FileRanges(RangeReader):
    """Byte ranges of a .jigdo file on this machine; ``start`` is where it begins in ``path``.

    Reads an RPM's payload in place when ``start`` is the .jigdo file's offset in it.
    """

    def __init__(self, path: Path, *, start: int = 0) -> None:
        self._path, self._start = path, start

    def read(self, first: int, length: int, check: Check = lambda data: None) -> bytes:
        """Return exactly ``length`` bytes; raises FormatError when the file is shorter."""
        with self._path.open("rb") as stream:
            stream.seek(self._start + first)
            data = stream.read(length)
        if len(data) != length:
            raise FormatError(f"{self._path}: shorter than its index says; it was cut")
        check(data)
        return data


def open_file(path: Path, *, start: int = 0, length: int | None = None) -> JigdoSet:
    """Open a .jigdo file, or one inside an RPM by its place; raises FormatError."""
    size = length if length is not None else os.stat(path).st_size - start
    ranges = FileRanges(path, start=start)
    if size < TRAILER_SIZE + 16:
        raise FormatError(f"{path}: too short for a .jigdo file")
    check_start(ranges.read(0, 16))
    trailer = ranges.read(size - TRAILER_SIZE, TRAILER_SIZE)
    return JigdoSet(ranges, parse_trailer(trailer, file_size=size))
