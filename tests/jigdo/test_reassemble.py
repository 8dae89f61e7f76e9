"""From a set and RPMs to the identical commit; whatever goes wrong, nothing is lost."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import (
    ChecksumMismatch,
    ComposerError,
    FormatError,
    MissingRequirement,
    NoSpace,
    VerificationFailed,
)
from composer.jigdo import batches as module
from composer.jigdo.container import Kind
from composer.jigdo.encoding import prefixed, uvarint
from composer.jigdo.examine import examine
from composer.jigdo.manifest import (
    Map,
    dump_contents,
    dump_head,
    dump_headers,
    dump_map,
    make_contents,
    make_map,
    parse_head,
)
from composer.jigdo.reader import CommitFrame, JigdoSet
from composer.jigdo.reassemble import check_space, check_storable, reassemble
from composer.ostree.objects import Header
from composer.ostree.repo import MODES, Repository
from composer.progress import Step
from tests.fixtures_os.repos import FixtureRepos
from tests.jigdo.sets import (
    REF,
    MemoryRanges,
    Packages,
    SetOnDisk,
    Unplugged,
    build,
    frame_bytes,
    fsck,
    index_of,
    local_packages,
    objects,
    open_bytes,
    place_of,
    pull,
    rewritten,
    write_tree,
)
from tests.jigdo.systems import Generations, crafted_set, fixture_generations
from tests.rpm.crafted import RpmFile, rpm_bytes, symlink

KEEPS_OWNERS = [mode for mode in MODES if mode != "bare-user-only"]


@pytest.fixture(scope="module")
def generations(
    fixture_repos: FixtureRepos, tmp_path_factory: pytest.TempPathFactory
) -> Generations:
    """Return both generations of the fixture OS; tests only look at them."""
    shared = tmp_path_factory.getbasetemp().parent / "jigdo-fixture-os"
    return fixture_generations(fixture_repos, shared)


@pytest.fixture(scope="module")
def crafted(tmp_path_factory: pytest.TempPathFactory) -> Generations:
    """Return both generations of the crafted system; tests only look at them."""
    where = tmp_path_factory.mktemp("crafted")
    return Generations(crafted_set(where, "1"), crafted_set(where, "2"))


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    """Return an empty repository."""
    return Repository.create(tmp_path / "repo", mode="bare-user")


def _holds(repo: Repository, made: SetOnDisk) -> None:
    """Require that ``repo`` has the commit of ``made``, and that all is well with it."""
    assert repo.require(REF) == made.commit
    fsck(repo)
    repo.fsck_commit(made.commit)


# --- the main job


@pytest.mark.parametrize("mode", KEEPS_OWNERS)
def test_fixture_os_is_rebuilt_and_updated(
    generations: Generations, tmp_path: Path, mode: str
) -> None:
    repo = Repository.create(tmp_path / "repo", mode=mode)
    first, second = generations.first, generations.second
    pull(first.open(), repo, Packages(first.packages))
    _holds(repo, first)
    before = objects(repo)
    source = Packages(second.packages)
    pull(second.open(), repo, source, base=first.commit)
    _holds(repo, second)
    after = objects(repo)
    assert {name: after[name] for name in before} == before
    unchanged = {p.ref.pkgid for p in first.packages} & {p.ref.pkgid for p in second.packages}
    kept = {p.ref.nevra.name for p in second.packages if p.ref.pkgid in unchanged}
    assert len(kept) > 10
    assert kept.isdisjoint(source.given)


@pytest.mark.parametrize("mode", KEEPS_OWNERS)
@pytest.mark.parametrize("workers", [1, 4])
def test_crafted_system_is_rebuilt(
    crafted: Generations, tmp_path: Path, mode: str, workers: int
) -> None:
    repo = Repository.create(tmp_path / "repo", mode=mode)
    source = Packages(crafted.first.packages)
    pull(crafted.first.open(), repo, source, workers=workers)
    _holds(repo, crafted.first)
    assert sorted(source.finished) == sorted(source.given)
    source = Packages(crafted.second.packages)
    pull(crafted.second.open(), repo, source, base=crafted.first.commit, workers=workers)
    _holds(repo, crafted.second)
    assert sorted(source.given) == ["moved", "prog", "su"]


def test_every_batch_may_land_alone(
    crafted: Generations, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    pull(crafted.first.open(), repo, Packages(crafted.first.packages))
    _holds(repo, crafted.first)


def test_pull_again_fetches_nothing(crafted: Generations, repo: Repository) -> None:
    pull(crafted.first.open(), repo, Packages(crafted.first.packages))
    before = objects(repo)
    source = Packages([])
    pull(crafted.first.open(), repo, source)
    assert objects(repo) == before
    assert not source.given
    _holds(repo, crafted.first)


def test_progress_reaches_its_total(crafted: Generations, repo: Repository) -> None:
    steps: list[Step] = []
    jigdo = crafted.first.open()
    wanted = examine(jigdo, repo, base=None, check=lambda commit: None)
    source = Packages(crafted.first.packages)
    reassemble(jigdo, wanted, repo, source, ref=REF, report=steps.append)
    assert steps[-1].done == steps[-1].total == wanted.plan.object_bytes
    assert [step.done for step in steps] == sorted(step.done for step in steps)


def test_without_a_ref_only_the_commit_arrives(crafted: Generations, repo: Repository) -> None:
    jigdo = crafted.first.open()
    wanted = examine(jigdo, repo, base=None, check=lambda commit: None)
    reassemble(jigdo, wanted, repo, Packages(crafted.first.packages), ref=None)
    assert not repo.refs()
    repo.fsck_commit(crafted.first.commit)


def test_detached_metadata_arrives(tmp_path: Path, repo: Repository) -> None:
    from gi.repository import GLib

    source = Repository.create(tmp_path / "source", mode="archive")
    commit = write_tree(source, "/a 0100644 0:0 a")
    value = GLib.Variant("a{sv}", {"ostree.gpgsigs": GLib.Variant("aay", [b"not one"])})
    with source.transaction():
        source.write_detached_metadata(commit, value.get_data_as_bytes().get_data())
    pull(build(source, commit, [], tmp_path).open(), repo, Packages([]))
    arrived = repo.detached_metadata(commit)
    assert arrived is not None
    assert arrived.equal(value)


# --- bare-user-only


def test_bare_user_only_takes_what_it_can_keep(tmp_path: Path) -> None:
    source = Repository.create(tmp_path / "source", mode="bare-user")
    text = "/usr/a 0100755 0:0 a\n/usr/b 0100644 0:0 *2000000\n/usr/c 0120777 0:0 a"
    (tmp_path / "p.rpm").write_bytes(rpm_bytes([RpmFile("/usr/a", b"a\n"), symlink("/c", "a")]))
    packages = local_packages([tmp_path / "p.rpm"])
    made = build(source, write_tree(source, text), packages, tmp_path)
    repo = Repository.create(tmp_path / "repo", mode="bare-user-only")
    pull(made.open(), repo, Packages(packages))
    _holds(repo, made)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("/a 0104755 0:0 a", "mode 4755"),
        ("/a 0100666 0:0 a", "mode 0666"),
        ("/a 0100644 7:8 a", "owner 7:8"),
        ("/a 0120777 7:0 a", "owner 7:0"),
    ],
)
def test_bare_user_only_refuses_what_it_cannot_keep_before_anything_moves(
    tmp_path: Path, line: str, what: str
) -> None:
    source = Repository.create(tmp_path / "source", mode="bare-user")
    made = build(source, write_tree(source, line), [], tmp_path)
    repo = Repository.create(tmp_path / "repo", mode="bare-user-only")
    with pytest.raises(MissingRequirement, match=what) as error:
        pull(made.open(), repo, Packages([]))
    assert "bare-user or archive" in error.value.hint
    assert not objects(repo)
    assert not repo.refs()


def test_bare_user_only_refuses_the_fixture_os(generations: Generations, tmp_path: Path) -> None:
    repo = Repository.create(tmp_path / "repo", mode="bare-user-only")
    source = Packages(generations.first.packages)
    with pytest.raises(MissingRequirement, match="bare-user-only repository cannot keep"):
        pull(generations.first.open(), repo, source)
    assert not source.given
    assert not objects(repo)


def test_bare_repository_needs_root(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Repository.create(tmp_path / "bare", mode="bare")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingRequirement, match="takes root"):
        check_storable(bare, [])
    check_storable(repo, [Header(5, 5, 0o104755)])


# --- what is read


def test_commit_is_checked_before_the_tree_moves(crafted: Generations, repo: Repository) -> None:
    ranges = MemoryRanges(crafted.first.data)
    jigdo = JigdoSet(ranges, place_of(crafted.first.data))
    tree = jigdo.index.one(Kind.TREE)
    seen = []

    def check(commit: CommitFrame) -> None:
        seen.append(commit.commit.version)
        for first, length in ranges.requests:
            assert (
                not first <= tree.offset < tree.end <= first + length
                or len(crafted.first.data) < 4096 + tree.size
            )
        raise VerificationFailed("bad signature")

    with pytest.raises(VerificationFailed, match="bad signature"):
        examine(jigdo, repo, base=None, check=check)
    assert seen == ["1"]
    assert not objects(repo)


def test_update_reads_only_what_it_needs(
    generations: Generations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without what comes along because a request of its own would cost more.
    monkeypatch.setattr("composer.jigdo.reader._GAP", 0)
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    repo.disable_fsync()
    pull(generations.first.open(), repo, Packages(generations.first.packages))
    read = {}
    for base in (None, generations.first.commit):
        ranges = MemoryRanges(generations.second.data)
        jigdo = JigdoSet(ranges, place_of(ranges.data))
        wanted = examine(jigdo, repo, base=base, check=lambda commit: None)
        read[base] = sum(length for _, length in ranges.requests)
        plan = wanted.plan
    assert read[generations.first.commit] < read[None]
    assert plan.object_bytes > 0
    assert not objects(repo).keys() & {str(c) for c in wanted.ordinals.checksums}


def test_base_without_a_package_list_only_costs_reading(
    crafted: Generations, repo: Repository
) -> None:
    pull(crafted.first.open(), repo, Packages(crafted.first.packages))
    bare = write_tree(repo, "/a 0100644 0:0 a")
    source = Packages(crafted.second.packages)
    pull(crafted.second.open(), repo, source, base=bare)
    _holds(repo, crafted.second)
    assert sorted(source.given) == ["moved", "prog", "su"]


@pytest.mark.parametrize("value", ["'text'", "[1, 2]", "[('a', 'b')]", "{'a': 'b'}"])
def test_base_with_another_package_list_only_costs_reading(
    crafted: Generations, repo: Repository, value: str
) -> None:
    pull(crafted.first.open(), repo, Packages(crafted.first.packages))
    argv = [
        *("ostree", f"--repo={repo.path}", "commit", "-b", "odd", f"--tree=ref={REF}"),
        f"--add-metadata=jigdo-composer.packages={value}",
    ]
    subprocess.run(argv, check=True, capture_output=True)
    pull(crafted.second.open(), repo, Packages(crafted.second.packages), base=repo.require("odd"))
    _holds(repo, crafted.second)


@pytest.mark.parametrize("suffix", [".file", ".dirtree", ".dirmeta"])
def test_base_that_was_pruned_is_completed(
    crafted: Generations, repo: Repository, suffix: str
) -> None:
    first = crafted.first
    pull(first.open(), repo, Packages(first.packages))
    root = repo.commit(first.commit)
    kept = {str(root.tree)}
    for path in sorted(repo.path.glob(f"objects/*/*{suffix}")):
        if path.parent.name + path.stem not in kept:
            path.unlink()
    source = Packages(crafted.second.packages)
    pull(crafted.second.open(), repo, source, base=first.commit)
    assert repo.require(REF) == crafted.second.commit
    repo.fsck_commit(crafted.second.commit)
    if suffix == ".file":
        assert len(source.given) == len(crafted.second.packages)


def test_base_whose_commit_is_gone_only_costs_reading(
    crafted: Generations, repo: Repository
) -> None:
    pull(
        crafted.second.open(),
        repo,
        Packages(crafted.second.packages),
        base=ObjectChecksum(bytes(32)),
    )
    _holds(repo, crafted.second)


# --- lies of the source


def _instead(where: Path, name: str, files: list[RpmFile]) -> dict[str, Path]:
    path = where / "instead.rpm"
    path.write_bytes(rpm_bytes(files, name=name))
    return {name: path}


PROG = [RpmFile("/usr/bin/prog", b"program 1\n"), RpmFile("/etc/prog.conf", b"conf\n")]
LIES = {
    "other content": [replace(PROG[0], data=b"evil    1\n"), PROG[1]],
    "longer content": [replace(PROG[0], data=b"program 1\nand more\n"), PROG[1]],
    "shorter content": [replace(PROG[0], data=b"prog"), PROG[1]],
    "a file is missing": PROG[:1],
    "all files are missing": [],
    "files in another order": PROG[::-1],
    "a symlink for a file": [symlink("/usr/bin/prog", "/bin/evil0"), PROG[1]],
    "a directory for a file": [replace(PROG[0], data=b"", mode=0o040755), PROG[1]],
    "a ghost for a file": [replace(PROG[0], flags=1 << 6), PROG[1]],
}


@pytest.mark.parametrize("mode", KEEPS_OWNERS)
@pytest.mark.parametrize("lie", LIES)
def test_same_name_with_another_payload_is_refused_by_name(
    crafted: Generations, tmp_path: Path, lie: str, mode: str
) -> None:
    repo = Repository.create(tmp_path / "repo", mode=mode)
    old = write_tree(repo, "/a 0100644 0:0 old")
    source = Packages(crafted.first.packages, instead=_instead(tmp_path, "prog", LIES[lie]))
    with pytest.raises(VerificationFailed, match=r"^prog-1-1\.noarch: "):
        pull(crafted.first.open(), repo, source)
    assert repo.refs() == {REF: old}
    fsck(repo)
    # With the right package it goes on from there.
    pull(crafted.first.open(), repo, Packages(crafted.first.packages))
    _holds(repo, crafted.first)


def test_package_with_the_same_content_otherwise_packed_serves(
    crafted: Generations, tmp_path: Path, repo: Repository
) -> None:
    path = tmp_path / "again.rpm"
    path.write_bytes(rpm_bytes(PROG, name="prog", compressor="xz"))
    pull(crafted.first.open(), repo, Packages(crafted.first.packages, instead={"prog": path}))
    _holds(repo, crafted.first)


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>" * 40])
def test_what_is_no_rpm_is_refused_by_name(
    crafted: Generations, tmp_path: Path, repo: Repository, content: bytes
) -> None:
    (tmp_path / "x.rpm").write_bytes(content)
    source = Packages(crafted.first.packages, instead={"sh": tmp_path / "x.rpm"})
    with pytest.raises(VerificationFailed, match=r"^sh-1-1\.noarch: "):
        pull(crafted.first.open(), repo, source)
    assert not repo.refs()
    fsck(repo)


@pytest.mark.parametrize("compressor", ["xz", "gzip", "zstd"])
def test_package_cut_or_damaged_is_refused_by_name(
    crafted: Generations, tmp_path: Path, compressor: str
) -> None:
    noise = random.Random(3).randbytes(200_000)
    data = rpm_bytes([RpmFile("/usr/x", noise)], compressor=compressor)
    source = Repository.create(tmp_path / "source", mode="bare-user")
    (tmp_path / "x.rpm").write_bytes(data)
    packages = local_packages([tmp_path / "x.rpm"])
    with source.transaction():
        header = Header(0, 0, 0o100644)
        tree = source.write_dirtree({"x": source.writer(header).write(noise, None)}, {})
        meta = source.write_dirmeta(Header(0, 0, 0o040755))
        commit = source.write_commit(tree, meta, subject="", metadata={}, timestamp=0)
    made = build(source, commit, packages, tmp_path)
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    changed = bytearray(data)
    changed[-5000] ^= 0x10
    for damaged in (data[:-50_000], data[:3000], bytes(changed)):
        (tmp_path / "bad.rpm").write_bytes(damaged)
        lying = Packages(packages, instead={"crafted": tmp_path / "bad.rpm"})
        with pytest.raises(VerificationFailed, match=r"^crafted-1-1\.noarch: "):
            pull(made.open(), repo, lying)
        assert not repo.refs()
        fsck(repo)


def test_failure_of_one_package_keeps_the_others_work(
    crafted: Generations, tmp_path: Path, repo: Repository
) -> None:
    instead = _instead(tmp_path, "twins", [])  # the last in order
    with pytest.raises(VerificationFailed):
        pull(crafted.first.open(), repo, Packages(crafted.first.packages, instead=instead))
    source = Packages(crafted.first.packages)
    pull(crafted.first.open(), repo, source)
    _holds(repo, crafted.first)
    assert source.given == ["twins"]


# --- interrupted


@pytest.mark.parametrize(
    ("mode", "durable"), [("archive", False), ("bare-user", False), ("bare-user", True)]
)
@pytest.mark.parametrize("arrived", range(0, 9, 2))
def test_what_arrived_before_an_interruption_is_not_fetched_again(
    crafted: Generations, tmp_path: Path, arrived: int, mode: str, durable: bool
) -> None:
    repo = Repository.create(tmp_path / "repo", mode=mode)
    cut = Packages(crafted.first.packages, fail_after=arrived)
    if arrived < len(crafted.first.packages):
        with pytest.raises(Unplugged):
            pull(crafted.first.open(), repo, cut, durable=durable)
        assert not repo.refs()
        fsck(repo)
    else:
        pull(crafted.first.open(), repo, cut, durable=durable)
    again = Packages(crafted.first.packages)
    pull(crafted.first.open(), repo, again, durable=durable)
    _holds(repo, crafted.first)
    assert not set(cut.given) & set(again.given)
    assert len(cut.given) == arrived


def test_interruption_between_batches_writes_nothing_again(
    crafted: Generations, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    source = Packages(crafted.first.packages, fail_after=6)
    with pytest.raises(Unplugged):
        pull(crafted.first.open(), repo, source, workers=1, durable=True)
    landed = objects(repo)
    assert landed
    repo.land_staged()
    staged = objects(repo)
    pull(crafted.first.open(), repo, Packages(crafted.first.packages), durable=True)
    after = objects(repo)
    assert {name: after[name] for name in staged} == staged
    assert staged.items() >= landed.items()
    _holds(repo, crafted.first)


_PULL = """
import sys, time
from pathlib import Path
from composer.checksum import ContentDigest
from composer.jigdo.local import LocalPackages
from composer.jigdo.reader import open_file
from composer.jigdo import batches, examine, reassemble
from composer.ostree.repo import Repository
batches.BATCH_BYTES = 200_000
repo = Repository.open(Path(sys.argv[1]))
if sys.argv[2] == "quick":
    repo.disable_fsync()
paths = {ContentDigest.of(p.read_bytes()): p for p in map(Path, sys.argv[4:])}
print("go", flush=True)
jigdo = open_file(Path(sys.argv[3]))
wanted = examine.examine(jigdo, repo, base=None, check=lambda commit: None)
reassemble.reassemble(jigdo, wanted, repo, LocalPackages(paths), ref="test/x86_64/os")
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_time_leaves_old_or_new_and_goes_on(
    generations: Generations, tmp_path: Path, seed: int
) -> None:
    made = generations.first
    repo = Repository.create(tmp_path / "repo", mode="bare-user")
    old = write_tree(repo, "/a 0100644 0:0 old")
    (tmp_path / "set.jigdo").write_bytes(made.data)
    paths = [str(package.path) for package in made.packages]
    durability = "durable" if seed % 2 else "quick"
    program = [sys.executable, "-c", _PULL, str(repo.path), durability]
    argv = [*program, str(tmp_path / "set.jigdo"), *paths]
    choose = random.Random(seed)
    for _ in range(2):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(choose.uniform(0, 0.9))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert repo.refs()[REF] in (old, made.commit)
        fsck(repo)
    landed = objects(repo)
    again = Repository.open(repo.path)
    pull(made.open(), again, Packages(made.packages))
    assert landed.items() <= objects(again).items()
    _holds(again, made)


def test_commit_is_written_after_all_that_it_names_has_landed(
    crafted: Generations, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    # libostree lands the objects of a transaction in no particular order: a kill in the
    # middle must not leave a commit without its tree, which ostree fsck calls corrupt.
    landed: list[set[str]] = []
    write = Repository.write_metadata

    def watched(self: Repository, kind: str, checksum: ObjectChecksum, data: bytes) -> None:
        if kind == "commit":
            landed.append({Path(name).name for name in objects(self)})
        write(self, kind, checksum, data)

    monkeypatch.setattr(Repository, "write_metadata", watched)
    pull(crafted.first.open(), repo, Packages(crafted.first.packages), durable=True)
    everything = {Path(name).name for name in objects(repo)}
    (before,) = landed
    assert everything - before == {f"{crafted.first.commit.hex()[2:]}.commit"}


def test_full_disk_stops_before_anything_moves(
    crafted: Generations, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = examine(crafted.first.open(), repo, base=None, check=lambda commit: None)
    check_space(repo, wanted.plan)
    with pytest.raises(NoSpace, match="bytes are needed"):
        check_space(repo, wanted.plan, staging_bytes=1 << 60)


# --- sets that lie.  Each has a right index, as one with the signer's key could make.


def _lies(made: SetOnDisk, repo: Repository, data: bytes, error: type[ComposerError]) -> str:
    """Require that a pull of ``data`` fails with ``error`` and leaves the repository clean."""
    refs = repo.refs()
    with pytest.raises(error) as caught:
        pull(open_bytes(data), repo, Packages(made.packages))
    assert repo.refs() == refs
    fsck(repo)
    return str(caught.value)


def _map_of(made: SetOnDisk, name: str) -> tuple[int, Map]:
    opened = made.open()
    _, _, headers, _ = opened.read_start()
    names = [package.ref.nevra.name for package in opened.head.packages]
    number = names.index(name)
    count = opened.head.totals.objects
    mapping = opened.maps([number], objects=count, headers=headers)[number]
    return opened.head.packages[number].map, mapping


def _rows(mapping: Map) -> list[tuple[int, int, int, int]]:
    columns = (mapping.files, mapping.ordinals, mapping.headers, mapping.sizes)
    return list(zip(*columns, strict=True))


def _with_map(
    made: SetOnDisk, name: str, change: Callable[[tuple[int, int, int, int]], tuple[int, ...]]
) -> bytes:
    frame, mapping = _map_of(made, name)
    rows = [change(row) for row in _rows(mapping)]
    changed = make_map(mapping.pkgid, rows)  # type: ignore[arg-type]
    return rewritten(made.data, replace={frame: dump_map(changed)})


MAP_LIES: dict[str, tuple[str, Callable[[tuple[int, int, int, int]], tuple[int, ...]]]] = {
    "file that is not there": ("prog", lambda r: (r[0] + 50, r[1], r[2], r[3])),
    "file of the largest number": ("prog", lambda r: (2**31 - 1, r[1], r[2], r[3])),
    "ordinal of another object": ("prog", lambda r: (r[0], (r[1] + 1) % 16, r[2], r[3])),
    "ordinal out of range": ("prog", lambda r: (r[0], r[1] + 16, r[2], r[3])),
    "header of another": ("prog", lambda r: (r[0], r[1], (r[2] + 1) % 3, r[3])),
    "header out of range": ("prog", lambda r: (r[0], r[1], r[2] + 50, r[3])),
    "size too small": ("prog", lambda r: (r[0], r[1], r[2], r[3] - 1)),
    "size too large": ("prog", lambda r: (r[0], r[1], r[2], 2**60)),
    "size of a large file too small": ("big", lambda r: (r[0], r[1], r[2], 5)),
    "symlink where a file is": ("sh", lambda r: (1 - r[0], r[1], r[2], r[3])),
    "a ghost": ("prog", lambda r: (2, r[1], r[2], r[3])),
}


@pytest.mark.parametrize("lie", MAP_LIES)
def test_map_that_lies_is_refused(crafted: Generations, repo: Repository, lie: str) -> None:
    write_tree(repo, "/a 0100644 0:0 old")
    name, change = MAP_LIES[lie]
    data = _with_map(crafted.first, name, change)
    _lies(crafted.first, repo, data, VerificationFailed)


def test_map_of_another_package_is_refused(crafted: Generations, repo: Repository) -> None:
    (prog, mapping), (sh, other) = (_map_of(crafted.first, name) for name in ("prog", "sh"))
    swapped = {prog: dump_map(other), sh: dump_map(mapping)}
    data = rewritten(crafted.first.data, replace=swapped)
    assert "its map is of another package" in _lies(crafted.first, repo, data, FormatError)


def test_objects_that_nothing_explains_are_refused(crafted: Generations, repo: Repository) -> None:
    frame, mapping = _map_of(crafted.first, "prog")
    data = rewritten(crafted.first.data, replace={frame: dump_map(make_map(mapping.pkgid, []))})
    message = _lies(crafted.first, repo, data, FormatError)
    assert "does not say where 3 of its objects come from" in message


def test_object_in_two_maps_is_written_once(crafted: Generations, repo: Repository) -> None:
    # A second map that names an object wrongly does no harm unless it is chosen.
    frame, mapping = _map_of(crafted.first, "empty")
    _, other = _map_of(crafted.first, "big")
    rows = [*_rows(mapping), (0, other.ordinals[0], other.headers[0], other.sizes[0])]
    data = rewritten(crafted.first.data, replace={frame: dump_map(make_map(mapping.pkgid, rows))})
    try:
        pull(open_bytes(data), repo, Packages(crafted.first.packages))
    except VerificationFailed:
        assert not repo.refs()
        fsck(repo)
        return
    _holds(repo, crafted.first)


def _head_lie(made: SetOnDisk, change: Callable[[dict[str, object]], object]) -> bytes:
    import json

    number, head = frame_bytes(made.data, Kind.HEAD)
    document = json.loads(head)
    change(document)
    return rewritten(made.data, replace={number: json.dumps(document).encode()})


def test_head_with_another_commit_is_refused(crafted: Generations, repo: Repository) -> None:
    data = _head_lie(crafted.first, lambda d: d.update(commit="0" * 64))
    assert "commit object" in _lies(crafted.first, repo, data, ChecksumMismatch)


def test_head_with_fewer_packages_than_maps_is_refused(
    crafted: Generations, repo: Repository
) -> None:
    number, head = frame_bytes(crafted.first.data, Kind.HEAD)
    parsed = parse_head(head)
    for packages in (parsed.packages[1:], parsed.packages[:-1], ()):
        changed = dump_head(replace(parsed, packages=packages))
        data = rewritten(crafted.first.data, replace={number: changed})
        assert "map frames differ" in _lies(crafted.first, repo, data, FormatError)


def test_head_with_a_pkgid_twice_is_refused(crafted: Generations, repo: Repository) -> None:
    number, head = frame_bytes(crafted.first.data, Kind.HEAD)
    parsed = parse_head(head)
    first, second, *rest = parsed.packages
    twice = replace(second, ref=replace(second.ref, pkgid=first.ref.pkgid))
    changed = dump_head(replace(parsed, packages=(first, twice, *rest)))
    data = rewritten(crafted.first.data, replace={number: changed})
    assert "occurs twice" in _lies(crafted.first, repo, data, FormatError)


def test_commit_of_another_set_is_refused(crafted: Generations, repo: Repository) -> None:
    number, _ = frame_bytes(crafted.first.data, Kind.COMMIT)
    _, other = frame_bytes(crafted.second.data, Kind.COMMIT)
    data = rewritten(crafted.first.data, replace={number: other})
    _lies(crafted.first, repo, data, ChecksumMismatch)


@pytest.mark.parametrize("kind", [Kind.COMMIT, Kind.DIRMETA, Kind.TREE, Kind.HEADERS])
@pytest.mark.parametrize("content", [b"", b"\0", b"\x05ab", b"\xff" * 9, b"\x01\0more"])
def test_metadata_frame_of_nonsense_is_refused(
    crafted: Generations, repo: Repository, kind: Kind, content: bytes
) -> None:
    number, _ = frame_bytes(crafted.first.data, kind)
    data = rewritten(crafted.first.data, replace={number: content})
    _lies(crafted.first, repo, data, ComposerError)


def test_tree_of_another_set_is_refused(crafted: Generations, repo: Repository) -> None:
    number, _ = frame_bytes(crafted.first.data, Kind.TREE)
    _, other = frame_bytes(crafted.second.data, Kind.TREE)
    data = rewritten(crafted.first.data, replace={number: other})
    assert "lacks the dirtree object" in _lies(crafted.first, repo, data, FormatError)


def test_set_without_a_dirmeta_is_refused(crafted: Generations, repo: Repository) -> None:
    number, _ = frame_bytes(crafted.first.data, Kind.DIRMETA)
    data = rewritten(crafted.first.data, replace={number: b"\0"})
    assert "dirmeta" in _lies(crafted.first, repo, data, VerificationFailed)


def test_more_metadata_than_the_tree_has_does_no_harm(
    crafted: Generations, repo: Repository
) -> None:
    number, tree = frame_bytes(crafted.first.data, Kind.TREE)
    data = rewritten(crafted.first.data, replace={number: tree + prefixed(b"\0")})
    pull(open_bytes(data), repo, Packages(crafted.first.packages))
    _holds(repo, crafted.first)


def test_dirmeta_that_is_none_is_refused(crafted: Generations, repo: Repository) -> None:
    number, dirmetas = frame_bytes(crafted.first.data, Kind.DIRMETA)
    changed = uvarint(dirmetas[0] + 1) + dirmetas[1:] + prefixed(b"nonsense")
    data = rewritten(crafted.first.data, replace={number: changed})
    _lies(crafted.first, repo, data, ComposerError)


def _contents_set(where: Path, line: str) -> SetOnDisk:
    source = Repository.create(where / "source", mode="bare-user")
    return build(source, write_tree(source, line), [], where)


@pytest.mark.parametrize(
    "target", [b"a\0b", b"\xff\xfe", b"", b"x" * 5000], ids=["nul", "bytes", "empty", "long"]
)
def test_symlink_to_nowhere_in_the_data_is_refused(
    tmp_path: Path, repo: Repository, target: bytes
) -> None:
    made = _contents_set(tmp_path, "/a 0120777 0:0 target")
    contents, _ = frame_bytes(made.data, Kind.CONTENTS)
    number, _ = frame_bytes(made.data, Kind.DATA)
    table = dump_contents(make_contents([len(target)], [(0, 0, 0)]))
    data = rewritten(made.data, replace={contents: table, number: target})
    _lies(made, repo, data, ComposerError)


def test_data_of_another_content_is_refused(tmp_path: Path, repo: Repository) -> None:
    made = _contents_set(tmp_path, "/a 0100644 0:0 content")
    number, content = frame_bytes(made.data, Kind.DATA)
    data = rewritten(made.data, replace={number: content[::-1]})
    _lies(made, repo, data, VerificationFailed)


def test_contents_of_other_sizes_are_refused(tmp_path: Path, repo: Repository) -> None:
    made = _contents_set(tmp_path, "/a 0100644 0:0 content\n/b 0100644 0:0 other")
    contents, _ = frame_bytes(made.data, Kind.CONTENTS)
    table = dump_contents(make_contents([9, 5], [(0, 0, 0), (1, 1, 0)]))
    _lies(made, repo, rewritten(made.data, replace={contents: table}), VerificationFailed)
    table = dump_contents(make_contents([14], [(0, 0, 0), (1, 0, 0)]))
    _lies(made, repo, rewritten(made.data, replace={contents: table}), VerificationFailed)


def test_data_frame_that_is_missing_is_refused(tmp_path: Path, repo: Repository) -> None:
    made = _contents_set(tmp_path, "/a 0100644 0:0 *17000000")
    numbers = index_of(made.data).numbers(Kind.DATA)
    assert len(numbers) > 2
    data = rewritten(made.data, leave_out=[numbers[1]])
    assert "data frames" in _lies(made, repo, data, FormatError)


@pytest.mark.parametrize("mode", [0o040755, 0o020666, 0o140644, 0, 0o777, 1 << 31])
def test_header_of_no_content_object_is_refused(
    tmp_path: Path, repo: Repository, mode: int
) -> None:
    made = _contents_set(tmp_path, "/a 0100644 0:0 content")
    number, _ = frame_bytes(made.data, Kind.HEADERS)
    data = rewritten(made.data, replace={number: dump_headers([Header(0, 0, mode)])})
    _lies(made, repo, data, ComposerError)


# --- sets that were damaged


class _Damage:
    """A set on which pulls of damaged copies are tried; the repository goes with each."""

    def __init__(self, made: SetOnDisk, where: Path) -> None:
        self.made, self.where, self.count = made, where, 0

    def pull(self, data: bytes) -> None:
        self.count += 1
        repo = Repository.create(self.where / f"repo-{self.count}", mode="bare-user")
        repo.disable_fsync()
        try:
            pull(open_bytes(data), repo, Packages(self.made.packages))
        except ComposerError:
            assert not repo.refs()
        else:
            assert repo.refs() == {REF: self.made.commit}
            repo.fsck_commit(self.made.commit)


@pytest.fixture(scope="module")
def damage(tmp_path_factory: pytest.TempPathFactory) -> _Damage:
    where = tmp_path_factory.mktemp("damage")
    source = Repository.create(where / "source", mode="bare-user")
    text = "/usr/a 0100755 0:0 a\n/usr/b 0100644 7:7 b\n/usr/c 0120777 0:0 a\n/etc 0040700 0:0"
    files = [RpmFile("/usr/a", b"a\n"), symlink("/usr/c", "a")]
    (where / "p.rpm").write_bytes(rpm_bytes(files))
    return _Damage(
        build(source, write_tree(source, text), local_packages([where / "p.rpm"]), where), where
    )


_slow = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_slow
@given(bits=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=4))
def test_set_with_flipped_bits_never_gives_a_wrong_ref(damage: _Damage, bits: list[int]) -> None:
    data = bytearray(damage.made.data)
    for bit in bits:
        data[bit // 8 % len(data)] ^= 1 << bit % 8
    damage.pull(bytes(data))


@_slow
@given(draw=st.data())
def test_set_with_frames_edited_under_a_right_index_never_gives_a_wrong_ref(
    damage: _Damage, draw: st.DataObject
) -> None:
    index = index_of(damage.made.data)
    number = draw.draw(st.integers(0, len(index) - 1))
    opened = damage.made.open()
    ((_, old),) = opened.frames([index[number]])
    content = bytearray(old)
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, max(len(content) - 1, 0)))
        if content and draw.draw(st.booleans()):
            content[at] = draw.draw(st.integers(0, 255))
        else:
            content[at : at + draw.draw(st.integers(0, 3))] = draw.draw(st.binary(max_size=3))
    damage.pull(rewritten(damage.made.data, replace={number: bytes(content)}))


def test_damage_of_these_tests_is_told_from_none(damage: _Damage) -> None:
    damage.pull(rewritten(damage.made.data))
    assert rewritten(damage.made.data) == damage.made.data
    assert ContentDigest.of(damage.made.data) != ContentDigest.of(b"")
    assert io.BytesIO(damage.made.data).read(8) == b"JIGDOSET"
