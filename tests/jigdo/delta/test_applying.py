"""Updates by deltas: what an older commit has makes what the new one needs."""

from __future__ import annotations

import gzip
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from composer.checksum import ObjectChecksum
from composer.jigdo.container import Kind
from composer.jigdo.delta.building import DeltaOptions
from composer.jigdo.delta.codecs import CodecNumber
from composer.jigdo.delta.table import COPY, PATCH, REPACK, DeltaTable
from composer.jigdo.examine import Choices, Prefer, Wanted, examine
from composer.jigdo.explain import explain
from composer.jigdo.reader import JigdoSet
from composer.jigdo.reassemble import reassemble
from composer.ostree.repo import Repository
from tests.jigdo.delta.modules import Kernel, module
from tests.jigdo.sets import (
    REF,
    Packages,
    SetOnDisk,
    build,
    fsck,
    local_packages,
    open_bytes,
    pull,
    rewritten,
    write_files,
)
from tests.rpm.crafted import RpmFile, rpm_bytes

DRAWN = random.Random(7)
NOISE = DRAWN.randbytes(300_000)
TEXT = " ".join(f"word{DRAWN.randrange(5000)}" for _ in range(40_000)).encode()


def changed(data: bytes, seed: int) -> bytes:
    """Return ``data`` with some bytes changed and a few put in, as a rebuild does."""
    drawn = random.Random(seed)
    out = bytearray(data)
    for _ in range(20):
        at = drawn.randrange(len(out))
        out[at : at + 8] = drawn.randbytes(drawn.randrange(4, 12))
    return bytes(out)


@dataclass(frozen=True, slots=True)
class System:
    """Files of a generation: in a package, and made by the compose; (mode, content) by path."""

    packaged: dict[str, bytes]
    made: dict[str, bytes]


FIRST = System(
    packaged={
        "/usr/lib/libprog.so.1.2": NOISE,
        "/usr/lib/modules/6.1.0-1/kernel/fs.ko": changed(NOISE, 1),
        "/usr/share/man/prog.1.gz": gzip.compress(TEXT, 9, mtime=0),
        "/usr/share/same": b"the same\n",
    },
    made={"/usr/share/rpm/rpmdb": changed(NOISE, 2), "/usr/lib/index": TEXT},
)
SECOND = System(
    packaged={
        "/usr/lib/libprog.so.1.3": changed(NOISE, 3),
        "/usr/lib/modules/6.1.0-2/kernel/fs.ko": changed(changed(NOISE, 1), 4),
        "/usr/share/man/prog.1.gz": gzip.compress(changed(TEXT, 5), 9, mtime=0),
        "/usr/share/same": b"the same\n",
        "/usr/share/added": b"added\n",
        "/usr/share/empty": b"",
    },
    made={
        "/usr/share/rpm/rpmdb": changed(changed(NOISE, 2), 6),
        "/usr/lib/index": changed(TEXT, 7),
        "/usr/lib/wholly-new": DRAWN.randbytes(2000),
    },
)


@dataclass(frozen=True, slots=True)
class Update:
    """Two generations in one repository, and the second one's set with deltas from the first."""

    old: ObjectChecksum
    set: SetOnDisk

    def client(self, where: Path) -> Repository:
        """Make a repository that has the first generation."""
        client = Repository.create(where, mode="bare-user")
        _pull_local(self.set.repo, self.old, client)
        return client


def _pull_local(source: Repository, commit: ObjectChecksum, into: Repository) -> None:
    import subprocess

    argv = ["ostree", f"--repo={into.path}", "pull-local", "--disable-fsync", str(source.path)]
    subprocess.run([*argv, str(commit)], check=True, capture_output=True)
    argv = ["ostree", f"--repo={into.path}", "refs", f"--create={REF}", str(commit)]
    subprocess.run(argv, check=True, capture_output=True)


def _generation(repo: Repository, where: Path, system: System, version: str) -> SetOnDisk:
    where.mkdir(parents=True, exist_ok=True)
    files = [RpmFile(path, data) for path, data in system.packaged.items()]
    path = where / f"prog-{version}.rpm"
    path.write_bytes(rpm_bytes(files, name="prog", version=version))
    commit = write_files(repo, system.packaged | system.made)
    return SetOnDisk(repo, commit, local_packages([path]), b"")


def update(where: Path, **options: object) -> Update:
    repo = Repository.create(where / "source", mode="bare-user")
    old = _generation(repo, where, FIRST, "1")
    new = _generation(repo, where, SECOND, "2")
    wanted = DeltaOptions(bases=(old.commit,), **options)  # type: ignore[arg-type]
    built = build(repo, new.commit, new.packages, where, deltas=wanted)
    return Update(old.commit, built)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Update:
    return update(tmp_path_factory.mktemp("update"), rpm="all")


def table_of(jigdo: JigdoSet) -> DeltaTable:
    _, _, headers, _ = jigdo.read_start()
    table = jigdo.deltas(jigdo.head.bases[0].commit, objects=1000, headers=headers)
    assert table is not None
    return table


def test_update_by_deltas_fetches_no_package_and_little_else(whole: Update, tmp_path: Path) -> None:
    client = whole.client(tmp_path / "client")
    source = Packages(whole.set.packages)
    pull(whole.set.open(), client, source, base=whole.old)
    assert client.resolve(REF) == whole.set.commit
    assert not source.given
    fsck(client)
    wanted = examine(
        whole.set.open(), whole.client(tmp_path / "other"), base=whole.old, check=lambda c: None
    )
    assert wanted.plan.package_bytes == wanted.plan.new_bytes == 0
    assert wanted.plan.delta_bytes < 12_000
    assert wanted.plan.object_bytes > 1_000_000


def test_client_of_another_version_takes_the_packages(whole: Update, tmp_path: Path) -> None:
    client = Repository.create(tmp_path / "client", mode="bare-user")
    source = Packages(whole.set.packages)
    pull(whole.set.open(), client, source)
    assert source.given == ["prog"]
    assert client.resolve(REF) == whole.set.commit
    fsck(client)


def test_any_commit_that_is_here_is_a_base(whole: Update, tmp_path: Path) -> None:
    client = whole.client(tmp_path / "client")
    source = Packages(whole.set.packages)
    pull(whole.set.open(), client, source, base=None)
    assert not source.given


def test_compressed_content_is_patched_inside(whole: Update) -> None:
    table = table_of(whole.set.open())
    methods = [content.method for content in table.contents]
    assert methods.count(REPACK) == 1
    assert PATCH in methods


MANUAL = "/usr/share/man/prog.1.gz"


@pytest.mark.parametrize(
    ("prefer", "delta"), [(Prefer.BYTES, True), (Prefer.BALANCED, True), (Prefer.CPU, False)]
)
def test_packing_again_is_spared_when_cpu_time_is_preferred(
    whole: Update, tmp_path: Path, prefer: Prefer, delta: bool
) -> None:
    client, jigdo, choices = whole.client(tmp_path / "client"), whole.set.open(), Choices()
    choices = replace(choices, prefer=prefer)
    wanted = examine(jigdo, client, base=whole.old, check=lambda c: None, choices=choices)
    found = explain(jigdo, wanted, client, MANUAL)
    assert found.taken == ({"delta": 1} if delta else {"rpm": 1})
    ways = {way.kind: way for way in found.ways}
    assert ways["delta"].seconds > 0
    assert (ways["delta"].chosen, ways["rpm"].chosen) == (delta, not delta)
    assert wanted.replan(prefer) == wanted.plan
    without = wanted.replan(None)
    assert without
    assert not without.deltas.rows
    source = Packages(whole.set.packages)
    reassemble(jigdo, wanted, client, source, ref=REF)
    assert source.given == ([] if delta else ["prog"])
    fsck(client)


def test_what_needs_too_much_memory_is_explained(whole: Update, tmp_path: Path) -> None:
    client, jigdo = whole.client(tmp_path / "client"), whole.set.open()
    choices = Choices(max_memory=41 << 20)
    wanted = examine(jigdo, client, base=whole.old, check=lambda c: None, choices=choices)
    found = explain(jigdo, wanted, client, MANUAL)
    [delta] = [way for way in found.ways if way.kind == "delta"]
    assert "--max-memory" in delta.obstacle
    assert found.taken == {"rpm": 1}


@pytest.mark.parametrize("mode", ["archive", "bare-user-only"])
def test_other_repository_modes_work(whole: Update, tmp_path: Path, mode: str) -> None:
    client = Repository.create(tmp_path / "client", mode=mode)
    _pull_local(whole.set.repo, whole.old, client)
    source = Packages(whole.set.packages)
    pull(whole.set.open(), client, source, base=whole.old)
    assert not source.given
    fsck(client)


def test_without_deltas_of_packages_only_new_content_is_patched(tmp_path: Path) -> None:
    found = update(tmp_path, rpm="none")
    client = found.client(tmp_path / "client")
    source = Packages(found.set.packages)
    pull(found.set.open(), client, source, base=found.old)
    assert source.given == ["prog"]
    assert client.resolve(REF) == found.set.commit
    contents = table_of(found.set.open()).contents
    assert sum(content.method != COPY for content in contents) == 3


def test_budget_bounds_what_is_shipped_of_packages(tmp_path: Path) -> None:
    found = update(tmp_path, rpm="all", budget=100)
    assert sum(c.method != COPY for c in table_of(found.set.open()).contents) == 3


def test_damaged_base_costs_the_delta_and_not_the_update(whole: Update, tmp_path: Path) -> None:
    client = whole.client(tmp_path / "client")
    path = _object_of(client, whole.old, "usr/lib/libprog.so.1.2")
    _rewrite(path, b"\0" * len(NOISE))
    source = Packages(whole.set.packages)
    pull(whole.set.open(), client, source, base=whole.old)
    assert source.given == ["prog"]
    assert client.resolve(REF) == whole.set.commit


def _rewrite(path: Path, data: bytes) -> None:
    mode = path.stat().st_mode
    xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    path.unlink()
    path.write_bytes(data)
    path.chmod(mode)
    for name, value in xattrs.items():
        os.setxattr(path, name, value)


def _object_of(repo: Repository, commit: ObjectChecksum, name: str) -> Path:
    checksum = repo.file_at(commit, name)
    assert checksum is not None
    text = str(checksum)
    return repo.path / "objects" / text[:2] / f"{text[2:]}.file"


def test_frame_that_holds_no_patches_costs_the_deltas_and_not_the_update(
    whole: Update, tmp_path: Path
) -> None:
    """The frame is what the index says: whoever built the set was wrong."""
    numbers = whole.set.open().index.numbers(Kind.PATCH)
    data = rewritten(whole.set.data, replace=dict.fromkeys(numbers, b"no pool of patches"))
    jigdo = open_bytes(data)
    client = whole.client(tmp_path / "client")
    source = Packages(whole.set.packages)
    pull(jigdo, client, source, base=whole.old)
    assert source.given == ["prog"]
    assert client.resolve(REF) == whole.set.commit
    fsck(client)


def test_no_memory_to_pack_again_means_another_way(whole: Update, tmp_path: Path) -> None:
    client = whole.client(tmp_path / "client")
    choices = Choices(max_memory=1 << 20)
    jigdo = whole.set.open()
    wanted = examine(jigdo, client, base=whole.old, check=lambda c: None, choices=choices)
    assert [package.number for package in wanted.plan.packages] == [0]
    source = Packages(whole.set.packages)
    reassemble(jigdo, wanted, client, source, ref=REF)
    assert client.resolve(REF) == whole.set.commit


def test_hostile_table_makes_nothing_but_an_error(whole: Update, tmp_path: Path) -> None:
    """A patch that is for another content gives wrong bytes; the object's checksum tells."""
    client = whole.client(tmp_path / "client")
    jigdo = whole.set.open()
    wanted = examine(jigdo, client, base=whole.old, check=lambda c: None)
    assert wanted.deltas is not None
    table = wanted.deltas.table
    bases = [content.base for content in table.contents]
    moved = [
        replace(content, base=base)
        for content, base in zip(table.contents, bases[1:] + bases[:1], strict=True)
    ]
    wrong = replace(wanted.deltas, table=replace(table, contents=tuple(moved)))
    source = Packages(whole.set.packages)
    reassemble(jigdo, _with(wanted, wrong), client, source, ref=REF)
    assert source.given == ["prog"]
    fsck(client)


def _with(wanted: Wanted, deltas: object) -> Wanted:
    return replace(wanted, deltas=deltas)  # type: ignore[arg-type]


def test_relabelled_content_moves_no_bytes(tmp_path: Path) -> None:
    repo = Repository.create(tmp_path / "source", mode="bare-user")
    old = _generation(repo, tmp_path, FIRST, "1")
    label = ((b"security.selinux", b"system_u:object_r:usr_t:s0\0"),)
    commit = write_files(repo, FIRST.packaged | FIRST.made, xattrs=label)
    options = DeltaOptions(bases=(old.commit,))
    built = build(repo, commit, old.packages, tmp_path, deltas=options)
    client = Update(old.commit, built).client(tmp_path / "client")
    wanted = examine(built.open(), client, base=old.commit, check=lambda c: None)
    plan = wanted.plan
    assert (plan.package_bytes, plan.new_bytes, plan.delta_bytes) == (0, 0, 0)
    pull(built.open(), client, Packages(built.packages), base=old.commit)
    assert client.resolve(REF) == commit
    fsck(client)


def test_set_with_deltas_is_reproducible(whole: Update, tmp_path: Path) -> None:
    again = build(
        whole.set.repo, whole.set.commit, whole.set.packages, tmp_path, workers=1,
        deltas=DeltaOptions(bases=(whole.old,), rpm="all"),
    )  # fmt: skip
    assert again.data == whole.set.data
    assert list(again.open().index.of(Kind.PATCH))


def _modules(number: int, kernel: Kernel, *, inserted: bool) -> dict[str, bytes]:
    return {
        f"/usr/lib/modules/6.1.0-{number}/kernel/m{seed}.ko": module(
            seed, kernel, functions=60 + 5 * seed, inserted=seed if inserted else -1
        )
        for seed in range(6)
    }


def test_modules_are_made_side_by_side_and_a_damaged_one_costs_only_itself(tmp_path: Path) -> None:
    first = _modules(1, Kernel(100_000, 1_000_000), inserted=False)
    second = _modules(2, Kernel(100_037, 1_000_411), inserted=True)
    repo = Repository.create(tmp_path / "source", mode="bare-user")
    old = _generation(repo, tmp_path, System(first, {}), "1")
    new = _generation(repo, tmp_path, System(second, {}), "2")
    options = DeltaOptions(bases=(old.commit,), rpm="all")
    built = build(repo, new.commit, new.packages, tmp_path, deltas=options)
    pieces = [piece for content in table_of(built.open()).contents for piece in content.pieces]
    assert [piece.codec for piece in pieces] == [CodecNumber.LINKED] * 6
    found = Update(old.commit, built)

    for damage in (None, 0, 100):
        client = found.client(tmp_path / f"client {damage}")
        if damage is not None:
            # One's header, or its code: another kind of file, or a content that is wrong.
            path = _object_of(client, old.commit, "usr/lib/modules/6.1.0-1/kernel/m3.ko")
            changed = bytearray(path.read_bytes())
            changed[damage] ^= 255
            _rewrite(path, bytes(changed))
        wanted = examine(built.open(), client, base=old.commit, check=lambda c: None)
        source = Packages(built.packages)
        plans = reassemble(built.open(), wanted, client, source, ref=REF)
        assert client.resolve(REF) == new.commit
        assert source.given == ([] if damage is None else ["prog"])
        again = [] if damage is None else [len(second["/usr/lib/modules/6.1.0-2/kernel/m3.ko"])]
        assert [plan.object_bytes for plan in plans[1:]] == again
