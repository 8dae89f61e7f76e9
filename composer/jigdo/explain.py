"""Why an object, or what a package has, is fetched the way it is.  Reads, decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import NotFound
from composer.jigdo.container import Kind
from composer.jigdo.delta.needs import packing_cost
from composer.jigdo.examine import Wanted
from composer.jigdo.lost import LostPackage
from composer.jigdo.plan import Plan, needed_frames, package_bytes
from composer.jigdo.reader import JigdoSet, requests
from composer.jigdo.tree import walk
from composer.ostree.repo import Repository


@dataclass(frozen=True, slots=True)
class Way:
    """A source that has what was asked for.

    ``bytes`` is what it costs to fetch it alone, shared by ``objects`` missing objects that come
    with it; ``seconds`` of CPU time to pack it again.  ``obstacle`` says why it cannot
    be used here.
    """

    kind: str
    name: str
    bytes: int
    seconds: float
    objects: int
    chosen: bool
    obstacle: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """``missing`` of ``objects`` have to come; ``taken`` counts them by the source chosen."""

    subject: str
    objects: int
    missing: int
    taken: dict[str, int]
    ways: tuple[Way, ...]


def explain(
    jigdo: JigdoSet,
    wanted: Wanted,
    repo: Repository,
    question: str,
    *,
    plan: Plan | None = None,
    lost: Sequence[LostPackage] = (),
) -> Explanation:
    """Explain a path (it begins with a slash) or a package (its name or NEVRA).

    ``plan`` is what is explained, ``wanted``'s own by default; ``lost`` packages are no
    source.  Raises NotFound when the commit has no such thing.
    """
    plan = plan or wanted.plan
    if question.startswith("/"):
        ordinals = {_ordinal(wanted, repo, question)}
        subject = question
    else:
        number = _package(jigdo, question)
        subject = str(jigdo.head.packages[number].ref.nevra)
        # A map that was not read is of a package whose every object is here.
        held = wanted.maps.get(number)
        ordinals = set(held.ordinals) if held else set()
    missing = {ordinal for ordinal in ordinals if wanted.missing[ordinal]}
    return Explanation(
        subject,
        len(ordinals),
        len(missing),
        _taken(wanted, plan, missing),
        tuple(_ways(jigdo, wanted, plan, missing, {one.ref.pkgid: one for one in lost})),
    )


def _ordinal(wanted: Wanted, repo: Repository, path: str) -> int:
    directory, _, name = path.rpartition("/")

    def load(checksum: ObjectChecksum) -> bytes:
        known = wanted.dirtrees.get(checksum)
        return known if known is not None else repo.metadata("dirtree", checksum)

    # Equal directories are visited once, so go down by names.
    visits = {v.checksum: v.tree for v in walk(wanted.start.commit.tree, load)}
    tree = visits[wanted.start.commit.tree]
    for part in directory.split("/")[1:]:
        below = next((entry.tree for entry in tree.directories if entry.name == part), None)
        if below is None:
            raise _no_such(path)
        tree = visits[below]
    for entry in tree.files:
        if entry.name == name:
            return wanted.ordinals[entry.checksum]
    raise _no_such(path)


def _no_such(path: str) -> NotFound:
    return NotFound(
        f"{path}: the commit has no such file", hint="name a file or symlink, from the root"
    )


def _package(jigdo: JigdoSet, text: str) -> int:
    refs = [package.ref.nevra for package in jigdo.head.packages]
    found = [n for n, nevra in enumerate(refs) if text == str(nevra)]
    found = found or [n for n, nevra in enumerate(refs) if text == nevra.name]
    if not found:
        raise NotFound(
            f"{text}: the commit has no such package",
            hint="name a package or its NEVRA; a path begins with a slash",
        )
    if len(found) > 1:
        raise NotFound(
            f"{text}: {len(found)} packages have that name",
            details=[str(refs[n]) for n in found],
            hint="name one of them in full",
        )
    return found[0]


def _taken(wanted: Wanted, plan: Plan, missing: set[int]) -> dict[str, int]:
    counts = Counter[str]()
    if wanted.deltas:
        rows = (wanted.deltas.table.ordinals[row] for row in plan.deltas.rows)
        counts["delta"] = sum(ordinal in missing for ordinal in rows)
    counts["new"] = sum(wanted.contents.ordinals[row] in missing for row in plan.new.rows)
    counts["rpm"] = sum(o in missing for package in plan.packages for o in package.ordinals)
    return {kind: count for kind, count in counts.items() if count}


def _ways(
    jigdo: JigdoSet,
    wanted: Wanted,
    plan: Plan,
    missing: set[int],
    lost: Mapping[ContentDigest, LostPackage],
) -> Iterator[Way]:
    if not missing:
        return
    chosen = {p.number: set(p.ordinals) for p in plan.packages}
    for number, mapping in sorted(wanted.maps.items()):
        if not missing.isdisjoint(mapping.ordinals):
            ref, here = jigdo.head.packages[number].ref, wanted.is_at_hand(number)
            yield Way(
                "rpm",
                f"{ref.nevra}, on this machine" if here else str(ref.nevra),
                0 if here else package_bytes(jigdo.head, number, mapping, wanted.missing),
                0.0,
                len({ordinal for ordinal in mapping.ordinals if wanted.missing[ordinal]}),
                not missing.isdisjoint(chosen.get(number, ())),
                f"lost: {lost[ref.pkgid].reason}" if ref.pkgid in lost else "",
            )
    yield from _delta_ways(jigdo, wanted, plan, missing)
    yield from _new_ways(jigdo, wanted, plan, missing)


def _delta_ways(jigdo: JigdoSet, wanted: Wanted, plan: Plan, missing: set[int]) -> Iterator[Way]:
    if wanted.deltas is None:
        return
    table, taken = wanted.deltas.table, set(plan.deltas.rows)
    rows = [row for row, ordinal in enumerate(table.ordinals) if ordinal in missing]
    usable = [row for row in rows if wanted.usable(table.contents[table.numbers[row]])]
    for part, obstacle in (
        (usable, ""),
        (
            [row for row in rows if row not in set(usable)],
            "it takes more memory than --max-memory, or a packer that is not here",
        ),
    ):
        numbers = {table.numbers[row] for row in part}
        frames = {piece.frame for n in numbers for piece in table.contents[n].pieces}
        shared = {
            ordinal
            for ordinal, number in zip(table.ordinals, table.numbers, strict=True)
            if wanted.missing[ordinal]
            and all(piece.frame in frames for piece in table.contents[number].pieces)
        }
        if part:
            yield Way(
                "delta",
                f"from commit {table.base}",
                sum(requests(jigdo.index[number] for number in frames)),
                0.0 if obstacle else sum(packing_cost(table, table.contents[n]) for n in numbers),
                len(shared),
                not taken.isdisjoint(part),
                obstacle,
            )


def _new_ways(jigdo: JigdoSet, wanted: Wanted, plan: Plan, missing: set[int]) -> Iterator[Way]:
    contents = wanted.contents
    rows = [row for row, ordinal in enumerate(contents.ordinals) if ordinal in missing]
    if rows:
        frames = needed_frames(jigdo.index, contents, _contents_of(wanted, rows))
        alone = {number for numbers in frames.values() for number in numbers}
        missing_rows = [r for r, o in enumerate(contents.ordinals) if wanted.missing[o]]
        spans = needed_frames(jigdo.index, contents, _contents_of(wanted, missing_rows))
        yield Way(
            "new",
            f"{Kind.DATA.name.lower()} of the set",
            sum(requests(jigdo.index[number] for number in alone)),
            0.0,
            sum(alone.issuperset(spans[contents.contents[row]]) for row in missing_rows),
            not set(rows).isdisjoint(plan.new.rows),
        )


def _contents_of(wanted: Wanted, rows: Iterable[int]) -> set[int]:
    return {wanted.contents.contents[row] for row in rows}
