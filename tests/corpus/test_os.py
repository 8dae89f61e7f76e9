"""The corpus as an operating system: its triggers, users, labels and initramfs, twice the same.

tests/corpus/os/os.yaml is the treefile; os-triggers are our own, the policy is Debian's.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from composer.compose.keys import BY_NAME
from tests.commands import jigdo, ostree
from tests.corpus import policy
from tests.fixtures_os.repos import FixtureRepos

CORPUS = Path(os.environ.get("JIGDO_CORPUS") or "/nonexistent")
TREEFILE = Path(__file__).with_name("os") / "os.yaml"

pytestmark = [
    pytest.mark.skipif(not CORPUS.is_dir(), reason="no corpus: set JIGDO_CORPUS (see .ci/run)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="composing takes root"),
    pytest.mark.timeout(900),
]

_LISTED = re.compile(
    r"(?P<kind>[-dl])(?P<mode>\d{5}) (?P<uid>\d+) (?P<gid>\d+) +(?P<size>\d+) "
    r"\{ \[(?P<attributes>.*?)\] \} (?P<path>/.*?)(?: -> (?P<target>.*))?"
)


@dataclass(frozen=True)
class Entry:
    """A line of ``ostree ls -X``."""

    kind: str
    mode: int
    size: int
    label: str
    target: str


@dataclass(frozen=True)
class System:
    """The composed tree and what the command said of it."""

    repo: Path
    said: Any
    entries: Mapping[str, Entry]

    def read(self, path: str) -> str:
        return ostree(self.repo, "cat", self.said["ref"], path)

    def under(self, directory: str) -> dict[str, Entry]:
        return {p: e for p, e in self.entries.items() if p.startswith(f"{directory}/")}

    @property
    def modules(self) -> str:
        """The kernel's directory."""
        (image,) = [path for path in self.entries if path.endswith("/vmlinuz")]
        return image.rpartition("/")[0]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, fixture_repos: FixtureRepos) -> System:
    work = tmp_path_factory.mktemp("system")
    try:
        policy.make(work / "policy")
    except policy.PolicyUnavailable as error:
        pytest.skip(f"Debian's SELinux policy cannot be had: {error}")
    words = ["compose", TREEFILE, "--repo", work / "repo", "--cachedir", work / "cache"]
    for name, place in (
        ("corpus", CORPUS / "v1"),
        ("os", fixture_repos.gen1.parent / "os"),
        ("policy", work / "policy"),
    ):
        words += ["--repository", f"{name}={place}"]
    said = jigdo(*words, "--check-reproducible", "--json").document
    return System(work / "repo", said, _entries(work / "repo", said["ref"]))


def _entries(repo: Path, ref: str) -> dict[str, Entry]:
    found = {}
    for line in ostree(repo, "ls", "-R", "-X", ref, "/").splitlines():
        match = _LISTED.fullmatch(line)
        assert match, line
        labels = re.findall(r"b'security.selinux', b'([^']*)'", match["attributes"])
        found[match["path"]] = Entry(
            match["kind"],
            int(match["mode"], 8),
            int(match["size"]),
            labels[0] if labels else "",
            match["target"] or "",
        )
    return found


def test_second_compose_gives_the_same_commit(system: System) -> None:
    assert system.said["reproducible"] is True
    assert {"directory", "time zone", "umask"} <= set(system.said["varied"])


def test_commit_is_whole(system: System) -> None:
    assert "no errors found" in ostree(system.repo, "fsck")


def test_treefile_uses_most_keys() -> None:
    text = "".join(path.read_text() for path in TREEFILE.parent.glob("*.yaml"))
    used = set(re.findall(r"^([a-z][a-z0-9_-]*):", text, re.MULTILINE))
    assert used <= {*BY_NAME, "packages-x86_64"}
    assert len(used) >= 35, sorted(used)


# --- what triggers and scriptlets made


@pytest.mark.parametrize(
    ("path", "least"),
    [
        ("/usr/etc/ld.so.cache", 5_000),
        ("/usr/etc/udev/hwdb.bin", 5_000_000),
        ("/usr/share/glib-2.0/schemas/gschemas.compiled", 10_000),
        ("/usr/share/mime/mime.cache", 50_000),
        ("/usr/share/icons/hicolor/icon-theme.cache", 50),
        ("/usr/etc/ssl/certs/ca-certificates.crt", 100_000),
    ],
)
def test_trigger_made_its_product(system: System, path: str, least: int) -> None:
    assert system.entries[path].kind == "-"
    assert system.entries[path].size >= least


def test_font_caches_are_there_for_each_directory(system: System) -> None:
    caches = [path for path in system.under("/usr/lib/fontconfig/cache") if ".cache-" in path]
    # /usr/share/fonts, truetype below it, dejavu below that.
    assert len(caches) == 3


def test_certificates_are_joined_and_hashed(system: System) -> None:
    packaged = [p for p in system.under("/usr/share/ca-certificates") if p.endswith(".crt")]
    joined = system.read("/usr/etc/ssl/certs/ca-certificates.crt")
    assert joined.count("BEGIN CERTIFICATE") == len(packaged) > 100
    assert any(re.search(r"/[0-9a-f]{8}\.0$", p) for p in system.under("/usr/etc/ssl/certs"))


def test_units_follow_presets_and_the_treefile(system: System) -> None:
    enabled = {path.rpartition("/")[2] for path in system.under("/usr/etc/systemd/system")}
    assert {"ssh.service", "systemd-networkd.service", "fstrim.timer"} <= enabled
    # 99-default-disable.preset of os-triggers
    assert not {"dpkg-db-backup.timer", "e2scrub_all.timer"} & enabled
    assert "/usr/lib/systemd/system/e2scrub_all.timer" in system.entries


def test_tmpfiles_were_made(system: System) -> None:
    assert system.entries["/usr/etc/mtab"].target == "../proc/self/mounts"


def test_users_of_sysusers_are_there_with_the_numbers_that_are_checked(system: System) -> None:
    passwd = system.read("/usr/etc/passwd")
    assert re.search(r"^messagebus:x:107:107:", passwd, re.MULTILINE)
    assert re.search(r"^systemd-network:x:192:192:", passwd, re.MULTILINE)
    assert re.search(r"^systemd-journal:x:190:", system.read("/usr/etc/group"), re.MULTILINE)


# --- the kernel


def test_kernel_has_its_indexes_and_one_initramfs(system: System) -> None:
    names = {path.removeprefix(f"{system.modules}/") for path in system.under(system.modules)}
    assert {"vmlinuz", "initramfs.img", "modules.dep.bin", "modules.alias.bin"} <= names
    assert len(system.read(f"{system.modules}/modules.dep").splitlines()) > 500
    assert not system.under("/boot")
    assert not system.under("/usr/lib/ostree-boot")
    assert [p for p in system.entries if "initramfs" in p and "6.1" in p] == [
        f"{system.modules}/initramfs.img"
    ]


def test_initramfs_mounts_what_ostree_deployed(system: System, tmp_path: Path) -> None:
    argv = ["ostree", f"--repo={system.repo}", "cat", system.said["ref"]]
    image = subprocess.run(
        [*argv, f"{system.modules}/initramfs.img"], check=True, capture_output=True
    ).stdout
    (tmp_path / "image").write_bytes(gzip.decompress(image))
    listed = _cpio(tmp_path / "image", "--list").splitlines()
    assert {"usr/lib/ostree/ostree-prepare-root", "usr/lib/systemd/systemd"} <= set(listed)
    # dracut's own ldconfig, and what initramfs-args leave out.
    assert "etc/ld.so.cache" in listed
    name = "usr/lib/dracut/modules.txt"
    modules = _cpio(tmp_path / "image", "--extract", "--to-stdout", name).split()
    assert "ostree" in modules
    assert not {"nvdimm", "lunmask"} & set(modules)


def _cpio(archive: Path, *words: str) -> str:
    argv = ["cpio", "--quiet", "--file", str(archive), *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


# --- labels


def test_everything_is_labelled(system: System) -> None:
    assert len(system.entries) > 10_000
    assert [path for path, entry in system.entries.items() if not entry.label] == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "root_t"),
        ("/usr", "usr_t"),
        ("/usr/bin/bash", "shell_exec_t"),
        ("/usr/bin/ls", "bin_t"),
        ("/usr/bin/passwd", "passwd_exec_t"),
        ("/usr/lib/systemd/systemd", "init_exec_t"),
        ("/usr/lib/systemd/system/ssh.service", "sshd_unit_t"),
        ("/usr/lib/systemd/system/fstrim.timer", "systemd_unit_t"),
        # selinux-label-version: 1
        ("/usr/etc", "etc_t"),
        ("/usr/etc/shadow", "shadow_t"),
        ("/usr/etc/ld.so.cache", "ld_so_cache_t"),
        ("/usr/etc/selinux/config", "selinux_config_t"),
        ("/usr/etc/systemd/system", "systemd_unit_t"),
    ],
)
def test_label_is_what_the_policy_says(system: System, path: str, kind: str) -> None:
    assert system.entries[path].label == f"system_u:object_r:{kind}:s0"


# --- what else the treefile asked for


def test_files_are_added_removed_and_written(system: System) -> None:
    assert system.read("/usr/etc/motd") == TREEFILE.with_name("motd").read_text().strip()
    assert system.read("/usr/etc/issue.net") == "composed for debian"
    assert "composed for debian" in system.read("/usr/share/corpus/finished")
    assert "OSTREE_VERSION='12'" in system.read("/usr/lib/os-release")
    assert "/usr/share/lintian" not in system.entries
    assert "/usr/bin/htop" in system.entries
    assert not {"/usr/share/applications/htop.desktop"} & system.entries.keys()
    assert system.entries["/usr/bin/bash"].mode == 0o555
    assert {system.entries[path].kind for path in ("/opt", "/usr/local", "/tmp")} == {"d"}


def test_packages_and_metadata_are_as_asked(system: System) -> None:
    packages = {nevra.rsplit("-", 2)[0] for nevra in system.said["packages"]}
    assert {"openssl", "openssh-server", "linux-image-cloud-amd64"} <= packages
    assert {"selinux-policy-debian", "os-triggers-kernel"} <= packages
    assert "bash" in packages  # of the group core, as is apt
    assert "apt" not in packages
    key = "--print-metadata-key=corpus.generation"
    assert ostree(system.repo, "show", key, system.said["ref"]) == "'v1'"
    assert system.said["ref"] == "corpus/x86_64/os"
    assert system.said["version"] == "12"
