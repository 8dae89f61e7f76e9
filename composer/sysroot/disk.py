"""Disks to install to: a partition table, file systems, and all of it undone at the end.

Rules kept here: nothing that is mounted, used or not empty is written to, unless a person
says so; and all mounting happens in a mount namespace of this process, with loop devices
that go with their mount, so that neither an error nor a kill leaves anything behind.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.errors import EXIT_BUSY, ComposerError, MissingRequirement, UsageError
from composer.system.command import require_program, run
from composer.system.files import explained

MIB = 1 << 20
SECTOR = 512
SMALLEST = 256 * MIB

_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x00020000, 0x4000, 1 << 18
_ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"  # "Linux root (x86-64)"
_LOADER_TYPE = "21686148-6449-6E6F-744E-656564454649"  # "BIOS boot"
_GENERIC_TYPE = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"  # "Linux data"


class DiskInUse(ComposerError):
    """A disk or image that holds something, or that something uses."""


class DiskBusy(DiskInUse):
    """A disk or image that another process makes a system of."""

    exit_status = EXIT_BUSY


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk with one file system.

    ``offset`` and ``size`` are its partition's; ``uuid`` is its own, ``partition`` that of the
    partition.  ``loader`` is where the space for a boot loader starts, and its size, in bytes.
    """

    path: Path
    offset: int
    size: int
    uuid: str
    partition: str
    loader: tuple[int, int] = (0, 0)


def private_mounts() -> None:
    """Put this process into a mount namespace of its own.  Raises MissingRequirement."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise MissingRequirement(
            f"cannot mount file systems: {os.strerror(ctypes.get_errno())}",
            hint="installing to a disk takes root",
        )


def require_unused(path: Path, *, wipe: bool) -> None:
    """Raise DiskInUse where ``path``, an image or a block device, must not be written to.

    What is mounted or otherwise used never may; what holds anything only with ``wipe``.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    if stat.S_ISBLK(status.st_mode):
        _require_no_user(path)
        filled = bool(run(["wipefs", "--noheadings", str(path)]).strip())
    elif stat.S_ISREG(status.st_mode):
        _require_no_loop(path)
        filled = status.st_size > 0
    else:
        raise _no_disk(path)
    if filled and not wipe:
        raise DiskInUse(f"{path}: is not empty", hint="to overwrite all that it holds: --wipe")


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Keep others out that make a system of ``path``, made if it is not there; raises DiskBusy.

    It is the lock that udev respects: what it would look for on a device waits for the end.
    """
    made = not path.exists()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except IsADirectoryError:
        raise _no_disk(path) from None
    except OSError as error:
        raise explained(error, path) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DiskBusy(
                f"{path}: another process is at work on it", hint="wait until it has ended"
            ) from None
        yield
    except DiskBusy:
        raise
    except BaseException:
        if made and path.is_file() and path.stat().st_size == 0:
            path.unlink()
        raise
    finally:
        os.close(descriptor)


def _no_disk(path: Path) -> UsageError:
    return UsageError(f"{path}: neither an image nor a block device")


def _require_no_user(path: Path) -> None:
    argv = ["lsblk", "--json", "--output", "NAME,TYPE,MOUNTPOINTS", str(path)]
    for row in json.loads(run(argv))["blockdevices"]:
        _require_free(path, row)
    # Partitions of it are on top of it for lsblk; swap is a mount point, "[SWAP]".
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_EXCL)
    except OSError as error:
        raise DiskInUse(f"{path}: something uses it: {error.strerror}") from None
    os.close(descriptor)


def _require_free(path: Path, row: dict[str, Any]) -> None:
    if mounted := [place for place in row.get("mountpoints") or () if place]:
        raise DiskInUse(f"{path}: {row['name']} is mounted on {mounted[0]}")
    for child in row.get("children") or ():
        if child["type"] != "part":
            raise DiskInUse(f"{path}: {child['name']} ({child['type']}) uses it")
        _require_free(path, child)


def _require_no_loop(path: Path) -> None:
    if loops := run(["losetup", "--noheadings", "--output", "NAME", "--associated", str(path)]):
        raise DiskInUse(f"{path}: the loop device {loops.decode().split()[0]} uses it")


def require_programs() -> None:
    """Raise MissingRequirement for a program that making a disk takes."""
    for program, package in (("sfdisk", "fdisk"), ("mkfs.ext4", "e2fsprogs"), ("losetup", "mount")):
        fedora = "e2fsprogs" if package == "e2fsprogs" else "util-linux"
        require_program(program, package=package, fedora=fedora)


def make_disk(path: Path, size: int | None, *, name: str) -> Disk:
    """Give ``path`` a GPT: a MiB for a boot loader, and over all the rest an empty ext4.

    An image is made anew, ``size`` bytes of it, most of them holes; a device keeps its own
    size.  All that it held is gone.
    """
    device = path.is_block_device()
    if not device:
        assert size is not None
        with path.open("wb") as stream:
            stream.truncate(size)
    else:
        run(["wipefs", "--all", "--quiet", str(path)])
    kind = _ROOT_TYPE if os.uname().machine == "x86_64" else _GENERIC_TYPE
    script = f'label: gpt\nsize=1MiB, type={_LOADER_TYPE}\ntype={kind}, name="{name}"\n'
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(path)], stdin=script.encode())
    table = json.loads(run(["sfdisk", "--json", str(path)]))["partitiontable"]
    loader, row = table["partitions"]
    sector = table.get("sectorsize", SECTOR)
    place = row["start"] * sector, row["size"] * sector
    disk = Disk(
        path,
        *place,
        str(uuid.uuid4()),
        row["uuid"].lower(),
        (loader["start"] * sector, loader["size"] * sector),
    )
    options = f"offset={disk.offset}"
    argv = ["mkfs.ext4", "-q", "-F", "-E", options, "-U", disk.uuid, "-L", name, "-b", "4096"]
    run([*argv, str(path), str(disk.size // 4096)])
    if device:
        run(["blockdev", "--rereadpt", str(path)])
    return disk


@contextmanager
def mounted(disk: Disk) -> Iterator[Path]:
    """Mount the partition while the block runs; call :func:`private_mounts` first.

    When the block ends well, all is on the disk afterwards; nothing of the block may still
    hold a file of it then.
    """
    place = Path(tempfile.mkdtemp(prefix="jigdo-disk."))
    try:
        options = f"loop,offset={disk.offset},sizelimit={disk.size}"
        run(["mount", "-t", "ext4", "-o", options, str(disk.path), str(place)])
        try:
            yield place
        except BaseException:
            # What failed may hold files; the mount goes with the last of them.
            run(["umount", "--lazy", str(place)])
            raise
        gc.collect()  # libostree's objects close their directories when they go
        run(["umount", str(place)])
    finally:
        with suppress(OSError):
            place.rmdir()  # never what is below: that may be a disk that is still mounted
