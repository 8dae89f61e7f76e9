"""The transaction in its sandbox: what scriptlets can do, and what they cannot."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest

from composer.compose import rpm_child
from composer.compose.accounts import UnknownOwner
from composer.compose.install import KnownAccounts, ScriptletFailed, TransactionFailed
from composer.compose.layout import arrange
from composer.compose.postprocess import postprocess
from composer.compose.treefile import load
from composer.progress import silent
from tests.compose.conftest import Install
from tests.compose.rpms import File, Spec, needs_root

pytestmark = needs_root

# Each attack is a shell line that ends well only when it got through.
ATTACKS = {
    "remount": "mount -o remount,rw /usr || mount -o remount,rw /",
    "mount-proc": "mkdir -p /m && mount -t proc proc /m",
    "bind": "mkdir -p /m && mount -o bind /usr /m",
    "mknod": "mknod /usr/disk b 254 0",
    "chroot": (
        "mkdir -p /jail && chroot /jail /usr/bin/true;"
        "mkdir -p /x && cd / && chroot /x sh -c 'cd ../../../../..; cat etc/shadow'"
    ),
    "pid1-root": "cat /proc/1/root/usr/bin/python3 > /dev/null",
    "userns": "unshare -r true",
    "shadow": "cat /etc/shadow || cat /proc/1/root/etc/shadow || cat /../../etc/shadow",
    "kernel-setting": 'v="$(cat /proc/sys/vm/swappiness)" && echo "$v" > /proc/sys/vm/swappiness',
    "memory": "cat /dev/mem > /dev/null || cat /proc/kcore > /dev/null",
    "kill": "kill -9 VICTIM",
    "loopback": "nc 127.0.0.1 PORT < /dev/null",
    "other-packages": "ls -l /proc/$PPID/fd/3 && cat /proc/$PPID/fd/3 > /dev/null",
}


def _hostile(**values: str) -> Spec:
    lines = ["mkdir -p /usr/attacks"]
    for name, attack in ATTACKS.items():
        for key, value in values.items():
            attack = attack.replace(key, value)
        lines.append(f"( {attack} ) > /usr/attacks/{name}.log 2>&1 && : > /usr/attacks/{name}")
    lines.append("true")
    return Spec("hostile", scripts={"%post": "\n".join(lines)})


def test_hostile_scriptlets_get_nowhere(install_specs: Install) -> None:
    victim = subprocess.Popen(["sleep", "120"])
    usr_before = sorted(os.listdir("/usr"))
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
            tree = install_specs(_hostile(VICTIM=str(victim.pid), PORT=port))
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
    logs = {p.stem: p.read_text() for p in (tree.root / "usr/attacks").glob("*.log")}
    assert sorted(logs) == sorted(ATTACKS)
    through = [name for name in ATTACKS if (tree.root / "usr/attacks" / name).exists()]
    assert through == [], {name: logs[name] for name in through}
    assert all(text.strip() for text in logs.values())
    assert sorted(os.listdir("/usr")) == usr_before


def test_lua_scriptlets_cannot_leave_the_tree(install_specs: Install) -> None:
    # Lua runs within librpm itself.  The sandbox around the tree has the host's /usr.
    body = """
    local places = {"/", "/..", "/proc/self/root", "/proc/self/root/..", "/proc/1/root",
        "/proc/1/cwd/..", "/proc/self/task/1/root", "/dev/..", "/dev/shm/../.."}
    for n = 0, 255 do
        places[#places + 1] = "/proc/self/fd/" .. n
        places[#places + 1] = "/proc/self/fd/" .. n .. "/.."
        places[#places + 1] = "/proc/self/fd/" .. n .. "/../.."
    end
    local found = {"tried"}
    for _, place in ipairs(places) do
        for _, name in ipairs({"/usr/bin/python3", "/composer/rpm_child.py", "/etc/shadow"}) do
            local handle = io.open(place .. name)
            if handle then found[#found + 1] = place .. name end
        end
        local handle = io.open(place .. "/usr/jigdo-lua-test", "w")
        if handle then handle:close() end
    end
    local out = io.open("/usr/lua", "w")
    out:write(table.concat(found, "\\n"))
    out:close()
    """
    tree = install_specs(Spec("lua", scripts={"%post -p <lua>": body}, headers=["Requires: shell"]))
    assert (tree.root / "usr/lua").read_text() == "tried"
    assert (tree.root / "usr/jigdo-lua-test").exists()
    assert not Path("/usr/jigdo-lua-test").exists()


def test_links_that_scriptlets_leave_do_not_lead_outside(
    install_specs: Install, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "vmlinuz").write_text("secret")
    names = ("/usr/lib/tmpfiles.d", "/usr/lib/sysimage", "/usr/lib/rpm", "/usr/share/factory")
    more = ("/var/lib", "/var/opt", "/home", "/usr/lib/ostree-boot", "/usr/lib/modules/1")
    lines = "\n".join(
        f"rm -rf {name}; mkdir -p ${{n%/*}} /usr/lib/modules; ln -s {outside} {name}"
        for name in (*names, *more)
    )
    tree = install_specs(Spec("links", scripts={"%post": lines.replace("${n%/*}", "/usr/share")}))
    (tree.root / "var/keep").write_text("state")
    treefile = tmp_path / "treefile.yaml"
    treefile.write_text("ref: test\npackages: [shell]\nremove-files: [home/vmlinuz]\n")
    arrange(tree)
    _ = postprocess(
        tree,
        load(treefile, basearch="x86_64"),
        scratch=tmp_path,
        timestamp=1,
        report=silent,
    )
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"vmlinuz": "secret"}


@pytest.mark.parametrize("section", ["%pre", "%post", "%posttrans", "%pretrans -p <lua>"])
def test_failing_scriptlet_stops_with_package_phase_and_output(
    install_specs: Install, section: str
) -> None:
    body = "echo out of ink >&2\nexit 3" if "lua" not in section else "error('out of ink')"
    bad = Spec("bad", scripts={section: body}, headers=["Requires(pre): shell"])
    with pytest.raises(ScriptletFailed) as caught:
        install_specs(bad)
    assert caught.value.message == f"bad-1-1.noarch: {section.split()[0]} failed"
    assert any("out of ink" in line for line in caught.value.details)


def test_failing_file_trigger_is_named(install_specs: Install) -> None:
    trigger = Spec(
        "trigger", scripts={"%transfiletriggerin -- /usr/share/things": "echo no cache; exit 1"}
    )
    thing = Spec("thing", files={"/usr/share/things/a": File("a")})
    with pytest.raises(ScriptletFailed) as caught:
        install_specs(trigger, thing)
    assert caught.value.message == "trigger: a trigger failed"
    assert "no cache" in caught.value.details


def test_dracut_of_a_scriptlet_is_left_to_the_compose(install_specs: Install) -> None:
    dracut = File("#!/usr/bin/sh\necho made > /usr/image\n", "0755")
    kernel = Spec(
        "kernel",
        files={"/usr/bin/dracut": dracut},
        scripts={
            "%posttrans": "dracut --force /boot/initramfs-6.1.img 6.1 && echo well > /usr/end"
        },
    )
    tree = install_specs(kernel)
    assert tree.read("usr/end") == "well\n"
    assert not tree.exists("usr/image")
    # What stood in for it is nothing of the tree's.
    assert os.listdir(tree.root / "run") == []


def test_scriptlets_are_told_that_no_systemd_runs(install_specs: Install) -> None:
    unit = Spec("unit", scripts={"%post": 'echo "$SYSTEMD_OFFLINE" > /usr/offline'})
    assert install_specs(unit).read("usr/offline") == "1\n"


def test_directories_that_triggers_see_are_not_newer_than_the_compose(
    install_specs: Install,
) -> None:
    # fontconfig, which heeds SOURCE_DATE_EPOCH, throws away what it made of newer ones.
    newer = "test /usr/share/fonts -nt /usr/stamp && echo newer > /usr/newer; true"
    fonts = Spec(
        "fonts",
        # A file's time in a package is at most the build's, 1700000000, here that of the compose.
        files={"/usr/stamp": File("x"), "/usr/share/fonts/a.ttf": File("font")},
        scripts={"%transfiletriggerin -- /usr/share/fonts": newer},
    )
    tree = install_specs(fonts)
    assert tree.path("usr/share/fonts").stat().st_mtime <= 1_700_000_000
    assert not tree.exists("usr/newer")


def test_unknown_owner_stops_and_is_named(install_specs: Install) -> None:
    files = {"/usr/share/data": File("x", owner="ghost", group="wraith")}
    with pytest.raises(UnknownOwner) as caught:
        install_specs(Spec("odd", files=files))
    assert caught.value.details == (
        "odd-1-1.noarch: /usr/share/data: the user ghost is not known",
        "odd-1-1.noarch: /usr/share/data: the group wraith is not known",
    )
    assert "user ghost" in caught.value.hint


def test_owners_come_from_sysusers_of_any_package(install_specs: Install) -> None:
    setup = Spec(
        "setup",
        files={
            "/etc/passwd": File(
                "root:x:0:0::/root:/bin/sh\nmail:x:8:12::/:/bin/sh\n", mark="%config"
            ),
            "/etc/group": File("root:x:0:\nmail:x:12:\n", mark="%config(noreplace)"),
            "/etc/shadow": File("root:*::\n", "0640", group="shadow"),
        },
    )
    files = {
        "/usr/lib/sysusers.d/app.conf": File('u app 77 "An App" /var/lib/app\ng shadow 42\n'),
        "/usr/share/app": File("x", owner="app", group="app"),
        "/usr/share/dyn": File("x", owner="dyn", group="mail"),
    }
    app = Spec("app", files=files, headers=["Provides: user(dyn) group(dyn)"])
    tree = install_specs(setup, app)

    def owner(name: str) -> tuple[int, int]:
        status = (tree.root / name).stat()
        return status.st_uid, status.st_gid

    assert owner("usr/share/app") == (77, 77)
    assert owner("usr/share/dyn") == (999, 12)
    assert owner("etc/shadow") == (0, 42)
    assert "app:x:77:77:An App:/var/lib/app:/usr/sbin/nologin" in (tree.read("etc/passwd") or "")
    assert not list((tree.root / "etc").glob("*.rpm*"))
    assert "app:!*:::::::\n" in (tree.read("etc/shadow") or "")


def test_known_numbers_are_kept(install_specs: Install) -> None:
    app = Spec(
        "app",
        files={"/usr/share/app": File("x", owner="app", group="app")},
        headers=["Provides: user(app) group(app)"],
    )
    tree = install_specs(app, known=KnownAccounts({"app": (321, 321)}, {"app": 321}))
    assert (tree.root / "usr/share/app").stat().st_uid == 321


def test_conflicting_files_are_refused_with_librpms_reason(install_specs: Install) -> None:
    one = Spec("one", files={"/usr/share/same": File("1")})
    two = Spec("two", files={"/usr/share/same": File("2")})
    with pytest.raises(TransactionFailed, match="refuses") as caught:
        install_specs(one, two)
    assert "/usr/share/same conflicts between attempted installs" in caught.value.details[0]


def test_documentation_and_languages_are_left_out(install_specs: Install) -> None:
    files = {
        "/usr/share/doc/readme": File("x", mark="%doc"),
        "/usr/share/locale/de/a": File("x", mark="%lang(de)"),
        "/usr/share/locale/fr/a": File("x", mark="%lang(fr)"),
    }
    tree = install_specs(
        Spec("texts", files=files), keys="documentation: false\ninstall-langs: [de]\n"
    )
    there = [p.name for p in (tree.root / "usr/share").rglob("*") if p.is_file()]
    assert not tree.exists("usr/share/doc/readme")
    assert tree.exists("usr/share/locale/de/a")
    assert not tree.exists("usr/share/locale/fr/a")
    assert "rpmdb.sqlite" in there


def test_transaction_does_not_begin_when_its_compose_is_gone() -> None:
    lifeline, held = os.pipe()
    os.close(held)
    done = subprocess.run(
        ["/usr/bin/python3", "-I", rpm_child.__file__],
        input=json.dumps({"lifeline": lifeline}),
        pass_fds=[lifeline],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(lifeline)
    assert done.returncode == 1
    assert "is gone" in done.stderr


def test_rpmdb_is_one_settled_file_that_rpm_reads(install_specs: Install) -> None:
    tree = install_specs(Spec("plain"))
    assert os.listdir(tree.root / "usr/share/rpm") == ["rpmdb.sqlite"]
    connection = sqlite3.connect(tree.root / "usr/share/rpm/rpmdb.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()
    for name in ("usr/lib/sysimage/rpm", "var/lib/rpm"):
        query = ["rpm", "--root", str(tree.root), "--dbpath", f"/{name}", "-qa"]
        listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        assert sorted(listed.split()) == ["plain-1-1.noarch", "shell-1-1.noarch"]
        times = [*query, "--qf", "%{BUILDTIME} %{INSTALLTIME} %{INSTALLTID}\n"]
        rows = subprocess.run(times, capture_output=True, text=True, check=True).stdout.split("\n")
        # So that the headers of packages that an update leaves alone stay as they are.
        assert all(len(set(row.split())) == 1 for row in rows if row)
        number = rows[0].split()[2]
        found = subprocess.run([*query[:-1], "-q", "--tid", number], capture_output=True, text=True)
        assert found.stdout.split()
