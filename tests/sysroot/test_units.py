"""The units and their scripts; the health check runs for real, on a sysroot in a directory.

A machine does not run from that sysroot: a wrapper around ostree marks the deployment that would
run, and one in the place of systemctl notes what it was asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from composer.checksum import ObjectChecksum
from composer.errors import UsageError
from composer.sysroot.deploying import FAILED
from composer.sysroot.deployment import Deployment
from composer.sysroot.grub import prepare_grub
from composer.sysroot.sysroot import Sysroot
from composer.sysroot.units import Choices, write_units
from tests.commands import jigdo
from tests.sysroot.conftest import OS, Scene

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="checking trees out takes root")

_OSTREE = """#!/bin/sh
case "$*" in
"admin set-default "*) exec "{real}" admin set-default --sysroot="{root}" "$3" ;;
"admin status") "{real}" admin --sysroot="{root}" status | sed '{line}s/^  /* /' ;;
*) exit 99 ;;
esac
"""


@dataclass
class Machine:
    """A machine that runs the first deployment of a scene."""

    scene: Scene
    place: Path
    running: int = 0

    def __post_init__(self) -> None:
        (self.place / "bin").mkdir(parents=True)
        for directory in ("usr", "etc"):
            (self.place / directory).mkdir()
        self._program("systemctl", f'#!/bin/sh\necho "$*" >>"{self.place}/systemctl"\n')

    def check(self, name: str, text: str, *, directory: str = "usr", mode: int = 0o755) -> None:
        """Add a health check."""
        path = self.place / directory / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)

    def boot(self) -> tuple[int, str]:
        """Run the health check of a boot; returns its status, and what it said."""
        lines = [
            number
            for number, line in enumerate(self._status().splitlines(), 1)
            if line.startswith("  ") and not line.startswith("    ")
        ]
        first = lines[self.running]
        real, root = shutil.which("ostree"), self.scene.sysroot.path
        self._program("ostree", _OSTREE.format(real=real, root=root, line=first))
        script = self.place / "health-check"
        argv = ["sh", str(script)]
        write_units(self.place / "units", Choices(check_seconds=2))
        script.write_text(self._here((self.place / "units/health-check").read_text()))
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def _status(self) -> str:
        argv = ["ostree", "admin", f"--sysroot={self.scene.sysroot.path}", "status"]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def _here(self, text: str) -> str:
        """The script, with the places of this test."""
        root = self.scene.sysroot.path
        for old, new in (
            ("PATH=/usr/sbin", f"PATH={self.place}/bin:/usr/sbin"),
            ("/usr/lib/jigdo-composer/health.d", f"{self.place}/usr"),
            ("/etc/jigdo-composer/health.d", f"{self.place}/etc"),
            ("state=/var/", f"state={root}/ostree/deploy/{OS}/var/"),
            ("entries=/boot/", f"entries={root}/boot/"),
            ("menu=/boot/", f"menu={root}/boot/"),
            ('"/sysroot$link"', f'"{root}$link"'),
        ):
            assert old in text
            text = text.replace(old, new)
        return text

    def _program(self, name: str, text: str) -> None:
        (self.place / "bin" / name).write_text(text)
        (self.place / "bin" / name).chmod(0o755)

    @property
    def restarts(self) -> bool:
        """Whether it was told to."""
        path = self.place / "systemctl"
        return path.exists() and "reboot" in path.read_text()

    def order(self) -> list[ObjectChecksum]:
        """What libostree makes of the boot loader's entries afterwards, next first."""
        return [one.commit for one in Sysroot.open(self.scene.sysroot.path).deployments()]

    def failed(self) -> list[str]:
        path = self.scene.sysroot.path / "ostree/deploy" / OS / FAILED
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def machine(scene: Scene, tmp_path: Path) -> Machine:
    return Machine(scene, tmp_path / "machine")


def _two(machine: Machine) -> tuple[Deployment, Deployment]:
    scene = machine.scene
    old = scene.deploy(scene.commit("1"))
    return old, scene.deploy(scene.commit("2"))


@needs_root
def test_good_boot_is_remembered_and_nothing_changes(machine: Machine) -> None:
    old, new = _two(machine)
    machine.check("10-fine", "exit 0")
    machine.check("20-not-executable", "exit 1", mode=0o644)
    status, said = machine.boot()
    assert (status, f"good: {new.name}" in said) == (0, True)
    assert machine.order() == [new.commit, old.commit]
    assert not machine.restarts


@needs_root
@pytest.mark.parametrize("directory", ["usr", "etc"])
def test_bad_boot_goes_back_and_restarts(machine: Machine, directory: str) -> None:
    old, new = _two(machine)
    machine.check("10-fine", "exit 0")
    machine.check("50-bad", "exit 1", directory=directory)
    status, said = machine.boot()
    assert status == 1
    assert f"going back to {old.name}" in said
    assert machine.restarts
    assert machine.order() == [old.commit, new.commit]
    assert machine.failed() == [str(new.commit)]
    # Loaders that sort entries by name come to the same.
    entries = machine.scene.sysroot.path / "boot/loader/entries"
    last = sorted(path.name for path in entries.iterdir())[-1]
    assert machine.scene.entries()[0]["title"] in (entries / last).read_text()


@needs_root
def test_menu_of_a_boot_loader_follows(machine: Machine) -> None:
    scene = machine.scene
    shutil.rmtree(scene.sysroot.path / "boot")
    (scene.sysroot.path / "boot").mkdir()
    prepare_grub(scene.sysroot.path)
    menu = scene.sysroot.path / "boot/loader/syslinux.cfg"
    scene.sysroot = Sysroot.open(scene.sysroot.path)
    old, new = _two(machine)
    labels = [line for line in menu.read_text().splitlines() if line.startswith("LABEL ")]
    assert [label.rpartition(" ")[2] for label in labels] == ["(ostree:0)", "(ostree:1)"]
    machine.check("50-bad", "exit 1")
    machine.boot()
    assert machine.order() == [old.commit, new.commit]
    first = menu.read_text().splitlines()[0]
    assert first == labels[1].replace("LABEL", "DEFAULT")
    # libostree's own next step writes the menu anew.
    scene.sysroot = Sysroot.open(scene.sysroot.path)
    scene.deploy(scene.commit("3"))
    assert "\nDEFAULT Small 3 (ostree:0)\n" in menu.read_text()


@needs_root
def test_check_that_hangs_has_failed(machine: Machine) -> None:
    old, _ = _two(machine)
    machine.check("50-hangs", "exec sleep 60")
    assert machine.boot()[0] == 1
    assert machine.order()[0] == old.commit


@needs_root
def test_deployment_that_was_good_once_stays(machine: Machine) -> None:
    old, new = _two(machine)
    assert machine.boot()[0] == 0
    machine.check("50-bad", "exit 1")
    status, said = machine.boot()
    assert (status, "it was good before" in said) == (1, True)
    assert machine.order() == [new.commit, old.commit]
    assert not machine.restarts


@needs_root
def test_two_bad_ones_do_not_take_turns(machine: Machine) -> None:
    old, new = _two(machine)
    machine.check("50-bad", "exit 1")
    machine.boot()
    assert machine.order() == [old.commit, new.commit]
    (machine.place / "systemctl").unlink()
    status, said = machine.boot()
    assert (status, "failed too" in said) == (1, True)
    assert machine.order() == [old.commit, new.commit]
    assert not machine.restarts


@needs_root
def test_bad_first_deployment_has_nothing_to_go_back_to(machine: Machine) -> None:
    machine.scene.deploy(machine.scene.commit("1"))
    machine.check("50-bad", "exit 1")
    status, said = machine.boot()
    assert (status, "nothing to go back to" in said) == (1, True)
    assert not machine.restarts


@needs_root
def test_next_update_comes_behind_what_it_went_back_to(machine: Machine) -> None:
    old, new = _two(machine)
    machine.check("50-bad", "exit 1")
    machine.boot()
    machine.scene.sysroot = Sysroot.open(machine.scene.sysroot.path)
    third = machine.scene.deploy(machine.scene.commit("3"))
    assert machine.order() == [third.commit, old.commit]
    assert not machine.scene.directory(new).exists()


def test_treefile_adds_every_file_where_it_belongs(tmp_path: Path) -> None:
    choices = Choices(update="home:os/x86_64/stable", calendar="Mon *-*-* 03:00")
    made = write_units(tmp_path, choices)
    treefile = yaml.safe_load(made[-1].read_text())
    added = dict(treefile["add-files"])
    assert {tmp_path / name for name in added} == set(made[:-1])
    assert (tmp_path / "health-check").stat().st_mode & 0o777 == 0o755
    assert "OnCalendar=Mon *-*-* 03:00" in (tmp_path / "jigdo-composer-update.timer").read_text()
    assert "pull 'home:os/x86_64/stable' --wait" in (tmp_path / "update").read_text()
    for script in ("health-check", "update"):
        subprocess.run(["dash", "-n", tmp_path / script], check=True)


def test_units_are_what_systemd_accepts(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze")
    write_units(tmp_path, Choices(update="home:os"))
    root = tmp_path / "root"
    for name, target in yaml.safe_load((tmp_path / "units.yaml").read_text())["add-files"]:
        (root / target.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / name, root / target.lstrip("/"))
    for unit in ("jigdo-composer-health.service", "jigdo-composer-update.timer"):
        path = root / "usr/lib/systemd/system" / unit
        argv = ["systemd-analyze", "verify", f"--root={root}", "--recursive-errors=no", str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert "Unknown" not in done.stderr, done.stderr


@pytest.mark.parametrize("ref", ["a'b", "a b", "$(reboot)", "-x", "a\nb"])
def test_ref_that_a_shell_would_run_is_refused(tmp_path: Path, ref: str) -> None:
    with pytest.raises(UsageError):
        write_units(tmp_path / "units", Choices(update=ref))
    assert not (tmp_path / "units").exists()


def test_command_names_what_it_wrote(tmp_path: Path) -> None:
    said = jigdo("units", "--output", tmp_path / "units", "--json").document
    assert Path(said["treefile"]).name == "units.yaml"
    assert all(Path(name).is_file() for name in said["files"])
