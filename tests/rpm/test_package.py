"""An RPM's identity and header."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ContentDigest
from composer.errors import ComposerError, NotFound
from composer.rpm.package import (
    Nevra,
    PackageRefused,
    find_rpms,
    nevra_of,
    opened,
    read_ref,
    verify_digests,
)
from tests.fixtures_os.packages import find_rpm, rpms
from tests.fixtures_os.repos import FixtureRepos
from tests.rpm.crafted import (
    ARCH,
    EPOCH,
    INT32,
    NAME,
    RELEASE,
    STRING,
    VERSION,
    RpmFile,
    Tag,
    rpm_bytes,
)

_WORD = st.text("abzAZ09_.+", min_size=1, max_size=8)
_FIELD = st.text("abzAZ09_.+~^", min_size=1, max_size=8)
_NEVRA = st.builds(
    Nevra,
    st.lists(_WORD, min_size=1, max_size=3).map("-".join),
    st.integers(0, 2**31),
    *(_FIELD, _FIELD),
    st.text("abz0189_", min_size=1, max_size=8),
)


@given(_NEVRA)
def test_nevra_survives(nevra: Nevra) -> None:
    assert Nevra.parse(str(nevra)) == nevra


@pytest.mark.parametrize(
    ("text", "nevra"),
    [
        ("bash-5.2-1.fc42.x86_64", Nevra("bash", 0, "5.2", "1.fc42", "x86_64")),
        ("vim-2:9.1~rc1^git-3.noarch", Nevra("vim", 2, "9.1~rc1^git", "3", "noarch")),
        ("a-b-c-1-2.src", Nevra("a-b-c", 0, "1", "2", "src")),
    ],
)
def test_nevra_is_read(text: str, nevra: Nevra) -> None:
    assert Nevra.parse(text) == nevra
    assert str(nevra) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "bash", "bash-1", "bash-1-1", "-1-1.x", "bash--1.x", "bash-1-.x", "bash-1-1."),
        *("bash-x:1-1.x", "bash-:1-1.x", "bash-1:-1.x", "../b-1-1.x"),
        *(
            "bash-1-1.x\n",
            "bash-1 2-1.x",
            "b\0-1-1.x",
            "bash-1/2-1.x",
            "bash-1-1.x/y",
            "bash-٣:1-1.x",
        ),
    ],
)
def test_what_is_no_nevra_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Nevra.parse(text)


def test_epoch_zero_may_be_written_and_is_left_out() -> None:
    assert Nevra.parse("bash-0:1-1.x") == Nevra.parse("bash-1-1.x")
    assert str(Nevra.parse("bash-0:1-1.x")) == "bash-1-1.x"


@given(st.text(max_size=40) | st.text("a1-.:", max_size=20))
def test_any_text_is_refused_or_read(text: str) -> None:
    try:
        nevra = Nevra.parse(text)
    except ValueError:
        return
    assert Nevra.parse(str(nevra)) == nevra


# --- RPM files


def _write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "crafted.rpm"
    path.write_bytes(data)
    return path


def test_fixture_packages_are_described(fixture_repos: FixtureRepos) -> None:
    for path in rpms(fixture_repos.gen1):
        ref = read_ref(path, repository="base", location="x/y.rpm")
        nevra = ref.nevra
        assert path.name == f"{nevra.name}-{nevra.version}-{nevra.release}.{nevra.arch}.rpm"
        assert ref.pkgid == ContentDigest.of(path.read_bytes())
        assert ref.size == path.stat().st_size
        assert (ref.repository, ref.location) == ("base", "x/y.rpm")
        assert Nevra.parse(str(ref.nevra)) == ref.nevra


def test_location_is_the_name_unless_given(tmp_path: Path) -> None:
    assert read_ref(_write(tmp_path, rpm_bytes([]))).location == "crafted.rpm"


def test_epoch_is_part_of_the_nevra(tmp_path: Path) -> None:
    path = _write(tmp_path, rpm_bytes([], tags={EPOCH: (INT32, [3])}))
    assert str(read_ref(path).nevra) == "crafted-3:1-1.noarch"


@pytest.mark.parametrize("tag", [NAME, VERSION, RELEASE])
def test_header_without_an_identity_is_refused(tmp_path: Path, tag: int) -> None:
    path = _write(tmp_path, rpm_bytes([], tags={tag: None}))
    with pytest.raises(PackageRefused, match=r"crafted\.rpm: the header lacks"):
        read_ref(path)


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (NAME, b"../../evil"),
        (NAME, b"a b"),
        (NAME, b"a\nb"),
        (NAME, b"\xff"),
        (VERSION, b"1-2"),
        (VERSION, b"1/2"),
        (RELEASE, b"1-2"),
        (RELEASE, b"./x"),
        (ARCH, b"no/arch"),
        (ARCH, b"no.arch"),
    ],
)
def test_header_with_an_identity_that_is_none_is_refused(
    tmp_path: Path, tag: int, value: bytes
) -> None:
    tags: dict[int, Tag | None] = {tag: (STRING, value)}
    with pytest.raises(PackageRefused, match=r"crafted\.rpm: "):
        read_ref(_write(tmp_path, rpm_bytes([], tags=tags)))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xed\xab\xee\xdb", b"not an rpm" * 100, b"\xed\xab\xee\xdb" + bytes(5000)],
    ids=["empty", "magic", "text", "zeros"],
)
def test_what_is_no_rpm_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(PackageRefused, match=r"crafted\.rpm: not a readable RPM"):
        read_ref(_write(tmp_path, data))


def test_reason_is_librpm_s_own_and_about_this_file(tmp_path: Path) -> None:
    data = bytearray(rpm_bytes([RpmFile("/a", b"x")]))
    at = data.index(b"noarch")
    data[at] ^= 1
    with pytest.raises(PackageRefused, match="digest"):
        read_ref(_write(tmp_path, bytes(data)))
    # What was said of one file is not said of the next.
    with pytest.raises(PackageRefused) as error:
        read_ref(_write(tmp_path, b"not an rpm" * 100))
    assert "digest" not in str(error.value)


def test_descriptors_are_closed(tmp_path: Path) -> None:
    path = _write(tmp_path, rpm_bytes([RpmFile("/a", b"x")]))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with opened(path) as (header, _):
            nevra_of(header, path)
        with pytest.raises(RuntimeError), opened(path):
            raise RuntimeError
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1  # librpm's log


_READ = """
import sys
from pathlib import Path
from composer.rpm.package import PackageRefused, read_ref
for path in sys.argv[1:]:
    try:
        read_ref(Path(path))
    except PackageRefused as error:
        print(error)
"""


def test_nothing_is_said_on_standard_error(tmp_path: Path) -> None:
    bad = tmp_path / "bad.rpm"
    bad.write_bytes(b"not an rpm" * 100)
    good = _write(tmp_path, rpm_bytes([]))
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", _READ, str(good), str(bad), str(good)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.startswith("bad.rpm: not a readable RPM")
    assert done.stderr == ""


def test_threads_read_side_by_side(fixture_repos: FixtureRepos) -> None:
    paths = [path for path in rpms(fixture_repos.gen1) if path.stat().st_size < 1 << 20]
    expected = [read_ref(path) for path in paths]
    found: list[object] = []

    def read() -> None:
        try:
            found.append([read_ref(path) for path in paths])
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


# --- digests


def test_digests_of_fixture_packages_are_right(fixture_repos: FixtureRepos) -> None:
    for name in ("zones", "vcs", "legacy-fonts"):
        verify_digests(find_rpm(fixture_repos.gen1, name))


@pytest.mark.parametrize("part", ["header", "payload"])
def test_flipped_bit_is_refused_by_digests(
    fixture_repos: FixtureRepos, tmp_path: Path, part: str
) -> None:
    data = bytearray(find_rpm(fixture_repos.gen1, "zones").read_bytes())
    data[-100 if part == "payload" else data.index(b"noarch")] ^= 1
    with pytest.raises(PackageRefused, match=r"crafted\.rpm: rpm refuses it: .*(?i:digest)"):
        verify_digests(_write(tmp_path, bytes(data)))


# --- finding


def test_rpms_are_found_below_directories(tmp_path: Path) -> None:
    for name in ("b/z.rpm", "a.rpm", "b/c/d.rpm", "b/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "dir.rpm").mkdir()
    assert find_rpms([tmp_path / "b", tmp_path / "a.rpm", tmp_path]) == [
        tmp_path / "a.rpm",
        tmp_path / "b/c/d.rpm",
        tmp_path / "b/z.rpm",
    ]
    with pytest.raises(NotFound, match="no RPMs in"):
        find_rpms([tmp_path / "dir.rpm"])
    with pytest.raises(ComposerError, match="nowhere"):
        find_rpms([tmp_path / "nowhere"])
