"""What making a content takes, and whether this machine can."""

from __future__ import annotations

from collections.abc import Collection

from composer.errors import FormatError
from composer.jigdo import memory
from composer.jigdo.delta import codecs
from composer.jigdo.delta.table import COPY, PATCH, REPACK, DeltaContent, DeltaTable
from composer.jigdo.repack import Recipe


def usable(
    table: DeltaTable,
    content: DeltaContent,
    *,
    room: int,
    largest: int = memory.LARGEST_PATCH,
) -> bool:
    """Tell whether this machine can make ``content`` with ``room`` bytes of memory.

    No patch of it has more than ``largest`` bytes.
    """
    if any(piece.codec not in codecs.CodecNumber.__members__.values() for piece in content.pieces):
        return False
    try:
        recipe = recipe_of(table, content)
    except FormatError:
        return False
    if recipe is not None and (recipe.size != content.size or recipe.obstacle()):
        return False
    return needed(table, content, largest=largest) <= room


def recipe_of(table: DeltaTable, content: DeltaContent) -> Recipe | None:
    if content.method < REPACK:
        return None
    return Recipe.parse(table.recipes[content.method - REPACK])


def packing_cost(table: DeltaTable, content: DeltaContent) -> float:
    """Return CPU seconds, about, for packing ``content`` again."""
    recipe = recipe_of(table, content)
    return recipe.cost if recipe else 0.0


def needed(
    table: DeltaTable,
    content: DeltaContent,
    *,
    base: int | None = None,
    patch: int | None = None,
    largest: int = memory.LARGEST_PATCH,
) -> int:
    """Return the bytes of memory that making ``content`` takes.

    Its ``base`` (what is inside, if that is opened) has the content's size, about, and each
    ``patch`` at most the size of what it makes, or of the ``largest``, unless they are known.
    """
    if content.method == COPY:
        return 0
    recipe = recipe_of(table, content)
    if base is None:
        base = recipe.inner_size if recipe else content.size
    patches = (
        codecs.memory(
            piece.codec,
            base,
            piece.target,
            min(piece.target, largest) if patch is None else patch,
        )
        for piece in content.pieces
    )
    unpacking = memory.UNPACKING if in_several_frames(content) else 0
    return memory.making(base, patches, recipe.memory if recipe else 0) + unpacking


def most_at_once(
    table: DeltaTable, contents: Collection[DeltaContent], workers: int, *, largest: int
) -> int:
    """Return the bytes of memory that making ``contents`` takes at most, ``workers`` at a time."""
    needs = sorted((needed(table, content, largest=largest) for content in contents), reverse=True)
    together = sum(content.size for content in contents if goes_with_others(content))
    return max(sum(needs[:workers]), workers * memory.most_together(together) if together else 0)


def goes_with_others(content: DeltaContent) -> bool:
    """Tell whether ``content`` is made side by side with others, if its patch and base allow it."""
    linked = [piece.codec for piece in content.pieces] == [codecs.CodecNumber.LINKED]
    return linked and content.method == PATCH and content.size <= memory.TOGETHER


def in_several_frames(content: DeltaContent) -> bool:
    return len({piece.frame for piece in content.pieces}) > 1
