"""Root without being root: a user namespace in which a plain user's subordinate ids are all ids.

Inside, this process is root over the files of 0 (the user outside), 1 and so on (the
user's subordinate ids), which is what it takes to install packages with their owners.
The kernel lets a user map only its own id; newuidmap and newgidmap, which are setuid,
map what /etc/subuid and /etc/subgid grant.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from composer.errors import MissingRequirement
from composer.system.command import require_program

_CLONE_NEWUSER = 0x10000000
# Ids 0 to 65535, of which 0 is the user's own.
_NEEDED = 65535
_SETTINGS = {
    # file below /proc/sys: the value that forbids it
    "user/max_user_namespaces": "0",
    "kernel/unprivileged_userns_clone": "0",
    "kernel/apparmor_restrict_unprivileged_userns": "1",
}


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    file: Path
    program: str


_USERS = _Kind("user", Path("/etc/subuid"), "newuidmap")
_GROUPS = _Kind("group", Path("/etc/subgid"), "newgidmap")


def become_root() -> None:
    """Make this process root, in a user namespace of its own unless it is root already.

    To be called while the process has one thread.  Raises MissingRequirement that says
    what this machine or this user lacks, and how to mend it.
    """
    if os.geteuid() == 0:
        return
    outside = {_USERS: os.getuid(), _GROUPS: os.getgid()}
    commands = [_map_command(kind, own) for kind, own in outside.items()]
    # It stays outside and maps when it is told to; from inside it could not.
    script = "read -r go && " + " && ".join(commands)
    mapper = subprocess.Popen(
        ["/bin/sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with mapper:
        try:
            _unshare()
        except BaseException:
            mapper.kill()
            raise
        said, _ = mapper.communicate(b"go\n")
    if mapper.returncode:
        raise _not_mapped(said.decode(errors="replace"))


def has(kind: str, number: int) -> bool:
    """Whether the id of a "user" or "group" exists in this process's user namespace."""
    table = {"user": "uid_map", "group": "gid_map"}[kind]
    rows = Path("/proc/self", table).read_text().splitlines()
    ranges = [(int(first), int(count)) for first, _, count in map(str.split, rows)]
    return any(first <= number < first + count for first, count in ranges)


def _map_command(kind: _Kind, own: int) -> str:
    program = require_program(kind.program, package="uidmap", fedora="shadow-utils")
    words = [program, str(os.getpid()), "0", str(own), "1"]
    inside = 1
    for first, count in _granted(kind):
        words += [str(inside), str(first), str(count)]
        inside += count
    return shlex.join(words)


def _granted(kind: _Kind) -> list[tuple[int, int]]:
    """Return the ranges (first, count) of the user's subordinate ids."""
    user = _name()
    try:
        lines = kind.file.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    found = []
    for line in lines:
        name, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if name in (user, str(os.getuid())) and first.isdecimal() and count.isdecimal():
            found.append((int(first), int(count)))
    have = sum(count for _, count in found)
    if have < _NEEDED:
        raise _too_few(kind, user, have)
    return found


def _too_few(kind: _Kind, user: str, have: int) -> MissingRequirement:
    return MissingRequirement(
        f"composing as a plain user takes {_NEEDED + 1} subordinate {kind.name} ids; "
        f"{user} has {have or 'none'} in {kind.file}",
        hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user} "
        "(numbers that nobody else has); or compose as root",
    )


def _name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EINVAL:
        raise RuntimeError("a process with threads cannot have a user namespace of its own")
    raise MissingRequirement(
        f"this machine lets no plain user make a user namespace: {os.strerror(number)}",
        details=forbidding(),
        hint="let it, with sysctl as above; in a container, give it that right; or compose as root",
    )


def forbidding() -> list[str]:
    """Tell the kernel's settings that forbid user namespaces or the use of them."""
    found = []
    for name, value in _SETTINGS.items():
        try:
            now = Path("/proc/sys", name).read_text().strip()
        except OSError:
            continue
        if now == value:
            found.append(f"sysctl {name.replace('/', '.')} is {now}")
    return found


def _not_mapped(said: str) -> MissingRequirement:
    return MissingRequirement(
        "the subordinate ids could not be mapped",
        details=said.strip().splitlines()[-4:],
        hint="newuidmap and newgidmap must be setuid root, on a file system without nosuid, "
        "and not be run with no_new_privs; or compose as root",
    )
