"""rpm-md as it should be, and as it should not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import BoundExceeded, ChecksumMismatch, FormatError
from composer.mirror.set_rpm import build_set_rpm
from composer.rpm.rpmmd import (
    MAX_REPOMD,
    Record,
    find_packages,
    parse_repomd,
    read_packages,
    unpack_record,
    unpack_small,
)

_REPOMD = """<?xml version="1.0"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo">
<revision>7</revision>
<data type="primary">
 <checksum type="sha256">{digest}</checksum>
 <location href="repodata/primary.xml.gz"/>
 <size>12</size><open-size>34</open-size>
</data>
<data type="group"><checksum type="sha">x</checksum><location href="repodata/comps.xml"/></data>
</repomd>
"""
GOOD = _REPOMD.format(digest="a" * 64).encode()
CONTENT = b"some metadata\n" * 1000


def test_repomd_gives_its_records() -> None:
    repomd = parse_repomd(GOOD)
    assert repomd.revision == "7"
    primary = repomd.require("primary")
    assert primary.checksum == ContentDigest.parse("a" * 64)
    assert (primary.size, primary.open_size) == (12, 34)
    group = repomd.find("group")
    assert group == Record("group", "repodata/comps.xml", None, None, None)
    assert repomd.find("jigdo") is None
    with pytest.raises(FormatError, match="jigdo"):
        repomd.require("jigdo")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<repomd ", b"<other "),
        (b"</repomd>", b""),
        (b'href="repodata/primary.xml.gz"', b""),
        (b"repodata/primary.xml.gz", b"../primary.xml.gz"),
        (b"repodata/primary.xml.gz", b"/etc/passwd"),
        (b"a" * 64, b"A" * 64),
        (b"<size>12", b"<size>-1"),
        (b"<size>12", b"<size>" + b"9" * 30),
        (b"<open-size>34", b"<open-size>\xc2\xb2"),
    ],
)
def test_damaged_repomd_is_refused(old: bytes, new: bytes) -> None:
    assert old in GOOD
    with pytest.raises(FormatError, match=r"repomd\.xml"):
        parse_repomd(GOOD.replace(old, new))


def test_entities_and_external_references_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for entity in ('"text"', f'SYSTEM "{secret.as_uri()}"'):
        document = GOOD.replace(b"7</rev", b"&e;</rev").replace(
            b"<repomd", f"<!DOCTYPE r [<!ENTITY e {entity}>]><repomd".encode()
        )
        with pytest.raises(FormatError, match="document type"):
            parse_repomd(document)


def test_large_repomd_is_refused() -> None:
    with pytest.raises(BoundExceeded):
        parse_repomd(GOOD + b" " * MAX_REPOMD)


@given(st.data())
def test_noise_in_repomd_gives_nothing_but_format_errors(data: st.DataObject) -> None:
    document = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        document[data.draw(st.integers(0, len(document) - 1))] = data.draw(st.integers(0, 255))
    with suppress(FormatError):
        parse_repomd(bytes(document))


def _record(packed: bytes, suffix: str, open_size: int | None = len(CONTENT)) -> Record:
    digest = ContentDigest.of(packed)
    return Record("primary", f"repodata/primary.xml{suffix}", digest, len(packed), open_size)


_COMPRESSED = {
    ".gz": gzip.compress(CONTENT),
    ".xz": lzma.compress(CONTENT),
    ".bz2": bz2.compress(CONTENT),
    ".zst": zstandard.ZstdCompressor().compress(CONTENT),
    "": CONTENT,
}


@pytest.mark.parametrize("suffix", sorted(_COMPRESSED))
def test_record_unpacks(suffix: str) -> None:
    packed = _COMPRESSED[suffix]
    assert unpack_small(packed, _record(packed, suffix), limit=1 << 20) == CONTENT
    assert unpack_small(packed, _record(packed, suffix, None), limit=1 << 20) == CONTENT


@pytest.mark.parametrize("suffix", sorted(_COMPRESSED))
def test_record_larger_than_declared_is_cut(suffix: str) -> None:
    packed = _COMPRESSED[suffix]
    into = io.BytesIO()
    with pytest.raises(BoundExceeded):
        unpack_record(io.BytesIO(packed), _record(packed, suffix, len(CONTENT) - 1), into)
    with pytest.raises(BoundExceeded):
        unpack_small(packed, _record(packed, suffix), limit=100)
    with pytest.raises(FormatError):
        unpack_small(packed, _record(packed, suffix, len(CONTENT) + 1), limit=1 << 20)


@pytest.mark.parametrize("suffix", sorted(_COMPRESSED.keys() - {""}))
def test_damaged_compression_is_refused(suffix: str) -> None:
    whole = _COMPRESSED[suffix]
    for packed in (whole[: len(whole) // 2], b"noise" * 9):
        with pytest.raises(FormatError):
            unpack_small(packed, _record(packed, suffix), limit=1 << 20)


def test_wrong_checksum_is_refused_before_a_byte_is_used() -> None:
    packed = _COMPRESSED[".gz"]
    into = io.BytesIO()
    with pytest.raises(ChecksumMismatch):
        unpack_record(io.BytesIO(packed[:-1]), _record(packed, ".gz"), into)
    with pytest.raises(FormatError, match="not SHA-256"):
        unpack_record(io.BytesIO(packed), replace(_record(packed, ".gz"), checksum=None), into)
    assert not into.getvalue()


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two small RPMs, without rpm-md."""
    directory = tmp_path_factory.mktemp("rpms")
    jigdo = directory / "set.jigdo"
    jigdo.write_bytes(b"JIGDOSET and more")
    for name in ("b", "a"):
        build_set_rpm(
            jigdo,
            name=name,
            version="1~rc",
            release="1",
            arch="noarch",
            ref="os",
            commit=ObjectChecksum(b"c" * 32),
            output=directory / "Packages",
            timestamp=1_760_000_000,
        )
    return directory


def test_packages_are_the_same_with_and_without_rpm_md(rpms: Path, tmp_path: Path) -> None:
    without = read_packages(rpms, "id")
    directory = tmp_path / "with"
    shutil.copytree(rpms, directory)
    subprocess.run(["createrepo_c", "--quiet", directory], check=True)
    assert read_packages(directory, "id") == without
    assert [str(one.nevra) for one in without] == ["a-1~rc-1.noarch", "b-1~rc-1.noarch"]
    assert {one.repository for one in without} == {"id"}
    assert without[0].location == "Packages/a-1~rc-1.noarch.rpm"
    assert without[0].size == (rpms / without[0].location).stat().st_size


def test_rpm_md_by_sha1_is_refused_with_advice(rpms: Path, tmp_path: Path) -> None:
    directory = tmp_path / "sha1"
    shutil.copytree(rpms, directory)
    subprocess.run(["createrepo_c", "--quiet", "--checksum", "sha1", directory], check=True)
    with pytest.raises(FormatError) as caught:
        read_packages(directory)
    assert "--checksum sha256" in caught.value.hint
    assert str(directory) in caught.value.message


def test_damaged_local_rpm_md_names_the_directory(rpms: Path, tmp_path: Path) -> None:
    directory = tmp_path / "damaged"
    shutil.copytree(rpms, directory)
    subprocess.run(["createrepo_c", "--quiet", directory], check=True)
    [primary] = directory.glob("repodata/*primary.xml.gz")
    primary.write_bytes(primary.read_bytes()[:-1])
    with pytest.raises(ChecksumMismatch, match=str(directory)):
        read_packages(directory)


def _primary(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "primary.xml"
    path.write_bytes(data)
    return path


_EMPTY = b'<metadata xmlns="http://linux.duke.edu/metadata/common" packages="0"></metadata>'


@pytest.mark.parametrize(
    "declaration",
    [
        b"",
        b'<?xml version="1.0"?>',
        b'<?xml version="1.0" encoding="UTF-8"?>\n',
        b"<?xml version='1.0' encoding='utf-8' standalone='yes' ?>\n<!-- a comment -->",
        b'\xef\xbb\xbf<?xml version="1.0"?>\n',
    ],
)
def test_primary_in_utf_8_is_read(tmp_path: Path, declaration: bytes) -> None:
    assert find_packages(_primary(tmp_path, declaration + _EMPTY), [], []) == []


@pytest.mark.parametrize(
    "data",
    [
        b'<?xml version="1.0" encoding="UTF-7"?>' + _EMPTY,
        b'<?xml version="1.0" encoding="UTF-8" encoding="UTF-7"?>' + _EMPTY,
        b'<?xml version="1.0" x="encoding=" encoding="UTF-16"?>' + _EMPTY,
        ('<?xml version="1.0"?>' + _EMPTY.decode()).encode("utf-16"),
        ('<?xml version="1.0"?>' + _EMPTY.decode()).encode("utf-16-le"),
        b"",
        b"noise",
    ],
)
def test_primary_in_another_encoding_never_reaches_the_c_parser(
    tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(FormatError, match="not XML in UTF-8"):
        find_packages(_primary(tmp_path, data), [], [])


_PACKAGE = f"""<metadata xmlns="http://linux.duke.edu/metadata/common"
xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="1"><package type="rpm"><name>prog</name>
<arch>noarch</arch><version epoch="0" ver="1" rel="1"/>
<checksum type="sha256" pkgid="YES">{"0" * 64}</checksum><size package="10"/>
<location href="prog.rpm"/></package></metadata>"""


@pytest.mark.parametrize(
    "left_out",
    [
        "",
        '<location href="prog.rpm"/>',
        "<arch>noarch</arch>",
        '<version epoch="0" ver="1" rel="1"/>',
    ],
)
def test_package_that_lacks_something_is_refused(tmp_path: Path, left_out: str) -> None:
    path = _primary(tmp_path, _PACKAGE.replace(left_out, "").encode())
    wanted = [ContentDigest(bytes(32))]
    if not left_out:
        assert [str(one.nevra) for one in find_packages(path, wanted, [])] == ["prog-1-1.noarch"]
        return
    with pytest.raises(FormatError, match="a package without"):
        find_packages(path, wanted, [])


@pytest.mark.parametrize("before", [0, 5000, (1 << 20) - 30, 3 << 20])
def test_document_type_is_refused_however_far_down(tmp_path: Path, before: int) -> None:
    comment = b"<!--" + b"x" * before + b"-->"
    entities = b'<!DOCTYPE r [<!ENTITY a "aa">]>'
    data = b'<?xml version="1.0"?>' + comment + entities + _EMPTY
    with pytest.raises(FormatError, match="document type"):
        find_packages(_primary(tmp_path, data), [], [])
