"""From an installed root directory to a tree that can be committed, step by step.

The order is rpm-ostree's: units, default target, os-release, files to remove, files to
add, scripts, kernel and initramfs, accounts, /var; so a script sees the layout and the
added files, and what it writes for dracut counts.
"""

from __future__ import annotations

from pathlib import Path

from composer.compose.altfiles import move_accounts, settle_shadow
from composer.compose.content import remove_files, settle_devices
from composer.compose.kernel import prepare_kernel, run_in_tree
from composer.compose.layout import finish, settle_machine_id
from composer.compose.tree import Tree
from composer.compose.treefile import Treefile
from composer.compose.units import enable, set_default_target
from composer.errors import CommandFailed, ComposerError
from composer.progress import Report, Step
from composer.system.files import write_bytes
from composer.system.sandbox import Bind

_SCRIPT = "/run/postprocess"


class ScriptFailed(ComposerError):
    """A postprocess script that ended with an error."""


def postprocess(
    tree: Tree,
    treefile: Treefile,
    *,
    scratch: Path,
    timestamp: int,
    report: Report,
) -> str:
    """Apply the treefile to a ``tree`` with OSTree's layout; return its kernel's version, or "".

    ``scratch`` is a directory for scripts outside the tree.  Raises BadTree,
    FileNotAdded, DeviceInTree, ScriptFailed, InitramfsFailed.
    """
    enable(tree, treefile.units)
    if treefile.default_target:
        set_default_target(tree, treefile.default_target)
    remove_files(tree, treefile.remove_files)
    for number, script in enumerate(treefile.postprocess):
        total = len(treefile.postprocess)
        report(Step("postprocess", number, total, "scripts"))
        _run_script(tree, script, number, scratch=scratch, timestamp=timestamp)
    settle_devices(tree, ignore=True)
    settle_machine_id(tree, compatible=True)
    version = prepare_kernel(
        tree,
        initramfs=not treefile.no_initramfs,
        ostree_boot=treefile.boot_location == "new",
        timestamp=timestamp,
        report=report,
    )
    # After dracut, which looks accounts up in /etc only.
    move_accounts(tree, ())
    settle_shadow(tree)
    finish(tree, tmp_is_dir=treefile.tmp_is_dir)
    return version


def _run_script(tree: Tree, script: str, number: int, *, scratch: Path, timestamp: int) -> None:
    path = scratch / f"postprocess-{number}"
    write_bytes(path, script.encode(), mode=0o755, durable=False)
    try:
        run_in_tree(tree, [_SCRIPT], timestamp=timestamp, extra=(Bind(path, _SCRIPT),))
    except CommandFailed as error:
        first = script.split("\n", 1)[0]
        raise ScriptFailed(
            f"postprocess[{number}]: the script ({first}) failed with status {error.status}",
            details=error.output.strip().splitlines()[-12:] or ["it printed nothing"],
            hint="it runs in the tree, with the tree's programs and without network",
        ) from error
