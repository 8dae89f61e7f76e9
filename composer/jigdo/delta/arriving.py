"""Patches as their frames come by, for those who make contents of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from composer.errors import FormatError
from composer.jigdo import memory
from composer.jigdo.container import Frame
from composer.jigdo.delta.codecs import CodecNumber
from composer.jigdo.delta.frames import FramePatches
from composer.jigdo.delta.moving import shared_bytes
from composer.jigdo.delta.needs import in_several_frames
from composer.jigdo.delta.table import DeltaContent, DeltaTable


class Useless(FormatError):
    """A patch frame that is what the index says, and yet holds no patches."""


class FrameStream:
    """The patches of a table's frames, forwards, those of one frame in memory."""

    def __init__(
        self, table: DeltaTable, frames: Iterator[tuple[Frame, bytes]], budget: memory.Budget
    ) -> None:
        pieces = [piece for content in table.contents for piece in content.pieces]
        self._codecs = {
            frame: [piece.codec for piece in own]
            for frame, own in groupby(pieces, key=lambda piece: piece.frame)
        }
        self._frames, self._budget = frames, budget
        self._number = -1
        self._patches: FramePatches | FormatError = FormatError("no frame was read")

    def patch(self, frame: int, place: int, *, taken: bool) -> bytes:
        """Return one patch; calls must go forwards.

        ``taken``: what unpacking a frame takes is the caller's already.
        """
        unpacking = 0 if taken else min(memory.UNPACKING, self._budget.size)
        while self._number != frame:
            # Not two frames at a time: the next is decompressed while this one would be held.
            self._patches = FormatError("no frame was read")
            with self._budget.taking(unpacking):
                found, data = next(self._frames)
            self._number = found.number
            try:
                self._patches = FramePatches(data, self._codecs[found.number])
            except FormatError as error:
                self._patches = error  # of this frame's contents, and of no others
        if isinstance(self._patches, FormatError):
            raise Useless(str(self._patches)) from self._patches
        try:
            return self._patches[place]
        except FormatError as error:
            raise Useless(str(error)) from error


class Patches:
    """The patches of one content: taken at once, or one by one where they lie in several frames."""

    def __init__(self, content: DeltaContent, stream: FrameStream) -> None:
        self._content, self._stream = content, stream
        self.is_open = in_several_frames(content)
        self._taken: list[bytes] | Useless = []
        if not self.is_open:
            try:
                self._taken = [*self._read()]
            except Useless as error:
                self._taken = error

    @property
    def _sizes(self) -> list[int]:
        return [] if isinstance(self._taken, Useless) else [*map(len, self._taken)]

    @property
    def size(self) -> int:
        """Bytes of the patches that are taken."""
        return sum(self._sizes)

    @property
    def largest(self) -> int:
        """Bytes of the largest of them."""
        return max(self._sizes, default=0)

    @property
    def own(self) -> int:
        """Bytes of those that are taken, without what patches have in common."""
        if isinstance(self._taken, Useless):
            return 0
        codecs = [piece.codec for piece in self._content.pieces]
        return sum(
            len(patch) - (shared_bytes(patch) if codec == CodecNumber.LINKED else 0)
            for codec, patch in zip(codecs, self._taken, strict=False)
        )

    def _read(self) -> Iterator[bytes]:
        for piece in self._content.pieces:
            yield self._stream.patch(piece.frame, piece.place, taken=self.is_open)

    def __iter__(self) -> Iterator[bytes]:
        if isinstance(self._taken, Useless):
            raise self._taken
        return self._read() if self.is_open else iter(self._taken)
