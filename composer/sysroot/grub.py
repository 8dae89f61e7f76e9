"""GRUB for BIOS machines, embedded in a partition of its own, following libostree's entries.

libostree keeps ``/boot/loader/syslinux.cfg`` in the same step as the deployments, where
``/boot/syslinux/syslinux.cfg`` leads to it; GRUB reads that format.  So nothing of GRUB is
written again after the installation, and no program of it has to be in the tree.

What is patched into the images is what grub-bios-setup patches (grub's
include/grub/i386/pc/boot.h and kernel.h): where the next part lies on the disk.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from pathlib import Path

from composer.errors import ComposerError, FormatError
from composer.sysroot.disk import SECTOR, Disk
from composer.system.command import run
from composer.system.files import write_bytes

_DIRECTORY = Path("/usr/lib/grub/i386-pc")
_MODULES = ("biosdisk", "part_gpt", "ext2", "search", "search_fs_uuid", "normal", "syslinuxcfg")
# What the menu that it makes of a syslinux.cfg calls.
_MORE_MODULES = ("linux16", "test", "cpuid", "echo", "serial", "terminal")

_BOOT_CODE = 440  # behind it, in the first sector, is the protective partition table
_KERNEL_SECTOR = 0x5C
_BLOCK_LIST = SECTOR - 12  # of the core image's first sector: start (8), length (2), segment (2)

_CONFIGURATION = """\
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=2
syslinux_source /boot/loader/syslinux.cfg
"""


class GrubFailed(ComposerError):
    """GRUB cannot be put onto a disk."""


def find_grub() -> str | None:
    """Return the program that makes GRUB's image, if this machine has it and GRUB for BIOS."""
    if os.uname().machine != "x86_64" or not (_DIRECTORY / "boot.img").is_file():
        return None
    return shutil.which("grub-mkimage") or shutil.which("grub2-mkimage")


def prepare_grub(root: Path) -> None:
    """Have libostree keep its menu; before the first deployment in the sysroot at ``root``."""
    boot = root / "boot"
    (boot / "loader.0").mkdir(exist_ok=True)
    (boot / "syslinux").mkdir(exist_ok=True)
    write_bytes(boot / "loader.0/syslinux.cfg", b"DEFAULT none\nTIMEOUT 20\n")
    (boot / "loader").symlink_to("loader.0")
    (boot / "syslinux/syslinux.cfg").symlink_to("../loader/syslinux.cfg")


def install_grub(program: str, disk: Disk, root: Path) -> None:
    """Write GRUB onto ``disk``, whose file system is mounted at ``root``.

    Raises GrubFailed where it does not fit, or is not what it is taken for.
    """
    write_bytes(root / "boot/grub/grub.cfg", _CONFIGURATION.encode())
    core = _core(program, disk)
    start, length = disk.loader
    if len(core) > length:
        raise GrubFailed(f"GRUB's image has {len(core)} bytes; {length} are set aside for it")
    first = (_DIRECTORY / "boot.img").read_bytes()
    with disk.path.open("r+b", buffering=0) as stream:
        stream.seek(start)
        stream.write(_placed_core(core, start // SECTOR))
        stream.seek(0)
        stream.write(_placed_boot_code(first, start // SECTOR))
        os.fsync(stream.fileno())


def _core(program: str, disk: Disk) -> bytes:
    """GRUB itself, with all that it needs to find and read its configuration."""
    early = f"search --no-floppy --fs-uuid --set=root {disk.uuid}\nset prefix=($root)/boot/grub\n"
    with tempfile.TemporaryDirectory(prefix="jigdo-grub.") as place:
        (Path(place) / "early.cfg").write_text(early)
        argv = [program, "--format=i386-pc", f"--directory={_DIRECTORY}", "--prefix=/boot/grub"]
        argv += [f"--config={place}/early.cfg", f"--output={place}/core.img"]
        run([*argv, *_MODULES, *_MORE_MODULES])
        core = (Path(place) / "core.img").read_bytes()
    return core + bytes(-len(core) % SECTOR)


def _placed_core(core: bytes, sector: int) -> bytes:
    _, count, _ = struct.unpack_from("<QHH", core, _BLOCK_LIST)
    if count != len(core) // SECTOR - 1:
        raise FormatError(f"GRUB's image has {len(core)} bytes and says {count} sectors")
    patched = bytearray(core)
    struct.pack_into("<Q", patched, _BLOCK_LIST, sector + 1)
    return bytes(patched)


def _placed_boot_code(image: bytes, sector: int) -> bytes:
    if len(image) != SECTOR:
        raise FormatError(f"GRUB's boot.img has {len(image)} bytes, not {SECTOR}")
    patched = bytearray(image[:_BOOT_CODE])
    struct.pack_into("<Q", patched, _KERNEL_SECTOR, sector)
    return bytes(patched)
