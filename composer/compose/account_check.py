"""``check-passwd``: users keep their numbers, and none that owns files goes missing."""

from __future__ import annotations

import os
from collections.abc import Mapping

from composer.compose.commit import Previous, read_committed
from composer.compose.install import KnownAccounts
from composer.compose.tree import Tree
from composer.compose.treefile import read_account_file
from composer.compose.values import AccountCheck
from composer.errors import ComposerError
from composer.ostree.repo import Repository
from composer.system.accounts import parse_group, parse_passwd

_PLACES = ("usr/etc", "usr/lib")


class AccountsChanged(ComposerError):
    """Users of the new tree that do not agree with those that ``check-passwd`` names."""


def known_accounts(
    check: AccountCheck, repository: Repository | None, before: Previous
) -> KnownAccounts:
    """Return the accounts that the tree must agree with, and whose numbers to use."""
    if check.kind == "file":
        assert check.filename is not None
        return KnownAccounts(parse_passwd(read_account_file(check.filename)), {})
    if check.kind == "data":
        return KnownAccounts({name: (uid, gid) for name, uid, gid in check.entries}, {})
    if check.kind == "previous" and repository is not None and before.commit:
        passwd, group = (
            "\n".join(
                read_committed(repository, before.commit, f"{p}/{name}") or "" for p in _PLACES
            )
            for name in ("passwd", "group")
        )
        return KnownAccounts(parse_passwd(passwd), parse_group(group))
    return KnownAccounts({}, {})


def require_agreement(tree: Tree, known: KnownAccounts) -> None:
    """Raise AccountsChanged unless the finished tree's users agree with ``known``."""
    text = "\n".join(tree.read(f"{place}/passwd") or "" for place in _PLACES)
    users = parse_passwd(text)
    wrong = [
        f"{name}: was {_ids(known.users[name])}, is {_ids(ids)}"
        for name, ids in sorted(users.items())
        if name in known.users and known.users[name] != ids
    ]
    missing = {name: ids[0] for name, ids in known.users.items() if name not in users}
    wrong += [
        f"{name}: is missing, but {path} belongs to its uid {missing[name]}"
        for name, path in sorted(_owned(tree, missing).items())
    ]
    if wrong:
        raise AccountsChanged(
            "users do not agree with check-passwd",
            details=wrong,
            hint="files on existing machines have the old numbers; give accounts fixed ones in "
            "sysusers.d, or change check-passwd in the treefile",
        )


def _ids(ids: tuple[int, int]) -> str:
    return f"{ids[0]}:{ids[1]}"


def _owned(tree: Tree, missing: Mapping[str, int]) -> dict[str, str]:
    """Map each missing user to a file in the tree that has its number, if there is one."""
    by_uid = {uid: name for name, uid in missing.items()}
    found: dict[str, str] = {}
    if not by_uid:
        return found
    for directory, directories, names in os.walk(tree.root):
        directories.sort()
        for name in sorted((*directories, *names)):
            path = f"{directory}/{name}"
            user = by_uid.get(os.lstat(path).st_uid)
            if user is not None:
                found.setdefault(user, f"/{os.path.relpath(path, tree.root)}")
    return found
