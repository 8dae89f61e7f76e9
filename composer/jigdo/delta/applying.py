"""Make contents out of older ones that are here, and write them into the repository.

Nothing of what comes from a set is trusted: memory and sizes are bounded, and every
object that is written is proven by its own checksum.  A content that cannot be made (a
damaged base, a packer that packs differently here) is no failure of the pull: it is
named, and comes another way.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryFile
from typing import Protocol

from composer.checksum import ObjectChecksum
from composer.errors import BoundExceeded, ComposerError, FormatError, NoSpace, VerificationFailed
from composer.jigdo import memory
from composer.jigdo.container import Frame
from composer.jigdo.delta import codecs, together
from composer.jigdo.delta.arriving import FrameStream, Patches
from composer.jigdo.delta.columns import Base, FileBase
from composer.jigdo.delta.needs import goes_with_others, needed, recipe_of
from composer.jigdo.delta.table import COPY, REPACK, DeltaContent, DeltaTable
from composer.jigdo.importing import Target, write_content
from composer.jigdo.repack import Packers, opened, repack, unpack
from composer.ostree.repo import Repository
from composer.system.files import explained

# Bytes of contents that a worker is given at once, if there are several.
_JOB = memory.TOGETHER
_INNER_LIMIT = 1 << 30

Frames = Callable[[Sequence[Frame]], Iterator[tuple[Frame, bytes]]]
Wrote = Callable[[int, int], object]
"""Called with the bytes of contents that were made, and the number of objects of them."""


class Batches(Protocol):
    """Transactions, one after the other."""

    @property
    def is_full(self) -> bool:
        """Tell whether it is time to land."""
        ...

    def land(self) -> None:
        """Land what was written; no writer may be at work."""
        ...


Take = Callable[[int, Iterator[bytes]], object]
"""Called in a worker with the number of a content and its pieces; what it raises is reported."""


class DeltaImporter:
    """Writes what a deltas table makes.  ``base`` has the base's objects by ordinal.

    They are in ``repo``; large ones are laid out in ``spool``, or in the repository's own place.
    Contents that together would take more than ``room`` bytes of memory are made in turn.
    """

    def __init__(
        self,
        repo: Repository,
        table: DeltaTable,
        base: Sequence[ObjectChecksum],
        *,
        room: int,
        workers: int,
        packers: Packers,
        spool: Path | None = None,
    ) -> None:
        self._repo, self._table, self._base = repo, table, base
        self._packers = packers
        self._spool = spool or repo.path / "tmp"
        self._budget, self._workers = memory.Budget(room), workers

    def run(
        self,
        targets: Mapping[int, Sequence[Target]],
        frames: Iterator[tuple[Frame, bytes]],
        wrote: Wrote,
        batches: Batches | None = None,
    ) -> dict[int, ComposerError]:
        """Write the contents with these numbers; returns those that could not be made.

        ``frames`` yields the patch frames that they need, in order.  ``batches`` land on the way.
        """

        def write(number: int, pieces: Iterator[bytes]) -> None:
            size = self._table.contents[number].size
            for _ in write_content(self._repo, size, pieces, targets[number]):
                pass

        def made(number: int) -> None:
            wrote(self._table.contents[number].size, len(targets[number]))

        return self.make(targets, frames, write, made, batches)

    def make(
        self,
        numbers: Collection[int],
        frames: Iterator[tuple[Frame, bytes]],
        take: Take,
        made: Callable[[int], object],
        batches: Batches | None = None,
    ) -> dict[int, ComposerError]:
        """Make the contents with these numbers, and give each to ``take``.

        As :meth:`run`; ``made`` is called for each that ``take`` took.
        """
        failed: dict[int, ComposerError] = {}
        running: deque[tuple[int, Future[dict[int, ComposerError | None]]]] = deque()

        def reap() -> None:
            for number, error in running.popleft()[1].result().items():
                if error is None:
                    made(number)
                else:
                    failed[number] = error

        with ThreadPoolExecutor(self._workers) as pool:
            for job in self._jobs(numbers, frames):
                held = sum(patches.size for _, patches in job)
                running.append((held, pool.submit(self._make_all, job, take)))
                full = batches is not None and batches.is_full
                # A content in several frames takes its patches while it is made.
                alone = full or job[-1][1].is_open
                while len(running) > (0 if alone else self._ahead(sum(h for h, _ in running))):
                    reap()
                if full and batches is not None:
                    batches.land()
            while running:
                reap()
        return failed

    def _ahead(self, held: int) -> int:
        """Return how many jobs may be in work, or wait, with so many bytes of patches in all."""
        return 2 * self._workers if held <= memory.QUEUED else self._workers

    def _jobs(
        self, numbers: Collection[int], frames: Iterator[tuple[Frame, bytes]]
    ) -> Iterator[list[tuple[int, Patches]]]:
        """Yield contents with their patches, small ones together: handing one over takes longer."""
        stream = FrameStream(self._table, frames, self._budget)
        job: list[tuple[int, Patches]] = []
        size = 0
        for number, content in enumerate(self._table.contents):
            if number not in numbers:
                continue
            patches = Patches(content, stream)
            job.append((number, patches))
            size += content.size
            if patches.is_open or size >= _JOB:
                yield job
                job, size = [], 0
        if job:
            yield job

    def _make_all(
        self, job: Sequence[tuple[int, Patches]], take: Take
    ) -> dict[int, ComposerError | None]:
        """Make contents one after the other; returns what was wrong with each, or None."""
        done: dict[int, ComposerError | None] = {}

        def attempt(number: int, make: Callable[[], None]) -> None:
            try:
                make()
                done[number] = None
            except NoSpace:
                raise
            except ComposerError as error:
                done[number] = _without_frames(error)

        for group in self._groups(job):
            if len(group) > 1 and self._make_together(group, take, attempt):
                continue
            for number, patches in group:
                attempt(number, partial(self._make, number, patches, take))
        return done

    def _groups(
        self, job: Sequence[tuple[int, Patches]]
    ) -> Iterator[Sequence[tuple[int, Patches]]]:
        """Split a job into what is made side by side, and what is made alone."""
        group: list[tuple[int, Patches]] = []
        size = own = 0
        for number, patches in job:
            if not self._goes_with_others(number, patches):
                yield [(number, patches)]
                continue
            size += self._table.contents[number].size
            own += patches.own
            if group and (size > 2 * memory.TOGETHER or own > memory.PATCHES_TOGETHER):
                yield group
                group, size, own = [], self._table.contents[number].size, patches.own
            group.append((number, patches))
        if group:
            yield group

    def _goes_with_others(self, number: int, patches: Patches) -> bool:
        content = self._table.contents[number]
        return (
            goes_with_others(content)
            and 0 <= content.base < len(self._base)
            and 0 < patches.own <= memory.PATCHES_TOGETHER
        )

    def _make_together(
        self,
        group: Sequence[tuple[int, Patches]],
        take: Take,
        attempt: Callable[[int, Callable[[], None]], None],
    ) -> bool:
        """Make contents side by side; False where one of them can't be, and nothing was made.

        Each is then made alone, so that what is wrong is known of that one.
        """
        contents = [self._table.contents[number] for number, _ in group]
        targets = [content.size for content in contents]
        patches = [patch for _, own in group for patch in own]
        bases = self._small_bases(contents)
        if bases is None:
            return False
        sizes = [*map(len, bases)]
        own = sum(one.own for _, one in group)
        needs = memory.together(sum(sizes), sum(map(len, patches)), own, sum(targets))
        if needs > self._budget.size:
            return False
        with self._budget.taking(needs):
            buffer = bytearray().join(bases)
            del bases
            try:
                made = memoryview(together.apply_linked(buffer, sizes, patches, targets))
            except ComposerError:
                return False
            del buffer
            for (number, _), size, end in zip(group, targets, accumulate(targets), strict=True):
                pieces = iter((bytes(made[end - size : end]),))
                attempt(number, partial(self._take, number, pieces, take))
        return True

    def _small_bases(self, contents: Sequence[DeltaContent]) -> list[bytes] | None:
        """Return the bases of all these contents; None where they are too large, or unreadable."""
        bases: list[bytes] = []
        size = 0
        for content in contents:
            with ExitStack() as stack:
                try:
                    base = self._opened(self._base[content.base], stack)
                except NoSpace:
                    raise
                except ComposerError:
                    return None
                size += len(base)
                if size > 2 * memory.TOGETHER:
                    return None
                bases.append(bytes(base[0 : len(base)]))
        return bases

    def _take(self, number: int, pieces: Iterator[bytes], take: Take) -> None:
        try:
            take(number, pieces)
        except ComposerError as error:
            base = self._base[self._table.contents[number].base]
            raise error.within(f"made of object {base}") from error

    def _make(self, number: int, patches: Patches, take: Take) -> None:
        content = self._table.contents[number]
        if not 0 <= content.base < len(self._base):
            raise FormatError(f"a delta is from object {content.base}, which its base has not")
        base = self._base[content.base]
        try:
            with ExitStack() as stack:
                source = self._source(content, base, stack)
                size = len(source) if content.method < REPACK else None
                largest = None if patches.is_open else patches.largest
                needs = needed(self._table, content, base=size, patch=largest)
                stack.enter_context(self._budget.taking(needs))
                pieces = self._made(content, base, source, patches, stack, needs)
                take(number, _exactly(pieces, content))
        except ComposerError as error:
            raise error.within(f"made of object {base}") from error

    def _source(self, content: DeltaContent, base: ObjectChecksum, stack: ExitStack) -> Base:
        if all(piece.codec == codecs.CodecNumber.FULL for piece in content.pieces):
            return b""
        return self._opened(base, stack)

    def _made(
        self,
        content: DeltaContent,
        base: ObjectChecksum,
        source: Base,
        patches: Patches,
        stack: ExitStack,
        needs: int,
    ) -> Iterator[bytes]:
        if content.method == COPY:
            _, _, pieces = self._repo.content(base)
            return pieces
        recipe = recipe_of(self._table, content)
        if recipe is None:
            return self._patched(content, source, patches, needs)
        packers = self._packers
        with packers.timed():
            inside = self._inside(source, stack, needs) if len(source) else source
        inner = packers.counted(self._patched(content, inside, patches, needs), -1)
        run = packers.run(self._spool)
        return packers.counted(repack(recipe, inner, size=content.size, run=run))

    def _opened(self, checksum: ObjectChecksum, stack: ExitStack) -> Base:
        """Return the content of an object, read where it is needed when it is large.

        What it is is not proven: what is made of it is.
        """
        if place := stack.enter_context(self._repo.opened_content(checksum)):
            base = FileBase(*place)
            return base if len(base) > memory.SMALL else base[0 : len(base)]
        _, size, pieces = self._repo.content(checksum)
        if size <= memory.SMALL:
            return b"".join(pieces)
        return _spooled(pieces, stack, self._spool)

    def _inside(self, source: Base, stack: ExitStack, needs: int) -> Base:
        recipe = opened(source, inner_limit=_INNER_LIMIT, window_limit=needs)
        if recipe is None:
            raise VerificationFailed("the base is no container that can be opened in such memory")
        if recipe.inner_size <= memory.SMALL:
            return b"".join(unpack(source, recipe))
        return _spooled(unpack(source, recipe), stack, self._spool)

    def _patched(
        self, content: DeltaContent, source: Base, patches: Patches, needs: int
    ) -> Iterator[bytes]:
        for piece, patch in zip(content.pieces, patches, strict=True):
            yield from codecs.apply(piece.codec, source, patch, size=piece.target, max_memory=needs)


def _without_frames(error: ComposerError) -> ComposerError:
    """Let go of what an error's traceback holds, patches among it: thousands may have failed."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:  # an error can be its own cause
            seen.add(id(one))
            one.__traceback__ = None
            left += one.__cause__, one.__context__
    return error


def _exactly(pieces: Iterator[bytes], content: DeltaContent) -> Iterator[bytes]:
    """Pass on as many bytes as the content has, and not one more."""
    left = content.size
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise BoundExceeded(what="what a delta makes", bound=content.size)
        yield piece
    if left:
        raise FormatError(f"what a delta makes is {left} bytes short")


def _spooled(pieces: Iterator[bytes], stack: ExitStack, place: Path) -> FileBase:
    # Not where temporary files lie otherwise, which is often memory.
    stream = stack.enter_context(TemporaryFile(dir=place, buffering=0))  # noqa: SIM115
    for piece in pieces:
        try:
            stream.write(piece)
        except OSError as error:
            raise explained(error, place) from error
    return FileBase(stream.fileno(), os.fstat(stream.fileno()).st_size)
