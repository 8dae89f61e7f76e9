"""What a repository says, through mirrors that lie."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import BoundExceeded, ChecksumMismatch, ComposerError, NotFound
from composer.jigdo.container import IndexPlace
from composer.jigdo.pointer import Pointer, PointerEntry, Versions
from composer.net.fetch import Fetcher
from composer.net.job import FetchFailed
from composer.net.location import Mirrors
from composer.net.network import Limits, Network
from composer.net.repository import find_entry, locate_packages, read_pointer
from composer.rpm.package import Nevra, PackageRef
from tests.net.lying_mirror import LyingMirror

QUICK = Limits(stall_seconds=1, backoff_seconds=0.01, attempts=2)
REPOMD = "repodata/repomd.xml"
ENTRY = PointerEntry(
    ref="os/stable",
    version="42.1",
    commit=ObjectChecksum(b"c" * 32),
    timestamp=1_760_000_000,
    location="jigdo/os-stable-42.1-1.noarch.rpm",
    pkgid=ContentDigest(b"p" * 32),
    size=100,
    offset=10,
    length=90,
    index=IndexPlace(1, 2, 3, ContentDigest(b"i" * 32)),
)
PRIMARY = """<?xml version="1.0" encoding="UTF-8"?>
<metadata xmlns="http://linux.duke.edu/metadata/common"
 xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="1">
<package type="rpm"><name>a</name><arch>noarch</arch>
<version epoch="0" ver="1" rel="1"/>
<checksum type="sha256" pkgid="YES">{pkgid}</checksum>
<summary/><description/><packager/><url/>
<time file="1" build="1"/><size package="5" installed="1" archive="1"/>
<location href="pool/a-1-1.noarch.rpm"/><format/></package>
</metadata>
"""


def publish(directory: Path, files: dict[str, bytes], *, open_size: int | None = None) -> None:
    """Write repodata with these records, compressed with gzip."""
    repodata = directory / "repodata"
    repodata.mkdir(exist_ok=True)
    records = ""
    for type, data in files.items():
        packed = gzip.compress(data, mtime=0)
        digest = hashlib.sha256(packed).hexdigest()
        (repodata / f"{digest}-{type}.gz").write_bytes(packed)
        records += (
            f'<data type="{type}"><checksum type="sha256">{digest}</checksum>'
            f'<location href="repodata/{digest}-{type}.gz"/><size>{len(packed)}</size>'
            f"<open-size>{len(data) if open_size is None else open_size}</open-size></data>"
        )
    (directory / REPOMD).write_text(
        f'<repomd xmlns="http://linux.duke.edu/metadata/repo">{records}</repomd>'
    )


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[LyingMirror]:
    pkgid = str(ContentDigest(b"p" * 32))
    pointer = Pointer((ENTRY,)).dump()
    publish(tmp_path, {"jigdo": pointer, "primary": PRIMARY.format(pkgid=pkgid).encode()})
    with LyingMirror(tmp_path) as mirror:
        yield mirror


@pytest.fixture
def fetcher(mirror: LyingMirror) -> Iterator[Fetcher]:
    with Fetcher(Mirrors.parse(mirror.url), network=Network(limits=QUICK)) as fetcher:
        yield fetcher


def _path(mirror: LyingMirror, type: str) -> str:
    [path] = mirror.directory.glob(f"repodata/*-{type}.gz")
    return path.relative_to(mirror.directory).as_posix()


def test_newest_set_is_found_with_two_small_requests(fetcher: Fetcher, mirror: LyingMirror) -> None:
    assert find_entry(fetcher, "os/stable") == ENTRY
    assert len(mirror.log) == 2
    assert mirror.sent() < 2000


OLD = replace(ENTRY, version="42.0", timestamp=1, commit=ObjectChecksum(b"o" * 32))


def publish_versions(mirror: LyingMirror) -> None:
    other = replace(OLD, ref="os/testing", version="41", commit=ObjectChecksum(b"t" * 32))
    lists = {"jigdo": Pointer((ENTRY,)).dump(), "jigdo-versions": Versions((OLD, other)).dump()}
    publish(mirror.directory, lists)


def test_older_version_is_found_with_one_request_more(
    fetcher: Fetcher, mirror: LyingMirror
) -> None:
    publish_versions(mirror)
    assert find_entry(fetcher, "os/stable", "42.0") == OLD
    assert find_entry(fetcher, "os/stable", str(OLD.commit)) == OLD
    assert len(mirror.log) == 6
    # Who wants the newest does not pay for the others.
    for wanted in ("", ENTRY.version, str(ENTRY.commit)):
        assert find_entry(fetcher, "os/stable", wanted) == ENTRY
    assert len(mirror.log) == 12


def test_unknown_version_lists_those_of_the_ref(fetcher: Fetcher, mirror: LyingMirror) -> None:
    publish_versions(mirror)
    for wanted in ("41", "42"):
        with pytest.raises(NotFound, match=f"no set of version {wanted}") as caught:
            find_entry(fetcher, "os/stable", wanted)
        assert caught.value.details == ("it has: 42.1, 42.0",)


def test_lying_list_of_versions_is_refused(fetcher: Fetcher, mirror: LyingMirror) -> None:
    publish_versions(mirror)
    mirror.flip_bit(_path(mirror, "jigdo-versions"), 20)
    with pytest.raises((ChecksumMismatch, FetchFailed)):
        find_entry(fetcher, "os/stable", "42.0")


def test_location_that_leads_out_of_the_repository_is_refused(
    fetcher: Fetcher, mirror: LyingMirror
) -> None:
    away = replace(OLD, location="../../etc/passwd")
    lists = {"jigdo": Pointer((ENTRY,)).dump(), "jigdo-versions": Versions((away,)).dump()}
    publish(mirror.directory, lists)
    with pytest.raises(ComposerError, match="passwd"):
        find_entry(fetcher, "os/stable", "42.0")


def test_unknown_ref_lists_what_there_is(fetcher: Fetcher) -> None:
    with pytest.raises(NotFound, match="os/other") as caught:
        find_entry(fetcher, "os/other")
    assert "os/stable" in caught.value.details[0]


def test_repository_without_sets_is_explained(fetcher: Fetcher, mirror: LyingMirror) -> None:
    publish(mirror.directory, {})
    with pytest.raises(NotFound, match="no jigdo sets"):
        read_pointer(fetcher)


def test_no_repository_is_explained(fetcher: Fetcher, mirror: LyingMirror) -> None:
    mirror.drop(REPOMD)
    with pytest.raises(NotFound, match=r"repomd\.xml: not found"):
        read_pointer(fetcher)


@pytest.mark.parametrize("lie", ["flip", "truncate", "html"])
def test_lying_pointer_is_refused(fetcher: Fetcher, mirror: LyingMirror, lie: str) -> None:
    path = _path(mirror, "jigdo")
    if lie == "flip":
        mirror.flip_bit(path, 20)
    elif lie == "truncate":
        mirror.truncate(path)
    else:
        mirror.html(path)
    with pytest.raises((ChecksumMismatch, FetchFailed)):
        read_pointer(fetcher)


def test_damaged_repomd_comes_from_the_next_mirror(mirror: LyingMirror) -> None:
    with (
        LyingMirror(mirror.directory) as second,
        Fetcher(Mirrors.parse(mirror.url, second.url), network=Network(limits=QUICK)) as fetcher,
    ):
        mirror.truncate(REPOMD)
        assert find_entry(fetcher, "os/stable") == ENTRY
        assert second.requests(REPOMD)


def test_pointer_replaced_meanwhile_is_read_again(fetcher: Fetcher, mirror: LyingMirror) -> None:
    old = (mirror.directory / REPOMD).read_bytes()
    (mirror.directory / _path(mirror, "jigdo")).unlink()
    publish(mirror.directory, {"jigdo": Pointer((ENTRY,)).dump() + b"\n"})
    new = (mirror.directory / REPOMD).read_bytes()
    (mirror.directory / REPOMD).write_bytes(old)

    class Updating(Fetcher):
        def fetch_small(self, location: str, **options: object) -> bytes:
            data = super().fetch_small(location, **options)  # type: ignore[arg-type]
            if location == REPOMD:
                (mirror.directory / REPOMD).write_bytes(new)
            return data

    with Updating(Mirrors.parse(mirror.url), network=Network(limits=QUICK)) as updating:
        assert find_entry(updating, "os/stable") == ENTRY


def test_pointer_bomb_is_refused(fetcher: Fetcher, mirror: LyingMirror) -> None:
    publish(mirror.directory, {"jigdo": b" " * (5 << 20)})
    with pytest.raises(BoundExceeded):
        read_pointer(fetcher)


def test_package_is_located_by_its_digest(fetcher: Fetcher) -> None:
    wanted = [_package(b"p", "x-1-1.noarch"), _package(b"q", "y-1-1.noarch")]
    [found] = locate_packages(fetcher, wanted)
    assert (found.pkgid, found.location) == (wanted[0].pkgid, "pool/a-1-1.noarch.rpm")


def test_package_is_located_by_its_name_whatever_its_digest_is(fetcher: Fetcher) -> None:
    [found] = locate_packages(fetcher, [_package(b"q", "a-1-1.noarch")])
    assert found.pkgid == ContentDigest(b"p" * 32)
    assert not locate_packages(fetcher, [_package(b"q", "a-1:1-1.noarch")])


def _package(pkgid: bytes, nevra: str) -> PackageRef:
    return PackageRef(Nevra.parse(nevra), ContentDigest(pkgid * 32), 1)


def test_damaged_package_list_is_refused(fetcher: Fetcher, mirror: LyingMirror) -> None:
    mirror.flip_bit(_path(mirror, "primary"), 100)
    with pytest.raises(ChecksumMismatch):
        locate_packages(fetcher, [_package(b"p", "a-1-1.noarch")])
