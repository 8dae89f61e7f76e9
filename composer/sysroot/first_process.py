"""Kernels without an initramfs: OSTree's prepare-root as the first process.

The kernel mounts the disk itself and starts prepare-root out of the deployment's own
directory; that mounts the deployment, makes it the root and starts its init.  A static
prepare-root is started as it is.  One that needs libraries is started by the tree's own
loader, for on the disk's root there are none where the program looks for them.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.errors import ComposerError, FormatError
from composer.ostree.repo import Repository
from composer.sysroot.kernel import find_kernel
from composer.system.rooted import Rooted

_PREPARE_ROOT = "usr/lib/ostree/ostree-prepare-root"
_INTERPRETER = 3  # PT_INTERP of elf.h
_LINKS = 8


class NotBootable(ComposerError):
    """A commit that no kernel could start."""


def needs_first_process(repo: Repository, commit: ObjectChecksum) -> bool:
    """Tell whether a commit has a kernel and no initramfs.

    Raises NotBootable for one without a kernel, or without prepare-root where it is needed.
    """
    kernel = find_kernel(repo, commit)
    if kernel is None:
        raise NotBootable(
            f"commit {commit} has no kernel",
            hint="a kernel is vmlinuz in /usr/lib/modules/VERSION; was it composed as a container?",
        )
    if kernel.initramfs is not None:
        return False
    if repo.file_at(commit, _PREPARE_ROOT) is None:
        raise NotBootable(
            f"commit {commit} has neither an initramfs nor /{_PREPARE_ROOT}",
            hint="nothing could mount it: compose it with dracut, or with the package ostree-boot",
        )
    return True


def without_first_process(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out what :func:`first_process` gave: another deployment has its own."""
    if not any(word.startswith("init=/ostree/") for word in arguments):
        return arguments
    kept = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return tuple(word for word in kept if not word.startswith("init=/ostree/"))


def first_process(deployment: Path, sysroot: Path) -> tuple[str, ...]:
    """Kernel arguments that start prepare-root of ``deployment``, a directory in ``sysroot``.

    They have to be the last ones.  Raises FormatError for what is no program.
    """
    with Rooted(deployment) as root:
        program, interpreter = _program(root, f"/{_PREPARE_ROOT}")
        place = _seen(program, sysroot)
        if not interpreter:
            return (f"init={place}",)
        loader, _ = _program(root, interpreter)
    libraries = loader.parent
    return (
        f"init={_seen(loader, sysroot)}",
        "--",
        "--library-path",
        _seen(libraries, sysroot),
        place,
    )


def _seen(path: Path, sysroot: Path) -> str:
    return f"/{path.relative_to(sysroot.resolve())}"


def _program(root: Rooted, name: str) -> tuple[Path, str]:
    """Return where an ELF program really is, and the interpreter that it names, or ""."""
    for _ in range(_LINKS):
        try:
            target = os.fsdecode(root.link(name))
        except OSError:
            break
        name = os.path.join(os.path.dirname(name), target)
    try:
        with root.file(name) as stream:
            data = stream.read(1 << 16)
            return Path(os.readlink(f"/proc/self/fd/{stream.fileno()}")), _interpreter(data)
    except (OSError, struct.error, ValueError) as error:
        raise FormatError(
            f"{root.path}{name}: not a program that can be started: {error}"
        ) from None


def _interpreter(data: bytes) -> str:
    """Read PT_INTERP out of a 64-bit little-endian ELF file's first bytes; "" without one."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit ELF file")
    start, size, count = (
        *struct.unpack_from("<Q", data, 32),
        *struct.unpack_from("<HH", data, 54),
    )
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, start + number * size)
        if kind == _INTERPRETER:
            return data[offset : offset + length].rstrip(b"\0").decode()
    return ""
