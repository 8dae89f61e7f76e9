"""SELinux labels: the tree's own policy, for libostree to label with.

libostree reads a policy from a directory, and follows what links are there.  Scriptlets may
have made them, so it gets a copy of what the tree has, looked up inside the tree.  This
machine's policy, and whether it has SELinux at all, do not matter.

A policy says what /etc is labelled like; in a commit that is in /usr/etc, which most
policies give one label for everything.  With version 1 of rpm-ostree's ``selinux-label-version``
the labels there are those of /etc.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from composer.compose.tree import BadTree, Tree
from composer.errors import ComposerError

_CONFIG = "usr/etc/selinux"
_TYPE = re.compile(r"^SELINUXTYPE=\s*([A-Za-z0-9_.-]+)\s*$", re.MULTILINE)
# libselinux reads it after file_contexts and before file_contexts.subs_dist.
_SUBSTITUTIONS = "contexts/files/file_contexts.subs"
_LIKE_ETC = "/usr/etc /etc\n"
# A policy is ten thousand times smaller than what would fill a disk.
_MOST_FILES, _MOST_BYTES = 2000, 256 << 20


class NoPolicy(ComposerError):
    """``selinux: true``, but the tree has no policy to label with."""


@contextmanager
def policy_of(tree: Tree, *, version: int) -> Iterator[Any]:
    """Give libostree's SePolicy of the tree, whose configuration is in /usr/etc.

    ``version`` is 1 where /usr/etc is labelled as /etc, else 0.  Raises NoPolicy, BadTree.
    """
    from gi.repository import Gio, GLib, OSTree

    with tempfile.TemporaryDirectory(prefix="policy.", dir=tree.root.parent) as scratch:
        root = Path(scratch)
        copy = _copy(tree, root)
        if version == 1:
            with (copy / _SUBSTITUTIONS).open("a") as stream:
                stream.write(_LIKE_ETC)
        try:
            policy = OSTree.SePolicy.new(Gio.File.new_for_path(str(root)), None)
        except GLib.Error as error:
            raise _no_policy(f"libostree cannot read it: {error.message}") from error
        if not policy.get_name():
            raise _no_policy("libostree finds none in it")
        yield policy


def _copy(tree: Tree, root: Path) -> Path:
    """Copy the policy that the tree's configuration names below ``root``; returns where."""
    match = _TYPE.search(tree.read(f"{_CONFIG}/config") or "")
    if match is None:
        raise _no_policy("looked for SELINUXTYPE in /etc/selinux/config")
    name = match[1]
    source = f"{_CONFIG}/{name}"
    if name in (".", "..") or not tree.is_file(f"{source}/contexts/files/file_contexts"):
        raise _no_policy(f"/etc/selinux/{name}, which /etc/selinux/config names, is none")
    target = root / _CONFIG / name
    target.mkdir(parents=True)
    shutil.copyfile(tree.path(f"{_CONFIG}/config", follow=True), root / _CONFIG / "config")
    # libostree wants to know which policy it is; it reads no other directory.
    left = [_MOST_FILES, _MOST_BYTES]
    for part in ("policy", "contexts"):
        _copy_directory(tree, f"{source}/{part}", target / part, left)
    return target


def _copy_directory(tree: Tree, name: str, target: Path, left: list[int]) -> None:
    """Copy regular files, links to them as what they lead to inside the tree."""
    source = tree.path(name, follow=True)
    if not source.is_dir():
        return
    target.mkdir()
    for entry in sorted(source.iterdir()):
        place = tree.path(f"{name}/{entry.name}", follow=True)
        if entry.is_dir() and not entry.is_symlink():
            _copy_directory(tree, f"{name}/{entry.name}", target / entry.name, left)
        elif place.is_file():
            left[0] -= 1
            left[1] -= place.stat().st_size
            if min(left) < 0:
                raise BadTree(f"/{name}: too much for an SELinux policy")
            shutil.copyfile(place, target / entry.name)


def _no_policy(detail: str) -> NoPolicy:
    return NoPolicy(
        "selinux is true, but the tree has no SELinux policy",
        details=[detail],
        hint="add a policy package such as selinux-policy-targeted, or write `selinux: false`",
    )
