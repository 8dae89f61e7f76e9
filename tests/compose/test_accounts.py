"""Which users and groups a tree gets, and with which numbers."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.compose.account_check import AccountsChanged, ExpectedAccounts, require_agreement
from composer.compose.accounts import Accounts, NoNumberLeft, plan
from composer.compose.headers import PackageFacts
from composer.compose.tree import Tree
from composer.rpm.package import Nevra
from composer.system.accounts import parse_group, parse_passwd

SYSUSERS = "/usr/lib/sysusers.d/a.conf"


def facts(*accounts: tuple[str, str]) -> PackageFacts:
    return PackageFacts(Nevra("p", 0, "1", "1", "noarch"), Path(), (), accounts, (), ())


def planned(
    sysusers: str = "",
    provides: tuple[tuple[str, str], ...] = (),
    passwd: str = "root:x:0:0::/root:/bin/sh\n",
    group: str = "root:x:0:\n",
    known_users: dict[str, tuple[int, int]] | None = None,
    known_groups: dict[str, int] | None = None,
) -> Accounts:
    return plan(
        [facts(*provides)],
        {SYSUSERS: sysusers},
        {"passwd": passwd, "group": group},
        known_users or {},
        known_groups or {},
    )


def users(accounts: Accounts) -> dict[str, tuple[int, int]]:
    found = parse_passwd("\n".join(accounts.passwd))
    return {name: ids for name, ids in found.items() if name != "root"}


def groups(accounts: Accounts) -> dict[str, int]:
    found = parse_group("\n".join(accounts.group))
    return {name: gid for name, gid in found.items() if name != "root"}


def test_numbers_that_are_written_come_first_then_999_downwards() -> None:
    accounts = planned("u zed -\nu app 999\ng staff -\nu bee - 'A bee' /hive /bin/bee\n")
    assert users(accounts) == {"app": (999, 999), "bee": (997, 997), "zed": (996, 996)}
    assert groups(accounts)["staff"] == 998
    assert "bee:x:997:997:A bee:/hive:/bin/bee" in accounts.passwd
    assert set(groups(accounts)) == {"app", "bee", "staff", "zed"}


def test_user_and_its_group_share_a_number() -> None:
    accounts = planned("u app 77\nu web 80:users\ng users 100\nu odd 81:100\n")
    assert users(accounts) == {"app": (77, 77), "web": (80, 100), "odd": (81, 100)}
    assert groups(accounts) == {"users": 100, "app": 77}


def test_accounts_of_the_tree_stay_as_they_are() -> None:
    accounts = planned(
        "u bin 77\n", passwd="root:x:0:0::/:/bin/sh\nbin:x:1:1::/:/bin/sh\n", group="bin:x:1:\n"
    )
    assert users(accounts) == {"bin": (1, 1)}
    assert accounts.group[0] == "root:x:0:"


def test_user_of_the_tree_keeps_its_own_group() -> None:
    # The passwd file of check-passwd has the user; nothing says what its group is called.
    passwd = "root:x:0:0::/root:/bin/sh\nbus:x:107:108::/:/bin/sh\n"
    accounts = planned("u bus -\nu app -\n", passwd=passwd)
    assert groups(accounts) == {"app": 999, "bus": 108}
    assert users(accounts)["bus"] == (107, 108)


def test_members_join_groups() -> None:
    accounts = planned("m app video\nu app 77\n", group="root:x:0:\nvideo:x:39:bin\n")
    assert "video:x:39:bin,app" in accounts.group


def test_provides_with_a_line_count_as_sysusers() -> None:
    line = base64.b64encode(b'u app 77 "App" /srv').decode()
    accounts = planned(provides=(("user(app)", line), ("group(app)", ""), ("user(dyn)", "")))
    assert users(accounts) == {"app": (77, 77), "dyn": (999, 999)}


def test_known_numbers_are_used_and_left_free_for_their_owners() -> None:
    known = {"old": (999, 999), "app": (500, 501)}
    accounts = planned("u app -\nu new -\n", known_users=known, known_groups={"app": 501})
    assert users(accounts) == {"app": (500, 501), "new": (998, 998)}


def test_too_many_accounts_are_an_error() -> None:
    with pytest.raises(NoNumberLeft):
        planned("\n".join(f"u user{n} -" for n in range(1000)))


lines = st.lists(
    st.tuples(
        st.sampled_from(["u", "g", "m", "u!", "r", "#", "x"]),
        st.sampled_from(["a", "b", "c", "root"]),
        st.sampled_from(["-", "7", "8:9", "8:b", "c", "999", "/path", ""]),
    ).map(" ".join),
    max_size=8,
)


@given(lines)
def test_any_lines_give_consistent_accounts_in_any_order(given_lines: list[str]) -> None:
    accounts = planned("\n".join(given_lines))
    assert accounts == planned("\n".join(given_lines))
    uids = [ids[0] for ids in users(accounts).values()]
    assert len(uids) == len(set(uids))
    for line in accounts.passwd:
        assert len(line.split(":")) == 7
    named = {line.split(":")[0] for line in accounts.passwd}
    assert len(named) == len(accounts.passwd)


def tree(tmp_path: Path, passwd: str) -> Tree:
    found = Tree(tmp_path)
    found.write("usr/etc/passwd", passwd)
    return found


def test_changed_number_of_a_user_is_an_error(tmp_path: Path) -> None:
    known = ExpectedAccounts({"app": (77, 77), "same": (5, 5)}, {})
    found = tree(tmp_path, "app:x:78:77:::\nsame:x:5:5:::\nnew:x:6:6:::\n")
    with pytest.raises(AccountsChanged) as caught:
        require_agreement(found, known)
    assert caught.value.details == ("app: was 77:77, is 78:77",)


def test_missing_user_matters_only_when_it_owns_files(tmp_path: Path) -> None:
    import os

    if os.geteuid() != 0:
        pytest.skip("needs root to give files away")
    found = tree(tmp_path, "root:x:0:0:::\n")
    require_agreement(found, ExpectedAccounts({"app": (77, 77)}, {}))
    os.chown(found.path("usr/etc/passwd"), 77, 88)
    with pytest.raises(AccountsChanged) as caught:
        require_agreement(found, ExpectedAccounts({"app": (77, 77)}, {}))
    assert caught.value.details == ("app: is missing, but /usr/etc/passwd belongs to its uid 77",)
    ignoring = ExpectedAccounts({"app": (77, 77)}, {"staff": 88}, ["app"], ["*"])
    require_agreement(found, ignoring)
    with pytest.raises(AccountsChanged) as caught:
        require_agreement(found, ExpectedAccounts({}, {"staff": 88}, ["*"], ["other"]))
    assert caught.value.details == (
        "group staff: is missing, but /usr/etc/passwd belongs to its gid 88",
    )


def test_changed_number_of_a_group_is_an_error(tmp_path: Path) -> None:
    found = tree(tmp_path, "root:x:0:0:::\n")
    found.write("usr/lib/group", "staff:x:21:\nsame:x:5:\n")
    with pytest.raises(AccountsChanged) as caught:
        require_agreement(found, ExpectedAccounts({}, {"staff": 20, "same": 5}))
    assert caught.value.details == ("group staff: was 20, is 21",)
