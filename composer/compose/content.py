"""Files that the treefile adds to the tree, takes out of it, or changes everywhere.

Keys: ``add-files``, ``remove-files``, ``readonly-executables``, ``ignore-devices``.  Names
are those of the installed system: /etc means /usr/etc, and links on the way are followed
inside the tree only.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from composer.compose.tree import BadTree, Tree
from composer.errors import ComposerError

# What a commit can carry; all but /usr and /etc are links into /usr where it is merged.
_PLACES = ("usr", "etc", "bin", "sbin", "lib", "lib64")
# libostree's own spelling of an overlayfs whiteout in a commit.
_WHITEOUT = ".ostree-wh."


class FileNotAdded(ComposerError):
    """A file of ``add-files`` that cannot be put where it shall be."""


class DeviceInTree(ComposerError):
    """A device file, with ``ignore-devices: false``."""


def add_file(tree: Tree, source: Path, target: str, where: str) -> None:
    """Copy the regular file ``source`` to ``target``, root's, 0755 if executable, else 0644.

    ``target`` is absolute or relative to the root, below /usr (but not /usr/local) or /etc,
    or one of the links into /usr.  What has that name is replaced, unless it is a
    directory.  ``where`` says in the error where the treefile asks for it.  Raises
    FileNotAdded.
    """
    place = _target(tree, target, where)
    if not source.is_file():
        found = "is not a regular file" if source.exists() else "is not there"
        raise FileNotAdded(f"{where}: {source} {found}")
    if place.is_dir() and not place.is_symlink():
        raise FileNotAdded(f"{where}: {target}: the tree has a directory there")
    # The caller's umask is no part of the input; whether git says "executable" is.
    mode = 0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644
    place.unlink(missing_ok=True)
    shutil.copyfile(source, place)
    place.chmod(mode)


def _target(tree: Tree, target: str, where: str) -> Path:
    parts = [part for part in target.split("/") if part not in ("", ".")]
    if ".." in parts or len(parts) < 2 or parts[0] not in _PLACES or parts[:2] == ["usr", "local"]:
        raise FileNotAdded(
            f"{where}: {target}: not a place for a file",
            hint="a commit has files below /usr, except /usr/local, and below /etc",
        )
    name = "/".join(["usr", *parts] if parts[0] == "etc" else parts)
    try:
        found = tree.path(os.path.dirname(name), follow=True).relative_to(tree.root).parts
        if found[:1] == ("etc",):
            found = ("usr", *found)
        if found[:1] not in {(place,) for place in _PLACES} or found[:2] == ("usr", "local"):
            raise FileNotAdded(
                f"{where}: {target}: a link in the tree leads to /{'/'.join(found)}",
                hint="a commit has files below /usr, except /usr/local, and below /etc",
            )
        return tree.directory("/".join(found)) / parts[-1]
    except (BadTree, OSError) as error:
        raise FileNotAdded(f"{where}: {target}: {error}") from error


def remove_files(tree: Tree, names: Sequence[str]) -> None:
    """Remove files and directories; what is missing is skipped."""
    for name in names:
        place = f"usr/{name}" if name.split("/")[0] == "etc" else name
        tree.remove(place)


def protect_executables(tree: Tree) -> None:
    """Take the permission to write from every file that may be executed."""
    for entry in _files(tree):
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISREG(mode) and mode & 0o111:
            os.chmod(entry.path, stat.S_IMODE(mode) & ~0o222)


def settle_devices(tree: Tree, *, ignore: bool) -> None:
    """Remove device files, which no commit can hold; raises DeviceInTree unless ``ignore``.

    An overlayfs whiteout (a character device 0:0) becomes the file that stands for it.
    """
    # The kind of most entries comes with the listing, without a call for each.
    special = [
        e for e in _files(tree) if not e.is_symlink() and not e.is_file(follow_symlinks=False)
    ]
    for entry in special:
        status = entry.stat(follow_symlinks=False)
        if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            continue
        path = Path(entry.path)
        whiteout = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
        if not whiteout and not ignore:
            raise DeviceInTree(
                f"{tree.name(path)}: a device file, which a commit cannot hold",
                hint="`ignore-devices: true` leaves them out",
            )
        path.unlink()
        if whiteout:
            quoted = path.with_name(_WHITEOUT + path.name)
            quoted.unlink(missing_ok=True)
            quoted.touch()
            quoted.chmod(stat.S_IMODE(status.st_mode))


def _files(tree: Tree) -> Iterator[os.DirEntry[str]]:
    """Yield all that is no directory."""
    todo = [str(tree.root)]
    while todo:
        with os.scandir(todo.pop()) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
            else:
                yield entry
