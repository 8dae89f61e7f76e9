"""``mutate-os-release``: the commit's version in os-release."""

from __future__ import annotations

import os

from composer.compose.tree import BadTree, Tree

_FILE = "usr/etc/os-release"
_FIELDS = ("VERSION=", "PRETTY_NAME=")


def mutate_os_release(tree: Tree, base: str, version: str) -> None:
    """Put ``version`` where ``base`` stands in VERSION and PRETTY_NAME, and in OSTREE_VERSION.

    Without a version nothing is changed.  Raises BadTree where the tree has no os-release.
    """
    if not base or not version:
        return
    name = _place(tree)
    if not tree.is_file(name):
        raise BadTree(
            "mutate-os-release: the tree has no /etc/os-release",
            hint="a package such as fedora-release brings it",
        )
    path = tree.path(name, follow=True)
    tree.write(tree.name(path), mutated(tree.read(name) or "", base, version))


def _place(tree: Tree) -> str:
    """Return the name in the tree of what /etc/os-release is on the running system."""
    path = tree.path(_FILE)
    if not path.is_symlink():
        return _FILE
    target = os.path.normpath(os.path.join("/etc", os.readlink(path)))
    return f"/usr{target}" if target.startswith("/etc/") else target


def mutated(text: str, base: str, version: str) -> str:
    """Return the text of an os-release file with the version in it."""
    lines = []
    for line in text.splitlines():
        if not line:
            continue
        field = next((f for f in _FIELDS if line.startswith(f)), "")
        lines.append(field + line.removeprefix(field).replace(base, version) if field else line)
    quoted = "'" + version.replace("'", "'\\''") + "'"
    return "".join(f"{line}\n" for line in [*lines, f"OSTREE_VERSION={quoted}"])
