"""The SELinux policy as an OSTree system needs it: its store in /etc, names for the same place.

The store that semodule works on is in /var/lib/selinux, which a commit does not have; so it
goes to /etc/selinux, where it is configuration.  And the policy is told which directories
are really which others: ``file_contexts.subs_dist`` has a line for each such pair.
"""

from __future__ import annotations

import re
import shutil

from composer.compose.tree import Tree

_CONFIG = "usr/etc/selinux"
_TYPE = re.compile(r"^SELINUXTYPE=\s*([A-Za-z0-9_-][A-Za-z0-9_.-]*)\s*$", re.MULTILINE)
_STORE_ROOT = "\nstore-root=/etc/selinux\n"
_LOCKS = ("semanage.trans.LOCK", "semanage.read.LOCK")
# The first is like the second; as rpm-ostree has it.
_ALIKE = ("/home /var/home", "/usr/etc /etc", "/usr/lib/opt /opt")
_OPPOSITE = "/var/home "


def settle_policy(tree: Tree, *, labelled: bool) -> None:
    """Adapt the policy that the tree's configuration names, if there is one.

    The store is moved only if the tree is ``labelled``.
    """
    match = _TYPE.search(tree.read(f"{_CONFIG}/config") or "")
    if match is None:
        return
    name = f"{_CONFIG}/{match[1]}"
    subs = f"{name}/contexts/files/file_contexts.subs_dist"
    text = tree.read(subs)
    if text is not None:
        path = tree.path(subs, follow=True)
        path.write_text(with_alike(text), errors="surrogateescape")
    if labelled:
        _move_store(tree, match[1])
    for lock in _LOCKS:
        tree.remove(f"{name}/{lock}")


def with_alike(text: str) -> str:
    """Return the text of file_contexts.subs_dist with the pairs that OSTree's layout makes."""
    lines = text.splitlines()
    more = [f"/usr{line}" for line in lines if line.startswith("/etc/")]
    # The opposite of ours, which would send lookups in a circle.
    kept = [f"# {line}" if line.startswith(_OPPOSITE) else line for line in lines]
    sources = {line.split()[0] for line in lines if line.strip()}
    added = [line for line in (*_ALIKE, *more) if line.split()[0] not in sources]
    return "".join(f"{line}\n" for line in (*kept, *added))


def _move_store(tree: Tree, name: str) -> None:
    store = tree.path(f"var/lib/selinux/{name}")
    if not tree.is_dir(f"var/lib/selinux/{name}/active/modules"):
        return
    semanage = tree.read(f"{_CONFIG}/semanage.conf")
    if semanage is not None and _STORE_ROOT not in semanage:
        path = tree.path(f"{_CONFIG}/semanage.conf", follow=True)
        path.write_text(semanage + _STORE_ROOT, errors="surrogateescape")
    target = tree.directory(f"{_CONFIG}/{name}")
    for entry in sorted(store.iterdir()):
        tree.remove(f"{_CONFIG}/{name}/{entry.name}")
        shutil.move(entry, target / entry.name)
    tree.remove("var/lib/selinux")
    tree.link("var/lib/selinux", "../../etc/selinux")
