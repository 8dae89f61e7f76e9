"""Users and groups: who owns the files, and with which number, always the same.

rpm 4.18 knows nothing of sysusers.d and gives files of unknown owners to root.  So
the accounts are planned before the transaction, from the passwd and group that a
package brings, ``Provides: user()`` and ``group()``, and the packages' sysusers.d, and
:func:`require_owners` looks afterwards whether every owner is who the packages say.

Numbers: those written down first (sysusers.d, then ``check-passwd``), then from 999
downwards in the order of names.  Nothing here depends on the machine.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from composer.compose.headers import PackageFacts
from composer.compose.tree import Tree
from composer.errors import ComposerError
from composer.system.accounts import parse_group, parse_passwd

_HIGHEST, _LOWEST = 999, 100
_ACCOUNT = re.compile(r"(user|group)\(([^()/]+)\)\Z")
_NOLOGIN = "/usr/sbin/nologin"


class UnknownOwner(ComposerError):
    """A file whose owner is no account of the tree, or not the one that its package names."""


class NoNumberLeft(ComposerError):
    """More system accounts than there are numbers for them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of passwd or group; ``rest`` is what follows the numbers."""

    name: str
    ident: int
    group: int
    rest: str

    def passwd(self) -> str:
        return f"{self.name}:x:{self.ident}:{self.group}:{self.rest}"

    def line_of_group(self) -> str:
        return f"{self.name}:x:{self.ident}:{self.rest}"


@dataclass(frozen=True, slots=True)
class Accounts:
    """Complete passwd and group lines for the transaction."""

    passwd: tuple[str, ...]
    group: tuple[str, ...]


@dataclass(slots=True)
class _Wanted:
    """What sysusers.d lines and provides ask for, collected."""

    users: dict[str, _User] = field(default_factory=dict)
    groups: dict[str, int | None] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)

    def numbers(self) -> set[int]:
        """All that are written down."""
        ids = {user.uid for user in self.users.values()} | set(self.groups.values())
        return {ident for ident in ids if ident is not None}


@dataclass(frozen=True, slots=True)
class _User:
    uid: int | None = None
    group: str = ""
    gecos: str = ""
    home: str = "/"
    shell: str = _NOLOGIN


def plan(
    facts: Iterable[PackageFacts],
    sysusers: Mapping[str, str],
    base: Mapping[str, str],
    known_users: Mapping[str, tuple[int, int]],
    known_groups: Mapping[str, int],
) -> Accounts:
    """Decide on every account that the packages need.

    ``sysusers`` maps names of sysusers.d files to their text, ``base`` has the
    packages' own "passwd" and "group" (either may be missing), and the known numbers
    are those to keep for accounts that ask for none.  Raises NoNumberLeft.
    """
    wanted = _wanted(facts, sysusers)
    texts = base.get("passwd", ""), base.get("group", "")
    numbers = _Numbers(*texts, known_users, known_groups, wanted.numbers())
    _add_groups_of_known_users(wanted, numbers)
    _add_groups(wanted, numbers)
    _add_users(wanted, numbers)
    return Accounts(
        (*_given(base, "passwd", "root:x:0:0:root:/root:/usr/bin/sh"), *numbers.passwd),
        tuple(_with_members([*_given(base, "group", "root:x:0:"), *numbers.group], wanted)),
    )


def _given(base: Mapping[str, str], name: str, root: str) -> list[str]:
    lines = [line for line in base.get(name, "").splitlines() if line.strip()]
    return lines if any(line.startswith("root:") for line in lines) else [root, *lines]


def _wanted(facts: Iterable[PackageFacts], sysusers: Mapping[str, str]) -> _Wanted:
    wanted = _Wanted()
    for _, text in sorted(sysusers.items()):
        for line in text.splitlines():
            _sysusers_line(line, wanted)
    bare: list[tuple[str, str]] = []
    for package in facts:
        for name, version in package.accounts:
            match = _ACCOUNT.match(name)
            if match is None:
                continue
            if version:
                _sysusers_line(_decoded(version), wanted)
            bare.append((match[1], match[2]))
    for kind, name in sorted(bare):
        if kind == "user":
            wanted.users.setdefault(name, _User())
        else:
            wanted.groups.setdefault(name, None)
    return wanted


def _decoded(version: str) -> str:
    # rpm 4.19's generator puts the sysusers.d line in the version, as base64.
    try:
        return base64.b64decode(version, validate=True).rstrip(b"\0").decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _sysusers_line(line: str, wanted: _Wanted) -> None:
    try:
        fields = shlex.split(line, comments=True)
    except ValueError:
        return
    kind, name, ident, gecos, home, shell = [*fields, "", "", "", "", "", ""][:6]
    kind = kind.rstrip("!")
    if kind == "m" and name and ident:
        wanted.members.setdefault(ident, set()).add(name)
        wanted.users.setdefault(name, _User())
        wanted.groups.setdefault(ident, None)
    elif kind == "g" and name:
        if wanted.groups.get(name) is None:
            wanted.groups[name] = int(ident) if ident.isdecimal() else None
    elif kind == "u" and name:
        uid, _, group = ident.partition(":")
        number = int(uid) if uid.isdecimal() else None
        blank = {"-": ""}
        user = _User(
            number,
            group,
            blank.get(gecos, gecos),
            blank.get(home, home) or "/",
            blank.get(shell, shell) or ("/bin/sh" if number == 0 else _NOLOGIN),
        )
        if name not in wanted.users or wanted.users[name] == _User():
            wanted.users[name] = user


class _Numbers:
    """The numbers in use, and the lines made so far."""

    def __init__(
        self,
        passwd: str,
        group: str,
        known_users: Mapping[str, tuple[int, int]],
        known_groups: Mapping[str, int],
        written: Iterable[int],
    ) -> None:
        self.users = {"root": (0, 0)} | parse_passwd(passwd)
        self.groups = {"root": 0} | parse_group(group)
        self.known_users, self.known_groups = known_users, known_groups
        self.passwd: list[str] = []
        self.group: list[str] = []
        self._uids = {uid for uid, _ in self.users.values()}
        self._gids = set(self.groups.values())
        known = {ident for ids in known_users.values() for ident in ids}
        self._kept = known | set(known_groups.values()) | set(written)

    def uid_is_free(self, uid: int) -> bool:
        return uid not in self._uids

    def gid_is_free(self, gid: int) -> bool:
        return gid not in self._gids

    def next_free(self, name: str) -> int:
        """Return the highest number that nobody has, or is to have."""
        for number in range(_HIGHEST, _LOWEST - 1, -1):
            if number not in self._kept and self.uid_is_free(number) and self.gid_is_free(number):
                return number
        raise NoNumberLeft(f"{name}: all numbers from {_LOWEST} to {_HIGHEST} are taken")

    def add_group(self, name: str, gid: int) -> None:
        self.groups[name] = gid
        self._gids.add(gid)
        self.group.append(f"{name}:x:{gid}:")

    def add_user(self, name: str, uid: int, gid: int, user: _User) -> None:
        self.users[name] = (uid, gid)
        self._uids.add(uid)
        self.passwd.append(f"{name}:x:{uid}:{gid}:{user.gecos}:{user.home}:{user.shell}")


def _add_groups_of_known_users(wanted: _Wanted, numbers: _Numbers) -> None:
    """Add users' own groups where a passwd file has the user and no group file the group."""
    for name in sorted(wanted.users.keys() & numbers.users.keys()):
        if name not in numbers.groups and name not in wanted.groups:
            _primary_group(name, numbers.users[name][1], wanted.users[name], numbers)


def _add_groups(wanted: _Wanted, numbers: _Numbers) -> None:
    """Add groups, those with a number first; a user's own group comes with the user."""
    new = sorted(name for name in wanted.groups if name not in numbers.groups)
    for name in sorted(new, key=lambda name: wanted.groups[name] is None):
        gid = wanted.groups[name]
        if gid is None or not numbers.gid_is_free(gid):
            gid = numbers.known_groups.get(name)
        if (gid is None or not numbers.gid_is_free(gid)) and name in wanted.users:
            continue
        if gid is None or not numbers.gid_is_free(gid):
            gid = numbers.next_free(name)
        numbers.add_group(name, gid)


def _add_users(wanted: _Wanted, numbers: _Numbers) -> None:
    new = sorted(name for name in wanted.users if name not in numbers.users)
    for name in sorted(new, key=lambda name: _number(name, wanted, numbers) is None):
        user = wanted.users[name]
        uid = _number(name, wanted, numbers)
        if uid is None or not numbers.uid_is_free(uid):
            own = numbers.groups.get(name)
            # A user and its group share a number where they can.
            shared = own is not None and not user.group and numbers.uid_is_free(own)
            uid = own if own is not None and shared else numbers.next_free(name)
        numbers.add_user(name, uid, _primary_group(name, uid, user, numbers), user)


def _number(name: str, wanted: _Wanted, numbers: _Numbers) -> int | None:
    given = wanted.users[name].uid
    return given if given is not None else numbers.known_users.get(name, (None,))[0]


def _primary_group(name: str, uid: int, user: _User, numbers: _Numbers) -> int:
    if user.group.isdecimal():
        return int(user.group)
    if user.group:
        if user.group not in numbers.groups:
            numbers.add_group(user.group, numbers.next_free(user.group))
        return numbers.groups[user.group]
    if name not in numbers.groups:
        known = numbers.known_groups.get(name), numbers.known_users.get(name, (0, None))[1]
        free = [g for g in (*known, uid) if g is not None and numbers.gid_is_free(g)]
        numbers.add_group(name, free[0] if free else numbers.next_free(name))
    return numbers.groups[name]


def _with_members(lines: list[str], wanted: _Wanted) -> Iterator[str]:
    for line in lines:
        name, _, members = line.partition(":")[0], "", line.rpartition(":")[2]
        more = wanted.members.get(name, set()) - set(members.split(","))
        if more:
            joined = ",".join([*filter(None, members.split(",")), *sorted(more)])
            yield f"{line.rpartition(':')[0]}:{joined}"
        else:
            yield line


def require_owners(tree: Tree, facts: Iterable[PackageFacts]) -> None:
    """Raise UnknownOwner for a file whose owner the tree does not know, or that root got."""
    users = {name: uid for name, (uid, _) in parse_passwd(tree.read("etc/passwd") or "").items()}
    groups = parse_group(tree.read("etc/group") or "")
    wrong: list[str] = []
    accounts: list[str] = []
    for package in facts:
        for path, user, group in package.owned:
            for kind, name, known in (("user", user, users), ("group", group, groups)):
                if name not in known:
                    wrong.append(f"{package.nevra}: {path}: the {kind} {name} is not known")
                    accounts.append(f"{kind} {name}")
            if not wrong and (problem := _given_to_root(tree, path, users[user], groups[group])):
                wrong.append(f"{package.nevra}: {path}: {problem} ({user}:{group})")
    if wrong:
        raise UnknownOwner(
            "files with owners that the tree's passwd and group do not know"
            if accounts
            else "files that did not get the owner that their package names",
            details=[*wrong[:20], *([f"and {len(wrong) - 20} more"] if len(wrong) > 20 else [])],
            hint="add a package that provides "
            + (", ".join(sorted(set(accounts))[:8]) or "the account earlier")
            + " (sysusers.d, or passwd and group in a package such as setup)",
        )


def _given_to_root(tree: Tree, path: str, uid: int, gid: int) -> str:
    try:
        status = os.lstat(tree.path(path))
    except FileNotFoundError:
        return ""
    # A scriptlet may have chosen another owner; root is what librpm does with unknown ones.
    if (uid and not status.st_uid) or (gid and not status.st_gid):
        return f"is owned by {status.st_uid}:{status.st_gid}, not {uid}:{gid}"
    return ""


def complete_shadow(tree: Tree) -> None:
    """Give every account a line in shadow and gshadow, where the tree has these files."""
    for name, accounts, fields in (
        ("shadow", parse_passwd(tree.read("etc/passwd") or ""), "!*:::::::"),
        ("gshadow", parse_group(tree.read("etc/group") or ""), "!::"),
    ):
        text = tree.read(f"etc/{name}")
        if text is None:
            continue
        known = {line.partition(":")[0] for line in text.splitlines()}
        names = [account for account in accounts if account not in known]
        if names:
            path = tree.path(f"etc/{name}", follow=True)
            lines = "".join(f"{n}:{fields}\n" for n in names)
            joint = "" if text.endswith("\n") or not text else "\n"
            with path.open("a") as stream:
                stream.write(joint + lines)
