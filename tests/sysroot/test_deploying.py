"""Deploying into a sysroot in a directory, with real libostree."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from composer.checksum import ContentDigest, ObjectChecksum
from composer.errors import EXIT_BUSY, NoSpace, NotFound, NothingNew, UsageError
from composer.ostree.library import RepositoryError
from composer.ostree.locking import Busy, changing, using
from composer.ostree.objects import Header
from composer.sysroot.deploying import FAILED, FailedBefore, Incomplete, Older, prepare
from composer.sysroot.first_process import NotBootable
from composer.sysroot.kernel_arguments import Edit
from composer.sysroot.sysroot import Sysroot, SysrootBusy
from tests.commands import jigdo, ostree
from tests.sysroot.conftest import KERNEL, OS, REF, Scene

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="checking trees out takes root")
pytestmark = needs_root


def test_first_deployment_has_its_kernel_entry_and_etc(scene: Scene) -> None:
    commit = scene.commit("1")
    done = scene.deploy(commit, Edit(append=("root=LABEL=x", "rw")))
    assert (done.index, done.commit, done.role, done.ref) == (0, commit, "pending", REF)
    (entry,) = scene.entries()
    assert entry["options"].startswith("root=LABEL=x rw ostree=/ostree/boot.")
    assert (scene.sysroot.path / "boot" / entry["linux"].lstrip("/")).read_text() == "kernel"
    assert (scene.sysroot.path / "boot" / entry["initrd"].lstrip("/")).read_text() == "initramfs"
    assert (scene.directory(done) / "etc/settings").read_text() == "default\n"


def test_update_merges_etc_and_takes_kernel_arguments_over(scene: Scene) -> None:
    first = scene.deploy(scene.commit("1"), Edit(append=("root=LABEL=x", "quiet")))
    etc = scene.directory(first) / "etc"
    (etc / "settings").write_text("mine\n")
    (etc / "added").write_text("mine\n")
    new = {"usr/etc/settings": "newer\n", "usr/etc/other": "newer\n", "usr/etc/more": "new\n"}
    second = scene.deploy(scene.commit("2", new), Edit(delete=("quiet",), append=("debug",)))
    merged = {path.name: path.read_text() for path in (scene.directory(second) / "etc").iterdir()}
    assert merged["settings"] == "mine\n"  # changed on both sides: the machine's
    assert merged["other"] == "newer\n"
    assert (merged["added"], merged["more"]) == ("mine\n", "new\n")
    assert second.kargs == ("root=LABEL=x", "debug")
    assert [entry["options"].split()[:2] for entry in scene.entries()] == [
        ["root=LABEL=x", "debug"],
        ["root=LABEL=x", "quiet"],
    ]


def test_third_deployment_pushes_the_first_out(scene: Scene) -> None:
    commits = [scene.deploy(scene.commit(version)).commit for version in ("1", "2", "3")]
    assert scene.commits() == [commits[2], commits[1]]
    scene.fsck()


def test_what_boots_next_already_is_nothing_new(scene: Scene) -> None:
    commit = scene.commit("1")
    scene.deploy(commit)
    with pytest.raises(NothingNew):
        scene.deploy(commit)
    again = scene.deploy(commit, Edit(append=("debug",)))
    assert (again.serial, again.kargs) == (1, ("debug",))


def test_older_commit_is_refused_unless_allowed(scene: Scene) -> None:
    new, old = scene.commit("2", day=20), scene.commit("1", day=10)
    scene.deploy(new)
    with pytest.raises(Older) as refused:
        scene.deploy(old)
    assert any("1970-01-11" in line for line in refused.value.details)
    assert scene.commits() == [new]
    assert scene.deploy(old, allow_downgrade=True).commit == old


def test_partial_commit_is_refused(scene: Scene) -> None:
    good, commit = scene.commit("1"), scene.commit("2")
    scene.deploy(good)
    (scene.sysroot.repo.path / "state" / f"{commit}.commitpartial").touch()
    with pytest.raises(Incomplete):
        scene.deploy(commit)
    assert scene.commits() == [good]


def test_commit_with_a_missing_object_leaves_the_old_state(scene: Scene) -> None:
    good = scene.commit("1")
    scene.deploy(good)
    commit = scene.commit("2", {"usr/share/new": "only here\n"})
    lost = ostree(scene.sysroot.repo.path, "ls", "-C", str(commit), "/usr/share/new").split()[4]
    (scene.sysroot.repo.path / f"objects/{lost[:2]}/{lost[2:]}.file").unlink()
    before = scene.entries()
    with pytest.raises(RepositoryError, match=lost):
        scene.deploy(commit)
    assert scene.commits() == [good]
    assert scene.entries() == before
    places = (scene.sysroot.path / "ostree/deploy" / OS / "deploy").iterdir()
    assert {path.name for path in places} == {f"{good}.0", f"{good}.0.origin"}


def test_commit_without_a_kernel_is_refused(scene: Scene) -> None:
    commit = scene.commit("1", {f"{KERNEL}/vmlinuz": None})
    with pytest.raises(NotBootable, match="no kernel"):
        scene.deploy(commit)


def test_commit_without_initramfs_or_prepare_root_is_refused(scene: Scene) -> None:
    commit = scene.commit("1", {f"{KERNEL}/initramfs.img": None})
    with pytest.raises(NotBootable, match="neither an initramfs"):
        scene.deploy(commit)


def test_failed_commit_is_not_deployed_again(scene: Scene) -> None:
    good, bad = scene.commit("1"), scene.commit("2")
    scene.deploy(good)
    failed = scene.sysroot.path / "ostree/deploy" / OS / FAILED
    failed.parent.mkdir(parents=True)
    failed.write_text(f"{bad}\n")
    with pytest.raises(FailedBefore):
        scene.deploy(bad)
    assert scene.commits() == [good]
    assert scene.deploy(bad, retry_failed=True).commit == bad


def test_staging_needs_a_machine_that_runs_from_the_sysroot(scene: Scene) -> None:
    commit = scene.commit("1")
    with pytest.raises(UsageError, match="staged"):
        scene.deploy(commit, stage=True)
    assert scene.commits() == []


def test_another_process_that_changes_the_sysroot_is_respected(scene: Scene) -> None:
    commit = scene.commit("1")
    with (
        Sysroot.open(scene.sysroot.path).changing(),
        pytest.raises(SysrootBusy),
    ):
        scene.deploy(commit)
    assert scene.deploy(commit).commit == commit


def test_who_is_at_work_in_a_sysroot_or_its_repository_is_told_or_waited_for(scene: Scene) -> None:
    commit = scene.commit("1")
    root = scene.sysroot.path
    commands: list[list[object]] = [
        ["deploy", REF],
        ["rollback"],
        ["undeploy", "0"],
        ["os-init", "other"],
    ]
    for lock in (changing, using):
        with lock(scene.sysroot.repo):
            for words in commands:
                refused = jigdo(*words, "--sysroot", root, status=EXIT_BUSY)
                assert "another process is at work in it" in refused.err
    with scene.sysroot.changing():
        for words in commands:
            refused = jigdo(*words, "--sysroot", root, status=EXIT_BUSY)
            assert "another process changes this sysroot" in refused.err
    assert scene.commits() == []
    assert scene.sysroot.oses() == (OS,)
    assert scene.deploy(commit).commit == commit


@pytest.mark.parametrize("what", ["sysroot", "repository"])
def test_deploy_that_waits_deploys_what_is_newest_then(scene: Scene, what: str) -> None:
    scene.commit("1")
    argv = [sys.executable, "-m", "composer", "deploy", REF, "--wait", "--sysroot"]
    with scene.sysroot.changing() if what == "sysroot" else changing(scene.sysroot.repo):
        process = subprocess.Popen([*argv, scene.sysroot.path], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert "waiting for" in process.stderr.readline()
        newest = scene.commit("2")
    with process:
        assert process.wait(30) == 0
    assert scene.commits() == [newest]


def test_pull_beside_a_deploy_keeps_what_no_ref_has_yet(scene: Scene) -> None:
    """Deploying prunes: what a pull has landed and not yet named would go."""
    commit = scene.commit("1")
    scene.deploy(commit)
    second = scene.commit("2")
    with changing(scene.sysroot.repo):
        with scene.sysroot.repo.transaction():
            scene.sysroot.repo.write_dirmeta(Header(7, 7, stat.S_IFDIR | 0o755))
        with pytest.raises(Busy):
            scene.deploy(second)
    loose = ContentDigest.of(Header(7, 7, stat.S_IFDIR | 0o755).metadata())
    assert scene.sysroot.repo.has("dirmeta", ObjectChecksum(loose))
    scene.deploy(second)
    assert not scene.sysroot.repo.has("dirmeta", ObjectChecksum(loose)), "so it does prune"


def test_full_boot_leaves_the_old_system_whole(scene: Scene) -> None:
    boot = scene.sysroot.path / "boot"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "boot", str(boot)], check=True)
    try:
        good = scene.commit("1")
        scene.deploy(good)
        before = scene.entries()
        large = scene.commit("2", {f"{KERNEL}/initramfs.img": "x" * (3 << 20)})
        with pytest.raises(NoSpace, match=r"kernel 1\.0 takes") as full:
            scene.deploy(large)
        assert "undeploy" in full.value.hint
        assert scene.commits() == [good]
        assert scene.entries() == before
        # The same kernel again takes no space.
        same = scene.commit("3", {"usr/share/new": "x"})
        assert scene.deploy(same).commit == same
    finally:
        subprocess.run(["umount", "--lazy", str(boot)], check=True)


def test_boot_that_fills_up_while_it_is_written_leaves_the_old_system_whole(scene: Scene) -> None:
    boot = scene.sysroot.path / "boot"
    # Room by blocks, none by inodes: what no check beforehand foresees.
    options = "size=8M,nr_inodes=14"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "boot", str(boot)], check=True)
    try:
        good = scene.commit("1")
        scene.deploy(good)
        before = scene.entries()
        (boot / "taken").mkdir()
        for number in range(20):
            try:
                (boot / "taken" / str(number)).touch()
            except OSError:
                break
        other = scene.commit("2", {f"{KERNEL}/vmlinuz": "another"})
        with pytest.raises(NoSpace):
            scene.deploy(other)
        assert scene.commits() == [good]
        assert scene.entries() == before
        places = (scene.sysroot.path / "ostree/deploy" / OS / "deploy").iterdir()
        assert {path.name for path in places} == {f"{good}.0", f"{good}.0.origin"}
    finally:
        subprocess.run(["umount", "--lazy", str(boot)], check=True)


# --- what a person says


def test_deployed_ref_is_the_default(scene: Scene) -> None:
    scene.deploy(scene.commit("1"))
    new = scene.commit("2")
    order = prepare(scene.sysroot, config_dir=scene.scratch)
    assert (order.os, order.commit, order.ref) == (OS, new, REF)


def test_checksum_goes_on_with_the_deployed_ref(scene: Scene) -> None:
    scene.deploy(scene.commit("1"))
    new = scene.commit("2")
    order = prepare(scene.sysroot, str(new), config_dir=scene.scratch)
    assert (order.commit, order.ref) == (new, REF)


def test_nothing_deployed_needs_a_ref(scene: Scene) -> None:
    scene.commit("1")
    with pytest.raises(UsageError, match="no deployment yet"):
        prepare(scene.sysroot, config_dir=scene.scratch)


def test_unknown_os_is_refused(scene: Scene) -> None:
    with pytest.raises(NotFound, match="no operating system other"):
        prepare(scene.sysroot, REF, os="other", config_dir=scene.scratch)


def test_sysroot_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not a sysroot") as told:
        Sysroot.open(tmp_path)
    assert "os-init" in told.value.hint


# --- without an initramfs

# The head of a static ELF program: it names no interpreter.
_STATIC = b"\x7fELF\x02\x01\x01" + bytes(25) + bytes([64]) + bytes(21) + bytes([56]) + bytes(67)
_BARE: dict[str, str | None] = {
    f"{KERNEL}/initramfs.img": None,
    "usr/lib/ostree/ostree-prepare-root": _STATIC.decode("ascii"),
}


def test_kernel_without_initramfs_starts_the_deployments_prepare_root(scene: Scene) -> None:
    done = scene.deploy(scene.commit("1", _BARE), Edit(append=("root=/dev/vda", "rw")))
    (entry,) = scene.entries()
    assert "initrd" not in entry
    inits = [word for word in entry["options"].split() if word.startswith("init=")]
    assert len(inits) == 1
    program = (scene.sysroot.path / inits[0].removeprefix("init=/")).resolve()
    assert program == scene.directory(done) / "usr/lib/ostree/ostree-prepare-root"
    assert not (scene.sysroot.path / "usr").exists()


def test_next_deployment_starts_its_own_or_none(scene: Scene) -> None:
    scene.deploy(scene.commit("1", _BARE), Edit(append=("rw",)))
    second = scene.deploy(scene.commit("2", _BARE))
    inits = [[w for w in entry["options"].split() if "init=" in w] for entry in scene.entries()]
    assert [len(words) for words in inits] == [1, 1]
    place = scene.sysroot.path / inits[0][0].removeprefix("init=/")
    assert place.resolve().is_relative_to(scene.directory(second))
    third = scene.deploy(scene.commit("3"))
    assert third.kargs == ("rw",)


def test_libraries_of_prepare_root_come_to_the_disks_own_root(scene: Scene, tmp_path: Path) -> None:
    program = Path("/bin/true").resolve()
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    places = {word for word in listed.split() if word.startswith("/")}
    tree = tmp_path / "real"
    for place in places:
        target = tree / Path(place).resolve().relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place, target)
    loader = next(place for place in places if "ld-linux" in place)
    (tree / "lib64").symlink_to("usr/lib64")
    (tree / "usr/lib64").mkdir(exist_ok=True)
    link = tree / "usr/lib64" / Path(loader).name
    if not link.exists():
        link.symlink_to(Path(loader).resolve())
    (tree / "usr/lib/ostree").mkdir()
    shutil.copyfile(program, tree / "usr/lib/ostree/ostree-prepare-root")
    commit = scene.commit("1", {f"{KERNEL}/initramfs.img": None}, words=(f"--tree=dir={tree}",))
    scene.deploy(commit)
    root = scene.sysroot.path
    assert (root / loader.lstrip("/")).read_bytes() == Path(loader).read_bytes()
    shutil.copyfile(program, root / "program")
    (root / "program").chmod(0o755)
    # With nothing but what is there it starts.
    subprocess.run(["chroot", str(root), "/program"], check=True)


def test_library_that_is_missing_is_named(scene: Scene, tmp_path: Path) -> None:
    tree = tmp_path / "real"
    (tree / "usr/lib/ostree").mkdir(parents=True)
    loader = Path("/lib64/ld-linux-x86-64.so.2")
    if not loader.exists():
        pytest.skip("no x86-64")
    (tree / "lib64").mkdir()
    shutil.copyfile(loader, tree / "lib64" / loader.name)
    shutil.copyfile("/bin/true", tree / "usr/lib/ostree/ostree-prepare-root")
    commit = scene.commit("1", {f"{KERNEL}/initramfs.img": None}, words=(f"--tree=dir={tree}",))
    with pytest.raises(NotFound, match=r"no library 'libc\.so\.6'"):
        scene.deploy(commit)
    assert scene.commits() == []
