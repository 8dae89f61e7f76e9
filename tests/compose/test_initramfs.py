"""An initramfs whose programs cannot start is told as such, however it is packed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from composer.compose.initramfs import members, missing_loader
from composer.compose.kernel import InitramfsFailed
from composer.errors import FormatError
from composer.system.elf import read_program
from tests.compose.rpms import File, Spec, needs_root
from tests.compose.test_pipeline import ostree, run, small

PROGRAM = Path(os.path.realpath(shutil.which("true") or "/usr/bin/true"))

pytestmark = pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio")


def loader() -> Path:
    with PROGRAM.open("rb") as stream:
        return Path(read_program(stream, "true").interpreter)


def packed(root: Path, image: Path, *packer: str) -> Path:
    """Make an initramfs of all that is below ``root``."""
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    argv = ["cpio", "--create", "--quiet", "--format=newc"]
    data = subprocess.run(argv, cwd=root, input=names.encode(), capture_output=True, check=True)
    image.write_bytes(
        subprocess.run(packer, input=data.stdout, capture_output=True, check=True).stdout
        if packer
        else data.stdout
    )
    return image


def content(root: Path, *, libraries: bool) -> Path:
    (root / "usr/bin").mkdir(parents=True)
    shutil.copy(PROGRAM, root / "usr/bin/true")
    (root / "init").symlink_to("usr/bin/true")
    (root / "etc").mkdir()
    (root / "etc/profile").write_text("x" * 5001)
    if libraries:
        place = root / loader().relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(loader(), place)
    return root


@pytest.mark.parametrize("packer", [(), ("gzip", "-9"), ("zstd",), ("xz", "--check=crc32")])
def test_image_without_the_loader_of_its_programs_is_known(
    tmp_path: Path, packer: tuple[str, ...]
) -> None:
    bad = packed(content(tmp_path / "bad", libraries=False), tmp_path / "bad.img", *packer)
    assert missing_loader(bad) == str(loader())
    good = packed(content(tmp_path / "good", libraries=True), tmp_path / "good.img", *packer)
    assert missing_loader(good) == ""


def test_early_archive_comes_before_what_counts(tmp_path: Path) -> None:
    early = packed(content(tmp_path / "early", libraries=True), tmp_path / "early.img")
    bad = packed(content(tmp_path / "bad", libraries=False), tmp_path / "bad.img", "gzip")
    (tmp_path / "both.img").write_bytes(early.read_bytes() + bad.read_bytes())
    names = [member.name for member in members(tmp_path / "both.img")]
    assert names.count("etc/profile") == 2
    early = packed(content(tmp_path / "x", libraries=False), tmp_path / "early.img")
    (tmp_path / "both.img").write_bytes(early.read_bytes() + bytes(512) + bad.read_bytes())
    assert missing_loader(tmp_path / "both.img") == str(loader())


def test_static_programs_need_no_loader(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    shutil.copy(shutil.which("busybox") or PROGRAM, tmp_path / "root/init")
    assert missing_loader(packed(tmp_path / "root", tmp_path / "image")) == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"no archive at all, in plain words",
        lambda data: data[:3000],
        lambda data: data[:54] + b"fffffff0" + data[62:],
        lambda data: data[:94] + b"ffffffff" + data[102:],
        lambda data: data[:94] + b"00000000" + data[102:],
        lambda data: data[:14] + b"-0000001" + data[22:],
        lambda data: b"070702" + b"zz" * 52 + data[110:],
    ],
)
def test_what_is_no_archive_is_a_format_error(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    image = packed(content(tmp_path / "root", libraries=False), tmp_path / "image")
    image.write_bytes(damage(image.read_bytes()))
    with pytest.raises(FormatError):
        list(members(image))
    assert missing_loader(image) == ""


@needs_root
def test_compose_ends_where_dracut_left_libraries_out(tmp_path: Path) -> None:
    # As dracut does it without ldd: it complains, and ends well.
    text = """#!/usr/bin/sh
for last; do :; done
test -e /usr/bin/ldd || echo 'ldd: not found' >&2
if test -e /usr/bin/ldd; then cat /usr/lib/good; else cat /usr/lib/bad; fi >"$last"
"""
    good = packed(content(tmp_path / "good", libraries=True), tmp_path / "good.img", "gzip")
    bad = packed(content(tmp_path / "bad", libraries=False), tmp_path / "bad.img", "gzip")
    files = {
        "/usr/lib/modules/6.1/vmlinuz": File("kernel"),
        "/usr/bin/dracut": File(text, "0755"),
        "/usr/lib/good": File(good.read_bytes()),
        "/usr/lib/bad": File(bad.read_bytes()),
    }
    treefile, place = small(tmp_path, "boot-location: modules\n", Spec("kernel", files=files))
    with pytest.raises(InitramfsFailed, match="no machine boots it") as caught:
        run(tmp_path, treefile, base=place)
    assert str(loader()) in caught.value.message
    assert "ldd, which the tree lacks" in caught.value.details[0]
    assert not (tmp_path / "repo").exists()
    (tmp_path / "ldd").write_text("#!/bin/sh\n")
    (tmp_path / "ldd").chmod(0o755)
    treefile.write_text(treefile.read_text() + "add-files: [[ldd, /usr/bin/ldd]]\n")
    run(tmp_path, treefile, base=place)
    assert "initramfs.img" in ostree(tmp_path / "repo", "ls", "-R", "small", "/usr/lib/modules")
