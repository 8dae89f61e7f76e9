"""The tree's names stay inside it; layout and units do what OSTree and systemd expect."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.compose.content import remove_files
from composer.compose.layout import TMPFILES, arrange, finish, settle_machine_id
from composer.compose.tree import BadTree, Tree
from composer.compose.units import enable, set_default_target


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    found = Tree(tmp_path / "tree")
    for name in ("usr/lib", "etc", "var/lib"):
        found.root.joinpath(name).mkdir(parents=True)
    return found


def test_absolute_links_lead_to_the_tree(tree: Tree) -> None:
    tree.root.joinpath("lib").symlink_to("/usr/lib")
    assert tree.path("/lib/a") == tree.root / "usr/lib/a"
    tree.root.joinpath("out").symlink_to("../../../../../etc")
    assert tree.path("out/passwd") == tree.root / "etc/passwd"
    assert tree.path("out") == tree.root / "out"
    assert tree.path("out", follow=True) == tree.root / "etc"


def test_loops_are_told(tree: Tree) -> None:
    tree.root.joinpath("a").symlink_to("b")
    tree.root.joinpath("b").symlink_to("a")
    with pytest.raises(BadTree, match="loop"):
        tree.path("a/x")


parts = st.lists(st.sampled_from(["..", ".", "a", "b", "usr", "", "etc"]), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(parts, parts, parts)
def test_no_name_leads_outside(
    tmp_path: Path, first: list[str], second: list[str], name: list[str]
) -> None:
    root = tmp_path / "links"
    root.mkdir(exist_ok=True)
    found = Tree(root)
    for link, target in (("a", first), ("b", second)):
        root.joinpath(link).unlink(missing_ok=True)
        root.joinpath(link).symlink_to(
            "/" + "/".join(target) if len(target) % 2 else "/".join(target) or "."
        )
    try:
        place = found.path("/".join(name), follow=True)
    except BadTree:
        return
    assert place == root or root in place.parents
    assert ".." not in place.parts


def test_removed_files_are_the_trees_own(tree: Tree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    tree.root.joinpath("usr/out").symlink_to(outside)
    tree.write("usr/etc/gone", "")
    tree.write("usr/share/doc/x/y", "")
    remove_files(tree, ["usr/out/keep", "etc/gone", "usr/share/doc", "not/there"])
    assert (outside / "keep").exists()
    assert not tree.exists("usr/etc/gone")
    assert not tree.exists("usr/share/doc")
    remove_files(tree, ["usr/out"])
    assert outside.exists()


def test_layout_is_ostrees(tree: Tree) -> None:
    tree.write("etc/passwd", "root:x:0:0:::\nweb:x:33:33:::\n")
    tree.write("root/.profile", "x")
    tree.write("usr/local/bin/tool", "x", mode=0o755)
    tree.write("var/cache/junk", "x")
    tree.write("run/junk", "x")
    tree.root.joinpath("var/run").symlink_to("../run")
    tree.directory("var/spool/with space 100%")
    tree.write("usr/lib/tmpfiles.d/own.conf", "d /var/declared 0700 - -\n")
    tree.directory("var/declared/below")
    tree.write("opt/app/run", "x")
    tree.write("var/lib/alternatives/vi", "x")
    arrange(tree)
    assert tree.read("opt/app/run") == "x"
    finish(tree, tmp_is_dir=False)
    links = {p.name: str(p.readlink()) for p in tree.root.iterdir() if p.is_symlink()}
    assert links == {
        "home": "var/home",
        "media": "run/media",
        "mnt": "var/mnt",
        "opt": "var/opt",
        "ostree": "sysroot/ostree",
        "root": "var/roothome",
        "srv": "var/srv",
        "tmp": "sysroot/tmp",
    }
    assert str((tree.root / "usr/local").readlink()) == "../var/usrlocal"
    assert {p.name for p in tree.root.iterdir()} - set(links) == {
        "dev", "proc", "run", "sys", "sysroot", "usr", "var",
    }  # fmt: skip
    assert list((tree.root / "var").iterdir()) == list((tree.root / "run").iterdir()) == []
    lines = (tree.read(TMPFILES) or "").splitlines()[1:]
    assert "d /var/roothome 0755 root 0 - -" in lines
    assert "C /var/roothome/.profile - - - - -" in lines
    assert "C /var/usrlocal/bin/tool - - - - -" in lines
    assert "L /var/run - - - - ../run" in lines
    assert 'd "/var/spool/with space 100%%" 0755 root 0 - -' in lines
    assert "d /var/declared/below 0755 root 0 - -" in lines
    assert not any("junk" in line or line.startswith("d /var/declared ") for line in lines)
    assert tree.read("usr/share/factory/var/roothome/.profile") == "x"
    assert tree.read("usr/lib/opt/app/run") == "x"
    assert "L /var/opt/app - - - - ../../usr/lib/opt/app" in lines
    assert tree.read("usr/lib/alternatives/vi") == "x"
    assert "L /var/lib/alternatives - - - - ../../usr/lib/alternatives" in lines


def test_opt_and_usr_local_can_be_the_trees(tree: Tree) -> None:
    tree.write("opt/app/run", "x")
    tree.write("usr/local/bin/tool", "x")
    arrange(tree, opt_usrlocal="root")
    finish(tree, tmp_is_dir=True)
    assert not tree.path("opt").is_symlink()
    assert not tree.path("usr/local").is_symlink()
    assert (tree.read("opt/app/run"), tree.read("usr/local/bin/tool")) == ("x", "x")


def test_opt_and_usr_local_can_have_state_over_them(tree: Tree) -> None:
    tree.write("opt/app/run", "x")
    tree.write("usr/local/bin/tool", "x")
    arrange(tree, opt_usrlocal="state-overlay")
    finish(tree, tmp_is_dir=True)
    assert str(tree.path("opt").readlink()) == "usr/lib/opt"
    assert (tree.read("usr/lib/opt/app/run"), tree.read("usr/local/bin/tool")) == ("x", "x")
    required = tree.path("usr/lib/systemd/system/local-fs.target.requires")
    assert {p.name: str(p.readlink()) for p in required.iterdir()} == {
        f"ostree-state-overlay@{name}.service": f"../ostree-state-overlay@{name}.service"
        for name in ("usr-lib-opt", "usr-local")
    }
    lines = (tree.read("usr/lib/tmpfiles.d/jigdo-composer-opt-usrlocal.conf") or "").splitlines()
    assert lines == ["L /var/usrlocal - - - - ../usr/local", "L /var/opt - - - - ../usr/lib/opt"]


@pytest.mark.parametrize("compatible", [True, False])
def test_no_machine_id_of_a_scriptlet_stays(tree: Tree, compatible: bool) -> None:
    ident = "0123456789abcdef" * 2
    tree.write("usr/etc/machine-id", f"{ident}\n")
    tree.write(f"boot/{ident}/6.1/linux", "x")
    settle_machine_id(tree, compatible=compatible)
    assert tree.read("usr/etc/machine-id") == ("" if compatible else None)
    assert not tree.exists(f"boot/{ident}")


@pytest.mark.skipif(
    shutil.which("systemd-tmpfiles") is None or os.geteuid() != 0,
    reason="needs systemd-tmpfiles, and root to give directories away",
)
def test_systemd_makes_state_of_any_name_again(tree: Tree) -> None:
    names = ["a b", "per%cent %b", "back\\slash", 'quo"te', "apos'", "-", "\udcff", "\u00e9", "#"]
    targets = ["x", " lead", "-", "tab\there", "new\nline", "%h", "back\\", "\udcff", "end "]
    for number, (name, target) in enumerate(zip(names, targets, strict=True)):
        os.chown(tree.directory(f"var/lib/{name}", mode=0o750), 33, 33 + number)
        tree.link(f"var/lib/link {name}", target)
        tree.write(f"var/lib/{name}/file", name)
    tree.write("etc/passwd", "root:x:0:0:::\nweb:x:33:33:::\n")
    tree.write("etc/group", "root:x:0:\n")
    tree.write("run/lost", "")
    tree.directory("var/run/made")
    tree.write("var/lib/systemd/random-seed", "of one machine")
    arrange(tree)
    finish(tree, tmp_is_dir=True)
    assert list((tree.root / "var").iterdir()) == []
    tree.link("etc", "usr/etc")
    command = ["systemd-tmpfiles", f"--root={tree.root}", "--create", f"{tree.root}/{TMPFILES}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    for number, (name, target) in enumerate(zip(names, targets, strict=True)):
        status = tree.path(f"var/lib/{name}").lstat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (33, 33 + number, 0o750)
        assert os.readlink(tree.path(f"var/lib/link {name}")) == target
        assert tree.read(f"var/lib/{name}/file") == name
    assert tree.is_dir("run/made")
    assert tree.is_dir("run/media")
    assert not tree.exists("var/lib/systemd/random-seed")


def test_state_with_a_name_of_two_lines_is_refused(tree: Tree) -> None:
    tree.directory("var/lib/a\nb")
    arrange(tree)
    with pytest.raises(BadTree, match=r"/var/lib/a\\nb: tmpfiles.d cannot name that"):
        finish(tree, tmp_is_dir=True)


def test_tmp_can_stay_a_directory(tree: Tree) -> None:
    arrange(tree)
    finish(tree, tmp_is_dir=True)
    assert (tree.root / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_two_places_for_configuration_are_refused(tree: Tree) -> None:
    tree.write("usr/etc/a", "x")
    with pytest.raises(BadTree, match="/usr/etc"):
        arrange(tree)


def unit(tree: Tree, name: str, install: str = "") -> None:
    tree.write(f"usr/lib/systemd/system/{name}", f"[Unit]\nWantedBy=no\n[Install]\n{install}")


def enabled(tree: Tree) -> dict[str, str]:
    base = tree.root / "usr/etc/systemd/system"
    return {str(p.relative_to(base)): str(p.readlink()) for p in base.rglob("*") if p.is_symlink()}


def test_units_are_enabled_as_they_ask(tree: Tree) -> None:
    where = "/usr/lib/systemd/system"
    unit(tree, "a.service", "WantedBy=x.target y.target\nRequiredBy=z.service\nAlias=aa.service\n")
    unit(tree, "b.service", "WantedBy=x.target\nWantedBy=\nWantedBy=w.target\nAlso=c.socket\n")
    unit(tree, "c.socket", "WantedBy=sockets.target\n")
    unit(tree, "getty@.service", "WantedBy=getty.target\nDefaultInstance=tty1\n")
    unit(tree, "t@.service", "WantedBy=%i.target\n")
    unit(tree, "static.service")
    for name in ("a.service", "b.service", "getty@.service", "t@x.service", "static.service"):
        enable(tree, name)
    assert enabled(tree) == {
        "x.target.wants/a.service": f"{where}/a.service",
        "y.target.wants/a.service": f"{where}/a.service",
        "z.service.requires/a.service": f"{where}/a.service",
        "aa.service": f"{where}/a.service",
        "w.target.wants/b.service": f"{where}/b.service",
        "sockets.target.wants/c.socket": f"{where}/c.socket",
        "getty.target.wants/getty@tty1.service": f"{where}/getty@.service",
        "x.target.wants/t@x.service": f"{where}/t@.service",
        "multi-user.target.wants/static.service": f"{where}/static.service",
    }


def test_missing_unit_names_the_nearest(tree: Tree) -> None:
    unit(tree, "sshd.service")
    with pytest.raises(BadTree, match=r"no unit ssh\.service") as caught:
        enable(tree, "ssh.service")
    assert caught.value.hint == "did you mean sshd.service?"


def test_unit_cannot_name_a_place_outside(tree: Tree) -> None:
    unit(tree, "a.service", "WantedBy=../../../../x\nAlias=../b.service\n")
    enable(tree, "a.service")
    assert set(enabled(tree)) == {"..-..-..-..-x.wants/a.service", "..-b.service"}


def test_default_target_is_a_link(tree: Tree) -> None:
    unit(tree, "rescue.target")
    tree.link("usr/etc/systemd/system/default.target", "/usr/lib/systemd/system/x.target")
    set_default_target(tree, "rescue.target")
    assert str(tree.path("usr/lib/systemd/system/default.target").readlink()) == "rescue.target"
    assert not tree.exists("usr/etc/systemd/system/default.target")
    with pytest.raises(BadTree):
        set_default_target(tree, "gone.target")
