"""What is inside an RPM: files, contents, and what is refused."""

from __future__ import annotations

import hashlib
import random
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from composer.errors import ComposerError
from composer.rpm.package import PackageRefused
from composer.rpm.payload import FileList, opened_payload
from tests.fixtures_os.packages import find_rpm, rpms
from tests.fixtures_os.repos import FixtureRepos
from tests.rpm.crafted import (
    ARRAY,
    BASENAMES,
    DIRINDEXES,
    DIRNAMES,
    FILECAPS,
    FILEDEVICES,
    FILEDIGESTS,
    FILEFLAGS,
    FILEGROUPNAME,
    FILEINODES,
    FILELINKTOS,
    FILEMODES,
    FILESIZES,
    FILEUSERNAME,
    GHOST,
    INT16,
    INT32,
    MD5,
    PAYLOADCOMPRESSOR,
    PAYLOADFORMAT,
    STRING,
    RpmFile,
    Tag,
    cpio,
    entry,
    rpm_bytes,
    symlink,
    trailer,
)

COMPRESSORS = ("gzip", "xz", "lzma", "bzip2", "zstd", "none")
NOISE = random.Random(1).randbytes(3000)
FILES = [
    RpmFile("/usr/bin/a", NOISE * 2),
    RpmFile("/usr/bin/b", b"linked", inode=7),
    RpmFile("/usr/bin/c", b"linked", inode=7),
    symlink("/usr/bin/d", "a"),
    RpmFile("/usr/empty"),
    RpmFile("/var/log/e", b"ghost", flags=GHOST),
]
CONTENTS = {(0,): NOISE * 2, (1, 2): b"linked", (4,): b""}


def _write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "crafted.rpm"
    path.write_bytes(data)
    return path


def _read(path: Path) -> tuple[FileList, dict[tuple[int, ...], bytes]]:
    with opened_payload(path) as (_, files, contents):
        return files, {tuple(content.indexes): content.read() for content in contents()}


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_contents_come_out_of_every_compressor(tmp_path: Path, compressor: str) -> None:
    files, contents = _read(_write(tmp_path, rpm_bytes(FILES, compressor=compressor)))
    assert contents == CONTENTS
    assert list(files.paths) == [file.path for file in FILES]


def test_files_are_as_the_header_has_them(tmp_path: Path) -> None:
    caps: Tag = (ARRAY, [b"", b"", b"= cap_net_raw+ep", b"", b"", b""])
    files, _ = _read(_write(tmp_path, rpm_bytes(FILES, tags={FILECAPS: caps})))
    assert list(files.modes) == [file.mode for file in FILES]
    assert list(files.sizes) == [6000, 6, 6, 1, 0, 5]
    assert list(files.targets) == ["", "", "", "a", "", ""]
    assert set(files.owners) == set(files.groups) == {"root"}
    assert list(files.ghosts) == [False] * 5 + [True]
    assert files.capabilities[2] in ("= cap_net_raw+ep", "cap_net_raw=ep")
    assert files.digests[0] == ContentDigest.of(NOISE * 2)
    assert files.digests[3] is None
    assert files.link_groups() == {0: [0], 1: [1, 2], 4: [4]}
    assert [files.is_file(i) for i in range(6)] == [True, True, True, False, True, False]
    assert [files.is_symlink(i) for i in range(6)] == [False] * 3 + [True, False, False]


def test_md5_digests_are_none(tmp_path: Path) -> None:
    files, contents = _read(_write(tmp_path, rpm_bytes(FILES, algorithm=MD5)))
    assert set(files.digests) == {None}
    assert contents == CONTENTS


def test_name_and_target_that_are_not_utf_8_survive(tmp_path: Path) -> None:
    raw = b"/usr/\xff".decode(errors="surrogateescape")
    files, _ = _read(_write(tmp_path, rpm_bytes([symlink(raw, b"\xfe")])))
    assert files.paths[0].encode(errors="surrogateescape") == b"/usr/\xff"
    assert files.targets[0].encode(errors="surrogateescape") == b"\xfe"


def test_package_without_files_has_none(tmp_path: Path) -> None:
    files, contents = _read(_write(tmp_path, rpm_bytes([])))
    assert (len(files), contents) == (0, {})


def test_contents_that_are_not_read_are_skipped(tmp_path: Path) -> None:
    with opened_payload(_write(tmp_path, rpm_bytes(FILES))) as (_, _, contents):
        assert [content.indexes for content in contents()] == [[0], [1, 2], [4]]
    with opened_payload(_write(tmp_path, rpm_bytes(FILES))) as (_, _, contents):
        for content in contents():
            if content.size:
                assert next(content.pieces(4)) == CONTENTS[tuple(content.indexes)][:4]


def test_pieces_are_no_longer_than_asked(tmp_path: Path) -> None:
    with opened_payload(_write(tmp_path, rpm_bytes(FILES))) as (_, _, contents):
        pieces = list(next(contents()).pieces(1000))
    assert [len(piece) for piece in pieces] == [1000] * 6


# --- the fixture packages, against rpm2cpio and cpio


def _unpacked(path: Path, root: Path) -> dict[str, bytes]:
    root.mkdir()
    archive = subprocess.run(["rpm2cpio", str(path)], capture_output=True, check=True).stdout
    argv = ["cpio", "-idm", "--quiet", "--no-absolute-filenames"]
    subprocess.run(argv, input=archive, cwd=root, check=True)
    return {
        "/" + str(found.relative_to(root)): found.read_bytes()
        for found in root.rglob("*")
        if found.is_file() and not found.is_symlink()
    }


def test_every_fixture_package_gives_what_cpio_gives(
    fixture_repos: FixtureRepos, tmp_path: Path
) -> None:
    compressors = set()
    for number, path in enumerate(rpms(fixture_repos.gen1)):
        if path.stat().st_size > 8 << 20:
            continue
        with opened_payload(path) as (header, files, contents):
            compressors.add(header["payloadcompressor"] or "gzip")
            found: dict[str, bytes] = {}
            for content in contents():
                data = content.read()
                for index in content.indexes:
                    assert files.paths[index] not in found
                    found[files.paths[index]] = data
                    digest = files.digests[index]
                    assert digest in (None, ContentDigest.of(data))
        assert found == _unpacked(path, tmp_path / str(number)), path.name
    assert compressors >= {"gzip", "xz", "zstd", "bzip2"}


def test_hard_links_of_a_fixture_package_come_once(fixture_repos: FixtureRepos) -> None:
    files, contents = _read(find_rpm(fixture_repos.gen1, "vcs"))
    linked = max(contents, key=len)
    assert len(linked) == 12
    assert len({files.paths[index] for index in linked}) == 12
    assert all(files.sizes[index] == len(contents[linked]) for index in linked)


def test_old_digests_of_a_fixture_package_are_none(fixture_repos: FixtureRepos) -> None:
    files, contents = _read(find_rpm(fixture_repos.gen1, "legacy-fonts"))
    assert contents
    assert all(files.digests[index] is None for indexes in contents for index in indexes)


def test_ghosts_of_fixture_packages_are_in_no_payload(fixture_repos: FixtureRepos) -> None:
    ghosts = 0
    for path in rpms(fixture_repos.gen1):
        if path.stat().st_size < 8 << 20:
            files, contents = _read(path)
            ghosts += sum(files.ghosts)
            assert not any(files.ghosts[index] for indexes in contents for index in indexes)
    assert ghosts


_STREAMED = """
import hashlib, resource, sys
from pathlib import Path
from composer.rpm.payload import opened_payload
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with opened_payload(Path(sys.argv[1])) as (_, files, contents):
    before = peak()
    for content in contents():
        state = hashlib.sha256()
        for piece in content.pieces():
            state.update(piece)
        for index in content.indexes:
            assert files.digests[index] in (None, state.digest()), files.paths[index]
        print(content.size)
    print(peak() - before, file=sys.stderr)
"""


def test_large_file_is_streamed(fixture_repos: FixtureRepos) -> None:
    path = find_rpm(fixture_repos.gen1, "atlas")
    done = subprocess.run(
        [sys.executable, "-c", _STREAMED, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert max(int(size) for size in done.stdout.split()) >= 64_000_000
    assert int(done.stderr) < 24_000  # kB


# --- refused


_COUNT = len(FILES)
LIES: dict[str, dict[int, Tag | None]] = {
    "too few sizes": {FILESIZES: (INT32, [1])},
    "no sizes": {FILESIZES: None},
    "too few modes": {FILEMODES: (INT16, [0o100644])},
    "no modes": {FILEMODES: None},
    "too few digests": {FILEDIGESTS: (ARRAY, [b"x"])},
    "digest in capitals": {FILEDIGESTS: (ARRAY, [b"A" * 64] * _COUNT)},
    "digest of other letters": {FILEDIGESTS: (ARRAY, [b"x" * 64] * _COUNT)},
    "too few owners": {FILEUSERNAME: (ARRAY, [b"root"])},
    "too few groups": {FILEGROUPNAME: (ARRAY, [b"root"])},
    "too few flags": {FILEFLAGS: (INT32, [0])},
    "too many flags": {FILEFLAGS: (INT32, [0] * 20)},
    "too few targets": {FILELINKTOS: (ARRAY, [b""])},
    "too few capabilities": {FILECAPS: (ARRAY, [b""])},
    "too few devices": {FILEDEVICES: (INT32, [1])},
    "too few inodes": {FILEINODES: (INT32, [1])},
    "too many inodes": {FILEINODES: (INT32, list(range(20)))},
    "too few directories": {DIRINDEXES: (INT32, [0])},
    "directory out of range": {DIRINDEXES: (INT32, [99] * _COUNT)},
    "no directory names": {DIRNAMES: None},
    "too few names": {BASENAMES: (ARRAY, [b"x"])},
    "name with a slash": {BASENAMES: (ARRAY, [b"a/../../b", b"b", b"c", b"d", b"e", b"f"])},
    "name of a parent": {BASENAMES: (ARRAY, [b"..", b"b", b"c", b"d", b"e", b"f"])},
    "empty name": {BASENAMES: (ARRAY, [b"", b"b", b"c", b"d", b"e", b"f"])},
    "sizes too large": {FILESIZES: (INT32, [0xFFFFFFFF] * _COUNT)},
    "another payload": {PAYLOADFORMAT: (STRING, b"drpm")},
    "unknown compressor": {PAYLOADCOMPRESSOR: (STRING, b"brotli")},
    "wrong compressor": {PAYLOADCOMPRESSOR: (STRING, b"xz")},
}


@pytest.mark.parametrize("lie", LIES)
def test_header_that_lies_is_refused(tmp_path: Path, lie: str) -> None:
    path = _write(tmp_path, rpm_bytes(FILES, tags=LIES[lie]))
    with pytest.raises(PackageRefused, match=r"crafted\.rpm: "):
        _read(path)


def _entries(files: Sequence[RpmFile]) -> bytes:
    return b"".join(entry(file, file.data or file.target) for file in files)


PLAIN = [RpmFile("/usr/a", b"some content"), RpmFile("/usr/b", b"more")]
ARCHIVES = {
    "empty": b"",
    "only a trailer": trailer(),
    "no trailer": cpio(PLAIN)[: -len(trailer())],
    "cut in an entry": cpio(PLAIN)[:50],
    "cut in a content": cpio(PLAIN)[:130],
    "a file is missing": entry(PLAIN[0], b"some content") + trailer(),
    "a file twice": entry(PLAIN[0], b"some content") + cpio(PLAIN),
    "an unknown file": entry(RpmFile("/usr/z"), b"") + cpio(PLAIN),
    "a path outside": entry(RpmFile("/../z"), b"") + cpio(PLAIN),
    "content shorter": entry(PLAIN[0], b"some") + _entries(PLAIN[1:]) + trailer(),
    "claims 4 GB": entry(PLAIN[0], b"some", size=0xFFFFFFF0) + trailer(),
    "nonsense": b"nonsense" * 100,
    "wrong magic": cpio(PLAIN).replace(b"070701", b"070709"),
}


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("compressor", ["none", "xz", "gzip"])
def test_payload_that_lies_is_refused(tmp_path: Path, archive: str, compressor: str) -> None:
    data = rpm_bytes(PLAIN, payload=ARCHIVES[archive], compressor=compressor)
    with pytest.raises(PackageRefused, match=r"crafted\.rpm: "):
        _read(_write(tmp_path, data))


def test_path_twice_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, rpm_bytes([RpmFile("/a", b"1"), RpmFile("/a", b"2")]))
    with pytest.raises(PackageRefused, match="twice"):
        _read(path)


def _refused_or(path: Path, data: bytes, contents: dict[tuple[int, ...], bytes]) -> bool:
    """Tell whether a damaged RPM still gives what it gave; it may also be refused."""
    path.write_bytes(data)
    try:
        return _read(path)[1] == contents
    except PackageRefused as error:
        return str(error).startswith(path.name)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_package_cut_anywhere_is_refused_or_whole(tmp_path: Path, compressor: str) -> None:
    data = rpm_bytes(FILES, compressor=compressor)
    path = tmp_path / "crafted.rpm"
    for length in range(0, len(data), 11):
        assert _refused_or(path, data[:length], CONTENTS), length


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_flipped_bit_of_a_package_is_never_another_error(tmp_path: Path, compressor: str) -> None:
    # Without a checksum in its payload, a package may give other bytes: who takes
    # contents proves them by pkgid, by object checksum, or by verify_digests().
    data = rpm_bytes(FILES, compressor=compressor)
    path = tmp_path / "crafted.rpm"
    for bit in range(96 * 8, 8 * len(data), 97):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        _refused_or(path, bytes(changed), CONTENTS)


def test_flipped_bit_of_an_unprotected_header_is_never_another_error(tmp_path: Path) -> None:
    data = rpm_bytes(FILES[1:], compressor="none", header_digest=False)
    path = tmp_path / "crafted.rpm"
    for bit in range(96 * 8, 8 * len(data), 5):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        _refused_or(path, bytes(changed), CONTENTS)


@pytest.mark.parametrize("name", ["zones", "vcs", "legacy-fonts", "libhue", "docs-viewer"])
def test_damaged_fixture_package_is_refused_or_read(
    fixture_repos: FixtureRepos, tmp_path: Path, name: str
) -> None:
    whole = find_rpm(fixture_repos.gen1, name)
    data, contents = whole.read_bytes(), _read(whole)[1]
    choose, path = random.Random(name), tmp_path / "crafted.rpm"
    for _ in range(40):
        assert _refused_or(path, data[: choose.randrange(len(data))], contents)
        changed = bytearray(data)
        changed[choose.randrange(96, len(data))] ^= 1 << choose.randrange(8)
        _refused_or(path, bytes(changed), contents)


def test_damage_costs_no_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    huge: dict[int, Tag | None] = {FILESIZES: (INT32, [0xFFFFFFF0] * 2)}
    payload = entry(PLAIN[0], b"", size=0xFFFFFFF0)
    for compressor in ("none", "gzip"):
        data = rpm_bytes(PLAIN, tags=huge, payload=payload, compressor=compressor)
        with pytest.raises(ComposerError):
            _read(_write(tmp_path, data))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32_000


def _refuse(path: Path) -> None:
    with opened_payload(path) as (_, _, contents):
        next(contents())
        raise PackageRefused("not wanted")


def test_descriptors_are_closed_whatever_happens(tmp_path: Path) -> None:
    path = _write(tmp_path, rpm_bytes(FILES))
    _read(path)
    before = sorted(Path("/proc/self/fd").iterdir())
    for _ in range(5):
        _read(path)
        with pytest.raises(PackageRefused, match="not wanted"):
            _refuse(path)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_digest_is_over_the_content(tmp_path: Path) -> None:
    files, contents = _read(_write(tmp_path, rpm_bytes(FILES)))
    for indexes, data in contents.items():
        for index in indexes:
            assert files.digests[index] == hashlib.sha256(data).digest()
