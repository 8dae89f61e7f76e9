"""Why two byte strings differ: each known way, by the program or library that writes it."""

from __future__ import annotations

import gzip
import importlib.util
import io
import lzma
import marshal
import sqlite3
import struct
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard

from composer.compose.cause import Marks, cause

FIRST = Marks("/cache/composing/compose-a1b2", 1_790_000_000, 1_790_000_050, "/root", "builder7")
SECOND = Marks("/tmp/other", 1_790_000_100, 1_790_000_150, "/home/somebody", "second-compose")
BOTH = FIRST, SECOND

UUIDS = b"6f1e0c1a-52bb-4d5a-9a53-0b4f6f1d2e3c", b"0c9f7f3e-8a2e-4b0e-8d4f-64b7fd2f6a11"


def why(name: str, pair: Sequence[bytes]) -> str:
    """Ask for the cause of a pair of contents."""
    first, second = pair
    return cause(name, first, second, BOTH)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (b"at 1790000010", b"at 1790000110", "the time of the compose"),
        (b"Sat Nov 21 10:00:00 UTC 2026", b"Sun Nov 22 11:01:00 UTC 2026", "the time"),
        (b"built 2026-11-24T08:00:00Z by x", b"built 2026-11-25T09:30:00Z by x", "the time"),
        (b"id=" + UUIDS[0], b"id=" + UUIDS[1], "a random id (UUID)"),
        (b"a" * 32 + b"\n", b"0123456789abcdef" * 2 + b"\n", "hexadecimal"),
        (b"b\na\nc\n", b"a\nb\nc\n", "the order of lines"),
        (b"b\0a\0c\0", b"a\0b\0c\0", "the order of entries"),
        (bytes(8) + b"12345678" + b"abcdefgh", b"abcdefgh" + bytes(8) + b"12345678", "the order"),
        (b"cd /cache/composing/compose-a1b2/t", b"cd /tmp/other/t", "the directory of the compose"),
        (b"host builder7", b"host second-compose", "the host name"),
        (b"~ is /root", b"~ is /home/somebody", "the home directory"),
        (b"pid 12", b"pid 4711", "numbers"),
        (
            b"x\0\1\0" + struct.pack("<I", 1_790_000_020) + b"rest",
            b"x\0\1\0" + struct.pack("<I", 1_790_000_120) + b"rest",
            "the time of the compose, as a binary number",
        ),
        (
            b"x\0\1\0" + struct.pack(">Q", 1_790_000_020) + b"rest",
            b"x\0\1\0" + struct.pack(">Q", 1_790_000_120) + b"rest",
            "the time of the compose, as a binary number",
        ),
        (b"on builder7 at 1790000010\n", b"on second-compose at 1790000110\n", "host name, and"),
        (b"abc", b"abcdef", "one is longer: 3 and 6 bytes"),
        (b"blue tulips", b"blue dahlia", "not recognised; the first difference is at byte 5"),
    ],
)
def test_bytes_tell_why_they_differ(first: bytes, second: bytes, expected: str) -> None:
    assert expected in cause("usr/share/file", first, second, BOTH)


def test_a_time_outside_the_compose_is_not_its_time() -> None:
    told = cause("f", b"at 1234567890", b"at 1234567999", BOTH)
    assert told.startswith("numbers")


def _pyc(mtime: int, source: str = "x = 1") -> bytes:
    code = marshal.dumps(compile(source, "/usr/lib/x.py", "exec"))
    return importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, mtime, len(source)) + code


def test_pyc_has_the_time_of_its_source() -> None:
    told = cause("x.cpython-311.pyc", _pyc(1), _pyc(2), BOTH)
    assert told == "the time of the source file, in the header of the .pyc"
    assert cause("x.pyc", _pyc(1), _pyc(1, "x = 2"), BOTH).startswith("the code in the .pyc")


def test_gzip_header_has_a_time() -> None:
    packed = [gzip.compress(b"same", mtime=time) for time in (5, 6)]
    assert why("man.1.gz", packed) == "the time in the gzip header"
    levels = [gzip.compress(b"same" * 99, level, mtime=0) for level in (1, 9)]
    assert "compressed otherwise by gzip" in why("x.gz", levels)


@pytest.mark.parametrize("name", ["gzip", "xz", "zstd"])
def test_packed_content_is_looked_into(name: str) -> None:
    packers: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda data: gzip.compress(data, mtime=0),
        "xz": lzma.compress,
        "zstd": zstandard.compress,
    }
    pack = packers[name]
    contents = [b"pid 1 of " + UUIDS[0], b"pid 1 of " + UUIDS[1]]
    told = why("x", [pack(content) for content in contents])
    assert told == f"in the {name}: a random id (UUID)"


def _cpio(directory: Path, *names: str) -> bytes:
    done = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc", "--reproducible"],
        cwd=directory,
        input="\n".join(names).encode(),
        capture_output=True,
        check=True,
    )
    return done.stdout


def test_member_of_an_initramfs_is_named(tmp_path: Path) -> None:
    archives = []
    for text in UUIDS:
        (tmp_path / "microcode").write_bytes(b"same")
        (tmp_path / "machine-id").write_bytes(text)
        early, main = _cpio(tmp_path, "microcode"), _cpio(tmp_path, "microcode", "machine-id")
        archives.append(early + gzip.compress(main, mtime=0))
    told = why("usr/lib/modules/6.1/initramfs.img", archives)
    assert told == "in the gzip: member machine-id: a random id (UUID)"


def test_times_and_order_of_an_archive(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("x")
    first, turned = _cpio(tmp_path, "a", "b"), _cpio(tmp_path, "b", "a")
    (tmp_path / "a").touch()
    later = bytearray(_cpio(tmp_path, "a", "b"))
    later[46:54] = b"00000001"
    assert cause("x", first, bytes(later), BOTH) == "the time of member a"
    # Members are compared by name, so what is left is their inodes or their order.
    assert cause("x", first, turned, BOTH) in ("the inode of member a", "the order of members")


def _database(path: Path, *values: object, pages: int = 4096) -> bytes:
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA page_size={pages}")
        database.execute("CREATE TABLE log (entry)")
        database.executemany("INSERT INTO log VALUES (?)", [(value,) for value in values])
    database.close()
    return path.read_bytes()


def test_rows_of_a_database(tmp_path: Path) -> None:
    path = tmp_path / "db"
    one = _database(path, "a", "b")
    assert "laid out otherwise" in cause("x", one, _database(path, "a", "b", pages=8192), BOTH)
    assert cause("x", one, _database(path, "b", "a"), BOTH) == "the order of rows in the table log"
    assert "the number of rows" in cause("x", one, _database(path, "a", "b", "c"), BOTH)
    times = [_database(path, f"at {time}") for time in (1790000001, 1790000101)]
    assert why("x", times) == "table log: the time of the compose"


def test_times_in_a_zip() -> None:
    files = []
    for year in (1999, 2001):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(zipfile.ZipInfo("A.class", (year, 1, 1, 0, 0, 0)), b"same")
        files.append(buffer.getvalue())
    assert why("x.jar", files) == "the time of the zip's member A.class"


@pytest.mark.parametrize(
    "start",
    [
        b"\x1f\x8b\x08",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"070701",
        b"SQLite format 3\0",
        b"PK\x03\x04",
    ],
)
@pytest.mark.parametrize("rest", [b"", b"\xff" * 4, b"0" * 200, b"f" * 200, bytes(4096)])
def test_broken_containers_are_only_bytes(start: bytes, rest: bytes) -> None:
    assert cause("x", start + rest + b"tulip", start + rest + b"daffodil", BOTH)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = [gzip.compress(bytes(300 << 20) + end, 9, mtime=0) for end in (b"a", b"b")]
    assert "gzip" not in why("x", bomb)
