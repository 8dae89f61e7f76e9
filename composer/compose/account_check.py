"""``check-passwd``, ``check-groups``, ``preserve-passwd``: accounts keep their numbers.

Files on existing machines have them.  So numbers are taken from where the treefile says,
before anything is installed, and looked at when the tree is finished: the same name must
have the same numbers, and none that still owns files may be missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from composer.compose.commit import Previous, read_committed
from composer.compose.install import KnownAccounts
from composer.compose.tree import Tree
from composer.compose.treefile import read_account_file
from composer.compose.values import AccountCheck
from composer.errors import ComposerError
from composer.ostree.repo import Repository
from composer.system.accounts import parse_group, parse_passwd

_PLACES = ("usr/etc", "usr/lib")
_ALL = "*"


class AccountsChanged(ComposerError):
    """Accounts of the new tree that do not agree with what the treefile names."""


@dataclass(frozen=True, slots=True)
class ExpectedAccounts:
    """What the finished tree must agree with, by name; empty where nothing is checked.

    ``ignored_users`` and ``ignored_groups`` may be missing though they own files; "*"
    stands for all.
    """

    users: Mapping[str, tuple[int, int]]
    groups: Mapping[str, int]
    ignored_users: Collection[str] = ()
    ignored_groups: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class _Texts:
    """passwd and group of the ref's current commit: in /usr/etc and in /usr/lib, or None."""

    passwd: tuple[str | None, ...]
    group: tuple[str | None, ...]

    @classmethod
    def read(cls, repository: Repository | None, before: Previous) -> _Texts:
        if repository is None or not before.commit:
            return cls((), ())
        found = (
            tuple(read_committed(repository, before.commit, f"{p}/{name}") for p in _PLACES)
            for name in ("passwd", "group")
        )
        return cls(*found)


def expected_accounts(
    check_passwd: AccountCheck,
    check_groups: AccountCheck,
    repository: Repository | None,
    before: Previous,
    *,
    ignored_users: Collection[str] = (),
    ignored_groups: Collection[str] = (),
) -> ExpectedAccounts:
    """Return what the finished tree must agree with.  Raises TreefileError for a file."""
    texts = _Texts.read(repository, before)
    users: dict[str, tuple[int, int]] = {}
    groups: dict[str, int] = {}
    if check_passwd.kind == "data":
        users = {name: (uid, gid) for name, uid, gid in check_passwd.entries}
    else:
        users = parse_passwd(_text(check_passwd, texts.passwd, "check-passwd"))
    if check_groups.kind == "data":
        groups = {name: gid for name, _, gid in check_groups.entries}
    else:
        groups = parse_group(_text(check_groups, texts.group, "check-groups"))
    return ExpectedAccounts(users, groups, ignored_users, ignored_groups)


def _text(check: AccountCheck, before: tuple[str | None, ...], key: str) -> str:
    if check.kind == "file":
        assert check.filename is not None
        return read_account_file(check.filename, key)
    if check.kind == "previous":
        return "\n".join(filter(None, before))
    return ""


def known_accounts(
    expected: ExpectedAccounts,
    check_passwd: AccountCheck,
    check_groups: AccountCheck,
    repository: Repository | None,
    before: Previous,
    *,
    preserve: bool,
) -> KnownAccounts:
    """Return the numbers to use, and with ``preserve`` the accounts that stay for ever.

    These are the ones of the file that a check names, or of the ref's current commit if
    that has accounts in /usr/lib (see :mod:`composer.compose.altfiles`).
    """
    if not preserve:
        return KnownAccounts(expected.users, expected.groups)
    texts = _Texts.read(repository, before)
    users = {**parse_passwd("\n".join(filter(None, texts.passwd))), **expected.users}
    groups = parse_group("\n".join(filter(None, texts.group)))
    # What is expected of a user says which number its own group has.
    own = {name: gid for name, (_, gid) in expected.users.items() if name in groups}
    groups = {**groups, **own, **expected.groups}
    return KnownAccounts(
        users,
        groups,
        _lines(check_passwd, texts.passwd, parse_passwd, "check-passwd"),
        _lines(check_groups, texts.group, parse_group, "check-groups"),
    )


def _lines(
    check: AccountCheck,
    before: tuple[str | None, ...],
    parse: Callable[[str], Mapping[str, object]],
    key: str,
) -> tuple[str, ...]:
    if check.kind == "file":
        assert check.filename is not None
        text = read_account_file(check.filename, key)
    elif before and None not in before:
        text = "\n".join(filter(None, before))
    else:
        return ()
    found: dict[str, str] = {}
    for line in text.splitlines():
        for name in parse(line):
            found.setdefault(name, line)
    return tuple(found.values())


def require_agreement(tree: Tree, expected: ExpectedAccounts) -> None:
    """Raise AccountsChanged unless the finished tree's accounts agree with ``expected``."""
    users = parse_passwd(_joined(tree, "passwd"))
    groups = parse_group(_joined(tree, "group"))
    wrong = [
        f"{name}: was {_ids(expected.users[name])}, is {_ids(ids)}"
        for name, ids in sorted(users.items())
        if name in expected.users and expected.users[name] != ids
    ]
    wrong += [
        f"group {name}: was {expected.groups[name]}, is {gid}"
        for name, gid in sorted(groups.items())
        if name in expected.groups and expected.groups[name] != gid
    ]
    lost_users = {
        name: ids[0]
        for name, ids in expected.users.items()
        if name not in users and not {name, _ALL} & set(expected.ignored_users)
    }
    lost_groups = {
        name: gid
        for name, gid in expected.groups.items()
        if name not in groups and not {name, _ALL} & set(expected.ignored_groups)
    }
    owned_users, owned_groups = _owned(tree, lost_users, lost_groups)
    wrong += [
        f"{name}: is missing, but {path} belongs to its uid {lost_users[name]}"
        for name, path in sorted(owned_users.items())
    ]
    wrong += [
        f"group {name}: is missing, but {path} belongs to its gid {lost_groups[name]}"
        for name, path in sorted(owned_groups.items())
    ]
    if wrong:
        raise AccountsChanged(
            "accounts do not agree with check-passwd or check-groups",
            details=wrong,
            hint="files on existing machines have the old numbers; give accounts fixed ones in "
            "sysusers.d, or change check-passwd or check-groups in the treefile",
        )


def _joined(tree: Tree, name: str) -> str:
    return "\n".join(tree.read(f"{place}/{name}") or "" for place in _PLACES)


def _ids(ids: tuple[int, int]) -> str:
    return f"{ids[0]}:{ids[1]}"


def _owned(
    tree: Tree, users: Mapping[str, int], groups: Mapping[str, int]
) -> tuple[dict[str, str], dict[str, str]]:
    """Map each missing user and group to a file in the tree that has its number, if any."""
    by_uid = {uid: name for name, uid in users.items()}
    by_gid = {gid: name for name, gid in groups.items()}
    found: tuple[dict[str, str], dict[str, str]] = {}, {}
    if not by_uid and not by_gid:
        return found
    for directory, directories, names in os.walk(tree.root):
        directories.sort()
        for name in sorted((*directories, *names)):
            path = f"{directory}/{name}"
            status = os.lstat(path)
            for owner, into in ((by_uid.get(status.st_uid), 0), (by_gid.get(status.st_gid), 1)):
                if owner is not None:
                    found[into].setdefault(owner, f"/{os.path.relpath(path, tree.root)}")
    return found
