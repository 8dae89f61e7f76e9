"""The planner: what it chooses, that it is pure, and how long it takes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ContentDigest, ObjectChecksum
from composer.jigdo.container import Index, Kind
from composer.jigdo.manifest import Contents, Head, Map, Package, Totals, make_contents, make_map
from composer.jigdo.plan import Plan, make_plan, unexplained
from composer.rpm.beginnings import Beginning
from composer.rpm.package import Nevra, PackageRef

NOWHERE = -1


@dataclass(frozen=True, slots=True)
class World:
    """A set in small: what the planner is asked."""

    head: Head
    index: Index
    maps: dict[int, Map]
    contents: Contents

    def plan(self, missing: Iterable[int], objects: int) -> Plan:
        return make_plan(self.head, self.index, flags(missing, objects), self.maps, self.contents)


def flags(missing: Iterable[int], objects: int) -> bytearray:
    """Return one byte per ordinal."""
    out = bytearray(objects)
    for ordinal in missing:
        out[ordinal] = 1
    return out


def world(
    packages: Sequence[tuple[int, Sequence[tuple[int, int]]]],
    *,
    sizes: Sequence[int] = (),
    objects: Sequence[tuple[int, int]] = (),
    frames: Sequence[int] = (),
) -> World:
    """Make a world of packages (bytes, [(file, ordinal)]) and contents.

    ``sizes`` are of contents, ``objects`` are (ordinal, content), ``frames`` are
    bytes of data frames.  The object in a package has 10 bytes.
    """
    refs, maps = [], {}
    for number, (size, rows) in enumerate(packages):
        pkgid = ContentDigest(number.to_bytes(32, "big"))
        nevra = Nevra(f"p{number:04}", 0, "1", "1", "noarch")
        refs.append(Package(PackageRef(nevra, pkgid, size), number))
        maps[number] = make_map(pkgid, ((file, ordinal, 0, 10) for file, ordinal in rows))
    totals = Totals(**dict.fromkeys(Totals.model_fields, 0))
    head = Head("n", "r", "", 0, ObjectChecksum(bytes(32)), tuple(refs), totals)
    count = len(frames)
    digests = bytes(32 * count)
    index = Index(bytes([Kind.DATA]) * count, bytes(count), bytes(count), frames, frames, digests)
    contents = make_contents(sizes, ((ordinal, content, 0) for ordinal, content in objects))
    return World(head, index, maps, contents)


def chosen(plan: Plan) -> list[int]:
    return [package.number for package in plan.packages]


def covered(plan: Plan, contents: Contents) -> list[int]:
    """List the ordinals that a plan writes."""
    out = [ordinal for package in plan.packages for ordinal in package.ordinals]
    return out + [contents.ordinals[row] for row in plan.new.rows]


# --- properties


@dataclass(frozen=True, slots=True)
class Case:
    world: World
    objects: int
    missing: tuple[int, ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Make sets in which every object is in packages or in contents."""
    objects = draw(st.integers(1, 30))
    numbers = draw(st.integers(1, 6))
    rows: list[list[tuple[int, int]]] = [[] for _ in range(numbers)]
    new, sizes = [], draw(st.lists(st.integers(0, 50), min_size=1, max_size=10))
    for ordinal in range(objects):
        holders = draw(st.sets(st.integers(0, numbers - 1), max_size=3))
        for number in sorted(holders):
            rows[number].append((draw(st.integers(0, 40)), ordinal))
        if not holders:
            new.append((ordinal, draw(st.integers(0, len(sizes) - 1))))
    bytes_of = draw(st.lists(st.integers(1, 10**6), min_size=numbers, max_size=numbers))
    frames, left = [], sum(sizes)
    while left:
        frames.append(draw(st.integers(1, left)))
        left -= frames[-1]
    missing = draw(st.sets(st.integers(0, objects - 1)))
    made = world(list(zip(bytes_of, rows, strict=True)), sizes=sizes, objects=new, frames=frames)
    return Case(made, objects, tuple(sorted(missing)))


@given(cases())
def test_every_missing_object_is_covered_exactly_once(case: Case) -> None:
    plan = case.world.plan(case.missing, case.objects)
    assert sorted(covered(plan, case.world.contents)) == list(case.missing)


@given(cases())
def test_rows_are_those_of_the_maps(case: Case) -> None:
    plan = case.world.plan(case.missing, case.objects)
    for package in plan.packages:
        mapping = case.world.maps[package.number]
        columns = (mapping.files, mapping.ordinals, mapping.headers, mapping.sizes)
        taken = (package.files, package.ordinals, package.headers, package.sizes)
        rows = list(zip(*taken, strict=True))
        assert rows
        assert set(rows) <= set(zip(*columns, strict=True))
        assert list(package.files) == sorted(package.files)


@given(cases())
def test_same_input_gives_the_same_plan_and_is_left_alone(case: Case) -> None:
    missing = flags(case.missing, case.objects)
    before = bytes(missing)
    shuffled = dict(sorted(case.world.maps.items(), reverse=True))
    first, second = (
        make_plan(case.world.head, case.world.index, missing, maps, case.world.contents)
        for maps in (case.world.maps, shuffled)
    )
    assert first == second
    assert missing == before


@given(cases())
def test_frames_are_those_that_hold_a_needed_byte(case: Case) -> None:
    plan = case.world.plan(case.missing, case.objects)
    contents = case.world.contents
    needed: set[int] = set()
    for row in plan.new.rows:
        content = contents.contents[row]
        needed.update(range(contents.offsets[content], contents.offsets[content + 1]))
    wanted, start = [], 0
    for frame in case.world.index.of(Kind.DATA):
        if needed & set(range(start, start + frame.uncompressed)):
            wanted.append(frame)
        start += frame.uncompressed
    assert list(plan.new.frames) == wanted
    in_order = [contents.contents[row] for row in plan.new.rows]
    assert in_order == sorted(in_order)


@given(cases())
def test_sums_are_exact(case: Case) -> None:
    plan = case.world.plan(case.missing, case.objects)
    packages = case.world.head.packages
    sizes = [size for package in plan.packages for size in package.sizes]
    sizes += [case.world.contents.size(case.world.contents.contents[r]) for r in plan.new.rows]
    assert plan.package_bytes == sum(packages[number].ref.size for number in chosen(plan))
    assert plan.new_bytes == sum(frame.size for frame in plan.new.frames)
    assert plan.object_bytes == sum(sizes)
    assert plan.disk_bytes == sum((size + 4095) // 4096 * 4096 for size in sizes)


@given(cases())
def test_no_chosen_package_could_be_left_out(case: Case) -> None:
    plan = case.world.plan(case.missing, case.objects)
    missing = set(case.missing)
    for number in chosen(plan):
        others = [set(case.world.maps[n].ordinals) for n in chosen(plan) if n != number]
        alone = set(case.world.maps[number].ordinals) & missing
        assert alone - set().union(*others), f"package {number} is not needed"


@given(cases())
def test_unexplained_objects_are_named(case: Case) -> None:
    missing = flags(case.missing, case.objects)
    assert unexplained(missing, case.world.maps.values(), case.world.contents) == []
    without = {n: m for n, m in case.world.maps.items() if n}
    held = set(case.world.contents.ordinals).union(*(m.ordinals for m in without.values()))
    left = unexplained(missing, without.values(), case.world.contents)
    assert left == sorted(set(case.missing) - held)


# --- choices


def test_nothing_missing_needs_nothing() -> None:
    plan = world([(5, [(0, 0)])], sizes=[4], objects=[(1, 0)], frames=[4]).plan([], 2)
    assert not plan.packages
    assert not plan.new.rows
    assert not plan.new.frames
    assert (plan.package_bytes, plan.new_bytes, plan.object_bytes, plan.disk_bytes) == (0,) * 4


@pytest.mark.parametrize(("sizes", "best"), [((10, 5), [1]), ((5, 10), [0]), ((5, 5), [0])])
def test_cheaper_of_two_equal_sources_is_taken(sizes: tuple[int, int], best: list[int]) -> None:
    same = [(0, 0), (1, 1)]
    assert chosen(world([(sizes[0], same), (sizes[1], same)]).plan([0, 1], 2)) == best


def test_package_that_is_needed_anyway_gives_all_it_has() -> None:
    plan = world([(1000, [(0, 0), (1, 1)]), (1, [(0, 1)])]).plan([0, 1], 2)
    assert chosen(plan) == [0]


def test_small_packages_are_taken_where_they_are_cheaper_than_one_large() -> None:
    packages = [(100, [(0, 0), (1, 1)]), (10, [(0, 0)]), (10, [(0, 1)])]
    assert chosen(world(packages).plan([0, 1], 2)) == [1, 2]


def test_large_package_is_taken_where_it_is_cheaper_than_small_ones() -> None:
    packages = [(100, [(0, 0), (1, 1)]), (90, [(0, 0)]), (90, [(0, 1)])]
    assert chosen(world(packages).plan([0, 1], 2)) == [0]


def test_one_package_for_all_is_taken_where_greed_would_pay_more() -> None:
    # The cheapest per object first (49 for one) leaves the other to 90: 139 instead of 100.
    packages = [(100, [(0, 0), (1, 1)]), (49, [(0, 0)]), (90, [(0, 1)])]
    assert world(packages).plan([0, 1], 2).package_bytes == 100


def test_package_that_later_choices_made_needless_is_left_out() -> None:
    packages = [
        *((2, [(0, 0), (1, 1)]), (4, [(0, 0), (1, 2)]), (4, [(0, 1), (1, 3)])),
        *((100, [(0, 2)]), (100, [(0, 3)])),
    ]
    assert chosen(world(packages).plan(range(4), 4)) == [1, 2]


def test_object_is_taken_once_from_a_package_that_has_it_twice() -> None:
    plan = world([(5, [(0, 0), (1, 0)])]).plan([0], 1)
    assert list(plan.packages[0].files) == [0]


def test_one_file_gives_several_objects() -> None:
    plan = world([(5, [(3, 0), (3, 2)])]).plan([0, 2], 3)
    assert list(plan.packages[0].files) == [3, 3]
    assert list(plan.packages[0].ordinals) == [0, 2]


def test_empty_content_needs_no_frame() -> None:
    plan = world([], sizes=[5, 0, 5], objects=[(0, 0), (1, 1), (2, 2)], frames=[10]).plan([1], 3)
    assert plan.new.rows == (1,)
    assert not plan.new.frames


def test_content_over_several_frames_takes_them_all() -> None:
    made = world([], sizes=[3, 20, 3], objects=[(0, 0), (1, 1), (2, 2)], frames=[8, 8, 8, 2])
    assert [frame.number for frame in made.plan([1], 3).new.frames] == [0, 1, 2]
    assert [frame.number for frame in made.plan([0, 2], 3).new.frames] == [0, 2, 3]


# --- time


def test_planner_is_fast_on_a_large_system() -> None:
    # 100,000 objects in 1,000 packages; every tenth in two or three of them.
    choose = random.Random(7)
    rows: list[list[tuple[int, int]]] = [[] for _ in range(1000)]
    for ordinal in range(100_000):
        holders = {ordinal // 100}
        if not ordinal % 10:
            holders |= {choose.randrange(1000) for _ in range(2)}
        for number in holders:
            rows[number].append((len(rows[number]), ordinal))
    made = world([(choose.randrange(10**7), package) for package in rows])
    started = time.process_time()
    plan = made.plan(range(100_000), 100_000)
    elapsed = time.process_time() - started
    assert sum(len(package.ordinals) for package in plan.packages) == 100_000
    assert elapsed < 4  # of CPU time; 2 s of a quiet machine are asked for


def test_planner_is_fast_where_every_object_has_several_sources() -> None:
    choose = random.Random(8)
    rows: list[list[tuple[int, int]]] = [[] for _ in range(1000)]
    for ordinal in range(100_000):
        for number in choose.sample(range(1000), 2):
            rows[number].append((len(rows[number]), ordinal))
    made = world([(choose.randrange(1, 10**7), package) for package in rows])
    started = time.process_time()
    plan = made.plan(range(100_000), 100_000)
    elapsed = time.process_time() - started
    assert sum(len(package.ordinals) for package in plan.packages) == 100_000
    assert elapsed < 4


def test_package_that_is_here_is_preferred_and_moves_nothing() -> None:
    made = world([(10, [(0, 0), (1, 1)]), (1000, [(0, 0), (1, 1)])])
    words = made.head, made.index, flags([0, 1], 2), made.maps, made.contents
    plan = make_plan(*words, here=[1])
    assert chosen(plan) == [1]
    assert (plan.package_bytes, plan.object_bytes) == (0, 20)
    assert plan.packages[0].transfer == 0
    without = make_plan(*words)
    assert (chosen(without), without.package_bytes) == ([0], 10)


# --- beginnings


def _with_beginnings(made: World, number: int, *cuts: tuple[int, int]) -> None:
    beginnings = tuple(Beginning(size, n, ContentDigest.of(b"%d" % size)) for size, n in cuts)
    made.maps[number] = replace(made.maps[number], beginnings=beginnings)


def test_the_shortest_beginning_with_all_that_is_missing_is_taken() -> None:
    made = world([(1000, [(file, file) for file in range(6)])])
    _with_beginnings(made, 0, (200, 2), (500, 4))
    for missing, cost in (([0], 200), ([0, 1], 200), ([1, 2], 500), ([3], 500), ([0, 4], 1000)):
        plan = make_plan(made.head, made.index, flags(missing, 6), made.maps, made.contents)
        [package] = plan.packages
        assert plan.package_bytes == package.transfer == cost
        assert package.beginning == made.maps[0].beginning(max(missing) + 1)
        assert (package.beginning is None) == (cost == 1000)


def test_a_beginning_wins_over_a_smaller_rpm() -> None:
    made = world([(1000, [(0, 0), (1, 1)]), (400, [(0, 0)])])
    _with_beginnings(made, 0, (200, 1))
    plan = make_plan(made.head, made.index, flags([0], 2), made.maps, made.contents)
    assert chosen(plan) == [0]
    assert plan.package_bytes == 200


def test_a_beginning_shrinks_by_what_comes_from_elsewhere() -> None:
    made = world([(1000, [(0, 0), (1, 1)]), (10, [(0, 1), (1, 2)])])
    _with_beginnings(made, 0, (200, 1))
    plan = make_plan(made.head, made.index, flags([0, 1, 2], 3), made.maps, made.contents)
    assert plan.package_bytes == 210
    assert chosen(plan) == [0, 1]
    assert sorted(covered(plan, made.contents)) == [0, 1, 2]


def test_an_rpm_that_is_here_is_taken_whole() -> None:
    made = world([(1000, [(0, 0), (1, 1)])])
    _with_beginnings(made, 0, (200, 1))
    known = (made.head, made.index, flags([0], 2), made.maps, made.contents)
    [package] = make_plan(*known, here={0}).packages
    assert (package.transfer, package.beginning) == (0, None)
