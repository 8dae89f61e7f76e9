"""Accounts where nss-altfiles reads them, for trees that have it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from composer.compose.altfiles import move_accounts, settle_shadow, uses_altfiles, with_altfiles
from composer.compose.layout import TMPFILES, arrange, finish
from composer.compose.tree import Tree

PASSWD = "root:x:0:0::/root:/bin/sh\nweb:x:33:33:::\ntoor:x:0:0:::\n"
GROUP = "root:x:0:\nweb:x:33:\nwheel:x:10:web\n"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    found = Tree(tmp_path)
    found.write("usr/etc/passwd", PASSWD)
    found.write("usr/etc/group", GROUP)
    return found


def test_accounts_move_where_the_tree_can_read_them(tree: Tree) -> None:
    tree.write("usr/lib64/libnss_altfiles.so.2", "")
    tree.write("usr/etc/nsswitch.conf", "passwd:  sss files systemd\nhosts: files\ngroup: db\n")
    move_accounts(tree, ["wheel"])
    assert tree.read("usr/etc/passwd") == "root:x:0:0::/root:/bin/sh\ntoor:x:0:0:::\n"
    assert tree.read("usr/lib/passwd") == "web:x:33:33:::\n"
    assert tree.read("usr/etc/group") == "root:x:0:\nwheel:x:10:web\n"
    assert tree.read("usr/lib/group") == "web:x:33:\nwheel:x:10:web\n"
    nsswitch = tree.read("usr/etc/nsswitch.conf")
    assert nsswitch == "passwd: sss files altfiles systemd\nhosts: files\ngroup: db altfiles\n"
    assert with_altfiles(nsswitch) == nsswitch


def test_nsswitch_of_another_program_is_left_to_it(tree: Tree) -> None:
    tree.write("usr/lib/nsswitch", "passwd: files altfiles\n")
    tree.link("usr/etc/nsswitch.conf", "../lib/nsswitch")
    move_accounts(tree, [])
    assert tree.path("usr/etc/nsswitch.conf").is_symlink()
    assert tree.read("usr/lib/passwd") == "web:x:33:33:::\n"


@pytest.mark.parametrize("nsswitch", ["passwd: files # altfiles\n", "hosts: altfiles\n", ""])
def test_accounts_stay_where_the_tree_cannot(tree: Tree, nsswitch: str) -> None:
    tree.write("usr/etc/nsswitch.conf", nsswitch)
    assert not uses_altfiles(tree)
    move_accounts(tree, ["wheel"])
    assert tree.read("usr/etc/passwd") == PASSWD
    assert not tree.exists("usr/lib/passwd")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files owners")
def test_owners_of_state_are_known_where_they_went(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("etc/passwd", PASSWD)
    tree.write("etc/group", GROUP)
    tree.write("usr/lib/x86_64-linux-gnu/libnss_altfiles.so.2", "")
    os.chown(tree.directory("var/lib/app"), 33, 10)
    arrange(tree)
    move_accounts(tree, [])
    finish(tree, tmp_is_dir=True)
    assert "d /var/lib/app 0755 web wheel - -" in (tree.read(TMPFILES) or "")


def test_shadow_has_no_days_of_locked_accounts(tree: Tree) -> None:
    tree.write("usr/etc/shadow", "root:$6$x:19000:0:99999:7:::\nweb:!!:19700::::::\nbroken\n")
    tree.path("usr/etc/shadow").chmod(0)
    tree.write("usr/etc/passwd-", "")
    settle_shadow(tree)
    text = "root:$6$x:19000:0:99999:7:::\nweb:!!:::::::\nbroken\n"
    assert tree.path("usr/etc/shadow").stat().st_mode & 0o777 == 0
    tree.path("usr/etc/shadow").chmod(0o600)
    assert tree.read("usr/etc/shadow") == text
    assert not tree.exists("usr/etc/passwd-")
