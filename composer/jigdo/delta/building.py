"""What a set ships for clients of older commits: pairs chosen, patches made, tables written.

Deltas are from content to content: one patch serves every base that has the same older
content, and patches are laid in frames by the bases that need them, so that no client
fetches what only others can use.  docs/format/jigdo.md section 8 is what is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from composer.checksum import ContentDigest, ObjectChecksum
from composer.jigdo.delta.codecs import PART, CodecNumber
from composer.jigdo.delta.farming import farmed_patches
from composer.jigdo.delta.frames import FRAME
from composer.jigdo.delta.linking import Linked
from composer.jigdo.delta.looking import Inside, StoredContent, learn, look_inside, read_content
from composer.jigdo.delta.making import Pair
from composer.jigdo.delta.moving import NOTHING_SHARED, join_linked, split_linked
from composer.jigdo.delta.pairing import Bases
from composer.jigdo.delta.store import PatchOutline, PatchStore, StoredPatch, patch_key
from composer.jigdo.delta.table import (
    COPY,
    PATCH,
    REPACK,
    DeltaContent,
    DeltaTable,
    Piece,
    make_table,
)
from composer.jigdo.memory import LARGEST_PATCH, MODEST
from composer.jigdo.repack import Recipe
from composer.jigdo.tree import Ordinals, walk
from composer.ostree.digests import ContentInfo, DigestCache
from composer.ostree.objects import Header
from composer.ostree.repo import Repository
from composer.progress import Report
from composer.system.executors import Farm

_WORTH = 0.75  # of an RPM: patches that take more than this part of it are not shipped
# Part of the key of a stored patch: another number where the same input gives another one.
_MAKING = "4"
# Another version of these may find other matches.
_LIBRARIES = ("bsdiff4", "hdiffpatch", "zstandard")
_NO_PACKAGE = -1
# Files of which a great many refer to the same, so that it pays to learn how that moved.
_MODULE = re.compile(r"\.ko(\.(gz|xz|zst))?$")


@dataclass(frozen=True, slots=True)
class DeltaOptions:
    """What to make deltas from and of.

    ``rpm`` is "auto" (content of packages whose patches take well less than the RPM), "all"
    or "none"; ``budget`` bounds, in bytes, what is shipped of it, the best savings first.
    """

    bases: tuple[ObjectChecksum, ...] = ()
    rpm: str = "auto"
    budget: int | None = None
    effort: str = "normal"


NO_DELTAS = DeltaOptions()


@dataclass(frozen=True, slots=True)
class NewTree:
    """The set's own tree: per ordinal what it is, where it stands, and which package has it.

    ``packages`` has the number of a package that holds the object, or -1; ``sizes`` are of
    RPMs, by number.
    """

    ordinals: Ordinals
    infos: Sequence[ContentInfo]
    paths: Mapping[int, Sequence[str]]
    packages: Sequence[int]
    sizes: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Wish:
    """A content wanted from an older one: digests, where both can be read, and for whom."""

    base: ContentDigest | None
    target: ContentDigest
    base_object: ObjectChecksum | None
    target_object: ObjectChecksum
    package: int
    path: str
    size: int
    base_size: int
    # The first of the bases that wants it.
    wanted_from: ObjectChecksum

    def inside(self) -> Inside:
        """Return what is looked into: base and target."""
        return self.base_object, self.target_object


@dataclass(slots=True)
class _Base:
    """One older commit, read."""

    commit: ObjectChecksum
    ordinals: Ordinals
    infos: Sequence[ContentInfo]
    copies: dict[tuple[bool, ContentDigest], int]
    bases: Bases
    # What is the same content here: (ordinal, ordinal in the base).
    copied: list[tuple[int, int]] = field(default_factory=list)
    # What is to be made: (ordinal, ordinal in the base, number of the wish).
    wanted: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PatchFrame:
    """The patches of one frame: keys in the store, and which part of each."""

    parts: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class Deltas:
    """Everything to write: frames of stored patches, and per base its table.

    Frame numbers in the tables are counted from 0; :func:`renumbered` moves them.
    """

    frames: tuple[PatchFrame, ...]
    tables: tuple[DeltaTable, ...]


def build_deltas(
    repo: Repository,
    tree: NewTree,
    headers: Mapping[Header, int],
    options: DeltaOptions,
    store: PatchStore,
    digests: DigestCache,
    *,
    report: Report,
    workers: int,
    farm: Farm | None = None,
) -> Deltas:
    """Choose, make and lay out the deltas from ``options.bases``, which are in ``repo``.

    ``headers`` gives the id of each header.  Patches go to, and come from, ``store``; those
    that are not there are made on ``farm``, if there is one.
    """
    wishes = _Wishes()
    bases = []
    for commit in sorted(options.bases):
        base = _read_base(repo, commit, digests, workers)
        _compare(base, tree, wishes, of_packages=options.rpm != "none")
        bases.append(base)
    _make(repo, wishes, store, options, report, workers, farm)
    shipped = _shipped(bases, wishes, tree, store, options)
    frames, places = _lay_out(bases, wishes, shipped, store)
    tables = [_table(base, tree, headers, wishes, places, store) for base in bases]
    return Deltas(tuple(frames), tuple(tables))


def _read_base(
    repo: Repository, commit: ObjectChecksum, digests: DigestCache, workers: int
) -> _Base:
    ordinals = Ordinals()
    paths: list[tuple[str, int]] = []
    for visit in walk(repo.commit(commit).tree, lambda one: repo.metadata("dirtree", one)):
        ordinals.add(visit.tree)
        prefix = visit.path.rstrip("/")
        paths += [(f"{prefix}/{e.name}", ordinals[e.checksum]) for e in visit.tree.files]
    infos = list(digests.lookup(repo, ordinals.checksums, workers=workers))
    copies: dict[tuple[bool, ContentDigest], int] = {}
    for ordinal, info in enumerate(infos):
        copies.setdefault((info.header.is_symlink, info.digest), ordinal)
    files = ((p, o, infos[o].size) for p, o in paths if not infos[o].header.is_symlink)
    return _Base(commit, ordinals, infos, copies, Bases(files))


class _Wishes:
    """All contents that are to be made, each once, by (base, target) digests."""

    def __init__(self) -> None:
        self.all: list[_Wish] = []
        # Per content the keys of its patches in the store: one, or two ways to make it.
        self.keys: list[tuple[bytes, ...]] = []
        self._numbers: dict[tuple[ContentDigest | None, ContentDigest], int] = {}

    def number(self, wish: _Wish) -> int:
        """Return the number of a wish, the same for equal contents."""
        found = self._numbers.setdefault((wish.base, wish.target), len(self.all))
        if found == len(self.all):
            self.all.append(wish)
        return found


def _compare(base: _Base, tree: NewTree, wishes: _Wishes, *, of_packages: bool) -> None:
    """Fill in what a client of ``base`` lacks: what it can copy, and what is to be made."""
    here = set(base.ordinals.checksums)
    for ordinal, checksum in enumerate(tree.ordinals.checksums):
        if checksum in here:
            continue
        info = tree.infos[ordinal]
        copy = base.copies.get((info.header.is_symlink, info.digest))
        if copy is not None:
            base.copied.append((ordinal, copy))
            continue
        package = tree.packages[ordinal]
        if package != _NO_PACKAGE and not of_packages:
            continue
        paths = tree.paths[ordinal]
        partner = None if info.header.is_symlink else base.bases.find(paths, info.size)
        if partner is None and info.size > PART:  # it is shipped whole, or in its RPM
            continue
        wish = _Wish(
            base=base.infos[partner].digest if partner is not None else None,
            target=info.digest,
            base_object=base.ordinals.checksums[partner] if partner is not None else None,
            target_object=checksum,
            package=package,
            path=paths[0],
            size=info.size,
            base_size=base.infos[partner].size if partner is not None else 0,
            wanted_from=base.commit,
        )
        base.wanted.append((ordinal, partner or 0, wishes.number(wish)))


def _make(
    repo: Repository,
    wishes: _Wishes,
    store: PatchStore,
    options: DeltaOptions,
    report: Report,
    workers: int,
    farm: Farm | None,
) -> None:
    """Have every wish in the store, and note its keys.

    What is made inside a container with much memory is made in the plain way too, for
    clients that have not as much.
    """
    how = (_MAKING, options.effort, *(f"{name} {version(name)}" for name in _LIBRARIES))
    learned = _learned(repo.path, wishes.all, how, store, report, workers, farm)
    keys = [
        patch_key(wish.base, wish.target, (*how, learned[n].hex()) if n in learned else how)
        for n, wish in enumerate(wishes.all)
    ]
    todo = [n for n, key in enumerate(keys) if key not in store]
    asked = [wishes.all[n].inside() for n in todo]
    found = look_inside(repo.path, asked, report, workers, farm)
    jobs = {}
    kept = {key: store.part(key, 0) for key in sorted(set(learned.values()))}
    for n, recipes in zip(todo, found, strict=True):
        shared = kept[learned[n]] if n in learned else NOTHING_SHARED
        jobs[keys[n]] = _Job(wishes.all[n], *recipes, shared, learned.get(n, b""))
    _make_jobs(repo.path, jobs, store, options, report, workers, farm)
    heavy = {n: patch_key(None, ContentDigest(key), ("plain",)) for n, key in enumerate(keys)
             if _is_heavy(store, key)}  # fmt: skip
    plain = {key: _Job(wishes.all[n]) for n, key in heavy.items() if key not in store}
    _make_jobs(repo.path, plain, store, options, report, workers, farm)
    wishes.keys = [(key, heavy[n]) if n in heavy else (key,) for n, key in enumerate(keys)]


def _learned(
    repo: Path,
    wishes: Sequence[_Wish],
    how: tuple[str, ...],
    store: PatchStore,
    report: Report,
    workers: int,
    farm: Farm | None,
) -> dict[int, bytes]:
    """Learn how a kernel's modules moved, for each package and base that has some.

    Returns, per wish of a module, the key of what was learned, which is kept like a patch.
    """
    groups: dict[tuple[ObjectChecksum, int], list[int]] = {}
    for number, wish in enumerate(wishes):
        if wish.base is not None and _MODULE.search(wish.path):
            groups.setdefault((wish.wanted_from, wish.package), []).append(number)
    learned: dict[int, bytes] = {}
    for numbers in groups.values():
        pairs = "".join(sorted(f"{wishes[n].base}{wishes[n].target}" for n in numbers))
        key = patch_key(None, ContentDigest.of(pairs.encode()), (*how, "learned"))
        if key not in store:
            asked = [wishes[n].inside() for n in numbers]
            data = learn(repo, asked, report, workers, farm)
            store.save(key, StoredPatch(b"", ((CodecNumber.FULL, len(data), data),), 0))
        learned |= dict.fromkeys(numbers, key)
    return learned


@dataclass(frozen=True, slots=True)
class _Job:
    """A patch to make, with the recipes of target and base when it is made inside them."""

    wish: _Wish
    target: bytes = b""
    base: bytes = b""
    # For a kernel's module, what was learned of all of them, and its key.
    shared: bytes = NOTHING_SHARED
    learned: bytes = b""

    def pair(self, key: bytes, repo: Path) -> Pair:
        """Return it for the workers."""
        old, new = self.wish.base_object, self.wish.target_object
        made_of = StoredContent(repo, str(old), self.base) if old else b""
        return Pair(
            key,
            made_of,
            StoredContent(repo, str(new), self.target),
            Linked(self.shared),
            (_size(self.base, self.wish.base_size), _size(self.target, self.wish.size)),
        )


def _size(recipe: bytes, size: int) -> int:
    return Recipe.parse(recipe).inner_size if recipe else size


def _make_jobs(
    repo: Path,
    jobs: Mapping[bytes, _Job],
    store: PatchStore,
    options: DeltaOptions,
    report: Report,
    workers: int,
    farm: Farm | None,
) -> None:
    if not jobs:
        return
    pairs = (job.pair(key, repo) for key, job in jobs.items())
    total = len(jobs)
    for patch in farmed_patches(
        pairs, farm=farm, effort=options.effort, workers=workers, report=report, total=total
    ):
        job, recipe = jobs[patch.key], jobs[patch.key].target
        parts = tuple(
            (patch.codec, part.length, _kept(patch.codec, part.data, job.learned))
            for part in patch.parts
        )
        estimate = patch.estimate
        if any(len(data) > LARGEST_PATCH for _, _, data in parts):
            recipe, parts, estimate = b"", (), job.wish.size
            if estimate <= PART:
                parts = tuple(_whole(read_content(repo, job.wish.target_object)))
        store.save(patch.key, StoredPatch(recipe, parts, estimate))


def _kept(codec: int, patch: bytes, learned: bytes) -> bytes:
    """Return a patch as it is kept: with the key of what it shares in the place of that."""
    if codec != CodecNumber.LINKED:
        return patch
    _, moves, columns = split_linked(patch)
    return join_linked(learned, moves, columns)


def _whole(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Cut a content that is shipped whole into parts that frames can hold."""
    for at in range(0, len(data), LARGEST_PATCH):
        piece = data[at : at + LARGEST_PATCH]
        yield CodecNumber.FULL, len(piece), piece


def _shipped(
    bases: Sequence[_Base],
    wishes: _Wishes,
    tree: NewTree,
    store: PatchStore,
    options: DeltaOptions,
) -> set[int]:
    """Choose the wishes that are shipped: all new content, and of packages what pays."""
    estimates = [store.estimate(keys[0]) or 0 for keys in wishes.keys]
    shipped = {n for n, wish in enumerate(wishes.all) if wish.package == _NO_PACKAGE}
    of_package: dict[int, set[int]] = {}
    for base in bases:
        for _, _, number in base.wanted:
            if (package := wishes.all[number].package) != _NO_PACKAGE:
                of_package.setdefault(package, set()).add(number)
    costs = {package: sum(estimates[n] for n in own) for package, own in of_package.items()}
    savings = {package: tree.sizes[package] - cost for package, cost in costs.items()}
    left = options.budget
    for package in sorted(costs, key=lambda p: (-savings[p] / (costs[p] + 1), p)):
        if options.rpm == "auto" and costs[package] > _WORTH * tree.sizes[package]:
            continue
        if left is not None:
            if costs[package] > left:
                continue
            left -= costs[package]
        shipped |= of_package[package]
    return shipped


_Places = Mapping[bytes, Sequence[tuple[int, int]]]
"""Per patch, by its key, the frame and the place in it of each part."""


def _lay_out(
    bases: Sequence[_Base], wishes: _Wishes, shipped: set[int], store: PatchStore
) -> tuple[list[PatchFrame], _Places]:
    """Lay patches into frames: by the bases that want them, by package, by path."""
    wanted_by: dict[int, list[int]] = {}
    for position, base in enumerate(bases):
        for _, _, number in base.wanted:
            wants = wanted_by.setdefault(number, [])
            if number in shipped and (not wants or wants[-1] != position):
                wants.append(position)
    order = sorted(
        (wants, _rank(way, len(wishes.keys[n])), wishes.all[n].package, wishes.all[n].path, key)
        for n, wants in wanted_by.items()
        for way, key in enumerate(wishes.keys[n])
        if wants
    )
    frames: list[list[tuple[bytes, int]]] = []
    places: dict[bytes, list[tuple[int, int]]] = {}
    group, size = None, 0
    for wants, rank, _, _, key in order:
        own = (wants, rank)
        for part, (_, _, length) in enumerate(store.outline(key).parts):
            if own != group or size + length > FRAME:
                frames.append([])
                group, size = own, 0
            places.setdefault(key, []).append((len(frames) - 1, len(frames[-1])))
            frames[-1].append((key, part))
            size += length
    return [PatchFrame(tuple(frame)) for frame in frames], places


def _rank(way: int, ways: int) -> int:
    """Keep apart what is fetched instead of each other: 0 ordinary, 1 heavy, 2 in its place."""
    return 0 if ways == 1 else way + 1


def _is_heavy(store: PatchStore, key: bytes) -> bool:
    recipe = store.outline(key).recipe
    return bool(recipe) and Recipe.parse(recipe).memory > MODEST


def _table(
    base: _Base,
    tree: NewTree,
    headers: Mapping[Header, int],
    wishes: _Wishes,
    places: _Places,
    store: PatchStore,
) -> DeltaTable:
    recipes: dict[bytes, int] = {}
    contents: list[DeltaContent] = []
    rows: list[tuple[int, int, int]] = []
    by_key: dict[bytes, int] = {}
    made = sorted(
        (places[key][0], key, partner, ordinal)
        for ordinal, partner, number in base.wanted
        for key in wishes.keys[number]
        if key in places
    )
    for _, key, partner, ordinal in made:
        if key not in by_key:
            by_key[key] = len(contents)
            patch = store.outline(key)
            method = PATCH
            if patch.recipe:
                method = REPACK + recipes.setdefault(patch.recipe, len(recipes))
            size = tree.infos[ordinal].size
            contents.append(DeltaContent(partner, size, method, _pieces(patch, places[key])))
        rows.append((ordinal, by_key[key], headers[tree.infos[ordinal].header]))
    for ordinal, copy in base.copied:
        info = tree.infos[ordinal]
        rows.append((ordinal, len(contents), headers[info.header]))
        contents.append(DeltaContent(copy, info.size, COPY, ()))
    return make_table(base.commit, list(recipes), contents, rows)


def _pieces(patch: PatchOutline, places: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
    return tuple(
        Piece(codec, length, frame, place)
        for (codec, length, _), (frame, place) in zip(patch.parts, places, strict=True)
    )


def frame_patches(frame: PatchFrame, store: PatchStore) -> list[tuple[int, bytes]]:
    """Return the (codec, patch) pairs of a frame, in order."""
    found = []
    shared = {b"": NOTHING_SHARED}
    for key, part in frame.parts:
        codec, _, _ = store.outline(key).parts[part]
        patch = store.part(key, part)
        if codec == CodecNumber.LINKED:
            learned, moves, columns = split_linked(patch)
            if learned not in shared:
                shared[learned] = store.part(learned, 0)
            patch = join_linked(shared[learned], moves, columns)
        found.append((codec, patch))
    return found


def renumbered(table: DeltaTable, first: int) -> DeltaTable:
    """Return ``table`` with frames counted from ``first``."""
    contents = [
        replace(c, pieces=tuple(replace(p, frame=p.frame + first) for p in c.pieces))
        for c in table.contents
    ]
    return replace(table, contents=tuple(contents))
