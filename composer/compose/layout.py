"""OSTree's layout: what an installed root directory has to become.

State is in /var, configuration in /usr/etc, everything else in /usr; the toplevel keeps
empty directories for what is mounted there and links to where the rest went.  Content
of /var is no part of a deployment, so tmpfiles.d makes it at boot: directories and
links by their own lines, files as copies from /usr/share/factory.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from composer.compose.tree import BadTree, Tree
from composer.system.accounts import parse_group, parse_passwd

_COMPATIBLE = "usr/lib/tmpfiles.d/jigdo-composer-opt-usrlocal.conf"
TMPFILES = "usr/lib/tmpfiles.d/jigdo-composer-autovar.conf"
_FACTORY = "usr/share/factory"
_MOUNTED = ("dev", "proc", "run", "sys", "tmp", "sysroot")
# What is written at run time, and whose owner makes it anew when it is missing.
_TRANSIENT = (
    "/run/", "/var/cache/", "/var/log/", "/var/tmp/", "/var/lock/", "/var/lib/rpm-state/",
)  # fmt: skip
# What scriptlets make anew each time, and no two machines may share.
_OF_ONE_MACHINE = (
    "var/lib/dbus/machine-id",
    "var/lib/plymouth/boot-duration",
    "var/lib/systemd/credential.secret",
    "var/lib/systemd/random-seed",
)
# What the link /media leads to.
_MEDIA = "d /run/media 0755 root root - -"


@dataclass(frozen=True, slots=True)
class _Moved:
    """A directory that becomes state; ``link`` is what its old name then holds."""

    name: str
    state: str
    link: str
    mode: int = 0o755


_STATE = (
    _Moved("home", "var/home", "var/home"),
    _Moved("root", "var/roothome", "var/roothome", 0o700),
    _Moved("srv", "var/srv", "var/srv"),
    _Moved("mnt", "var/mnt", "var/mnt"),
)
_USR_LOCAL = _Moved("usr/local", "var/usrlocal", "../var/usrlocal")
_VENDOR_OPT = "usr/lib/opt"
# Programs of the tree that keep in /var what is really the tree's.
_LIKE_USR = ("alternatives", "vagrant")
_OVERLAID = ("usr-lib-opt", "usr-local")
_OVERLAY_UNIT = "usr/lib/systemd/system/local-fs.target.requires/ostree-state-overlay@{}.service"


def arrange(tree: Tree, *, opt_usrlocal: str = "var") -> None:
    """Move configuration and state to their places.  Raises BadTree.

    ``opt_usrlocal`` is the key's value.  Afterwards scripts can run in the tree: /tmp is
    still a directory.
    """
    tree.root.chmod(0o755)
    _move_etc(tree)
    for name in _MOUNTED:
        _empty_directory(tree, name)
    _real_directory(tree, "var")
    for moved in _STATE:
        _move(tree, moved)
    _arrange_opt(tree, opt_usrlocal)
    for name in _LIKE_USR:
        _keep_in_usr(tree, f"var/lib/{name}", f"usr/lib/{name}")
    _replace_by_link(tree, "media", "run/media")
    default = tree.read("usr/etc/default/useradd")
    if default is not None:
        tree.write("usr/etc/default/useradd", default.replace("HOME=/home\n", "HOME=/var/home\n"))


def _arrange_opt(tree: Tree, opt_usrlocal: str) -> None:
    if opt_usrlocal == "root":
        _real_directory(tree, "opt")
        _real_directory(tree, "usr/local")
    elif opt_usrlocal == "state-overlay":
        _move(tree, _Moved("opt", _VENDOR_OPT, _VENDOR_OPT))
        _real_directory(tree, "usr/local")
        for name in _OVERLAID:
            unit = _OVERLAY_UNIT.format(name)
            tree.link(unit, f"../{os.path.basename(unit)}")
        tree.write(
            _COMPATIBLE,
            "L /var/usrlocal - - - - ../usr/local\nL /var/opt - - - - ../usr/lib/opt\n",
        )
    else:
        opt = tree.path("opt")
        if opt.is_dir() and not opt.is_symlink():
            for entry in sorted(os.listdir(opt)):
                _keep_in_usr(tree, f"opt/{entry}", f"{_VENDOR_OPT}/{entry}")
        _move(tree, _Moved("opt", "var/opt", "var/opt"))
        _move(tree, _USR_LOCAL)


def _keep_in_usr(tree: Tree, name: str, place: str) -> None:
    """Move what packages have at ``name`` into /usr, with a link to it.

    So that an update replaces it, which a copy in /var made at the first boot would prevent.
    """
    path = tree.path(name)
    if path.is_symlink() or not path.exists() or tree.exists(place):
        return
    tree.directory(os.path.dirname(place))
    path.rename(tree.path(place))
    path.symlink_to(f"../../{place}")


def finish(tree: Tree, *, tmp_is_dir: bool) -> None:
    """Turn what is in /var into tmpfiles.d and set what scripts may have changed."""
    if tree.exists("etc"):
        # The mount point that scripts saw /usr/etc at.
        _require_empty(tree, "etc")
        tree.remove("etc")
    _state_to_tmpfiles(tree)
    for name in _MOUNTED:
        _empty_directory(tree, name)
    tree.link("ostree", "sysroot/ostree")
    if tmp_is_dir:
        tree.path("tmp").chmod(0o1777)
    else:
        tree.link("tmp", "sysroot/tmp")


def settle_machine_id(tree: Tree, *, compatible: bool) -> None:
    """Leave an empty /etc/machine-id, or none unless ``compatible``.

    systemd binds a generated one over an empty file; without a file it takes the boot for
    the first one, which presets all units and needs a writable root.  One that a scriptlet
    made is never the tree's: every machine would have it.
    """
    old = (tree.read("usr/etc/machine-id") or "").strip()
    if re.fullmatch(r"[0-9a-f]{32}", old):
        tree.remove(f"boot/{old}")
    if compatible:
        tree.write("usr/etc/machine-id", "")
    else:
        tree.remove("usr/etc/machine-id")


def _move_etc(tree: Tree) -> None:
    if tree.exists("usr/etc"):
        _require_empty(tree, "usr/etc")
        tree.remove("usr/etc")
    etc = tree.path("etc")
    if etc.is_symlink() or not etc.is_dir():
        raise BadTree("/etc: expected a directory in the tree")
    etc.rename(tree.path("usr/etc"))


def _require_empty(tree: Tree, name: str) -> None:
    path = tree.path(name)
    if path.is_symlink() or not path.is_dir() or any(path.iterdir()):
        raise BadTree(
            f"/{name}: the tree has something there, beside its configuration",
            hint="packages put configuration in /etc; the compose moves it to /usr/etc",
        )


def _real_directory(tree: Tree, name: str) -> Path:
    path = tree.path(name)
    if path.is_symlink() or not path.is_dir():
        tree.remove(name)
        tree.directory(name)
    return path


def _empty_directory(tree: Tree, name: str) -> None:
    _real_directory(tree, name).chmod(0o755)
    tree.clear(name)


def _move(tree: Tree, moved: _Moved) -> None:
    source, state = tree.path(moved.name), tree.path(moved.state)
    if source.is_symlink() or not source.exists():
        tree.remove(moved.name)
        if not state.exists():
            tree.directory(moved.state, mode=moved.mode)
    elif not source.is_dir():
        raise BadTree(f"/{moved.name}: expected a directory in the tree")
    elif state.exists():
        _merge(source, state)
    else:
        source.rename(state)
    tree.link(moved.name, moved.link)


def _merge(source: Path, into: Path) -> None:
    for entry in sorted(source.iterdir()):
        target = into / entry.name
        if (
            target.is_dir()
            and not target.is_symlink()
            and entry.is_dir()
            and not entry.is_symlink()
        ):
            _merge(entry, target)
        elif os.path.lexists(target):
            raise BadTree(f"{entry.name}: both in {source.name} and in {into.name} of the tree")
        else:
            entry.rename(target)


def _replace_by_link(tree: Tree, name: str, target: str) -> None:
    path = tree.path(name)
    if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
        raise BadTree(f"/{name}: has content, but is a link to {target} in OSTree's layout")
    tree.link(name, target)


def _state_to_tmpfiles(tree: Tree) -> None:
    for name in _OF_ONE_MACHINE:
        if not tree.path(name).is_symlink():
            tree.remove(name)
    lines = [_MEDIA, *_Tmpfiles(tree).lines(tree.path("var"))]
    tree.clear("var")
    tree.path("var").chmod(0o755)
    header = "# Made by jigdo-composer from what packages have in /var.\n"
    tree.write(TMPFILES, header + "".join(f"{line}\n" for line in lines))


class _Tmpfiles:
    """Makes tmpfiles.d lines; names that a package's own tmpfiles.d has are left to it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        passwd = parse_passwd(_both(tree, "passwd"))
        self._users = {uid: name for name, (uid, _) in reversed(passwd.items())}
        group = parse_group(_both(tree, "group"))
        self._groups = {gid: name for name, gid in reversed(group.items())}
        self._declared = set(_declared(tree))

    def lines(self, directory: Path) -> Iterator[str]:
        for path in sorted(directory.iterdir()):
            # systemd complains about each path in /var/run.
            name = re.sub(r"^/var/run/", "/run/", self._tree.name(path))
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                if name not in self._declared and name != "/var/run":
                    mode = stat.S_IMODE(status.st_mode)
                    yield f"d {_quoted(name)} {mode:04o} {self._owner(status)} - -"
                yield from self.lines(path)
            elif name in self._declared:
                continue
            elif stat.S_ISLNK(status.st_mode):
                yield f"L {_quoted(name)} - - - - {_argument(os.readlink(path))}"
            elif stat.S_ISREG(status.st_mode) and not name.startswith(_TRANSIENT):
                self._keep(path, name)
                yield f"C {_quoted(name)} - - - - -"

    def _owner(self, status: os.stat_result) -> str:
        user = self._users.get(status.st_uid, str(status.st_uid))
        group = self._groups.get(status.st_gid, str(status.st_gid))
        return f"{user} {group}"

    def _keep(self, path: Path, name: str) -> None:
        target = f"{_FACTORY}{name}"
        self._tree.directory(os.path.dirname(target))
        self._tree.remove(target)
        shutil.move(path, self._tree.path(target))


def _both(tree: Tree, name: str) -> str:
    """Return an accounts file, and the one that nss-altfiles reads."""
    return "\n".join(tree.read(f"{place}/{name}") or "" for place in ("usr/etc", "usr/lib"))


def _declared(tree: Tree) -> Iterator[str]:
    directory = tree.path("usr/lib/tmpfiles.d", follow=True)
    for path in sorted(directory.glob("*.conf")):
        for line in (tree.read(tree.name(path)) or "").splitlines():
            kind, _, rest = line.strip().partition(" ")
            # Lines that make something; z, r, x and their kind only change it.
            if kind and kind[0] in "dDfFLCvqQ" and (fields := rest.split()):
                yield fields[0].strip('"').rstrip("/")


def _quoted(name: str) -> str:
    """Write a path as tmpfiles.d has it: bytes as they are, for no escape means one."""
    if re.search(r"[\x00-\x1f\x7f]", name):
        raise BadTree(
            f"{ascii(name)[1:-1]}: tmpfiles.d cannot name that, so it cannot be made at boot",
            hint="remove it, in the package or by remove-files or a postprocess script",
        )
    text = name.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"')
    return f'"{text}"' if re.search(r"[ '\"]", name) else text


def _argument(text: str) -> str:
    """Write a link's target as the rest of a line, where escapes do mean bytes."""
    text = text.replace("\\", "\\\\").replace("%", "%%")
    return re.sub(r"[\x00-\x1f\x7f]|^[ -]|\s$", lambda found: f"\\x{ord(found[0]):02x}", text)
