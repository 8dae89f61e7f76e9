"""The planner where older contents are here: patches against packages and full content."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ContentDigest, ObjectChecksum
from composer.jigdo.container import Index, Kind
from composer.jigdo.delta.table import COPY, PATCH, DeltaContent, DeltaTable, Piece, make_table
from composer.jigdo.plan import Plan, make_plan
from composer.rpm.beginnings import Beginning
from tests.jigdo.test_plan import World, chosen, covered, flags, world

BASE = ObjectChecksum(bytes(32))


@dataclass(frozen=True, slots=True)
class Case:
    """A world, and a table of patches: per frame its bytes and the ordinals made of it."""

    world: World
    table: DeltaTable
    objects: int

    def plan(self, missing: Sequence[int], *, most: int = 1 << 30) -> Plan:
        w = self.world
        return make_plan(
            w.head, w.index, flags(missing, self.objects), w.maps, w.contents, self.table,
            lambda content: content.size <= most,
        )  # fmt: skip


def case(
    made: World, patches: Sequence[tuple[int, Sequence[int]]], *, copies: Sequence[int] = ()
) -> Case:
    """Add patch frames of (bytes, ordinals); each object takes ten bytes, copies too."""
    data = [made.index[number].size for number in made.index.numbers(Kind.DATA)]
    sizes = [*data, *(size for size, _ in patches)]
    kinds = bytes([Kind.DATA]) * len(data) + bytes([Kind.PATCH]) * len(patches)
    index = Index(kinds, bytes(len(kinds)), bytes(len(kinds)), sizes, sizes, bytes(32 * len(kinds)))
    contents: list[DeltaContent] = []
    rows: list[tuple[int, int, int]] = []
    for frame, (_, ordinals) in enumerate(patches, len(data)):
        for position, ordinal in enumerate(ordinals):
            piece = Piece(1, 10, frame, position)
            rows.append((ordinal, len(contents), 0))
            contents.append(DeltaContent(ordinal, 10, PATCH, (piece,)))
    for ordinal in copies:
        rows.append((ordinal, len(contents), 0))
        contents.append(DeltaContent(ordinal, 10, COPY, ()))
    table = make_table(BASE, [], contents, rows)
    return Case(World(made.head, index, made.maps, made.contents), table, 20)


def made_of(plan: Plan, table: DeltaTable) -> list[int]:
    return [table.ordinals[row] for row in plan.deltas.rows]


def test_patches_are_taken_where_they_cost_less_than_the_package() -> None:
    found = case(world([(1000, [(0, 0), (1, 1)]), (50, [(0, 2)])]), [(100, [0, 1]), (60, [2])])
    plan = found.plan([0, 1, 2])
    assert made_of(plan, found.table) == [0, 1]
    assert chosen(plan) == [1]
    assert (plan.delta_bytes, plan.package_bytes, plan.object_bytes) == (100, 50, 30)


def test_package_that_is_needed_anyway_spares_its_patches() -> None:
    found = case(world([(1000, [(0, 0), (1, 1)])]), [(100, [0])])
    plan = found.plan([0, 1])
    assert chosen(plan) == [0]
    assert not plan.deltas.frames


def test_same_bytes_under_another_header_cost_nothing() -> None:
    found = case(world([(1000, [(n, n) for n in range(10)])]), [], copies=range(10))
    plan = found.plan(range(10))
    assert made_of(plan, found.table) == list(range(10))
    assert (plan.package_bytes, plan.delta_bytes, plan.object_bytes) == (0, 0, 100)


def test_patch_is_taken_instead_of_full_content() -> None:
    made = world([], sizes=[400], objects=[(0, 0)], frames=[400])
    assert case(made, [(30, [0])]).plan([0]).new_bytes == 0
    assert case(made, [(500, [0])]).plan([0]).delta_bytes == 0


def test_what_this_client_cannot_apply_comes_another_way() -> None:
    found = case(world([(1000, [(0, 0)])]), [(100, [0])])
    assert chosen(found.plan([0], most=9)) == [0]
    assert chosen(found.plan([0], most=10)) == []


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, tuple[int, ...]]:
    objects = st.integers(0, 19)
    packages = [
        (draw(st.integers(1, 1000)), [(o, o) for o in sorted(draw(st.sets(objects, max_size=8)))])
        for _ in range(draw(st.integers(0, 4)))
    ]
    packages.append((draw(st.integers(1, 5000)), [(o, o) for o in range(20)]))
    left = set(range(20))
    patches = []
    for _ in range(draw(st.integers(0, 4))):
        taken = sorted(draw(st.sets(st.sampled_from(sorted(left)), max_size=8))) if left else []
        left -= set(taken)
        if taken:
            patches.append((draw(st.integers(1, 500)), taken))
    copies = sorted(draw(st.sets(st.sampled_from(sorted(left)), max_size=4))) if left else []
    missing = draw(st.sets(objects))
    return case(world(packages), patches, copies=copies), tuple(sorted(missing))


@given(cases())
def test_everything_is_covered_once_and_never_worse_than_without_patches(
    given_: tuple[Case, tuple[int, ...]],
) -> None:
    found, missing = given_
    plan = found.plan(missing)
    assert sorted([*covered(plan, found.world.contents), *made_of(plan, found.table)]) == list(
        missing
    )
    without = found.world.plan(missing, found.objects)
    assert plan.package_bytes + plan.delta_bytes <= without.package_bytes + without.new_bytes
    assert plan.delta_bytes == sum(frame.size for frame in plan.deltas.frames)


# --- prices of packing again


def priced(found: Case, prices: Sequence[int | None], missing: Sequence[int]) -> Plan:
    """Plan where content number n costs ``prices[n]`` beside its patch."""
    w, numbers = found.world, {id(c): n for n, c in enumerate(found.table.contents)}
    return make_plan(
        w.head, w.index, flags(missing, found.objects), w.maps, w.contents, found.table,
        price=lambda content: prices[numbers[id(content)]],
    )  # fmt: skip


def test_price_is_weighed_against_bytes() -> None:
    found = case(world([(1000, [(0, 0)])]), [(100, [0])])
    assert made_of(priced(found, [899], [0]), found.table) == [0]
    assert chosen(priced(found, [901], [0])) == [0]
    # Prices are no bytes.
    assert priced(found, [899], [0]).delta_bytes == 100


def test_dear_content_comes_from_its_package_and_others_of_its_frame_as_patches() -> None:
    packages = [(1000, [(0, 0)]), (5000, [(0, 1)]), (5000, [(0, 2)])]
    found = case(world(packages), [(100, [0, 1, 2])])
    plan = priced(found, [1001, 1001, 0], [0, 1, 2])
    assert chosen(plan) == [0]
    assert made_of(plan, found.table) == [1, 2]
    assert (plan.package_bytes, plan.delta_bytes) == (1000, 100)


def test_frame_that_only_dear_contents_need_is_not_fetched() -> None:
    packages = [(1000, [(0, 0)]), (5000, [(0, 1)])]
    found = case(world(packages), [(100, [0]), (100, [1])])
    plan = priced(found, [1001, 0], [0, 1])
    assert chosen(plan) == [0]
    assert [frame.number for frame in plan.deltas.frames] == [1]


def test_unbounded_price_is_paid_only_where_nothing_else_has_the_content() -> None:
    packages = world([(10**9, [(0, 0)])])
    found = case(packages, [(100, [0, 1])])
    plan = priced(found, [None, None], [0, 1])
    assert chosen(plan) == [0]
    assert made_of(plan, found.table) == [1]


def test_dear_contents_together_are_worse_than_their_package() -> None:
    found = case(world([(1000, [(n, n) for n in range(5)])]), [(10, range(5))])
    assert chosen(priced(found, [300] * 5, range(5))) == [0]
    assert chosen(priced(found, [100] * 5, range(5))) == []


def test_thrift_with_cpu_time_does_not_lengthen_the_beginning_of_an_rpm() -> None:
    """The RPM has to come for its first file; with its last one it would come whole."""
    made = world([(10_000, [(0, 0), (1, 1)]), (5000, [(0, 2)])])
    beginning = Beginning(200, 1, ContentDigest.of(b""))
    made.maps[0] = replace(made.maps[0], beginnings=(beginning,))
    found = case(made, [(100, [1, 2])])
    plan = priced(found, [50, 0], [0, 1, 2])
    assert made_of(plan, found.table) == [1, 2]
    assert (plan.package_bytes, plan.delta_bytes) == (200, 100)
    # What spares more than it costs is spared.
    assert priced(found, [9801, 0], [0, 1, 2]).package_bytes == 10_000


@given(cases(), st.lists(st.sampled_from([0, 1, 50, 400, None]), min_size=20, max_size=20))
def test_priced_plans_cover_everything_once_and_never_cost_more_than_without_patches(
    given_: tuple[Case, tuple[int, ...]], prices: list[int | None]
) -> None:
    found, missing = given_
    plan = priced(found, prices, missing)
    made = made_of(plan, found.table)
    assert sorted([*covered(plan, found.world.contents), *made]) == list(missing)
    numbers = {found.table.numbers[row] for row in plan.deltas.rows}
    assert not any(prices[number] is None for number in numbers)
    paid = sum(prices[number] or 0 for number in numbers)
    without = found.world.plan(missing, found.objects)
    assert plan.package_bytes + plan.delta_bytes + paid <= without.package_bytes
    needed = {p.frame for number in numbers for p in found.table.contents[number].pieces}
    assert {frame.number for frame in plan.deltas.frames} == needed


# --- time


def test_planner_is_fast_on_a_large_system_with_deltas() -> None:
    # 100,000 objects in 1,000 packages, every tenth in up to three; 500 frames of patches.
    count, choose = 100_000, random.Random(7)
    rows: list[list[tuple[int, int]]] = [[] for _ in range(1000)]
    for ordinal in range(count):
        others = [choose.randrange(1000) for _ in range(0 if ordinal % 10 else 2)]
        for number in {ordinal // 100, *others}:
            rows[number].append((len(rows[number]), ordinal))
    made = world([(choose.randrange(10**7), package) for package in rows])
    patches = [(choose.randrange(10**6), range(n, n + 200)) for n in range(0, count, 200)]
    found = replace(case(made, patches), objects=count)
    started = time.process_time()
    plan = found.plan(range(count))
    elapsed = time.process_time() - started
    taken = sum(len(package.ordinals) for package in plan.packages)
    assert plan.deltas.rows
    assert taken + len(plan.deltas.rows) == count
    assert elapsed < 4  # 2 s are asked of a quiet machine
