"""Treefiles as their teams wrote them: read as they are, flattened, checked, refused if broken."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from composer.compose.document import Document, TreefileError, dump
from composer.compose.schema import schema
from composer.compose.treefile import load
from tests.shared import shared

TREEFILES = shared("treefiles")
COREOS = "coreos+fedora-coreos-config@stable"
WORKSTATION = "travier+workstation-ostree-config"
VALIDATOR = jsonschema.Draft202012Validator(schema())
ARCHITECTURES = ("x86_64", "aarch64", "s390x", "ppc64le")

# Lists of packages, images and tests, which other programs read.
OTHERS = re.compile(r"/(manifest-lock\.|image|platforms|kola-denylist|comps-sync-exclude-list)")


def _names() -> list[str]:
    paths = (path for path in TREEFILES.rglob("*") if path.suffix in (".yaml", ".yml", ".json"))
    return sorted(str(path.relative_to(TREEFILES)) for path in paths)


TREES = [name for name in _names() if not OTHERS.search(name)]
INCOMPLETE = f"{COREOS}/manifests/fedora-coreos.yaml"


def test_there_are_some() -> None:
    assert len(TREES) >= 40


@pytest.mark.parametrize("name", [name for name in TREES if name != INCOMPLETE])
def test_treefile_is_read_and_flattened(name: str, tmp_path: Path) -> None:
    path = TREEFILES / name
    for basearch in ARCHITECTURES:
        treefile = load(path, basearch=basearch)
        for file in treefile.files:
            VALIDATOR.validate(Document.read(file).value)
        flattened = treefile.flattened()
        VALIDATOR.validate(flattened)
        for kind, text in (("yaml", dump(flattened)), ("json", json.dumps(flattened))):
            again = tmp_path / f"flat.{kind}"
            again.write_text(text)
            loaded = load(again, basearch=basearch)
            assert loaded.given == treefile.given
            assert loaded.digest() == treefile.digest()


@pytest.mark.parametrize("name", [name for name in _names() if OTHERS.search(name)])
def test_what_is_no_treefile_is_refused_with_file_and_line(name: str) -> None:
    with pytest.raises(TreefileError) as caught:
        load(TREEFILES / name, basearch="x86_64")
    assert re.match(r".*\.(yaml|yml|json): .*\(line \d+\)", caught.value.message)


def test_part_of_a_treefile_lacks_the_variables_of_the_whole() -> None:
    with pytest.raises(TreefileError) as caught:
        load(TREEFILES / INCOMPLETE, basearch="x86_64")
    assert caught.value.message.endswith(
        "fedora-coreos.yaml: conditional-include[0].if: the variable 'prod' is not set (line 17)"
    )


def test_coreos_means_what_its_team_says() -> None:
    x86, z = (load(TREEFILES / COREOS / "manifest.yaml", basearch=a) for a in ("x86_64", "s390x"))
    assert (x86.ref, z.ref) == ("fedora/x86_64/coreos/stable", "fedora/s390x/coreos/stable")
    assert x86.automatic_version_prefix == "40.<date:%Y%m%d>.dev"
    assert x86.mutate_os_release == x86.releasever == "40"
    assert x86.add_commit_metadata == {"fedora-coreos.stream": "stable"}
    assert x86.rojig is not None
    assert x86.rojig.summary == "Fedora CoreOS stable"
    assert (x86.recommends, x86.rpmdb) == (False, "sqlite")
    names = [path.name for path in x86.files]
    assert "grub2-removals.yaml" in names
    assert "exclude-dnf.yaml" in names
    assert not {"disable-zincati.yaml", "include-dnf.yaml", "composefs.yaml"}.intersection(names)
    assert "grub2-removals.yaml" not in [path.name for path in z.files]
    assert "grub2-efi-x64" in x86.packages
    assert "grub2-efi-x64" not in z.packages
    assert "/usr/sbin/zipl" in z.packages
    assert x86.ostree_layers[-1] == "overlay/15fcos"
    assert x86.etc_group_members == ("wheel", "sudo", "systemd-journal", "adm", "docker")
    assert x86.check_passwd.filename == TREEFILES / COREOS / "manifests/passwd"


def test_centos_json_is_read_with_a_warning() -> None:
    directory = TREEFILES / "CentOS+sig-atomic-buildscripts"
    treefile = load(directory / "centos-atomic-host-continuous.json", basearch="x86_64")
    assert treefile.warnings == ("without effect here: osname",)
    assert treefile.ref == "centos-atomic-host/7/x86_64/devel/continuous"
    assert treefile.initramfs_args == ("--no-hostonly", "--add", "iscsi")
    assert treefile.postprocess_script == directory / "treecompose-post.sh"


@pytest.fixture
def coreos(tmp_path: Path) -> Path:
    copied = shutil.copytree(TREEFILES / COREOS, tmp_path / "coreos", copy_function=shutil.copyfile)
    for path in (copied, *copied.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copied


def test_missing_include_is_told_where_it_is_named(coreos: Path) -> None:
    (coreos / "manifests/bootupd.yaml").unlink()
    with pytest.raises(TreefileError) as caught:
        load(coreos / "manifest.yaml", basearch="x86_64")
    assert re.fullmatch(
        r".*/manifests/fedora-coreos-base\.yaml: include\[7\]: .*/bootupd\.yaml is not there "
        r"\(line \d+\)",
        caught.value.message,
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("units:\n", "units:\n\t- x\n", r"user-experience\.yaml: line \d+: found character"),
        ("packages:\n", "packages: [\n", r"user-experience\.yaml: line \d+: "),
        ("packages:\n", "packages:\n  x: y\n", r"user-experience\.yaml: line \d+: "),
        ("packages:\n", "packagess:\n", r"user-experience\.yaml: packagess: unknown key \(line"),
    ],
)
def test_broken_syntax_is_told_with_file_and_line(
    coreos: Path, old: str, new: str, message: str
) -> None:
    path = coreos / "manifests/user-experience.yaml"
    text = path.read_text()
    path.write_text(text.replace(old, new, 1) if old in text else f"{text}\n{new}")
    with pytest.raises(TreefileError, match=message):
        load(coreos / "manifest.yaml", basearch="x86_64")


@pytest.mark.parametrize("name", [f"{COREOS}/manifest.yaml", f"{WORKSTATION}/fedora-mate.yaml"])
def test_largest_treefiles_are_flattened_in_a_third_of_a_second(name: str) -> None:
    path = TREEFILES / name
    command = [sys.executable, "-m", "composer", "treefile", str(path), "--basearch", "x86_64"]
    inside, whole = [], []
    for _ in range(3):
        start = time.perf_counter()
        load(path, basearch="x86_64").flattened()
        inside.append(time.perf_counter() - start)
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        # Of the command its processor time: the machine may have others to serve.
        whole.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(inside) < 0.3
    assert min(whole) < 0.3
