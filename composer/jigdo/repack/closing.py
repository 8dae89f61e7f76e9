"""Make a container out of what is inside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from composer.errors import FormatError
from composer.jigdo.repack.packers import pack_segment
from composer.jigdo.repack.programs import PacksDifferently, Run, through
from composer.jigdo.repack.recipe import Recipe


def repack(
    recipe: Recipe, inner: Iterable[bytes], *, size: int, run: Run = through
) -> Iterator[bytes]:
    """Yield the container's ``size`` bytes, made of what is inside, a piece at a time.

    Raises FormatError when ``inner`` is not of the recipe's length, and
    PacksDifferently when a packer is missing or gives another number of bytes.
    The caller compares the digest.
    """
    if recipe.size != size or not recipe.repackable:
        raise FormatError(
            f"recipe: does not make {size} bytes", hint="the set is damaged or not genuine"
        )
    feed = _Feed(inner)
    for segment in recipe.segments:
        made = 0
        for piece in pack_segment(segment, feed.take(segment.inner), run):
            made += len(piece)
            if made > segment.packed:
                break
            yield piece
        if made != segment.packed:
            raise PacksDifferently(
                f"{segment.packer.name} packs to another size here",
                hint="fetch this content without its recipe: --prefer cpu",
            )
    feed.end()


class _Feed:
    """Cuts a stream of pieces at given lengths."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def take(self, length: int) -> Iterator[bytes]:
        """Yield the next ``length`` bytes; raises FormatError when there are fewer."""
        while length:
            piece = self._rest or next(self._pieces, None)
            if piece is None:
                raise FormatError("recipe: what is inside is shorter than it says")
            self._rest = piece[length:]
            piece = piece[:length]
            length -= len(piece)
            yield piece

    def end(self) -> None:
        """Require that nothing is left."""
        if self._rest or any(self._pieces):
            raise FormatError("recipe: what is inside is longer than it says")
