"""What a boot loader is given for the system that boots next."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from composer.errors import NotFound
from composer.sysroot.sysroot import Sysroot
from composer.system.files import write_bytes, writing


@dataclass(frozen=True, slots=True)
class BootFiles:
    """A kernel, its initramfs if it has one, and its whole line of arguments."""

    kernel: Path
    initramfs: Path | None
    arguments: str


def boot_files(sysroot: Sysroot) -> BootFiles:
    """Tell what boots next; the paths are below the sysroot's /boot."""
    found = sysroot.raw()
    if not found:
        raise NotFound(f"{sysroot.path}: nothing is deployed")
    config = found[0].get_bootconfig()
    boot = sysroot.path / "boot"
    initramfs = config.get("initrd")
    return BootFiles(
        boot / config.get("linux").lstrip("/"),
        boot / initramfs.lstrip("/") if initramfs else None,
        config.get("options") or "",
    )


def copy_boot_files(sysroot: Sysroot, directory: Path) -> BootFiles:
    """Copy them out, as ``vmlinuz``, ``initramfs.img`` and ``cmdline``; returns the copies."""
    found = boot_files(sysroot)
    copies = BootFiles(
        directory / "vmlinuz",
        directory / "initramfs.img" if found.initramfs else None,
        found.arguments,
    )
    _copy(found.kernel, copies.kernel)
    if found.initramfs and copies.initramfs:
        _copy(found.initramfs, copies.initramfs)
    else:
        (directory / "initramfs.img").unlink(missing_ok=True)
    write_bytes(directory / "cmdline", f"{found.arguments}\n".encode())
    return copies


def _copy(source: Path, destination: Path) -> None:
    with source.open("rb") as old, writing(destination) as new:
        shutil.copyfileobj(old, new)
