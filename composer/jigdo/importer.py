"""Planned objects out of where they come from: RPM payloads, deltas' targets, data frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from composer.errors import ComposerError
from composer.jigdo.container import Frame, Kind
from composer.jigdo.delta.table import DeltaTable
from composer.jigdo.examine import Wanted
from composer.jigdo.importing import Target, Targets, write_content, write_payload
from composer.jigdo.plan import DeltaPlan, NewPlan, PackagePlan
from composer.jigdo.reader import JigdoSet
from composer.ostree.repo import Repository
from composer.rpm.package import PackageRef

_PIECE = 1 << 20


class Importer:
    """Writes content objects out of RPM payloads and data frames.  Safe for several threads."""

    def __init__(self, repo: Repository, wanted: Wanted) -> None:
        self._repo, self._wanted = repo, wanted
        self._writers = [repo.writer(header) for header in wanted.headers]

    def _target(self, ordinal: int, header: int, size: int) -> Target:
        return Target(self._writers[header], self._wanted.ordinals.checksums[ordinal], size)

    def add_package(self, ref: PackageRef, path: Path, plan: PackagePlan) -> int:
        """Write the planned objects out of the RPM at ``path``; returns their bytes."""
        targets: Targets = {}
        columns = zip(plan.files, plan.ordinals, plan.headers, plan.sizes, strict=True)
        for index, ordinal, header, size in columns:
            targets.setdefault(index, []).append(self._target(ordinal, header, size))
        try:
            write_payload(self._repo, path, lambda header, files: targets)
        except ComposerError as error:
            error.hint = error.hint or (
                "the RPM's contents are not those that the set was made of: add another mirror "
                "of its repository with `remote add --repository`"
            )
            raise error.within(str(ref.nevra)) from error
        return sum(plan.sizes)

    def delta_targets(self, table: DeltaTable, plan: DeltaPlan) -> dict[int, list[Target]]:
        """Return the objects to make of each content of a deltas table."""
        targets: dict[int, list[Target]] = {}
        for row in plan.rows:
            number = table.numbers[row]
            size = table.contents[number].size
            target = self._target(table.ordinals[row], table.headers[row], size)
            targets.setdefault(number, []).append(target)
        return targets

    def add_new(self, jigdo: JigdoSet, plan: NewPlan, counted: Callable[[int], None]) -> None:
        """Write the planned objects out of the set's own data frames."""
        contents = self._wanted.contents
        targets: Targets = {}
        for row in plan.rows:
            content = contents.contents[row]
            size = contents.size(content)
            target = self._target(contents.ordinals[row], contents.headers[row], size)
            targets.setdefault(content, []).append(target)
        stream = _DataStream(jigdo, plan.frames)
        for content, rows in targets.items():
            start, size = contents.offsets[content], contents.size(content)
            written = list(write_content(self._repo, size, stream.pieces(start, size), rows))
            counted(size * len(written))


class _DataStream:
    """The uncompressed stream of data frames, read forwards, one frame in memory."""

    def __init__(self, jigdo: JigdoSet, frames: Sequence[Frame]) -> None:
        self._starts: dict[int, int] = {}
        start = 0
        for frame in jigdo.index.of(Kind.DATA):
            self._starts[frame.number] = start
            start += frame.uncompressed
        self._frames = jigdo.frames(frames)
        self._data, self._start = b"", 0

    def pieces(self, start: int, size: int) -> Iterator[bytes]:
        """Yield ``size`` bytes from ``start``; calls must go forwards."""
        while size:
            while start >= self._start + len(self._data):
                frame, self._data = next(self._frames)
                self._start = self._starts[frame.number]
            offset = start - self._start
            piece = self._data[offset : offset + min(size, _PIECE)]
            yield piece
            start += len(piece)
            size -= len(piece)
