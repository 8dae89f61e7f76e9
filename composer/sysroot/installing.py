"""Installing: from an empty disk to one that boots a commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from composer.errors import NoSpace, UsageError
from composer.progress import Report, Step, silent
from composer.sysroot.boot_files import BootFiles, boot_files, copy_boot_files
from composer.sysroot.bringing import Bring
from composer.sysroot.deploying import Order, deploy
from composer.sysroot.deployment import Deployment
from composer.sysroot.disk import (
    SMALLEST,
    Disk,
    claimed,
    make_disk,
    mounted,
    private_mounts,
    require_programs,
    require_unused,
)
from composer.sysroot.first_process import needs_first_process
from composer.sysroot.grub import find_grub, install_grub, prepare_grub
from composer.sysroot.kernel_arguments import NO_EDIT, Edit, edited
from composer.sysroot.sysroot import Sysroot


@dataclass(frozen=True, slots=True)
class Target:
    """Where to install: an image of ``size`` bytes, or a device."""

    path: Path
    size: int | None = None
    wipe: bool = False


@dataclass(frozen=True, slots=True)
class Installed:
    """What there is now.

    ``boot`` are copies in the directory that was named, or else paths on the disk.
    ``boot_loader`` is "" where this machine has none to install.
    """

    disk: Disk
    deployment: Deployment
    boot: BootFiles
    boot_loader: str = ""


def install(
    target: Target,
    bring: Bring,
    *,
    os: str,
    kargs: Edit = NO_EDIT,
    copies: Path | None = None,
    report: Report = silent,
) -> Installed:
    """Make a disk of ``target`` that boots the commit that ``bring`` brings.

    ``kargs`` come beside ``root=`` and ``rw``.  Into the directory ``copies`` go kernel,
    initramfs and arguments, for a virtual machine that is given them directly.  This process
    is in a mount namespace of its own afterwards.  An image that could not be finished is
    removed.  Raises DiskInUse, and what ``bring`` and :func:`deploy` raise.
    """
    path = target.path
    _require_size(target)
    with claimed(path):
        require_unused(path, wipe=target.wipe)
        require_programs()
        return _install(target, bring, os, kargs, copies, report)


def _install(
    target: Target, bring: Bring, os: str, kargs: Edit, copies: Path | None, report: Report
) -> Installed:
    path, grub = target.path, find_grub()
    try:
        private_mounts()
        report(Step("partition", item=str(path)))
        disk = make_disk(path, target.size, name=os[:16])
        with mounted(disk) as root:
            deployment = _fill(root, disk, bring, os, kargs, grub=grub is not None)
            if grub is not None:
                install_grub(grub, disk, root)
            files = _boot_files(root, copies)
            report(Step("flush", item=str(path)))
    except BaseException as error:
        if path.is_file():
            path.unlink()
        if isinstance(error, NoSpace) and target.size is not None:
            raise NoSpace(
                f"{path}: {error.message}", details=error.details, hint="a larger one: --size"
            ) from error
        raise
    return Installed(disk, deployment, files, "GRUB, for BIOS" if grub else "")


def _fill(root: Path, disk: Disk, bring: Bring, os: str, kargs: Edit, *, grub: bool) -> Deployment:
    sysroot = Sysroot.create(root)
    if grub:
        prepare_grub(root)
    sysroot.add_os(os)
    sysroot.repo.disable_fsync()  # unmounting flushes it all
    brought = bring(sysroot.repo)
    # Without an initramfs nobody looks for file systems; partitions the kernel knows itself.
    bare = needs_first_process(sysroot.repo, brought.commit)
    where = f"PARTUUID={disk.partition}" if bare else f"UUID={disk.uuid}"
    given = edited((f"root={where}", "rw"), kargs)
    order = Order(os, brought.commit, brought.ref, brought.remote, Edit(append=given))
    return deploy(sysroot, order)


def _boot_files(root: Path, directory: Path | None) -> BootFiles:
    sysroot = Sysroot.open(root)
    if directory is not None:
        return copy_boot_files(sysroot, directory)
    found = boot_files(sysroot)
    return BootFiles(
        Path("/") / found.kernel.relative_to(root),
        Path("/") / found.initramfs.relative_to(root) if found.initramfs else None,
        found.arguments,
    )


def _require_size(target: Target) -> None:
    if target.path.is_block_device():
        if target.size is not None:
            raise UsageError(f"{target.path}: a device has the size it has: leave out --size")
    elif target.size is None:
        raise UsageError(f"{target.path}: how large? An image needs --size")
    elif target.size < SMALLEST:
        raise UsageError(f"{target.path}: no system fits into {target.size} bytes")
