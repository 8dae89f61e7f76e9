"""The kernel and its initramfs, where OSTree looks for them.

Everything is in /usr/lib/modules/<version>: ``vmlinuz``, ``initramfs.img``, the
modules.  With ``boot-location: new`` both are in /usr/lib/ostree-boot too, under names
that carry their joint checksum, for libostree older than 2019.  /boot itself is empty.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from composer.compose.initramfs import missing_loader
from composer.compose.tree import BadTree, Tree
from composer.errors import CommandFailed, ComposerError
from composer.progress import Report, Step
from composer.system.limits import LimitExceeded
from composer.system.sandbox import Bind, Sandbox

_MODULES = "usr/lib/modules"
_OSTREE_BOOT = "usr/lib/ostree-boot"
_KERNEL_INSTALL = "usr/lib/kernel/install.conf.d/00-jigdo-composer.conf"
# What scriptlets of a kernel call the initramfs that they make.
_INITRAMFS_NAMES = (("initramfs-", ".img"), ("initrd.img-", ""))
_DRACUT = "usr/bin/dracut"
_DEPMOD = ("usr/sbin/depmod", "usr/bin/depmod")
# 98ostree, and 50ostree in libostree of 2025 and later.
_DRACUT_MODULES, _OSTREE_MODULE = "usr/lib/dracut/modules.d", "[0-9][0-9]ostree"


class InitramfsFailed(ComposerError):
    """dracut could not make an initramfs of the tree."""


def prepare_kernel(
    tree: Tree,
    *,
    initramfs: bool,
    arguments: Sequence[str] = (),
    ostree_boot: bool,
    timestamp: int,
    report: Report,
) -> str:
    """Put the kernel in place, make what is missing, and return its version ("": no kernel).

    ``arguments`` are dracut's; with any, an initramfs that a package made is made anew.
    Raises BadTree for more than one kernel, InitramfsFailed.
    """
    # Boot loader entries are OSTree's to write.
    tree.remove("boot/loader")
    _from_boot(tree)
    version = _only_kernel(tree)
    if version:
        _index_modules(tree, version, timestamp)
        if initramfs:
            _make_initramfs(tree, version, arguments, timestamp, report)
        if ostree_boot:
            _copy_to_ostree_boot(tree, version)
    _empty_boot(tree)
    return version


def write_kernel_install_layout(tree: Tree) -> None:
    """Tell systemd's kernel-install that kernels are OSTree's to install.

    The tree's own configuration counts, where it names a layout.
    """
    for place in ("usr/etc/kernel", "usr/lib/kernel"):
        directory = tree.path(place, follow=True)
        for path in [directory / "install.conf", *sorted(directory.glob("install.conf.d/*.conf"))]:
            text = tree.read(tree.name(path)) or ""
            if any(line.strip().startswith("layout=") for line in text.splitlines()):
                return
    tree.write(_KERNEL_INSTALL, "layout=ostree\n")


def _from_boot(tree: Tree) -> None:
    boot = tree.path("boot")
    if boot.is_symlink() or not boot.is_dir():
        return
    for path in sorted(boot.glob("vmlinuz-*")):
        version = path.name.removeprefix("vmlinuz-")
        _take(tree, path, f"{_MODULES}/{version}/vmlinuz")
    for prefix, suffix in _INITRAMFS_NAMES:
        for path in sorted(boot.glob(f"{prefix}*{suffix}")):
            version = path.name.removeprefix(prefix).removesuffix(suffix)
            if tree.is_file(f"{_MODULES}/{version}/vmlinuz"):
                _take(tree, path, f"{_MODULES}/{version}/initramfs.img")


def _take(tree: Tree, source: Path, name: str) -> None:
    if source.is_symlink() or not source.is_file():
        return
    tree.directory(os.path.dirname(name))
    if tree.exists(name):
        source.unlink()
    else:
        source.rename(tree.path(name))


def _only_kernel(tree: Tree) -> str:
    directory = tree.path(_MODULES, follow=True)
    if not directory.is_dir():
        return ""
    found = [
        p.name for p in sorted(directory.iterdir()) if tree.is_file(f"{_MODULES}/{p.name}/vmlinuz")
    ]
    if len(found) > 1:
        raise BadTree(
            f"more than one kernel: {', '.join(found)}",
            hint="a tree boots one kernel; narrow the packages in the treefile",
        )
    return found[0] if found else ""


def _index_modules(tree: Tree, version: str, timestamp: int) -> None:
    if tree.exists(f"{_MODULES}/{version}/modules.dep"):
        return
    program = next((name for name in _DEPMOD if tree.is_file(name)), None)
    if program:
        run_in_tree(tree, [f"/{program}", "-a", version], timestamp=timestamp)


def _make_initramfs(
    tree: Tree, version: str, arguments: Sequence[str], timestamp: int, report: Report
) -> None:
    image = f"{_MODULES}/{version}/initramfs.img"
    if not tree.is_file(_DRACUT):
        return
    # One that a scriptlet made knows nothing of what changed since, and differs each time.
    tree.remove(image)
    report(Step("initramfs", item=version))
    # This machine's hardware is no part of the input; dracut's configuration in the tree may
    # ask for it, and arguments that do come later and win.
    argv = [f"/{_DRACUT}", "--force", "--no-hostonly", "--reproducible", "--tmpdir", "/tmp"]
    if any(tree.path(_DRACUT_MODULES, follow=True).glob(_OSTREE_MODULE)):
        argv += ["--add", "ostree"]
    try:
        run_in_tree(tree, [*argv, *arguments, "--kver", version, f"/{image}"], timestamp=timestamp)
    except CommandFailed as error:
        raise InitramfsFailed(
            "dracut could not make the initramfs",
            details=error.details,
            hint="`no-initramfs: true` composes without one",
        ) from error
    if not tree.is_file(image):
        raise InitramfsFailed(f"dracut ended well, but there is no /{image}")
    _require_libraries(tree, image)


def _require_libraries(tree: Tree, image: str) -> None:
    loader = missing_loader(tree.path(image, follow=True))
    if loader:
        has_ldd = any(tree.is_file(f"usr/{place}/ldd") for place in ("bin", "sbin"))
        raise InitramfsFailed(
            f"the initramfs has programs and not what starts them, {loader}: no machine boots it",
            details=[] if has_ldd else ["dracut finds libraries with ldd, which the tree lacks"],
            hint="add the package with ldd: libc-bin, or glibc-common",
        )


def run_in_tree(
    tree: Tree,
    argv: list[str],
    *,
    timestamp: int,
    extra: tuple[Bind, ...] = (),
    stdin: bytes = b"",
) -> str:
    """Run a program of the tree in it, sandboxed; its /etc is /usr/etc.

    Returns the tail of its output.  Raises CommandFailed, LimitExceeded.
    """
    etc = Bind(tree.directory("usr/etc"), "/etc", writable=True)
    sandbox = Sandbox.of_tree(tree.root, etc, *extra)
    try:
        return sandbox.run(
            argv, stdin=stdin, env={"SOURCE_DATE_EPOCH": str(timestamp)}, limits=tree.limits
        )
    except LimitExceeded as error:
        raise error.within(argv[0]) from error


def _copy_to_ostree_boot(tree: Tree, version: str) -> None:
    kernel = tree.path(f"{_MODULES}/{version}/vmlinuz", follow=True)
    initramfs = tree.path(f"{_MODULES}/{version}/initramfs.img", follow=True)
    state = hashlib.sha256()
    parts = [(kernel, f"vmlinuz-{version}")]
    if initramfs.is_file():
        parts.append((initramfs, f"initramfs-{version}.img"))
    for source, _ in parts:
        with source.open("rb") as stream:
            while piece := stream.read(1 << 20):
                state.update(piece)
    tree.directory(_OSTREE_BOOT)
    for source, name in parts:
        copy = f"{_OSTREE_BOOT}/{name}-{state.hexdigest()}"
        tree.remove(copy)
        os.link(source, tree.path(copy))


def _empty_boot(tree: Tree) -> None:
    """Leave an empty /boot; what is neither kernel nor initramfs goes to /usr/lib/ostree-boot.

    Boot loader updaters look there for what packages have in /boot/efi and /boot/grub2.
    """
    boot = tree.path("boot")
    if boot.is_dir() and not boot.is_symlink():
        for path in sorted(boot.iterdir()):
            target = f"{_OSTREE_BOOT}/{path.name}"
            if _has_files(path) and not tree.exists(target):
                tree.directory(_OSTREE_BOOT)
                shutil.move(path, tree.path(target))
    tree.remove("boot")
    tree.directory("boot")


def _has_files(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir():
        return True
    return any(files for _, _, files in os.walk(path))
