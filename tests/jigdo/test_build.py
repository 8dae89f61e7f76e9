"""The builder: what is in a set, and that it is always the same set."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import ComposerError, VerificationFailed
from composer.jigdo.build import LocalPackage, build_set, tree_path
from composer.jigdo.container import MAX_DATA_FRAME, Kind
from composer.jigdo.manifest import Contents, Map
from composer.jigdo.reader import JigdoSet
from composer.ostree.digests import DigestCache
from composer.ostree.repo import Repository
from composer.progress import Step
from composer.rpm.package import PackageRefused
from tests.fixtures_os.repos import FixtureRepos
from tests.jigdo.sets import (
    REF,
    Packages,
    SetOnDisk,
    build,
    fsck,
    local_packages,
    open_bytes,
    pull,
    write_tree,
)
from tests.jigdo.systems import BIG, Generations, crafted_set, fixture_generations
from tests.rpm.crafted import RpmFile, rpm_bytes, symlink


@pytest.fixture(scope="module")
def generations(
    fixture_repos: FixtureRepos, tmp_path_factory: pytest.TempPathFactory
) -> Generations:
    """Return both generations of the fixture OS; tests only look at them."""
    shared = tmp_path_factory.getbasetemp().parent / "jigdo-fixture-os"
    return fixture_generations(fixture_repos, shared)


@pytest.fixture(scope="module")
def crafted(tmp_path_factory: pytest.TempPathFactory) -> SetOnDisk:
    """Return the first generation of the crafted system."""
    return crafted_set(tmp_path_factory.mktemp("crafted"))


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repo", mode="bare-user")


def _packages(where: Path, **files: Sequence[RpmFile]) -> tuple[LocalPackage, ...]:
    paths = []
    for name, contents in files.items():
        path = where / f"{name}.rpm"
        # Not compressed: a pkgid would change with the library that compresses.
        path.write_bytes(rpm_bytes(contents, name=name, compressor="none"))
        paths.append(path)
    return local_packages(paths)


def _ordinals(made: SetOnDisk) -> dict[str, int]:
    """Map each path of the commit to its ordinal, by the definition in section 5."""
    numbers: dict[ObjectChecksum, int] = {}
    paths: dict[str, int] = {}

    def visit(path: str, tree: ObjectChecksum) -> None:
        entries = made.repo.dirtree(tree)
        for file in entries.files:
            paths[f"{path}/{file.name}"] = numbers.setdefault(file.checksum, len(numbers))
        for directory in entries.directories:
            visit(f"{path}/{directory.name}", directory.tree)

    visit("", made.repo.commit(made.commit).tree)
    return paths


def _parts(made: SetOnDisk) -> tuple[JigdoSet, dict[str, Map], Contents, bytes]:
    """Return a set, its maps by package name, its contents and its data stream."""
    opened = made.open()
    _, _, headers, table = opened.read_start()
    count = len(set(_ordinals(made).values()))
    numbers = range(len(opened.head.packages))
    maps = opened.maps(numbers, objects=count, headers=headers)
    named = {opened.head.packages[n].ref.nevra.name: mapping for n, mapping in maps.items()}
    contents = opened.contents(table, objects=count, headers=headers)
    stream = b"".join(data for _, data in opened.frames(opened.index.of(Kind.DATA)))
    return opened, named, contents, stream


def _stream(contents: Contents, data: bytes) -> list[bytes]:
    offsets = contents.offsets
    return [data[offsets[n] : offsets[n + 1]] for n in range(len(offsets) - 1)]


# --- what is where


def test_every_object_is_in_a_map_or_in_the_set_and_never_in_both(crafted: SetOnDisk) -> None:
    _, maps, contents, _ = _parts(crafted)
    mapped = {ordinal for mapping in maps.values() for ordinal in mapping.ordinals}
    assert mapped.isdisjoint(contents.ordinals)
    assert mapped | set(contents.ordinals) == set(_ordinals(crafted).values())


def test_content_that_no_package_holds_is_shipped_once_whatever_its_header(
    crafted: SetOnDisk,
) -> None:
    _, _, contents, data = _parts(crafted)
    paths = _ordinals(crafted)
    assert sorted(_stream(contents, data)) == sorted(
        [b"only in the set 1\n", b"nowhere/1", b"the same in both\n"]
    )
    names = ("new-1", "new-copy", "new-link", "same")
    assert set(contents.ordinals) == {paths[f"/usr/share/{name}"] for name in names}


def test_map_says_which_files_are_which_objects(crafted: SetOnDisk) -> None:
    _, maps, _, _ = _parts(crafted)
    paths = _ordinals(crafted)

    def rows(name: str) -> list[tuple[int, int]]:
        return list(zip(maps[name].files, maps[name].ordinals, strict=True))

    assert rows("prog") == [
        (0, paths["/usr/bin/prog"]),
        *sorted([(1, paths["/usr/etc/prog.conf"]), (1, paths["/usr/etc/local.conf"])]),
    ]
    assert rows("sh") == [(0, paths["/usr/bin/sh"]), (1, paths["/usr/bin/bash"])]
    assert rows("moved") == [(0, paths["/usr/lib/moved/here"])]
    assert rows("old") == [(0, paths["/usr/lib/old-style"])]
    assert sorted(rows("big")) == sorted(
        [(0, paths["/usr/lib/big"]), (0, paths["/usr/lib/big-copy"])]
    )
    assert rows("empty") == [(0, paths["/usr/share/empty"])]  # /usr/share/dropped is in no commit
    assert paths["/usr/lib/twin-1"] == paths["/usr/lib/twin-2"]
    assert set(maps["twins"].ordinals) == {paths["/usr/lib/twin-1"]}
    assert set(maps["big"].sizes) == {BIG}


def test_head_describes_commit_and_packages(crafted: SetOnDisk) -> None:
    head = crafted.open().head
    assert (head.ref, head.version, head.timestamp) == (REF, "1", 1_700_000_000)
    assert head.name == "jigdo-test-x86_64-os"
    assert head.commit == crafted.commit
    expected = sorted(crafted.packages, key=lambda package: str(package.ref.nevra))
    assert [package.ref for package in head.packages] == [package.ref for package in expected]
    assert [p.map for p in head.packages] == list(crafted.open().index.numbers(Kind.MAP))


def test_totals_are_sums_over_the_commit(crafted: SetOnDisk) -> None:
    totals = crafted.open().head.totals
    paths = _ordinals(crafted)
    assert totals.objects == len(set(paths.values()))
    assert totals.package_objects + totals.new_objects == totals.objects
    assert totals.package_bytes == sum(package.ref.size for package in crafted.packages)
    assert totals.new_bytes == len(b"only in the set 1\nnowhere/1the same in both\n")
    assert totals.object_bytes - totals.package_object_bytes == totals.new_bytes + len(
        "only in the set 1\n"
    )
    assert (totals.dirtrees, totals.dirmetas) == (7, 2)


def test_symlink_and_file_with_the_same_bytes_share_a_content(
    repo: Repository, tmp_path: Path
) -> None:
    # Section 7: each content once whatever its headers.
    commit = write_tree(repo, "/a 0120777 0:0 xxxx\n/b 0100644 0:0 *4")
    _, _, contents, data = _parts(build(repo, commit, [], tmp_path))
    assert data == b"xxxx"
    assert list(contents.contents) == [0, 0]


def test_symlink_never_maps_to_a_file_of_the_same_bytes(repo: Repository, tmp_path: Path) -> None:
    commit = write_tree(repo, "/a 0120777 0:0 xxxx\n/b 0100644 0:0 *4")
    packages = _packages(tmp_path, files=[RpmFile("/a", b"xxxx")], links=[symlink("/b", "xxxx")])
    made = build(repo, commit, packages, tmp_path)
    _, maps, _, _ = _parts(made)
    paths = _ordinals(made)
    assert list(maps["files"].ordinals) == [paths["/b"]]
    assert list(maps["links"].ordinals) == [paths["/a"]]


def test_file_at_its_own_path_is_preferred_to_its_copies(repo: Repository, tmp_path: Path) -> None:
    commit = write_tree(repo, "/usr/etc/a 0100644 0:0 same\n/usr/b 0100600 0:0 same")
    packages = _packages(
        tmp_path,
        aaa=[RpmFile("/usr/elsewhere", b"same\n")],
        own=[RpmFile("/etc/a", b"same\n")],
    )
    made = build(repo, commit, packages, tmp_path)
    _, maps, _, _ = _parts(made)
    paths = _ordinals(made)
    assert list(maps["own"].ordinals).count(paths["/usr/etc/a"]) == 1
    assert paths["/usr/etc/a"] not in maps["aaa"].ordinals
    assert paths["/usr/b"] in maps["aaa"].ordinals


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/etc/passwd", "/usr/etc/passwd"),
        ("/bin/sh", "/usr/bin/sh"),
        ("/lib64/libc.so", "/usr/lib64/libc.so"),
        ("/usr/etc/x", "/usr/etc/x"),
        ("/boot/vmlinuz", "/boot/vmlinuz"),
        ("/library/x", "/library/x"),
        ("/", "/"),
        ("/x.spec", "/x.spec"),
    ],
)
def test_path_of_a_package_has_its_place_in_the_layout(path: str, place: str) -> None:
    assert tree_path(path) == place


def test_ghost_that_is_in_the_commit_is_shipped_with_the_set(crafted: SetOnDisk) -> None:
    # "/var/log/prog" is a ghost with the bytes of /usr/share/new-1.
    _, maps, _, data = _parts(crafted)
    assert 2 not in maps["prog"].files
    assert b"only in the set 1\n" in data


def test_empty_commit_has_a_set(repo: Repository, tmp_path: Path) -> None:
    commit = write_tree(repo, "/d 0040755 0:0")
    made = build(repo, commit, [], tmp_path)
    assert made.open().head.totals.objects == 0
    target = Repository.create(tmp_path / "target", mode="bare-user")
    pull(made.open(), target, Packages([]))
    assert target.require(REF) == commit
    fsck(target)


# --- frames


def test_large_content_takes_several_frames(repo: Repository, tmp_path: Path) -> None:
    commit = write_tree(repo, "/a 0100644 0:0 *5\n/b 0100644 0:0 *17000000\n/c 0100644 0:0 *6\n")
    made = build(repo, commit, [], tmp_path)
    sizes = [frame.uncompressed for frame in made.open().index.of(Kind.DATA)]
    assert max(sizes) <= MAX_DATA_FRAME
    assert sum(sizes) == 17_000_011
    assert sizes[0] == 5  # no cut within a content unless it exceeds a frame alone
    target = Repository.create(tmp_path / "target", mode="archive")
    pull(made.open(), target, Packages([]))
    fsck(target)
    assert target.require(REF) == commit


def test_small_contents_share_frames_that_are_cut_between_them(
    repo: Repository, tmp_path: Path
) -> None:
    lines = [f"/f{n:02} 0100644 0:0 *{300_000 + n}" for n in range(10)]
    opened, _, contents, _ = _parts(build(repo, write_tree(repo, "\n".join(lines)), [], tmp_path))
    ends, total = set(), 0
    for frame in opened.index.of(Kind.DATA):
        total += frame.uncompressed
        ends.add(total)
        assert frame.uncompressed <= 1 << 20
    assert len(ends) == 4
    assert ends <= set(contents.offsets)


# --- the same bytes, always


@pytest.mark.parametrize("workers", [1, 5])
def test_two_builds_are_identical(crafted: SetOnDisk, tmp_path: Path, workers: int) -> None:
    packages = crafted.packages[::-1]
    again = build(crafted.repo, crafted.commit, packages, tmp_path / "cold", workers=workers)
    assert again.data == crafted.data
    warm = build(crafted.repo, crafted.commit, packages, tmp_path / "cold", workers=workers)
    assert warm.data == crafted.data


def test_set_does_not_depend_on_the_repository_s_mode(crafted: SetOnDisk, tmp_path: Path) -> None:
    for mode in ("archive", "bare"):
        repo = Repository.create(tmp_path / mode, mode=mode)
        pull(crafted.open(), repo, Packages(crafted.packages))
        again = build(repo, crafted.commit, crafted.packages, tmp_path / f"{mode}-cache")
        assert again.data == crafted.data


GOLDEN_TREE = """
/usr/bin/hello 0100755 0:0 hello
/usr/bin/hi 0120777 0:0 hello
/usr/etc/hello.conf 0100640 0:5 greeting
/usr/share/note 0100644 0:0 only in the set
"""


def test_golden_set_is_built_byte_for_byte(repo: Repository, tmp_path: Path) -> None:
    # What another implementation of docs/format/jigdo.md must make of the tree above.
    # Frames this small are stored, except those that zstd makes smaller: their packed bytes
    # may change with the zstd library (section 11), the digests of frames never do.
    commit = write_tree(repo, GOLDEN_TREE, metadata={"version": "1"})
    assert str(commit) == "c7fba38d636ca3b34f2538e2de5ef11fc469f69f202ab8bc17c0f88262d2686f"
    packages = _packages(
        tmp_path,
        hello=[
            RpmFile("/etc/hello.conf", b"greeting\n"),
            RpmFile("/usr/bin/hello", b"hello\n"),
            symlink("/usr/bin/hi", "hello"),
        ],
    )
    made = build(repo, commit, packages, tmp_path)
    index = made.open().index
    digests = {f.kind.name.lower(): f.digest for f in (index[n] for n in range(len(index)))}
    pkgid = packages[0].ref.pkgid
    assert digests["headers"] == ContentDigest.of(
        b"\x04"
        b"\x00\x00\xa4\x83\x02\x00"  # 0:0 0100644
        b"\x00\x00\xed\x83\x02\x00"  # 0:0 0100755
        b"\x00\x00\xff\xc3\x02\x00"  # 0:0 0120777
        b"\x00\x05\xa0\x83\x02\x00"  # 0:5 0100640
    )
    # Ordinals: /usr/bin/hello 0, hi 1, /usr/etc/hello.conf 2, /usr/share/note 3.
    assert digests["map"] == ContentDigest.of(
        pkgid
        + b"\x03"
        + b"\x00\x01\x01"  # files 0, 1, 2
        + b"\x04\x05\x00"  # ordinals 2, 0, 1: +2, -3, 0
        + b"\x03\x01\x02"  # headers
        + b"\x09\x06\x05"  # sizes
        + b"\x00"  # no beginnings
    )
    assert digests["contents"] == ContentDigest.of(b"\x01\x10\x01\x03\x00\x00")
    assert digests["data"] == ContentDigest.of(b"only in the set\n")
    assert {kind: str(digest)[:16] for kind, digest in digests.items()} == GOLDEN_DIGESTS
    assert hashlib.sha256(made.data).hexdigest() == GOLDEN_SHA256


GOLDEN_DIGESTS = {
    "head": "b78de1791db4955a",
    "commit": "f5850a3db8e42dae",
    "dirmeta": "2cb38bb70cc5638a",
    "tree": "e4e012a1dc21a12a",
    "headers": "0bb82a955e4a1b01",
    "map": "370ca00f719331df",
    "contents": "87058668f1416445",
    "data": "77ca744a49bf4c3a",
}
GOLDEN_SHA256 = "8d03d6c34e042721d91ec6c281d7a3c5102da35c2b9fe64e6ca66b8021c800c9"


# --- what goes wrong


def _build(repo: Repository, commit: ObjectChecksum, packages: Sequence[LocalPackage]) -> None:
    cache = DigestCache(repo.path.parent / "digests")
    build_set(repo, commit, packages, ref=REF, into=io.BytesIO(), cache=cache)


def test_commit_that_lacks_an_object_is_refused(repo: Repository, tmp_path: Path) -> None:
    commit = write_tree(repo, "/a 0100644 0:0 a")
    for path in repo.path.glob("objects/*/*.file"):
        path.unlink()
    with pytest.raises(ComposerError):
        _build(repo, commit, [])


def test_damaged_object_is_not_shipped(repo: Repository, tmp_path: Path) -> None:
    commit = write_tree(repo, "/a 0100644 0:0 a\n/b 0100644 0:0 *100")
    for path in repo.path.glob("objects/*/*.file"):
        path.write_bytes(b"damaged" + path.read_bytes())
    with pytest.raises(VerificationFailed):
        _build(repo, commit, [])


def test_damaged_package_is_refused(repo: Repository, tmp_path: Path) -> None:
    commit = write_tree(repo, "/a 0100644 0:0 a")
    packages = _packages(tmp_path, a=[RpmFile("/a", b"a\n")])
    packages[0].path.write_bytes(b"nonsense")
    with pytest.raises(PackageRefused, match=r"a\.rpm"):
        _build(repo, commit, packages)


def test_package_given_twice_is_refused_or_taken_once(repo: Repository, tmp_path: Path) -> None:
    commit = write_tree(repo, "/a 0100644 0:0 a")
    packages = _packages(tmp_path, a=[RpmFile("/a", b"a\n")])
    try:
        made = build(repo, commit, [*packages, *packages], tmp_path)
    except ComposerError:
        return
    assert len(open_bytes(made.data).head.packages) == 1


def test_progress_ends_every_phase(crafted: SetOnDisk, tmp_path: Path) -> None:
    steps: list[Step] = []
    build_set(
        crafted.repo,
        crafted.commit,
        crafted.packages,
        ref=REF,
        into=io.BytesIO(),
        cache=DigestCache(tmp_path / "digests"),
        report=steps.append,
    )
    last = {step.phase: step for step in steps}
    assert set(last) == {"read commit", "map", "new content"}
    assert all(step.done == step.total for step in last.values())


# --- the fixture OS


def test_no_content_of_a_package_is_in_the_fixture_set(generations: Generations) -> None:
    for made in (generations.first, generations.second):
        _, _, contents, data = _parts(made)
        shipped = {hashlib.sha256(piece).digest() for piece in _stream(contents, data) if piece}
        assert shipped
        for package in made.packages:
            archive = subprocess.run(
                ["rpm", "-qp", "--qf", "[%{FILEDIGESTS} %{FILEFLAGS:fflags}\n]", package.path],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            held = {
                bytes.fromhex(digest)
                for digest, _, flags in (line.partition(" ") for line in archive.splitlines())
                if len(digest) == 64 and "g" not in flags
            }
            assert held.isdisjoint(shipped), package.ref.nevra


def test_fixture_set_explains_every_object(generations: Generations) -> None:
    made = generations.first
    opened, maps, contents, data = _parts(made)
    mapped = {ordinal for mapping in maps.values() for ordinal in mapping.ordinals}
    everything = set(_ordinals(made).values())
    assert mapped | set(contents.ordinals) == everything
    assert mapped.isdisjoint(contents.ordinals)
    assert opened.head.totals.objects == len(everything)
    assert len(data) == opened.head.totals.new_bytes
    # A small system: nearly all of it is in packages.
    assert opened.head.totals.new_objects < 60


def test_fixture_set_is_reproducible(generations: Generations, tmp_path: Path) -> None:
    for made in (generations.first, generations.second):
        packages = made.packages[::-1]
        again = build(made.repo, made.commit, packages, tmp_path / str(made.commit), workers=3)
        assert again.data == made.data
