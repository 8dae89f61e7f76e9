"""Each thing that real packages do is in some fixture package, as its header says."""

from __future__ import annotations

import base64
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import rpm

from tests.fixtures_os.packages import files_of, find_rpm, header_of, read_header, rpms
from tests.fixtures_os.repos import FixtureRepos

Header = Any  # rpm.hdr; the module has no types


def _dependencies(header: Header, kind: str) -> set[str]:
    # DNEVR() has a letter for its kind before the dependency.
    return {dependency.DNEVR()[2:] for dependency in rpm.ds(header, kind)}


def _read_payload(path: Path) -> dict[str, bytes]:
    """Return the content of every file that has its own; of a hard link set, its last name."""
    header = read_header(path)
    transaction = rpm.TransactionSet()
    transaction.setKeyring(rpm.keyring())
    contents = {}
    with path.open("rb") as stream:
        transaction.hdrFromFdno(stream.fileno())  # leaves the stream where the payload begins
        codec = {None: "ufdio", "gzip": "gzdio", "zstd": "zstdio"}[header["payloadcompressor"]]
        payload = rpm.fd(stream.fileno(), "r", codec)
        archive = rpm.files(header).archive(payload)
        for file in archive:
            if archive.hascontent():
                contents[file.name] = archive.read()
        payload.close()
    return contents


# --- containers


@pytest.mark.parametrize(
    ("name", "compressor", "flags"),
    [
        ("filesystem", "gzip", "9"),
        ("legacy-fonts", "gzip", "1"),
        ("setup", "xz", "2"),
        ("busybox", "xz", "6"),
        ("paint-manual", "bzip2", "9"),
        ("vcs", "zstd", "3"),
        ("atlas", "zstd", "9"),
        ("zones", None, ""),
    ],
)
def test_every_payload_compressor_is_used(
    fixture_repos: FixtureRepos, name: str, compressor: str | None, flags: str
) -> None:
    header = header_of(fixture_repos.gen1, name)
    assert (header["payloadcompressor"], header["payloadflags"]) == (compressor, flags)


def test_one_package_has_md5_digests_and_the_others_sha256(fixture_repos: FixtureRepos) -> None:
    lengths = {
        header["name"]: {len(file.digest) for file in rpm.files(header) if file.digest}
        for header in map(read_header, rpms(fixture_repos.gen1))
    }
    assert lengths.pop("legacy-fonts") == {32}
    assert set().union(*lengths.values()) == {64}


def test_headers_carry_fixed_host_and_time(fixture_repos: FixtureRepos) -> None:
    headers = [read_header(path) for path in rpms(fixture_repos.gen1)]
    assert {(header["buildhost"], header["buildtime"]) for header in headers} == {
        ("fixture.invalid", 1_735_689_600)
    }


def test_repository_lists_every_package_and_has_groups(fixture_repos: FixtureRepos) -> None:
    for repository in (fixture_repos.gen1, fixture_repos.gen2):
        kinds = (repository / "repodata" / "repomd.xml").read_text()
        assert '<data type="primary">' in kinds
        assert '<data type="group">' in kinds
        assert len(rpms(repository)) >= 35


# --- files


def test_usr_is_merged(fixture_repos: FixtureRepos) -> None:
    files = files_of(fixture_repos.gen1, "filesystem")
    links = {name: files[name].linkto for name in ("/bin", "/sbin", "/lib", "/lib64")}
    assert links == {
        "/bin": "usr/bin",
        "/sbin": "usr/sbin",
        "/lib": "usr/lib",
        "/lib64": "usr/lib64",
    }
    below = {"bin", "sbin", "lib", "lib64"}
    for header in map(read_header, rpms(fixture_repos.gen1)):
        assert not {
            file.name for file in rpm.files(header) if Path(file.name).parts[1] in below
        } - {f"/{name}" for name in below}


@pytest.mark.parametrize(
    ("name", "path", "mode", "owner"),
    [
        ("filesystem", "/tmp", 0o1777, "root:root"),
        ("filesystem", "/root", 0o700, "root:root"),
        ("filesystem", "/proc", 0o555, "root:root"),
        ("filesystem", "/var/spool/mail", 0o775, "root:mail"),
        ("setup", "/etc/shadow", 0o000, "root:root"),
        ("privileges", "/usr/bin/become", 0o4111, "root:root"),
        ("privileges", "/usr/libexec/write-score", 0o2755, "root:games"),
        ("privileges", "/var/games/scores", 0o2775, "root:games"),
        ("privileges", "/etc/become.d/rules", 0o440, "root:wheel"),
        ("messaged", "/usr/libexec/messaged-launch", 0o4750, "root:messaged"),
        ("messaged", "/var/log/messaged", 0o2750, "messaged:messages"),
        ("paint", "/var/lib/paint/state.json", 0o640, "painter:painter"),
        ("kernel-core", "/usr/lib/modules/6.1.10-1.fx.x86_64/System.map", 0o600, "root:root"),
        ("trouble-owner", "/usr/share/trouble-owner/file", 0o644, "stranger:stranger"),
    ],
)
def test_mode_and_owner(
    fixture_repos: FixtureRepos, name: str, path: str, mode: int, owner: str
) -> None:
    file = files_of(fixture_repos.gen1, name)[path]
    assert (stat.S_IMODE(file.mode), f"{file.user}:{file.group}") == (mode, owner)


@pytest.mark.parametrize(
    ("name", "path", "flags"),
    [
        ("paint", "/etc/paint.conf", rpm.RPMFILE_CONFIG | rpm.RPMFILE_NOREPLACE),
        ("paint", "/etc/paint.d/defaults.conf", rpm.RPMFILE_CONFIG),
        ("paint", "/var/cache/paint", rpm.RPMFILE_GHOST),
        ("paint", "/var/cache/paint/thumbnails.db", rpm.RPMFILE_GHOST),
        ("paint", "/usr/share/doc/paint/README", rpm.RPMFILE_DOC),
        ("paint", "/usr/share/man/man1/paint.1", rpm.RPMFILE_DOC),
        ("paint", "/usr/share/licenses/paint/COPYING", rpm.RPMFILE_LICENSE),
        ("kernel-modules", "/usr/lib/modules/6.1.10-1.fx.x86_64/modules.dep", rpm.RPMFILE_GHOST),
        (
            "setup",
            "/etc/fstab",
            rpm.RPMFILE_CONFIG | rpm.RPMFILE_NOREPLACE | rpm.RPMFILE_MISSINGOK | rpm.RPMFILE_GHOST,
        ),
    ],
)
def test_file_flags(fixture_repos: FixtureRepos, name: str, path: str, flags: int) -> None:
    assert files_of(fixture_repos.gen1, name)[path].fflags == flags


def test_files_of_three_languages_are_marked(fixture_repos: FixtureRepos) -> None:
    files = files_of(fixture_repos.gen1, "paint")
    languages = {file.langs for file in files.values() if file.name.endswith("paint.mo")}
    assert languages == {"de", "fr", "ja"}


def test_programs_have_capabilities(fixture_repos: FixtureRepos) -> None:
    files = files_of(fixture_repos.gen1, "privileges")
    assert {path: file.caps for path, file in files.items() if file.caps not in ("", "=")} == {
        "/usr/bin/newmap": "cap_setgid,cap_setuid=ep",
        "/usr/bin/probe": "cap_net_raw=ep",
    }


def test_hard_links_are_one_set_of_twelve_and_two_of_three(fixture_repos: FixtureRepos) -> None:
    sets = {
        tuple(sorted(link.name for link in file.links))
        for name in ("vcs", "zones")
        for file in files_of(fixture_repos.gen1, name).values()
        if file.nlink > 1
    }
    assert sorted(len(names) for names in sets) == [3, 3, 12]
    (commands,) = [names for names in sets if len(names) == 12]
    assert {str(Path(name).parent) for name in commands} == {"/usr/bin", "/usr/libexec/vcs-core"}


def test_symbolic_links_are_absolute_relative_across_directories_and_dangling(
    fixture_repos: FixtureRepos,
) -> None:
    zones = files_of(fixture_repos.gen1, "zones")
    assert zones["/usr/share/zones/localtime"].linkto == "/usr/share/zones/Europe/Europe-03"
    assert zones["/usr/share/zones/right/Europe"].linkto == "../../zones/Europe"
    assert zones["/usr/share/zones/dangling"].linkto == "no-such-zone"


def test_one_directory_belongs_to_several_packages(fixture_repos: FixtureRepos) -> None:
    owners = Counter(
        file.name
        for path in rpms(fixture_repos.gen1)
        for file in rpm.files(read_header(path))
        if stat.S_ISDIR(file.mode)
    )
    assert owners["/usr/lib/plugins"] == 3
    assert owners["/etc"] == 1


def test_names_have_spaces_and_go_beyond_ascii(fixture_repos: FixtureRepos) -> None:
    names = set(files_of(fixture_repos.gen1, "paint-manual"))
    assert "/usr/share/paint-manual/水彩/はじめに.txt" in names
    assert "/usr/share/paint-manual/Ölfarben/naïve  double space.txt" in names
    assert "/usr/share/paint-manual/drafts/ " in names
    assert "/usr/share/paint-manual/empty directory" in names


def test_some_files_are_empty(fixture_repos: FixtureRepos) -> None:
    files = files_of(fixture_repos.gen1, "paint-manual").values()
    assert sum(stat.S_ISREG(file.mode) and file.size == 0 for file in files) == 2


def test_some_equal_files_are_not_linked(fixture_repos: FixtureRepos) -> None:
    files = files_of(fixture_repos.gen1, "zones")
    europe = files["/usr/share/zones/Europe/Europe-02"]
    twin = files["/usr/share/zones/Europe/Twin"]
    assert (europe.digest, europe.nlink, twin.nlink) == (twin.digest, 1, 1)


def test_large_file_is_64_mb_in_a_package_of_2_and_changes_little(
    fixture_repos: FixtureRepos,
) -> None:
    first, second = (
        _read_payload(find_rpm(repository, "atlas"))["/usr/share/atlas/world.tiles"]
        for repository in (fixture_repos.gen1, fixture_repos.gen2)
    )
    assert len(first) == 64 << 20
    assert find_rpm(fixture_repos.gen1, "atlas").stat().st_size < 3_000_000
    assert len(second) == len(first) + 8
    blocks = range(0, len(first), 1024)
    changed = sum(first[i : i + 1024] != second[i + 8 : i + 8 + 1024] for i in blocks)
    assert 0 < changed < len(blocks) // 100


def test_a_file_moves_to_another_package(fixture_repos: FixtureRepos) -> None:
    path = "/usr/share/color/wheel.tbl"
    before = files_of(fixture_repos.gen1, "libhue")[path].digest
    assert path not in files_of(fixture_repos.gen1, "color-data")
    assert path not in files_of(fixture_repos.gen2, "libhue")
    assert files_of(fixture_repos.gen2, "color-data")[path].digest == before


def test_a_file_moves_to_another_path(fixture_repos: FixtureRepos) -> None:
    manual = "/usr/share/paint-manual"
    before = files_of(fixture_repos.gen1, "paint-manual")
    after = files_of(fixture_repos.gen2, "paint-manual")
    digest = before[f"{manual}/appendix/colours.txt"].digest
    assert f"{manual}/appendix/colours.txt" not in after
    assert after[f"{manual}/reference/colours.txt"].digest == digest


def test_kernel_and_its_modules_move_with_its_version(fixture_repos: FixtureRepos) -> None:
    for repository, kver in (
        (fixture_repos.gen1, "6.1.10-1.fx.x86_64"),
        (fixture_repos.gen2, "6.1.12-1.fx.x86_64"),
    ):
        assert f"/usr/lib/modules/{kver}/vmlinuz" in files_of(repository, "kernel-core")
        modules = files_of(repository, "kernel-modules")
        assert f"/usr/lib/modules/{kver}/kernel/fs/ext4.ko" in modules


def test_nothing_is_below_opt(fixture_repos: FixtureRepos) -> None:
    paths = {
        file.name
        for path in rpms(fixture_repos.gen1)
        for file in rpm.files(read_header(path))
        if file.name.startswith("/opt")
    }
    assert paths == {"/opt"}


# --- dependencies


@pytest.mark.parametrize(
    ("name", "kind", "dependency"),
    [
        ("paint", "requires", "(canvas-gl or canvas-soft)"),
        ("paint", "requires", "(paint-manual if docs-viewer)"),
        ("paint", "requires", "libtint.so.1()(64bit)"),
        ("docs-viewer", "recommends", "docs-viewer-themes"),
        ("docs-viewer", "suggests", "docs-viewer-extras"),
        ("docs-viewer-search", "supplements", "(docs-viewer and paint)"),
        ("docs-viewer-search", "enhances", "paint-manual"),
        ("canvas-gl", "conflicts", "canvas-soft"),
        ("messaged", "provides", "group(messages)"),
        ("busybox", "provides", "/bin/sh"),
    ],
)
def test_dependency(fixture_repos: FixtureRepos, name: str, kind: str, dependency: str) -> None:
    assert dependency in _dependencies(header_of(fixture_repos.gen1, name), kind)


def test_soname_changes_and_its_user_follows(fixture_repos: FixtureRepos) -> None:
    library = _dependencies(header_of(fixture_repos.gen2, "libtint"), "provides")
    user = _dependencies(header_of(fixture_repos.gen2, "paint"), "requires")
    assert {name for name in library & user if name.startswith("libtint")} == {
        "libtint.so.2()(64bit)"
    }


def test_renamed_package_obsoletes_its_old_name(fixture_repos: FixtureRepos) -> None:
    header = header_of(fixture_repos.gen2, "brush")
    assert _dependencies(header, "obsoletes") == {"brush-classic < 2"}
    assert "brush-classic = 2.0" in _dependencies(header, "provides")


def test_provided_user_carries_its_sysusers_line(fixture_repos: FixtureRepos) -> None:
    path = find_rpm(fixture_repos.gen1, "messaged")
    (user,) = [
        name
        for name in _dependencies(read_header(path), "provides")
        if name.startswith("user(messaged) = ")
    ]
    line = base64.b64decode(user.removeprefix("user(messaged) = "))
    assert line in _read_payload(path)["/usr/lib/sysusers.d/messaged.conf"].splitlines()


# --- scriptlets


@pytest.mark.parametrize(
    ("name", "tag", "interpreters"),
    [
        ("filesystem", "pretransprog", ["<lua>"]),
        ("paint", "preinprog", ["/bin/sh"]),
        ("paint", "postinprog", ["/bin/sh"]),
        ("paint", "preunprog", ["/bin/sh"]),
        ("paint", "posttransprog", ["/bin/sh"]),
        ("legacy-fonts", "postunprog", ["/bin/sh"]),
        ("messaged", "postinprog", ["<lua>"]),
        ("plugin-index", "triggerscriptprog", ["/bin/sh"]),
        ("plugin-index", "filetriggerscriptprog", ["/bin/sh"]),
        ("plugin-index", "transfiletriggerscriptprog", ["/bin/sh", "<lua>"]),
    ],
)
def test_scriptlet_has_its_interpreter(
    fixture_repos: FixtureRepos, name: str, tag: str, interpreters: list[str]
) -> None:
    assert header_of(fixture_repos.gen1, name)[tag] == interpreters
