"""Find out what a set's commit needs here, and what to fetch for it, before anything large moves.

:func:`examine` reads the set and looks into the repository; choosing is
:mod:`composer.jigdo.plan`'s, doing :mod:`composer.jigdo.reassemble`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError, FormatError
from composer.jigdo import memory
from composer.jigdo.container import Kind
from composer.jigdo.delta.needs import packing_cost, usable
from composer.jigdo.delta.table import REPACK, DeltaContent, DeltaTable
from composer.jigdo.lost import MOST_NAMED, LostPackage, not_offered, nothing_left
from composer.jigdo.manifest import Contents, Map
from composer.jigdo.plan import Plan, Price, make_plan, needed_frames, unexplained
from composer.jigdo.reader import CommitFrame, JigdoSet
from composer.jigdo.seeding import Seed, SeedPlan, seek
from composer.jigdo.tree import Cutter, Ordinals, paths_of, walk
from composer.ostree.objects import Header
from composer.ostree.repo import Repository
from composer.rpm.package import PackageRef


class Prefer(Enum):
    """What to spare: only bytes, bytes and CPU time weighed, or CPU time first."""

    BYTES = "bytes"
    BALANCED = "balanced"
    CPU = "cpu"


SECOND = 500_000
"""Bytes that a second of CPU time weighs as much as: what a line of 4 Mbit/s brings in it."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user prefers: ``max_memory`` bytes for a pull, all its processes together."""

    max_memory: int = memory.ALLOWED
    prefer: Prefer = Prefer.BALANCED


DEFAULT_CHOICES = Choices()


@dataclass(frozen=True, slots=True)
class Deltas:
    """The table that was planned with, and the base's objects by ordinal.

    ``room`` is the memory that there is for making contents (:mod:`composer.jigdo.memory`).
    """

    table: DeltaTable
    base: Sequence[ObjectChecksum]
    room: int


PlanAgain = Callable[[Collection[int], Sequence[LostPackage]], Plan]
"""Plans what is still missing without contents of the deltas table (numbers) that came to
nothing, and without lost packages; raises PackagesLost when nothing has what they have."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a set's commit needs here, before anything large moved."""

    start: CommitFrame
    dirmetas: tuple[bytes, ...]
    dirtrees: dict[ObjectChecksum, bytes]  # only those that the repository lacks
    ordinals: Ordinals
    headers: tuple[Header, ...]
    contents: Contents
    plan: Plan
    deltas: Deltas | None
    again: PlanAgain
    missing: bytearray  # a byte per ordinal: 1 for what is neither here nor in a seed
    maps: Mapping[int, Map]  # those that were read
    usable: Callable[[DeltaContent], bool]  # whether this client can make a content of the table
    is_at_hand: Callable[[int], bool]  # whether the RPM of a package (number) is on this machine
    # What another preference, or no deltas, would fetch; None where that is not everything.
    replan: Callable[[Prefer | None], Plan | None]
    seeds: SeedPlan = field(default_factory=SeedPlan)  # what other trees have


Offered = Callable[[PackageRef, int], bool]
"""Says whether so many bytes of a package, from its beginning, can be fetched."""

AtHand = Callable[[Sequence[PackageRef]], Collection[ContentDigest]]
"""Says which of these packages' RPMs are on this machine, by pkgid."""

CheckCommit = Callable[[CommitFrame], None]
"""Raises VerificationFailed unless the commit's signatures are acceptable."""


def examine(
    jigdo: JigdoSet,
    repo: Repository,
    *,
    base: ObjectChecksum | None,
    check: CheckCommit,
    choices: Choices = DEFAULT_CHOICES,
    read_only: bool = False,
    at_hand: AtHand = lambda packages: (),
    seed: Seed | None = None,
    offered: Offered | None = None,
) -> Wanted:
    """Read what is needed to plan: commit, tree, maps.  ``check`` is called before the tree moves.

    ``base`` is a complete commit in ``repo``, whose objects save most of the reading;
    it only saves: what is here is always found by looking.  What an interrupted run staged
    is landed, or with ``read_only`` taken as if it had.  ``at_hand`` is asked once for
    the packages whose RPMs are on this machine, and the plan takes them for nothing.  What
    ``seed`` has is not planned for.  Raises PackagesLost where frames and ``offered`` packages
    do not have everything; None: mirrors may have all of them.
    """
    start, dirmetas, headers, table = jigdo.read_start()
    check(start)
    if not read_only:
        repo.land_staged()
    old = _Base(repo, base)
    likely = _likely(jigdo, repo, base)
    if not repo.has("dirtree", start.commit.tree):
        _prefetch(jigdo, old.frames, likely)
    dirtrees, ordinals = _read_tree(jigdo, repo, start, old.frames)
    contents = jigdo.contents(table, objects=len(ordinals), headers=headers)
    missing = _missing(repo, ordinals, staged=read_only)
    maps = _read_maps(jigdo, likely, missing, contents, headers)

    def dirtree(checksum: ObjectChecksum) -> bytes:
        known = dirtrees.get(checksum)
        return known if known is not None else repo.metadata("dirtree", checksum)

    seeds = SeedPlan()
    if seed is not None and any(missing):
        said, root = (jigdo.head, maps, contents, headers), start.commit.tree
        seeds = seek(seed, *said, ordinals, missing, root, dirtree)
    missing = seeds.left(missing)
    contents = _offered_contents(jigdo, contents)
    deltas = _read_deltas(jigdo, repo, old, missing, headers, choices.max_memory)

    def name(objects: Collection[ObjectChecksum]) -> list[str]:
        return [*islice(paths_of(start.commit.tree, dirtree, objects), MOST_NAMED)]

    planner = Planner(
        jigdo,
        deltas,
        contents,
        maps,
        missing,
        choices,
        at_hand,
        offered,
        look=lambda: seeds.left(_missing(repo, ordinals, staged=read_only)),
        read=lambda numbers: jigdo.maps(numbers, objects=len(ordinals), headers=headers),
        name=lambda found: name({ordinals.checksums[ordinal] for ordinal in found}),
    )
    plan = planner.first()
    return Wanted(
        start,
        tuple(dirmetas),
        dirtrees,
        ordinals,
        headers,
        contents,
        plan,
        deltas,
        planner.without,
        missing,
        maps,
        planner.can_make,
        planner.is_at_hand,
        planner.plan,
        seeds,
    )


def _offered_contents(jigdo: JigdoSet, contents: Contents) -> Contents:
    """Leave out the objects whose frames cannot be read."""
    needed = needed_frames(jigdo.index, contents, range(len(contents.offsets) - 1))
    lacking = {n for n, frames in needed.items() if not all(map(jigdo.offers, frames))}
    return contents.without(lacking) if lacking else contents


class Planner:
    """Plans with what was read of a set, and again when some of it came to nothing."""

    def __init__(
        self,
        jigdo: JigdoSet,
        deltas: Deltas | None,
        contents: Contents,
        maps: dict[int, Map],
        missing: bytearray,
        choices: Choices,
        at_hand: AtHand,
        offered: Offered | None,
        *,
        look: Callable[[], bytearray],
        read: Callable[[Sequence[int]], dict[int, Map]],
        name: Callable[[Sequence[int]], list[str]],
    ) -> None:
        self._jigdo, self._contents, self._maps = jigdo, contents, maps
        self._table = deltas.table if deltas else None
        self._room = deltas.room if deltas else 0
        self._frames = {frame.number: frame.uncompressed for frame in jigdo.index.of(Kind.PATCH)}
        self._missing, self._choices, self._at_hand = missing, choices, at_hand
        self._look, self._read, self._name = look, read, name
        self._lost: dict[ContentDigest, LostPackage] = {}
        self._useless: set[DeltaContent] = set()
        self._here = _at_hand(jigdo, missing, maps, at_hand)
        self._offered = offered

    def can_make(self, content: DeltaContent) -> bool:
        """Tell whether this client can make a content of the table."""
        assert self._table is not None
        largest = max((self._frames[piece.frame] for piece in content.pieces), default=0)
        return (
            content not in self._useless
            and usable(self._table, content, room=self._room, largest=largest)
            and all(self._jigdo.offers(piece.frame) for piece in content.pieces)
        )

    def is_at_hand(self, number: int) -> bool:
        """Tell whether the RPM of a package is on this machine."""
        return number in self._here

    def first(self) -> Plan:
        """Plan as the user prefers; raises PackagesLost when what is offered lacks something."""
        if self._offered and (left := self._left(self._table)):
            raise not_offered(self._name(left), len(left))
        plan = self.plan(self._choices.prefer)
        assert plan is not None
        return plan

    def plan(self, prefer: Prefer | None) -> Plan | None:
        """Plan by a preference, or without deltas; None where that does not give everything."""
        table = self._table if prefer else None
        if (self._lost or self._offered) and self._left(table):
            return None
        price = _price(table, prefer) if table and prefer else lambda content: 0
        known = (self._jigdo.head, self._jigdo.index, self._missing, self._kept(), self._contents)
        return make_plan(*known, table, self.can_make, price, self._here)

    def without(self, useless: Collection[int], lost: Sequence[LostPackage]) -> Plan:
        """Plan anew, see :data:`PlanAgain`."""
        if self._table is not None:
            self._useless |= {self._table.contents[number] for number in useless}
        self._lost |= {package.ref.pkgid: package for package in lost}
        self._missing[:] = self._look()
        if self._left(self._table):
            packages = enumerate(self._jigdo.head.packages)
            unread = [
                n
                for n, p in packages
                if n not in self._maps and not self._is_lost(n) and self._jigdo.offers(p.map)
            ]
            self._maps.update(self._read(unread))
        if left := self._left(self._table):
            if not self._lost:
                raise not_offered(self._name(left), len(left))
            raise nothing_left([*self._lost.values()], self._name(left), len(left))
        self._here = _at_hand(self._jigdo, self._missing, self._kept(), self._at_hand)
        plan = self.plan(self._choices.prefer)
        assert plan is not None
        return plan

    def _is_lost(self, number: int) -> bool:
        return self._jigdo.head.packages[number].ref.pkgid in self._lost

    def _kept(self) -> dict[int, Map]:
        return {
            n: self._part_on_offer(n, mapping)
            for n, mapping in self._maps.items()
            if not self._is_lost(n)
        }

    def _part_on_offer(self, number: int, mapping: Map) -> Map:
        """As many entries of a map as can be fetched, counted from the first."""
        ref = self._jigdo.head.packages[number].ref
        if self._offered is None or number in self._here or self._offered(ref, ref.size):
            return mapping
        sizes = [one for one in mapping.beginnings if self._offered(ref, one.size)]
        return mapping.first(sizes[-1].entries if sizes else 0)

    def _left(self, table: DeltaTable | None) -> list[int]:
        kept = self._kept().values()
        return unexplained(self._missing, kept, self._contents, table, self.can_make)


def _price(table: DeltaTable, prefer: Prefer) -> Price:
    """Return what packing a content again is worth; patching costs next to nothing."""

    def price(content: DeltaContent) -> int | None:
        if prefer is Prefer.BYTES or content.method < REPACK:
            return 0
        if prefer is Prefer.CPU:
            return None
        return math.ceil(packing_cost(table, content) * SECOND)

    return price


def _at_hand(
    jigdo: JigdoSet, missing: bytearray, maps: Mapping[int, Map], at_hand: AtHand
) -> set[int]:
    """Return the numbers of packages with missing objects whose RPMs are here."""
    useful = [n for n in sorted(maps) if any(missing[o] for o in maps[n].ordinals)]
    found = set(at_hand([jigdo.head.packages[number].ref for number in useful]))
    return {number for number in useful if jigdo.head.packages[number].ref.pkgid in found}


def _read_deltas(
    jigdo: JigdoSet,
    repo: Repository,
    old: _Base,
    missing: bytearray,
    headers: tuple[Header, ...],
    allowed: int,
) -> Deltas | None:
    """Read what can be made of a commit that is here: ``old``, or else any that the set knows."""
    if not any(missing):
        return None
    base = old.commit
    known = [found.commit for found in jigdo.head.bases]
    here = [c for c in known if c == base or (repo.has("commit", c) and not repo.is_partial(c))]
    for commit in sorted(here, key=lambda c: (c != base, c)):
        objects = (old if commit == base else _Base(repo, commit)).objects
        if objects is None:
            continue
        table = jigdo.deltas(commit, objects=len(missing), headers=headers)
        if table is not None:
            frames = [*jigdo.index.of(Kind.PATCH)]
            return Deltas(table, objects, memory.room(allowed, len(missing) + len(objects), frames))
    return None


class _Base:
    """What is read of an older commit, in one walk: its tree frames' digests and its objects.

    Nothing, and ``objects`` None, for no commit, or one that was pruned or is otherwise not
    whole: it saves nothing.
    """

    def __init__(self, repo: Repository, commit: ObjectChecksum | None) -> None:
        self.commit = commit
        self.frames: set[ContentDigest] = set()
        self.objects: Sequence[ObjectChecksum] | None = None
        if commit is None or not repo.has("commit", commit):
            return
        ordinals, cutter = Ordinals(), Cutter()
        found: set[ContentDigest] = set()
        try:
            for visit in walk(repo.commit(commit).tree, lambda one: repo.metadata("dirtree", one)):
                ordinals.add(visit.tree)
                if frame := cutter.add(visit):
                    found.add(ContentDigest.of(frame))
        except ComposerError:
            return
        found.add(ContentDigest.of(cutter.finish()))
        self.frames, self.objects = found, ordinals.checksums


def _prefetch(jigdo: JigdoSet, known: Container[ContentDigest], likely: Sequence[int]) -> None:
    """Read at once the tree frames that are not ``known`` to be here, and the likely maps."""
    trees = [frame for frame in jigdo.index.of(Kind.TREE) if frame.digest not in known]
    maps = [jigdo.index[jigdo.head.packages[number].map] for number in likely]
    jigdo.prefetch([*trees, *maps])


def _read_tree(
    jigdo: JigdoSet, repo: Repository, start: CommitFrame, known: Container[ContentDigest]
) -> tuple[dict[ObjectChecksum, bytes], Ordinals]:
    """Walk the commit's tree; fetch those tree frames that are not ``known`` to be here."""
    frames = list(jigdo.index.of(Kind.TREE))
    unread = [frame for frame in frames if frame.digest in known]
    fetched: dict[ObjectChecksum, bytes] = {}
    if len(unread) < len(frames) and not repo.has("dirtree", start.commit.tree):
        fetched.update(jigdo.dirtrees(frame for frame in frames if frame.digest not in known))
    else:
        unread = frames
    missing: dict[ObjectChecksum, bytes] = {}

    def load(checksum: ObjectChecksum) -> bytes:
        if checksum not in fetched and repo.has("dirtree", checksum):
            return repo.metadata("dirtree", checksum)
        if checksum not in fetched and unread:
            # The guess from the base was wrong, for instance after a prune: read it all.
            fetched.update(jigdo.dirtrees(unread))
            unread.clear()
        if checksum not in fetched:
            raise FormatError(f"the set lacks the dirtree object {checksum}")
        missing[checksum] = fetched[checksum]
        return missing[checksum]

    ordinals = Ordinals()
    for visit in walk(start.commit.tree, load):
        ordinals.add(visit.tree)
    return missing, ordinals


def _missing(repo: Repository, ordinals: Ordinals, *, staged: bool) -> bytearray:
    flags = bytearray(len(ordinals))
    here = repo.staged_content() if staged else frozenset()
    for checksum in repo.missing_content(ordinals.checksums):
        if checksum not in here:
            flags[ordinals[checksum]] = 1
    return flags


def _read_maps(
    jigdo: JigdoSet,
    likely: Sequence[int],
    missing: bytearray,
    contents: Contents,
    headers: tuple[Header, ...],
) -> dict[int, Map]:
    """Read the ``likely`` packages' maps; then, if they do not suffice, all others."""
    if not any(missing):
        return {}
    objects = len(missing)
    maps = jigdo.maps(likely, objects=objects, headers=headers)
    if unexplained(missing, maps.values(), contents):
        rest = [n for n in range(len(jigdo.head.packages)) if n not in maps]
        maps.update(jigdo.maps(rest, objects=objects, headers=headers))
    lacking = unexplained(missing, maps.values(), contents)
    if lacking:
        raise FormatError(f"the set does not say where {len(lacking)} of its objects come from")
    return maps


def _likely(jigdo: JigdoSet, repo: Repository, base: ObjectChecksum | None) -> list[int]:
    """Return the numbers of the packages that the base lacks."""
    known: set[str] = set()
    if base is not None and repo.has("commit", base):
        packages = repo.commit(base).metadata.get("jigdo-composer.packages")
        rows = packages if isinstance(packages, list) else []
        known = {str(row[1]) for row in rows if isinstance(row, tuple) and len(row) == 3}
    return [n for n, one in enumerate(jigdo.head.packages) if str(one.ref.pkgid) not in known]
