"""What the treefile's keys do to the tree, by real composes with many keys in each."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from composer.checksum import ObjectChecksum
from composer.compose.account_check import AccountsChanged
from composer.compose.content import DeviceInTree
from composer.compose.document import TreefileError
from composer.compose.layers import LayerConflict
from composer.compose.pipeline import ComposeResult, compose
from composer.compose.postprocess import ScriptFailed
from composer.compose.tree import BadTree
from composer.errors import NotFound, NothingNew
from composer.ostree.repo import Repository
from composer.progress import silent
from tests.compose.rpms import File, Spec, build, index, needs_root
from tests.compose.test_commit import SIGNATURE, attributes, signed
from tests.compose.test_pipeline import ostree, request, run, small

pytestmark = needs_root

OS_RELEASE = 'NAME=Test\nVERSION="1 (Base)"\nPRETTY_NAME="Test 1"\n'
NSSWITCH = "passwd: files altfiles systemd\ngroup: files altfiles systemd\n"
UNIT = "[Service]\nExecStart=/usr/bin/true\n[Install]\nWantedBy=multi-user.target\n"


def release() -> Spec:
    """Packages' usual files: os-release, accounts of setup, a unit."""
    return Spec(
        "release",
        files={
            "/usr/lib/os-release": File(OS_RELEASE),
            "/etc/os-release": File(link="../usr/lib/os-release"),
            "/etc/nsswitch.conf": File(NSSWITCH, mark="%config"),
            "/etc/shadow": File("root:*:19000:0:99999:7:::\n", "0000", mark="%config"),
            "/etc/machine-id": File("0123456789abcdef" * 2 + "\n"),
            "/etc/release.conf": File("x"),
            "/usr/lib/systemd/system/app.service": File(UNIT),
            "/usr/lib/systemd/system/multi-user.target": File("[Unit]\n"),
        },
    )


def app() -> Spec:
    return Spec(
        "app",
        files={
            "/opt/app/bin/run": File("run", "0755"),
            "/usr/local/share/app": File("local"),
            "/usr/share/app/doc.txt": File("doc"),
            "/usr/share/app/keep.txt": File("keep"),
            "/usr/lib/null": File(mark="%dev(c,1,3)"),
            "/usr/bin/app": File("app", "0775"),
            "/var/lib/app/state": File("x", owner="app", group="staff"),
            "/var/lib/app": File(mode="0750", owner="app", group="staff", directory=True),
            "/usr/lib/sysusers.d/app.conf": File("g staff 50\nu app 60\ng wheel 10\nm app wheel\n"),
        },
    )


def tree_of(tmp_path: Path, ref: str = "small") -> Path:
    into = tmp_path / f"tree-{len(list(tmp_path.iterdir()))}"
    ostree(tmp_path / "repo", "checkout", "--force-copy", ref, str(into))
    return into


def beside(tmp_path: Path) -> None:
    """Files that treefiles name."""
    (tmp_path / "motd").write_text("hello")
    (tmp_path / "tool").write_text("#!/usr/bin/sh\n")
    (tmp_path / "tool").chmod(0o777)
    script = tmp_path / "last.sh"
    script.write_text("cat /etc/motd >/usr/lib/seen; echo last >>/usr/lib/seen\n")
    script.chmod(0o755)


MANY = """\
automatic-version-prefix: "1"
mutate-os-release: "1"
units: [app.service]
default-target: multi-user.target
add-files:
  - [motd, /etc/motd]
  - [tool, /usr/bin/tool]
remove-files: [etc/release.conf]
remove-from-packages: [[app, /usr/share/app/d.*], [gone, .*]]
postprocess: ["echo first >/usr/lib/seen.first"]
postprocess-script: last.sh
readonly-executables: true
etc-group-members: [wheel]
ignore-devices: true
sysusers: compose-forced
opt-usrlocal: var
boot-location: kernel-install
ima: true
rpmdb: sqlite
rpmdb-normalize: true
tmp-is-dir: true
"""


def test_many_keys_at_once(tmp_path: Path) -> None:
    beside(tmp_path)
    treefile, place = small(tmp_path, MANY, release(), app())
    rpm = next(Path(place).glob("app-1-*"))
    signed(rpm, [SIGNATURE.hex()] * 9)
    index(Path(place))
    warnings: list[str] = []
    compose(request(tmp_path, treefile, base=place), silent, warnings.append)
    removal = f"{treefile}: remove-from-packages[1] (line 13): the tree has no package gone"
    assert warnings == [removal]
    with pytest.raises(NothingNew):
        compose(request(tmp_path, treefile, base=place), silent, warnings.append)
    assert warnings == [removal] * 2
    second = compose(replace(request(tmp_path, treefile, base=place), force=True), silent)
    assert second.version == "1.1"
    tree = tree_of(tmp_path)
    said = (tree / "usr/lib/os-release").read_text().splitlines()
    assert said[1:] == ['VERSION="1.1 (Base)"', 'PRETTY_NAME="Test 1.1"', "OSTREE_VERSION='1.1'"]
    assert (tree / "usr/etc/motd").read_text() == "hello"
    modes = {n: (tree / n).stat().st_mode & 0o777 for n in ("usr/bin/tool", "usr/bin/app")}
    assert modes == {"usr/bin/tool": 0o555, "usr/bin/app": 0o555}
    assert not (tree / "usr/etc/release.conf").exists()
    assert [p.name for p in (tree / "usr/share/app").iterdir()] == ["keep.txt"]
    assert (tree / "usr/lib/seen").read_text() == "hellolast\n"
    assert (tree / "usr/lib/seen.first").read_text() == "first\n"
    assert not (tree / "usr/lib/null").exists()
    # nsswitch.conf names altfiles
    assert (tree / "usr/etc/passwd").read_text().count("\n") == 1
    assert "app:x:60:60:" in (tree / "usr/lib/passwd").read_text()
    assert (tree / "usr/etc/group").read_text() == "root:x:0:\nwheel:x:10:app\n"
    assert "wheel:x:10:app" in (tree / "usr/lib/group").read_text()
    assert (tree / "usr/etc/shadow").read_text().startswith("root:*::0:")
    lines = (tree / "usr/lib/tmpfiles.d/jigdo-composer-autovar.conf").read_text().splitlines()
    assert "d /var/lib/app 0750 app staff - -" in lines
    assert "L /var/opt/app - - - - ../../usr/lib/opt/app" in lines
    assert (tree / "usr/lib/opt/app/bin/run").read_text() == "run"
    assert (tree / "usr/etc/machine-id").read_text() == ""
    assert (tree / "usr/lib/kernel/install.conf.d/00-jigdo-composer.conf").read_text() == (
        "layout=ostree\n"
    )
    wants = tree / "usr/etc/systemd/system/multi-user.target.wants/app.service"
    assert os.readlink(wants) == "/usr/lib/systemd/system/app.service"
    repository = Repository.open(tmp_path / "repo")
    commit = ObjectChecksum.parse(second.commit)
    assert attributes(repository, commit, "/usr/bin/app") == {b"security.ima": SIGNATURE}
    assert "no errors" in ostree(tmp_path / "repo", "fsck")


def test_other_values_of_the_same_keys(tmp_path: Path) -> None:
    keys = (
        "container: true\nmachineid-compat: false\nopt-usrlocal-overlays: true\nrpmdb: host\n"
        "etc-group-members: [wheel]\n"
    )
    treefile, place = small(tmp_path, "", app(), release())
    treefile.write_text(treefile.read_text().replace("selinux: false\n", keys))
    build(Spec("kernel", files={"/boot/vmlinuz-1": File("k")}), Path(place))
    index(Path(place))
    treefile.write_text(treefile.read_text().replace("[shell", "[kernel, shell"))
    run(tmp_path, treefile, base=place)
    tree = tree_of(tmp_path)
    assert (tree / "boot/vmlinuz-1").read_text() == "k"
    assert not (tree / "usr/lib/modules").exists()
    assert (tree / "usr/etc/machine-id").read_text() == ""
    assert os.readlink(tree / "opt") == "usr/lib/opt"
    assert (tree / "usr/lib/opt/app/bin/run").exists()
    assert (tree / "usr/local/share/app").read_text() == "local"
    assert not (tree / "tmp").is_symlink()
    mode = (tree / "usr/bin/app").stat().st_mode & 0o777
    assert mode == 0o775


def test_what_cannot_be_is_said_before_anything_is_installed(tmp_path: Path) -> None:
    beside(tmp_path)
    (tmp_path / "last.sh").chmod(0o644)
    treefile, place = small(tmp_path, "", release(), app())
    said = treefile.read_text()

    def refused(keys: str, error: type[Exception], match: str) -> None:
        treefile.write_text(said + keys)
        with pytest.raises(error, match=match):
            run(tmp_path, treefile, base=place)
        assert not (tmp_path / "repo").exists()

    refused("postprocess-script: last.sh\n", TreefileError, "last.sh is not executable")
    units = "machineid-compat: false\nunits: [app.service]\n"
    refused(units, TreefileError, r"os\.yaml: units \(line 6\): no units with machineid-compat")
    refused("ignore-devices: false\n", DeviceInTree, "app-1-1.noarch: /usr/lib/null")
    refused("ostree-layers: [gone]\n", NotFound, r"os\.yaml: ostree-layers \(line 5\): the repo")
    (tmp_path / "last.sh").chmod(0o755)
    (tmp_path / "last.sh").write_text("#!/usr/bin/sh\necho broken\nexit 3\n")
    refused("postprocess-script: last.sh\n", ScriptFailed, "postprocess-script .* status 3")


def test_layers_are_part_of_the_input(tmp_path: Path) -> None:
    treefile, place = small(
        tmp_path, "ostree-layers: [layer]\nmachineid-compat: false\n", release()
    )
    repository = Repository.create(tmp_path / "repo", mode="bare-user")
    layer = tmp_path / "layer"
    (layer / "usr/lib").mkdir(parents=True)

    def commit(text: str) -> None:
        (layer / "usr/lib/layered").write_text(text)
        ostree(repository.path, "commit", "--branch=layer", str(layer))

    commit("one")
    run(tmp_path, treefile, base=place)
    assert ostree(repository.path, "cat", "small", "/usr/lib/layered") == "one"
    assert "machine-id" not in ostree(repository.path, "ls", "small", "/usr/etc")
    with pytest.raises(NothingNew):
        run(tmp_path, treefile, base=place)
    commit("two")
    checked = replace(request(tmp_path, treefile, base=place), check_reproducible=True)
    compose(checked, silent)
    assert ostree(repository.path, "cat", "small", "/usr/lib/layered") == "two"
    (layer / "usr/lib/os-release").write_text("other")
    commit("three")
    with pytest.raises(LayerConflict, match="layer layer: /usr/lib/os-release: differs"):
        run(tmp_path, treefile, base=place)
    treefile.write_text(treefile.read_text().replace("ostree-layers", "ostree-override-layers"))
    run(tmp_path, treefile, base=place)
    assert ostree(repository.path, "cat", "small", "/usr/lib/os-release") == "other"


def test_accounts_stay_or_go_as_the_treefile_says(tmp_path: Path) -> None:
    def without(spec: Spec, name: str) -> Spec:
        return replace(spec, files={n: f for n, f in spec.files.items() if name not in n})

    treefile, place = small(tmp_path, "", release(), app())
    run(tmp_path, treefile, base=place)
    said = treefile.read_text().replace(", app]", "]")

    def again(keys: str) -> ComposeResult:
        treefile.write_text(said + keys)
        return run(tmp_path, treefile, base=place)

    again("")
    passwd = ostree(tmp_path / "repo", "cat", "small", "/usr/lib/passwd")
    assert "app:x:60:60:" in passwd
    again("preserve-passwd: false\n")
    passwd = ostree(tmp_path / "repo", "cat", "small", "/usr/lib/passwd")
    assert "app" not in passwd
    owned = "postprocess: ['printf x >/usr/lib/owned; chown 60:50 /usr/lib/owned']\n"
    data = (
        "preserve-passwd: false\ncheck-passwd: {type: data, entries: {app: 60}}\n"
        "check-groups: {type: data, entries: {staff: 50}}\n"
    )
    with pytest.raises(AccountsChanged) as caught:
        again(owned + data)
    assert [line.split(" is ")[0] for line in caught.value.details] == ["app:", "group staff:"]
    again(owned + data + "ignore-removed-users: ['*']\nignore-removed-groups: [staff]\n")
    (tmp_path / "group").write_text("root:x:0:\nkept:x:77:\n")
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nkept:x:77:77::/:/bin/sh\n")
    files = (
        "check-passwd: {type: file, filename: passwd}\n"
        "check-groups: {type: file, filename: group}\n"
    )
    again(files)
    assert "kept:x:77:77" in ostree(tmp_path / "repo", "cat", "small", "/usr/lib/passwd")
    (tmp_path / "group").write_text("root:x:0:\nkept:x:78:\n")
    assert again(files).commit


@pytest.mark.parametrize("key", ["target", "bdb"])
def test_rpmdb_is_what_the_trees_rpm_reads(tmp_path: Path, key: str) -> None:
    """The tree's programs are stand-ins; the headers come from this machine's rpmdb.

    A kind that librpm here cannot write is like `target`, as for rpm-ostree.
    """
    evaluate = '#!/usr/bin/sh\ntest "$1 $2" = "--eval %{?_db_backend}" && echo ndb\n'
    take = '#!/usr/bin/sh\ntest "$*" = "--dbpath=/usr/share/rpm --importdb" || exit 1\n' + (
        "cat >/usr/share/rpm/Packages.db\n"
    )
    rpm = Spec(
        "rpm", files={"/usr/bin/rpm": File(evaluate, "0755"), "/usr/bin/rpmdb": File(take, "0755")}
    )
    treefile, place = small(tmp_path, f"rpmdb: {key}\n", rpm)
    warnings: list[str] = []
    compose(request(tmp_path, treefile, base=place), silent, warnings.append)
    assert [f"{treefile}: rpmdb (line 5): librpm" in text for text in warnings] == (
        [True] if key == "bdb" else []
    )
    tree = tree_of(tmp_path)
    assert [p.name for p in (tree / "usr/share/rpm").iterdir()] == ["Packages.db"]
    scratch = tmp_path / "db"
    scratch.mkdir()
    command = ["rpmdb", f"--dbpath={scratch}", "--importdb"]
    data = (tree / "usr/share/rpm/Packages.db").read_bytes()
    subprocess.run(command, input=data, check=True)
    query = ["rpm", f"--dbpath={scratch}", "-qa"]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    assert set(listed.split()) == {"rpm-1-1.noarch", "shell-1-1.noarch"}


def test_unit_that_the_treefile_adds_is_enabled(tmp_path: Path) -> None:
    (tmp_path / "own.service").write_text(UNIT)
    (tmp_path / "own.target").write_text("[Unit]\n")
    files = "add-files: [[own.service, /usr/lib/systemd/system/own.service],"
    files += " [own.target, /etc/systemd/system/own.target]]\n"
    keys = f"{files}units: [own.service]\ndefault-target: own.target\n"
    keys += 'postprocess: ["ls /etc/systemd/system/multi-user.target.wants >/usr/lib/seen"]\n'
    treefile, place = small(tmp_path, keys, release())
    run(tmp_path, treefile, base=place)
    tree = tree_of(tmp_path)
    link = tree / "usr/etc/systemd/system/multi-user.target.wants/own.service"
    assert os.readlink(link) == "/usr/lib/systemd/system/own.service"
    default = tree / "usr/lib/systemd/system/default.target"
    assert os.readlink(default) == "/etc/systemd/system/own.target"
    assert (tree / "usr/lib/seen").read_text() == "own.service\n"
    treefile.write_text(treefile.read_text().replace("[own.service]", "[owm.service]"))
    with pytest.raises(BadTree, match=r"units\[0\].*no unit owm\.service") as caught:
        run(tmp_path, treefile, base=place)
    assert caught.value.hint == "did you mean own.service?"


def test_initramfs_has_arguments(tmp_path: Path) -> None:
    script = '#!/usr/bin/sh\nfor a in "$@"; do o=$a; done\nprintf "%s " "$@" >"$o"\n'
    dracut = Spec("dracut", files={"/usr/bin/dracut": File(script, "0755")})
    kernel = Spec(
        "kernel",
        files={
            "/usr/lib/modules/1/vmlinuz": File("k"),
            "/usr/lib/modules/1/initramfs.img": File("made by a package"),
            "/usr/lib/modules/1/modules.dep": File(),
        },
    )
    keys = "initramfs-args: [--filesystems, 'xfs,ext4']\nboot-location: modules\n"
    treefile, place = small(tmp_path, keys, dracut, kernel)
    run(tmp_path, treefile, base=place)
    made = ostree(tmp_path / "repo", "cat", "small", "/usr/lib/modules/1/initramfs.img")
    assert "--no-hostonly" in made
    assert " --filesystems xfs,ext4 --kver 1 " in made
