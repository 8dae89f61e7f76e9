"""The SELinux policy in an OSTree system."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from composer.compose.layout import TMPFILES, arrange, finish
from composer.compose.policy import settle_policy, with_alike
from composer.compose.tree import Tree

SUBS = "usr/etc/selinux/targeted/contexts/files/file_contexts.subs_dist"


def policy(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.write("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n")
    tree.write("etc/selinux/semanage.conf", "module-store = direct\n")
    tree.write(SUBS.removeprefix("usr/"), "/run /var/run\n/var/home /home\n/etc/init.d /x\n")
    tree.write("etc/selinux/targeted/semanage.trans.LOCK", "")
    tree.write("var/lib/selinux/targeted/active/modules/100/base", "module")
    tree.directory("usr/lib")
    arrange(tree)
    return tree


def test_store_of_a_labelled_tree_is_configuration(tmp_path: Path) -> None:
    tree = policy(tmp_path)
    settle_policy(tree, labelled=True)
    assert (tree.read("usr/etc/selinux/semanage.conf") or "").endswith(
        "\nstore-root=/etc/selinux\n"
    )
    assert tree.read("usr/etc/selinux/targeted/active/modules/100/base") == "module"
    assert not tree.exists("usr/etc/selinux/targeted/semanage.trans.LOCK")
    assert (tree.read(SUBS) or "").splitlines() == [
        "/run /var/run",
        "# /var/home /home",
        "/etc/init.d /x",
        "/home /var/home",
        "/usr/etc /etc",
        "/usr/lib/opt /opt",
        "/usr/etc/init.d /x",
    ]
    finish(tree, tmp_is_dir=True)
    assert "L /var/lib/selinux - - - - ../../etc/selinux" in (tree.read(TMPFILES) or "")


def test_store_of_another_tree_stays(tmp_path: Path) -> None:
    tree = policy(tmp_path)
    settle_policy(tree, labelled=False)
    assert tree.is_dir("var/lib/selinux/targeted/active")
    tree.write("usr/etc/selinux/config", "SELINUXTYPE=../../..\n")
    settle_policy(tree, labelled=True)
    assert tree.is_dir("var/lib/selinux/targeted/active")


@given(st.text(alphabet="/ahome \n#"))
def test_pairs_are_added_once(text: str) -> None:
    assert with_alike(with_alike(text)) == with_alike(text)
