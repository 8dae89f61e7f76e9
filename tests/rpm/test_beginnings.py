"""A beginning of an RPM has what it says, whatever the compressor."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from composer.rpm.beginnings import MOST, STEP, read_beginnings
from composer.rpm.package import PackageRefused
from composer.rpm.payload import opened_payload
from tests.rpm.crafted import RpmFile, rpm_bytes, symlink

NOISE = random.Random(1)
FILES = [
    RpmFile("/a", b"linked", inode=7),  # its bytes come with the last of the two
    *(RpmFile(f"/n/{number:02}", NOISE.randbytes(50_000)) for number in range(20)),
    symlink("/o", "a"),
    RpmFile("/p", NOISE.randbytes(400_000)),
    RpmFile("/q", b"linked", inode=7),
    RpmFile("/r", NOISE.randbytes(300_000)),
]
EVERY = range(len(FILES))


@pytest.mark.parametrize("compressor", ["gzip", "xz", "lzma", "bzip2", "zstd", "none"])
def test_a_beginning_suffices_for_what_it_serves(tmp_path: Path, compressor: str) -> None:
    path, cut = tmp_path / "a.rpm", tmp_path / "cut.rpm"
    path.write_bytes(rpm_bytes(FILES, compressor=compressor))
    wanted = [index for index in EVERY if index != 0]
    found = read_beginnings(path, wanted)
    assert len(found) >= (1 if compressor == "bzip2" else 3)  # its blocks have 900 kB
    data = path.read_bytes()
    for beginning in found:
        assert STEP <= beginning.size < len(data)
        cut.write_bytes(data[: beginning.size])
        assert ContentDigest.of(cut.read_bytes()) == beginning.digest
        left = {i for i in wanted[: beginning.entries] if not FILES[i].target}
        with opened_payload(cut) as (_, files, contents):
            for content in contents():
                assert content.read() == FILES[content.indexes[-1]].data
                left -= set(content.indexes)
                if not left:
                    break
        assert not left, f"{[files.paths[i] for i in left]} are not in {beginning}"
    sizes, entries = [b.size for b in found], [b.entries for b in found]
    assert sizes == sorted(set(sizes))
    assert entries == sorted(set(entries))


def test_a_hard_link_is_served_where_its_bytes_are(tmp_path: Path) -> None:
    path = tmp_path / "a.rpm"
    path.write_bytes(rpm_bytes(FILES, compressor="none"))
    [beginning] = read_beginnings(path, [0, 1])
    assert beginning.entries >= 1
    assert beginning.size > 20 * 50_000 + 400_000


def test_small_packages_and_those_without_files_have_none(tmp_path: Path) -> None:
    path = tmp_path / "a.rpm"
    path.write_bytes(rpm_bytes(FILES[:3], compressor="zstd"))
    assert read_beginnings(path, [1]) == ()
    path.write_bytes(rpm_bytes(FILES, compressor="zstd"))
    assert read_beginnings(path, []) == ()
    assert read_beginnings(path, [21]) == ()  # a symlink is in the header


def test_there_are_not_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a.rpm"
    many = [RpmFile(f"/n/{number:03}", NOISE.randbytes(100_000)) for number in range(100)]
    path.write_bytes(rpm_bytes(many, compressor="none"))
    assert MOST // 2 <= len(read_beginnings(path, range(100))) <= MOST


def test_a_cut_rpm_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.rpm"
    path.write_bytes(rpm_bytes(FILES, compressor="zstd")[:-400_000])
    with pytest.raises(PackageRefused):
        read_beginnings(path, EVERY)
