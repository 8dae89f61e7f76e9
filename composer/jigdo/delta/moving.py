"""Bases whose references are moved before a patch is applied to them.

A kernel's modules differ from one version to the next mostly in numbers: addresses behind an
inserted instruction, indexes behind a new symbol, ids of the kernel's own types.  A patch of
the codec "linked" says how such numbers moved, as steps; the reader moves them in the base,
and what the patch copies from it is right.  Where code, symbols and names went is known
already: the patch's copies say so.  docs/format/delta.md section 2.1 is the reference.

Nothing here is trusted: any base and any moves give some bytes of the base's length, or
FormatError, in bounded memory and time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from composer.jigdo.delta.btf import NAME, TYPE, parse_btf
from composer.jigdo.delta.columns import wrong
from composer.jigdo.delta.elf import (
    ENTRY,
    EXECUTABLE,
    Relocatable,
    parse_relocatable,
    relocations_of,
    symbols_of,
)
from composer.jigdo.delta.images import move_image
from composer.jigdo.delta.steps import Positions, Steps
from composer.jigdo.encoding import Cursor, prefixed
from composer.jigdo.memory import LARGEST_MOVED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

MOST_COPIES = 1 << 17
"""Of a patch, for what they say of places is held in memory."""

# Relocations, symbols or words that are moved at a time.
_BLOCK = 1 << 15

_SECTION_SYMBOL = 3
# Relocations (R_X86_64_PC32, _PLT32) that in code count from the end of their own 4 bytes.
_FROM_THEIR_END, _END = (2, 4), 4


@dataclass(frozen=True, slots=True)
class Shared:
    """What the modules of one kernel have in common: how its types and names moved."""

    types: Steps
    names: Steps

    def dump(self) -> bytes:
        return self.types.dump() + self.names.dump()

    @staticmethod
    @lru_cache(maxsize=4)  # the next patch mostly has the same
    def parse(data: bytes) -> Shared:
        """Parse it; raises FormatError."""
        cursor = Cursor(data, "shared moves")
        found = Shared(*(Steps.read(cursor) for _ in range(2)))
        cursor.end()
        return found


@dataclass(frozen=True, slots=True)
class Moves:
    """How the references in one base moved, beyond what is shared and what copies say.

    ``types`` and ``names`` by their number and offset, ``sections`` (where each begins in the
    target) by number, ``holes`` (offsets of relocations) by their place in the base.
    """

    types: Steps
    names: Steps
    sections: Steps
    holes: Steps

    def dump(self) -> bytes:
        parts = (self.types, self.names, self.sections, self.holes)
        return b"".join(part.dump() for part in parts)

    @classmethod
    def parse(cls, data: bytes) -> Moves:
        """Parse them; raises FormatError."""
        cursor = Cursor(data, "moves")
        found = cls(*(Steps.read(cursor) for _ in range(4)))
        cursor.end()
        return found


def join_linked(shared: bytes, moves: bytes, patch: bytes) -> bytes:
    """Write a patch of the codec "linked": what moves, then the columns."""
    return prefixed(shared) + prefixed(moves) + patch


def split_linked(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Undo :func:`join_linked`; raises FormatError."""
    cursor = Cursor(data, "delta")
    return cursor.prefixed(), cursor.prefixed(), cursor.rest()


@dataclass(frozen=True, slots=True)
class Places:
    """Where things went: what lies before the symbols, the symbols, and their names."""

    contents: Positions
    symbols: Positions
    names: Positions


@dataclass(frozen=True, slots=True)
class Moving:
    """A relocatable file of which the references are moved, in place, table by table.

    A writer finds matches for one table before it can move the next; a reader has them all.
    """

    file: Relocatable
    data: bytearray

    @classmethod
    def of(cls, base: bytearray) -> Moving | None:
        """Begin with ``base``; None for what is no relocatable file, or too large."""
        if len(base) > LARGEST_MOVED:
            return None
        file = parse_relocatable(base)
        return cls(file, base) if file else None

    def places(self, rows: Numbers) -> Places:
        """Return where copies took things."""
        file = self.file
        symbols, names = file.extent(file.symbols), file.extent(file.names)
        return Places(
            Positions(rows, 0, symbols[0]), Positions(rows, *symbols), Positions(rows, *names)
        )

    def move_types(self, shared: Shared, moves: Moves) -> None:
        """Move what BTF refers to."""
        import numpy

        if self.file.btf < 0:
            return
        start, end = self.file.extent(self.file.btf)
        if (btf := parse_btf(self.data, start, end - start)) is None:
            return
        for at in range(0, len(btf.words), _BLOCK):
            words, classes = btf.words[at : at + _BLOCK].copy(), btf.classes[at : at + _BLOCK]
            for kind, common, own in (
                (TYPE, shared.types, moves.types),
                (NAME, shared.names, moves.names),
            ):
                here = (classes == kind).nonzero()[0]
                values = words[here].astype(numpy.int64)
                words[here] = (values + common.at(values) + own.at(values)).astype(numpy.uint32)
            self._put(btf.start + 4 * at, words)

    def move_symbols(self, places: Places, targets: Numbers) -> None:
        """Move names, addresses and sizes of symbols; ``targets`` are :meth:`targets`."""
        starts = self.file.sections["offset"]
        everything = symbols_of(self.data, self.file)
        for at in range(0, len(everything), _BLOCK):
            symbols = everything[at : at + _BLOCK].copy()
            self._move_symbols(symbols, places, starts, targets)
            self._put(self.file.extent(self.file.symbols)[0] + at * ENTRY, symbols)

    def _move_symbols(
        self, symbols: Numbers, places: Places, starts: Numbers, targets: Numbers
    ) -> None:
        import numpy

        names, section = symbols["name"].astype(numpy.int64), symbols["section"]
        own = self.file.names
        moved = places.names(starts[own] + names) - targets[own]
        symbols["name"] = numpy.where(names > 0, moved, 0)
        here = (section > 0) & (section < len(starts))
        here &= symbols["info"] & 15 != _SECTION_SYMBOL
        section, sizes = section[here], symbols["size"][here]
        at = starts[section] + symbols["value"][here]
        moved = places.contents(at)
        symbols["value"][here] = moved - targets[section]
        symbols["size"][here] = numpy.where(sizes > 0, places.contents(at + sizes) - moved, 0)

    def move_relocations(self, places: Places, targets: Numbers, steps: Steps) -> None:
        """Move offsets, symbols and addends of relocations; ``steps`` are those of holes."""
        start = self.file.extent(int(self.file.relocations[0]))[0]
        for at, entries, holes in self._moved_relocations(places, targets):
            entries["offset"] += steps.at(holes)
            self._put(start + at * ENTRY, entries)

    def moved_relocations(self, places: Places, targets: Numbers) -> tuple[Numbers, Numbers]:
        """Return the relocations, moved but for the steps of holes, and where their holes are."""
        import numpy

        blocks = [block[1:] for block in self._moved_relocations(places, targets)]
        entries, holes = zip(*blocks, strict=True)
        return numpy.concatenate(entries), numpy.concatenate(holes)

    def _moved_relocations(
        self, places: Places, targets: Numbers
    ) -> Iterator[tuple[int, Numbers, Numbers]]:
        """Yield (number of the first, relocations, holes)."""
        import numpy

        sections, own = self.file.sections, self.file.sections[self.file.relocations]
        starts = sections["offset"]
        executable = sections["flags"] & EXECUTABLE > 0
        info = numpy.minimum(own["info"], len(sections) - 1).astype(numpy.int64)
        owners = numpy.repeat(info, own["size"] // ENTRY)
        symbols, table = symbols_of(self.data, self.file), self.file.symbols
        ways = places.symbols(starts[table] + numpy.arange(len(symbols)) * ENTRY) - targets[table]
        ways //= ENTRY
        # The section that a symbol stands for, or none.
        stands = symbols["info"] & 15 == _SECTION_SYMBOL
        stands &= symbols["section"] < len(starts)
        of_section = numpy.where(stands, symbols["section"], 0)
        everything = relocations_of(self.data, self.file)
        for at in range(0, len(everything), _BLOCK):
            entries = everything[at : at + _BLOCK].copy()
            into = owners[at : at + len(entries)]
            holes = starts[into] + entries["offset"]
            entries["offset"] = places.contents(holes) - targets[into]
            named = numpy.minimum(entries["symbol"], len(symbols) - 1)
            entries["symbol"] = ways[named]
            section = of_section[named]
            here = section.nonzero()[0]
            section, kinds = section[here], entries["type"][here]
            from_end = (kinds == _FROM_THEIR_END[0]) | (kinds == _FROM_THEIR_END[1])
            from_end &= executable[into[here]]
            bias = numpy.where(from_end, _END, 0)
            moved = places.contents(starts[section] + entries["addend"][here] + bias)
            entries["addend"][here] = moved - targets[section] - bias
            yield at, entries, holes

    def targets(self, places: Places, moves: Moves) -> Numbers:
        """Return where each section begins in the target."""
        import numpy

        starts = self.file.sections["offset"]
        targets = self.told(places)
        targets += moves.sections.at(numpy.arange(len(starts)))
        return targets

    def told(self, places: Places) -> Numbers:
        """Return where each section would begin in the target by the copies alone."""
        starts = self.file.sections["offset"]
        found = places.contents(starts).copy()
        for section, part in ((self.file.symbols, places.symbols), (self.file.names, places.names)):
            found[section] = part(starts[section : section + 1])[0]
        return found

    def _put(self, start: int, rows: Numbers) -> None:
        self.data[start : start + rows.nbytes] = rows.tobytes()


def move(base: bytearray, rows: Numbers, shared: bytes, moves: bytes) -> None:
    """Move the references in ``base``; ``rows`` are the patch's copies.

    Raises FormatError for moves that are damaged, and for a base that is another kind of file.
    """
    common, own = Shared.parse(shared), Moves.parse(moves)
    if len(base) > LARGEST_MOVED:
        raise wrong("its base is too large to be moved")
    if moving := Moving.of(base):
        places = moving.places(rows)
        moving.move_types(common, own)
        targets = moving.targets(places, own)
        moving.move_symbols(places, targets)
        moving.move_relocations(places, targets, own.holes)
    elif not move_image(base, Positions(rows, 0, len(base)), own.sections):
        raise wrong("its base is no file whose references can be moved")
