"""Boot proof: ``python -m tests.boot.proof --corpus DIR --out DIR`` (make boot-proof).

Composes the corpus into systems, publishes them, installs from the mirror into a disk
image, and boots it in qemu: first generation, update, roll back, a staged update, one whose
health check fails, and one without an initramfs.  Console logs stay in OUT/logs; what is
proven is a row of a table, printed at the end and kept in OUT/table.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from composer.errors import EXIT_VERIFICATION
from composer.mirror.lists import published
from composer.sysroot.grub import find_grub
from fixtures.rpms.build import build
from tests.boot.machine import Boot, Machine
from tests.boot.scene import BARE, SYSTEM, Scene
from tests.commands import jigdo


@dataclass
class Proof:
    """A scene and what was proven in it: rows of what it was, how it ended, and its seconds."""

    scene: Scene
    rows: list[tuple[str, str, float]] = field(default_factory=list)

    def boot(
        self, machine: Machine, name: str, what: str, *, bios: bool = False, restarts: bool = False
    ) -> Boot:
        """Boot, and note how long it took."""
        boot = machine.boot(name, bios=bios, restarts=restarts)
        self.add(f"boot {name}: {what}", "restarted by itself" if restarts else "off", boot.seconds)
        return boot

    def add(self, what: str, outcome: str, seconds: float) -> None:
        """Add a row, and print it."""
        self.rows.append((what, outcome, seconds))
        print(f"{seconds:6.1f} s  {what}", flush=True)

    def compose(self, treefile: str, generation: str) -> str:
        """Compose and publish, and note how long it took."""
        started = time.monotonic()
        commit = self.scene.compose(treefile, generation)
        what = f"compose {treefile} from packages of {generation}, and publish its set"
        self.add(what, commit[:12], time.monotonic() - started)
        return commit

    def table(self) -> str:
        """All rows, in Markdown."""
        lines = ["| what | ended | seconds |", "|---|---|---|"]
        lines += [f"| {what} | {outcome} | {seconds:.1f} |" for what, outcome, seconds in self.rows]
        return "\n".join(lines) + "\n"


def require(boot: Boot, commit: str, **said: str) -> None:
    """Require that a boot was of ``commit``, reached multi-user, and said what is given."""
    wanted = {"target": "active", "usr": "read-only", "failed": "", **said}
    deployment = boot.said["deployment"].partition(".")[0]
    got = {name: boot.said[name] for name in wanted}
    if deployment != commit or got != wanted:
        raise AssertionError(f"wanted {commit} {wanted}\n got  {deployment} {got}")


def prove(proof: Proof) -> None:
    """Do all of it."""
    scene = proof.scene
    first = proof.compose("gen1.yaml", "v1")
    machine = installed(proof, SYSTEM, "disk")
    machine.leave("echo changed > /etc/boot-proof\n")
    boot = proof.boot(machine, "1-installed", "generation 1, multi-user")
    require(boot, first, version="1", health="active", etc="untouched")

    second = proof.compose("gen2.yaml", "v2")
    updated(proof, machine, "2")
    boot = proof.boot(machine, "2-updated", "generation 2; /etc merged")
    require(boot, second, version="2", health="active", etc="changed")

    scene.on_disk(machine, ["rollback", "--sysroot", "{root}", "--json"])
    machine.leave(f"ostree admin deploy --stage {SYSTEM}\n")
    boot = proof.boot(
        machine, "3-rolled-back", "generation 1 after `rollback`; stages generation 2"
    )
    require(boot, first, version="1", health="active", done="")
    boot = proof.boot(machine, "4-staged", "generation 2, finished at that shutdown")
    require(boot, second, version="2", health="active")

    third = proof.compose("gen3.yaml", "v2")
    updated(proof, machine, "3")
    what = "generation 3, whose health check fails"
    boot = proof.boot(machine, "5-bad", what, restarts=True)
    for words in (f"failed in {third}", f"going back to {second}"):
        if words not in boot.console:
            raise AssertionError(f"the console lacks: {words}")
    grub = find_grub() is not None
    by = "by GRUB, from the disk" if grub else "no GRUB here: kernel given to qemu"
    boot = proof.boot(machine, "6-back", f"generation 2, to which it went back ({by})", bios=grub)
    require(boot, second, version="2", health="active")
    refused(proof, machine)

    bare = proof.compose("bare.yaml", "v1")
    damaged(proof, BARE, bare)
    machine = installed(proof, BARE, "bare", nvme=True)
    boot = proof.boot(machine, "7-bare", "no initramfs: prepare-root is process 1")
    require(boot, bare, version="1", health="active")


def installed(proof: Proof, ref: str, name: str, *, nvme: bool = False) -> Machine:
    """Install from the mirror, which must have been asked for it."""
    started, before = time.monotonic(), proof.scene.requests()
    machine = proof.scene.install(ref, name, nvme=nvme)
    asked = proof.scene.requests() - before
    if not asked:
        raise AssertionError("the mirror was not asked for anything")
    seconds = time.monotonic() - started
    proof.add("install from the mirror into a disk image", f"{asked} requests", seconds)
    return machine


def updated(proof: Proof, machine: Machine, generation: str) -> None:
    """Pull and deploy on the disk."""
    started = time.monotonic()
    done = proof.scene.update(machine, SYSTEM)
    what = f"pull and deploy generation {generation} on the disk"
    proof.add(what, done["commit"][:12], time.monotonic() - started)


def refused(proof: Proof, machine: Machine) -> None:
    """Require that what failed is not deployed again, unless someone insists."""
    started, env = time.monotonic(), proof.scene.env
    with machine.disk() as root:
        said = jigdo("deploy", "--sysroot", root, env=env, status=1).err
        if "failed its health check on this machine" not in said:
            raise AssertionError(said)
        jigdo("deploy", "--sysroot", root, "--retry-failed", env=env)
    what = "`deploy` of generation 3 again; with --retry-failed it is accepted"
    proof.add(what, "refused", time.monotonic() - started)


def damaged(proof: Proof, ref: str, commit: str) -> None:
    """Require that nothing is installed from a set of which the mirror has damaged a byte."""
    started, scene = time.monotonic(), proof.scene
    entry = published(scene.work / "mirror", ref, commit)
    assert entry is not None
    image = scene.work / "refused.img"
    with (scene.work / "mirror" / entry.location).open("r+b", buffering=0) as stream:
        place = entry.offset + entry.index.offset
        good = os.pread(stream.fileno(), 1, place)
        os.pwrite(stream.fileno(), bytes([good[0] ^ 1]), place)
        words = ["install", f"mirror:{ref}", "--disk", image, "--size", "2G"]
        jigdo(*words, env=scene.env, status=EXIT_VERIFICATION)
        os.pwrite(stream.fileno(), good, place)
    if image.exists():
        raise AssertionError(f"{image} was left")
    what = "install from a set with one wrong byte on the mirror"
    proof.add(what, "refused, no image", time.monotonic() - started)


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
        proof = Proof(scene)
        prove(proof)
    proof.add(
        "in all",
        f"{len(list((arguments.out / 'logs').glob('*.log')))} boots",
        time.monotonic() - started,
    )
    (arguments.out / "table.md").write_text(proof.table())
    print(f"\n{proof.table()}\nconsoles: {arguments.out / 'logs'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
