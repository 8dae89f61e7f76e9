"""Boot proof: ``python -m tests.boot.proof --corpus DIR --out DIR`` (make boot-proof).

Composes the corpus into systems, publishes them, installs from the mirror into a disk
image, and boots it in qemu: first generation, update, roll back, a staged update, one whose
health check fails, and one without an initramfs.  Console logs stay in OUT/logs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from composer.sysroot.grub import find_grub
from fixtures.rpms.build import build
from tests.boot.machine import Boot, Machine
from tests.boot.scene import BARE, SYSTEM, Scene
from tests.commands import jigdo


def require(boot: Boot, commit: str, **said: str) -> None:
    """Require that a boot was of ``commit``, reached multi-user, and said what is given."""
    wanted = {"target": "active", "usr": "read-only", **said}
    deployment = boot.said["deployment"].partition(".")[0]
    got = {name: boot.said[name] for name in wanted}
    if deployment != commit or got != wanted:
        raise AssertionError(f"wanted {commit} {wanted}\n got  {deployment} {got}")


def prove(scene: Scene) -> None:
    """Do all of it, and print a line for each boot."""
    first = scene.compose("gen1.yaml", "v1")
    machine = scene.install(SYSTEM, "disk")
    machine.leave("echo changed > /etc/boot-proof\n")
    boot = booted(machine, "1-installed", "generation 1, installed from the mirror")
    require(boot, first, version="1", health="active", etc="untouched")

    second = scene.compose("gen2.yaml", "v2")
    scene.update(machine, SYSTEM)
    boot = booted(machine, "2-updated", "generation 2, pulled and deployed; /etc merged")
    require(boot, second, version="2", health="active", etc="changed")

    scene.on_disk(machine, ["rollback", "--sysroot", "{root}", "--json"])
    machine.leave(f"ostree admin deploy --stage {SYSTEM}\n")
    boot = booted(machine, "3-rolled-back", "generation 1, rolled back to; stages generation 2")
    require(boot, first, version="1", health="active", done="")
    boot = booted(machine, "4-staged", "generation 2, finished at shutdown")
    require(boot, second, version="2", health="active")

    third = scene.compose("gen3.yaml", "v2")
    scene.update(machine, SYSTEM)
    boot = booted(machine, "5-bad", "generation 3, whose health check fails", restarts=True)
    for words in (f"failed in {third}", f"going back to {second}"):
        if words not in boot.console:
            raise AssertionError(f"the console lacks: {words}")
    grub = find_grub() is not None
    by = "by GRUB, from the disk" if grub else "no GRUB here"
    boot = booted(machine, "6-back", f"generation 2, to which it went back ({by})", bios=grub)
    require(boot, second, version="2", health="active")
    refused(scene, machine)

    bare = scene.compose("bare.yaml", "v1")
    machine = scene.install(BARE, "bare", nvme=True)
    boot = booted(machine, "7-bare", "without an initramfs: prepare-root is process 1")
    require(boot, bare, version="1", health="active")


def booted(
    machine: Machine, name: str, what: str, *, bios: bool = False, restarts: bool = False
) -> Boot:
    """Boot, and say how long it took."""
    boot = machine.boot(name, bios=bios, restarts=restarts)
    print(f"{boot.seconds:6.1f} s  {what}", flush=True)
    return boot


def refused(scene: Scene, machine: Machine) -> None:
    """Require that what failed is not deployed again."""
    with machine.disk() as root:
        jigdo("deploy", "--sysroot", root, env=scene.env, status=1)
        jigdo("deploy", "--sysroot", root, "--retry-failed", env=scene.env)


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    build(arguments.out / "fixtures", jobs=2)
    started = time.monotonic()
    triggers = arguments.out / "fixtures/os"
    with Scene.made(arguments.out, arguments.corpus, triggers) as scene:
        prove(scene)
    print(f"{time.monotonic() - started:6.1f} s  in all; consoles: {arguments.out / 'logs'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
