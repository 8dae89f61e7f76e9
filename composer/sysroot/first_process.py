"""Kernels without an initramfs: OSTree's prepare-root as the first process.

The kernel mounts the disk itself and starts prepare-root out of the deployment's own
directory (libostree writes ``init=``); that mounts the deployment, makes it the root and starts its
init.  A static prepare-root needs nothing more.  One with libraries finds them on the disk's
own root, where this puts its loader and them: they name no deployment, and one that is
older runs with newer ones.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.errors import ComposerError, NotFound
from composer.ostree.repo import Repository
from composer.sysroot.kernel import find_kernel
from composer.system.elf import Program, read_program
from composer.system.files import writing
from composer.system.rooted import Rooted

_PREPARE_ROOT = "usr/lib/ostree/ostree-prepare-root"
_DIRECTORIES = ("usr/lib64", "usr/lib")
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
    """Leave out the ``init=`` that libostree wrote: the next deployment has its own, or none."""
    return tuple(word for word in arguments if not word.startswith("init=/ostree/"))


def provide_libraries(deployment: Path, disk: Path) -> None:
    """Put onto the root of ``disk`` what prepare-root of a ``deployment`` needs to start.

    Files that are there and equal stay.  Raises FormatError, and NotFound for a library that
    the deployment lacks.
    """
    with Rooted(deployment) as root:
        for name, place in _wanted(root):
            target = disk / name
            if not _is_equal(root, place, target):
                with root.file(place) as source, writing(target, mode=0o755) as copy:
                    shutil.copyfileobj(source, copy)


def _wanted(root: Rooted) -> Iterator[tuple[str, str]]:
    """Where each file belongs on the disk, and where it is in the deployment."""
    place = _resolved(root, _PREPARE_ROOT)
    program = _program(root, place)
    if not program.interpreter:
        return
    loader = _resolved(root, program.interpreter.lstrip("/"))
    yield program.interpreter.lstrip("/"), loader
    directories = (os.path.dirname(loader), *_DIRECTORIES)
    todo, seen = list(program.needed), set[str]()
    while todo:
        library = todo.pop()
        if library in seen:
            continue
        seen.add(library)
        directory, place = _library(root, directories, library)
        yield f"{directory}/{library}", place
        todo += _program(root, place).needed


def _library(root: Rooted, directories: tuple[str, ...], name: str) -> tuple[str, str]:
    if "/" not in name and name not in (".", ".."):
        for directory in directories:
            place = _resolved(root, f"{directory}/{name}")
            try:
                with root.file(place):
                    return directory, place
            except OSError:
                continue
    raise NotFound(f"{root.path}: no library {name!r}, which prepare-root needs")


def _program(root: Rooted, place: str) -> Program:
    try:
        with root.file(place) as stream:
            return read_program(stream, place)
    except OSError as error:
        raise NotFound(f"{root.path}/{place}: {error.strerror}") from None


def _resolved(root: Rooted, name: str) -> str:
    """Follow symlinks of the last component, within the deployment, to where it really is."""
    for _ in range(_LINKS):
        try:
            target = os.fsdecode(root.link(name))
        except OSError:
            break
        name = os.path.join(os.path.dirname(name), target)
    try:
        with root.file(name) as stream:
            found = os.readlink(f"/proc/self/fd/{stream.fileno()}")
        return str(Path(found).relative_to(root.path.resolve()))
    except (OSError, ValueError):
        return name


def _is_equal(root: Rooted, place: str, target: Path) -> bool:
    if target.is_symlink() or not target.is_file():
        return False
    with root.file(place) as one, target.open("rb") as other:
        while piece := one.read(1 << 20):
            if piece != other.read(len(piece)):
                return False
        return not other.read(1)
