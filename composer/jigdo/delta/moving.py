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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from composer.jigdo.delta.btf import records_of, references
from composer.jigdo.delta.elf import (
    ENTRY,
    EXECUTABLE,
    RELOCATABLE,
    Relocatables,
    gathered,
    parse_relocatables,
    relocations_of,
    scatter,
    symbols_of,
)
from composer.jigdo.delta.images import move_image
from composer.jigdo.delta.numbers import wrong
from composer.jigdo.delta.steps import Functions, Positions, Shifts, Steps
from composer.jigdo.encoding import Cursor, prefixed
from composer.jigdo.memory import LARGEST_MOVED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[Any]

NOTHING_SHARED = b"\0\0"

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


def shared_bytes(data: bytes) -> int:
    """Return how many of its bytes are what modules have in common."""
    return Cursor(data[:10], "delta").uvarint()


@dataclass(frozen=True, slots=True)
class Places:
    """Where things went: what lies before the symbols, the symbols, and their names."""

    contents: Shifts
    symbols: Shifts
    names: Shifts


class Moving:
    """Relocatable files of which the references are moved, in place, table by table.

    A writer finds matches for one table before it can move the next; a reader has them all.
    """

    def __init__(self, files: Relocatables, data: bytearray) -> None:
        self.files, self.data = files, data
        self._begins = files.begins[files.owners]
        self._lasts = files.sizes[files.owners] - 1

    @classmethod
    def of(cls, data: bytearray, sizes: Sequence[int]) -> Moving | None:
        """Begin with bases of these sizes; None if one is no relocatable file, or too large."""
        if max(sizes) > LARGEST_MOVED:
            return None
        files = parse_relocatables(data, sizes)
        return cls(files, data) if files else None

    def places(self, rows: Numbers, counts: Sequence[int]) -> Places:
        """Return where copies, so many from each base, took things."""
        import numpy

        files = self.files
        owners = numpy.arange(len(counts)).repeat(counts)
        symbols, names = files.offsets[files.symbols], files.offsets[files.names]
        parts = (
            (numpy.zeros_like(symbols), symbols),
            (symbols, symbols + files.lengths[files.symbols]),
            (names, names + files.lengths[files.names]),
        )
        return Places(*(Shifts(rows, owners, files.begins, part) for part in parts))

    def _place(self, section: Numbers, offset: Numbers) -> Numbers:
        """Return where in the buffer an offset in a section's file is, or what is next to it."""
        import numpy

        within = numpy.minimum(numpy.maximum(offset, 0), self._lasts[section])
        found: Numbers = within + self._begins[section]
        return found

    def move_types(self, shared: Sequence[Shared], moves: Sequence[Moves]) -> None:
        """Move what BTF refers to."""
        import numpy

        files = [number for number, at in enumerate(self.files.btf.tolist()) if at >= 0]
        btf = self.files.btf[files]
        starts = (self.files.begins[files] + self.files.offsets[btf]).tolist()
        sizes = self.files.lengths[btf].tolist()
        extents, own = [], []
        for number, start, size in zip(files, starts, sizes, strict=True):
            if found := records_of(self.data, start, start + size):
                extents.append(found)
                own.append(number)
        if not own:
            return
        words = gathered(self.data, extents, "<u4")
        counts = [(end - start) // 4 for start, end in extents]
        owners = numpy.arange(len(own)).repeat(counts)
        functions = [
            (
                Functions([getattr(shared[number], name) for number in own]),
                Functions([getattr(moves[number], name) for number in own]),
            )
            for name in ("types", "names")
        ]
        for block in references(words, counts):
            for at, (common, each) in zip(block, functions, strict=True):
                for part in range(0, len(at), _BLOCK):
                    here = at[part : part + _BLOCK]
                    values, file = words[here].astype(numpy.int64), owners[here]
                    moved = values + common.at(file, values) + each.at(file, values)
                    words[here] = moved.astype(numpy.uint32)
        scatter(self.data, extents, words)

    def move_symbols(self, places: Places, targets: Numbers) -> None:
        """Move names, addresses and sizes of symbols; ``targets`` are :meth:`targets`."""
        import numpy

        everything, extents = symbols_of(self.data, self.files)
        owners = numpy.arange(len(extents)).repeat([(e - s) // ENTRY for s, e in extents])
        for at in range(0, len(everything), _BLOCK):
            block = slice(at, at + _BLOCK)
            self._move_symbols(everything[block], owners[block], places, targets)
        scatter(self.data, extents, everything)

    def _move_symbols(
        self, symbols: Numbers, owners: Numbers, places: Places, targets: Numbers
    ) -> None:
        import numpy

        files, starts = self.files, self.files.offsets
        names, section = symbols["name"].astype(numpy.int64), symbols["section"]
        here = names.nonzero()[0]
        own = files.names[owners[here]]
        at = starts[own] + names[here]
        symbols["name"][here] = at + places.names.at(self._place(own, at)) - targets[own]
        counts = (files.first[1:] - files.first[:-1])[owners]
        inside = (section > 0) & (section < counts)
        inside &= symbols["info"] & 15 != _SECTION_SYMBOL
        here = inside.nonzero()[0]
        section, sizes = section[here] + files.first[owners[here]], symbols["size"][here]
        at = starts[section] + symbols["value"][here]
        moved = at + places.contents.at(self._place(section, at))
        symbols["value"][here] = moved - targets[section]
        sized = (sizes > 0).nonzero()[0]
        at = at[sized] + sizes[sized]
        went = at + places.contents.at(self._place(section[sized], at))
        symbols["size"][here] = 0
        symbols["size"][here[sized]] = went - moved[sized]

    def move_relocations(self, places: Places, targets: Numbers, own: Sequence[Steps]) -> None:
        """Move offsets, symbols and addends of relocations; ``own`` are each base's holes."""
        steps = Functions(own)
        everything, extents = relocations_of(self.data, self.files)
        for entries, files, holes in self._moved_relocations(everything, places, targets):
            entries["offset"] += steps.at(files, holes)
        scatter(self.data, extents, everything)

    def moved_relocations(self, places: Places, targets: Numbers) -> tuple[Numbers, Numbers]:
        """Return the relocations, moved but for the steps of holes, and where their holes are."""
        import numpy

        everything, _ = relocations_of(self.data, self.files)
        blocks = self._moved_relocations(everything, places, targets)
        return everything, numpy.concatenate([holes for _, _, holes in blocks])

    def _moved_relocations(
        self, everything: Numbers, places: Places, targets: Numbers
    ) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
        """Move some after the other; yield them, their files, and where their holes were."""
        import numpy

        files, starts = self.files, self.files.offsets
        own = files.headers[files.relocations]
        count, first = files.first[1:] - files.first[:-1], files.first[:-1]
        owner = files.owners[files.relocations]
        info = numpy.minimum(own["info"], count[owner] - 1) + first[owner]
        owners = info.repeat(files.lengths[files.relocations] // ENTRY)
        executable = files.headers["flags"] & EXECUTABLE > 0
        symbols, extents = symbols_of(self.data, files)
        sizes = numpy.array([(end - start) // ENTRY for start, end in extents], numpy.int64)
        before = sizes.cumsum() - sizes
        file = numpy.arange(len(sizes)).repeat(sizes)
        table = files.symbols[file]
        at = starts[table] + (numpy.arange(len(symbols)) - before[file]) * ENTRY
        ways = at + places.symbols.at(self._place(table, at)) - targets[table]
        ways //= ENTRY
        # The section that a symbol stands for, or none.
        stands = symbols["info"] & 15 == _SECTION_SYMBOL
        stands &= symbols["section"] < count[file]
        stands &= symbols["section"] > 0
        of_section = numpy.where(stands, symbols["section"] + first[file], -1)
        del at, table, stands, symbols
        for begin in range(0, len(everything), _BLOCK):
            entries = everything[begin : begin + _BLOCK]
            into = owners[begin : begin + len(entries)]
            within = files.owners[into]
            holes = starts[into] + entries["offset"]
            entries["offset"] = holes + places.contents.at(self._place(into, holes)) - targets[into]
            named = numpy.minimum(entries["symbol"], sizes[within] - 1) + before[within]
            entries["symbol"] = ways[named]
            section = of_section[named]
            here = (section >= 0).nonzero()[0]
            section, kinds = section[here], entries["type"][here]
            from_end = (kinds == _FROM_THEIR_END[0]) | (kinds == _FROM_THEIR_END[1])
            from_end &= executable[into[here]]
            bias = from_end * _END
            at = starts[section] + entries["addend"][here] + bias
            moved = at + places.contents.at(self._place(section, at))
            entries["addend"][here] = moved - targets[section] - bias
            yield entries, within, holes

    def targets(self, places: Places, moves: Sequence[Moves]) -> Numbers:
        """Return where each section begins in the target."""
        import numpy

        files = self.files
        numbers = numpy.arange(len(files.owners)) - files.first[files.owners]
        steps = Functions([one.sections for one in moves])
        return self.told(places) + steps.at(files.owners, numbers)

    def told(self, places: Places) -> Numbers:
        """Return where each section would begin in the target by the copies alone."""
        import numpy

        files, starts = self.files, self.files.offsets
        at = self._place(numpy.arange(len(starts)), starts)
        found: Numbers = starts + places.contents.at(at)
        for section, part in ((files.symbols, places.symbols), (files.names, places.names)):
            found[section] = starts[section] + part.at(at[section])
        return found


def move_together(
    bases: bytearray,
    sizes: Sequence[int],
    rows: tuple[Numbers, Sequence[int]],
    shared: Sequence[Shared],
    moves: Sequence[Moves],
) -> bool:
    """Move the references in relocatable files, back to back; False if one is another kind of file.

    ``rows`` are the patches' copies, from within their bases, and how many are of each.
    """
    moving = Moving.of(bases, sizes)
    if moving is None:
        return False
    places = moving.places(*rows)
    moving.move_types(shared, moves)
    targets = moving.targets(places, moves)
    moving.move_symbols(places, targets)
    moving.move_relocations(places, targets, [one.holes for one in moves])
    return True


def move(base: bytearray, rows: Numbers, shared: bytes, moves: bytes) -> None:
    """Move the references in ``base``; ``rows`` are the patch's copies.

    Raises FormatError for moves that are damaged, and for a base that is another kind of file.
    """
    common, own = Shared.parse(shared), Moves.parse(moves)
    if len(base) > LARGEST_MOVED:
        raise wrong("its base is too large to be moved")
    if base[16:18] == RELOCATABLE:
        starts, ends = rows[:, 0], rows[:, 0] + rows[:, 2]
        if len(rows) and not 0 <= starts.min() <= ends.max() <= len(base):
            raise wrong("copies from outside its base")
        if move_together(base, [len(base)], (rows, [len(rows)]), [common], [own]):
            return
    elif move_image(base, Positions(rows, 0, len(base)), own.sections):
        return
    raise wrong("its base is no file whose references can be moved")
