"""From an installed root directory to a tree that can be committed, step by step.

The order is rpm-ostree's: layout, units, default target, files to remove, scripts,
kernel and initramfs, /var; so a script sees the layout and what it writes for dracut
counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from composer.compose.kernel import prepare_kernel, run_in_tree
from composer.compose.layout import arrange, finish
from composer.compose.tree import Tree
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


def postprocess(
    tree: Tree, treefile: Treefile, *, scratch: Path, timestamp: int, report: Report
) -> str:
    """Apply the treefile to an installed ``tree`` and return its kernel's version, or "".

    ``scratch`` is a directory for scripts outside the tree.  Raises BadTree,
    ScriptFailed, InitramfsFailed.
    """
    report(Step("postprocess", item="layout"))
    arrange(tree)
    enable(tree, treefile.units)
    if treefile.default_target:
        set_default_target(tree, treefile.default_target)
    remove_files(tree, treefile.remove_files)
    for number, script in enumerate(treefile.postprocess):
        total = len(treefile.postprocess)
        report(Step("postprocess", number, total, "scripts"))
        _run_script(tree, script, number, scratch=scratch, timestamp=timestamp)
    version = prepare_kernel(
        tree,
        initramfs=not treefile.no_initramfs,
        ostree_boot=treefile.boot_location == "new",
        timestamp=timestamp,
        report=report,
    )
    finish(tree, tmp_is_dir=treefile.tmp_is_dir)
    return version


def remove_files(tree: Tree, names: Sequence[str]) -> None:
    """Remove files and directories; what is missing is skipped.

    Names are those of the installed system, so /etc means /usr/etc.  Links on the way
    are followed inside the tree only.
    """
    for name in names:
        place = f"usr/{name}" if name.split("/")[0] == "etc" else name
        tree.remove(place)


def _run_script(tree: Tree, script: str, number: int, *, scratch: Path, timestamp: int) -> None:
    path = scratch / f"postprocess-{number}"
    write_bytes(path, script.encode(), mode=0o755, durable=False)
    try:
        run_in_tree(tree, [_SCRIPT], timestamp=timestamp, extra=(Bind(path, _SCRIPT),))
    except LimitExceeded as error:
        raise error.within(f"postprocess[{number}]") from error
    except CommandFailed as error:
        first = script.split("\n", 1)[0]
        raise ScriptFailed(
            f"postprocess[{number}]: the script ({first}) failed with status {error.status}",
            details=error.output.strip().splitlines()[-12:] or ["it printed nothing"],
            hint="it runs in the tree, with the tree's programs and without network",
        ) from error
