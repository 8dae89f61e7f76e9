"""From an installed root directory to a tree that can be committed, step by step.

The order is rpm-ostree's: os-release, files to remove, files to add, scripts, kernel and
initramfs, accounts, /var; so a script sees the layout and the added files, and what it writes
for dracut counts.  Units and the default target come behind the files and not before them, so
that a unit of the treefile's own can be enabled; a script sees which are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from composer.compose.altfiles import move_accounts, settle_shadow
from composer.compose.content import (
    add_file,
    protect_executables,
    remove_files,
    settle_devices,
)
from composer.compose.document import TreefileError
from composer.compose.kernel import prepare_kernel, run_in_tree, write_kernel_install_layout
from composer.compose.layout import finish, settle_machine_id
from composer.compose.os_release import mutate_os_release
from composer.compose.policy import settle_policy
from composer.compose.tree import BadTree, Tree
from composer.compose.treefile import Treefile
from composer.compose.units import enable, set_default_target
from composer.errors import CommandFailed, ComposerError
from composer.progress import Report, Step
from composer.system.files import write_bytes
from composer.system.limits import LimitExceeded
from composer.system.sandbox import Bind

_SCRIPT = "/run/postprocess"


class ScriptFailed(ComposerError):
    """A postprocess script that ended with an error."""


def require_possible(treefile: Treefile) -> None:
    """Raise TreefileError for keys that contradict each other or name what cannot run."""
    if treefile.units and not treefile.machineid_compat:
        raise TreefileError(
            f"{treefile.places['units'][0]}: no units with machineid-compat: false",
            hint="the first boot applies presets; bring a .preset file in a package or add-files",
        )
    script = treefile.postprocess_script
    if script is not None and not os.access(script, os.X_OK):
        place = treefile.places["postprocess-script"][0]
        raise TreefileError(f"{place}: {script} is not executable", hint=f"chmod +x {script}")


def postprocess(
    tree: Tree,
    treefile: Treefile,
    *,
    version: str = "",
    scratch: Path,
    timestamp: int,
    report: Report,
) -> str:
    """Apply the treefile to a ``tree`` with OSTree's layout; return its kernel's version, or "".

    ``version`` is that of the commit; ``scratch`` is a directory for scripts outside the
    tree.  Raises BadTree, FileNotAdded, DeviceInTree, ScriptFailed, InitramfsFailed.
    """
    mutate_os_release(tree, treefile.mutate_os_release, version)
    remove_files(tree, treefile.remove_files)
    for file in treefile.add_files:
        add_file(tree, file.source, file.target, file.where)
    _settle_units(tree, treefile)
    if treefile.boot_location == "kernel-install":
        write_kernel_install_layout(tree)
    _run_scripts(tree, treefile, scratch=scratch, timestamp=timestamp, report=report)
    settle_devices(tree, ignore=treefile.ignore_devices)
    compatible = treefile.machineid_compat
    if treefile.container:
        # rpm-ostree leaves it alone there; but what a scriptlet made is never the same.
        compatible = tree.exists("usr/etc/machine-id")
    settle_machine_id(tree, compatible=compatible)
    kernel = "" if treefile.container else _kernel(tree, treefile, timestamp, report)
    # After dracut, which looks accounts up in /etc only.
    move_accounts(tree, treefile.etc_group_members)
    settle_shadow(tree)
    settle_policy(tree, labelled=treefile.selinux)
    finish(tree, tmp_is_dir=treefile.tmp_is_dir)
    if treefile.readonly_executables:
        protect_executables(tree)
    return kernel


def _settle_units(tree: Tree, treefile: Treefile) -> None:
    for unit, place in zip(treefile.units, treefile.item_places.get("units", ()), strict=True):
        with _told_at(place):
            enable(tree, unit)
    if treefile.default_target:
        with _told_at(treefile.places["default-target"][0]):
            set_default_target(tree, treefile.default_target)


@contextmanager
def _told_at(place: str) -> Iterator[None]:
    try:
        yield
    except BadTree as error:
        raise error.within(place) from error


def _kernel(tree: Tree, treefile: Treefile, timestamp: int, report: Report) -> str:
    return prepare_kernel(
        tree,
        initramfs=not treefile.no_initramfs,
        arguments=treefile.initramfs_args,
        ostree_boot=treefile.boot_location == "new",
        timestamp=timestamp,
        report=report,
    )


def _run_scripts(
    tree: Tree, treefile: Treefile, *, scratch: Path, timestamp: int, report: Report
) -> None:
    places = treefile.item_places.get("postprocess", ())
    scripts = [
        (place, script.encode()) for place, script in zip(places, treefile.postprocess, strict=True)
    ]
    if treefile.postprocess_script is not None:
        place = treefile.places["postprocess-script"][0]
        scripts.append((place, treefile.postprocess_script.read_bytes()))
    for number, (place, script) in enumerate(scripts):
        report(Step("postprocess", number, len(scripts), "scripts"))
        path = scratch / f"postprocess-{number}"
        write_bytes(path, script, mode=0o755, durable=False)
        _run_script(tree, path, place, script, timestamp)


def _run_script(tree: Tree, path: Path, place: str, script: bytes, timestamp: int) -> None:
    first = script.split(b"\n", 1)[0].decode(errors="replace")
    # What has no interpreter is text for the shell, unless it is a program.
    text = not script.startswith((b"#!", b"\x7fELF"))
    argv = ["/bin/sh", _SCRIPT] if text else [_SCRIPT]
    try:
        run_in_tree(tree, argv, timestamp=timestamp, extra=(Bind(path, _SCRIPT),))
    except LimitExceeded as error:
        raise error.within(place) from error
    except CommandFailed as error:
        raise ScriptFailed(
            f"{place}: the script ({first[:80]}) failed with status {error.status}",
            details=error.output.strip().splitlines()[-12:] or ["it printed nothing"],
            hint="it runs in the tree, with the tree's programs and without network",
        ) from error
