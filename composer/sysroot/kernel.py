"""A commit's kernel, and whether /boot has room for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from composer.checksum import ObjectChecksum
from composer.errors import NoSpace
from composer.ostree.repo import Repository

_MODULES = ("usr", "lib", "modules")
_SLACK = 256 << 10  # boot loader entries, directories


@dataclass(frozen=True, slots=True)
class Kernel:
    """Where a kernel is in a commit, and its objects; ``initramfs`` is None without one."""

    version: str
    image: ObjectChecksum
    initramfs: ObjectChecksum | None

    def size(self, repo: Repository) -> int:
        """Bytes that it takes in /boot."""
        objects = [one for one in (self.image, self.initramfs) if one is not None]
        return sum(repo.content(one)[1] for one in objects)


def find_kernel(repo: Repository, commit: ObjectChecksum) -> Kernel | None:
    """Return the kernel of a commit, in /usr/lib/modules, as libostree finds it."""
    tree = repo.commit(commit).tree
    for name in _MODULES:
        below = {entry.name: entry.tree for entry in repo.dirtree(tree).directories}
        if name not in below:
            return None
        tree = below[name]
    for directory in repo.dirtree(tree).directories:
        files = {entry.name: entry.checksum for entry in repo.dirtree(directory.tree).files}
        if "vmlinuz" in files:
            initramfs = files.get("initramfs.img") or files.get("initramfs")
            return Kernel(directory.name, files["vmlinuz"], initramfs)
    return None


def require_room(
    repo: Repository, boot: Path, commit: ObjectChecksum, deployed: list[ObjectChecksum]
) -> None:
    """Raise NoSpace where ``boot`` cannot take the kernel of ``commit``.

    It takes none of the space when a commit in ``deployed`` has the very same one.
    """
    kernel = find_kernel(repo, commit)
    others = [find_kernel(repo, one) for one in deployed if not repo.is_partial(one)]
    if kernel is None or not boot.is_dir() or kernel in others:
        return
    needed = kernel.size(repo) + _SLACK
    space = os.statvfs(boot)
    free = space.f_bavail * space.f_frsize
    if free < needed:
        raise NoSpace(
            f"{boot}: kernel {kernel.version} takes {needed} bytes; {free} are free",
            details=["nothing was changed"],
            hint="remove a deployment that is not needed: jigdo-composer undeploy INDEX",
        )
