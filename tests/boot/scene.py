"""The corpus, composed into systems that boot, published on a mirror, installed from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.boot.machine import Machine
from tests.commands import jigdo, serving

SYSTEM, BARE = "boot/x86_64/system", "boot/x86_64/bare"
KARGS = ("console=ttyS0", "systemd.show_status=1", "panic=1")
_TREE = Path(__file__).with_name("tree")


@dataclass(frozen=True)
class Scene:
    """Where all of it is.  ``triggers`` is the rpm-md repository of os-triggers."""

    work: Path
    corpus: Path
    triggers: Path
    url: str

    @classmethod
    @contextmanager
    def made(cls, work: Path, corpus: Path, triggers: Path) -> Iterator[Scene]:
        """An empty mirror, served on the loopback, and a remote that leads to it."""
        for name in ("mirror", "logs"):
            (work / name).mkdir()
        shutil.copytree(_TREE, work / "tree")
        jigdo("units", "--output", work / "tree/units", "--check-seconds", "20")
        with serving(work / "mirror", work / "access.log") as url:
            scene = cls(work, corpus, triggers, url)
            jigdo("remote", "add", "mirror", url, "--trust", "none", env=scene.env)
            yield scene

    @property
    def env(self) -> dict[str, str]:
        return {"JIGDO_COMPOSER_CONFIG": str(self.work / "config")}

    def compose(self, treefile: str, generation: str) -> str:
        """Compose a treefile from a generation of the corpus and publish it; returns its commit."""
        packages = self.corpus / generation
        for repository in (packages, self.triggers):
            _link_packages(repository, self.work / "mirror")
        words = ["compose", self.work / "tree" / treefile, "--repo", self.work / "repo", "--json"]
        words += ["--cachedir", self.work / "cache", "--rpm-repo", self.work / "mirror"]
        words += ["--repository", f"corpus={packages}", "--repository", f"os={self.triggers}"]
        commit: str = jigdo(*words).document["commit"]
        return commit

    def install(self, ref: str, name: str, *, nvme: bool = False, kargs: Any = KARGS) -> Machine:
        """Install from the mirror."""
        image = self.work / f"{name}.img"
        words = ["install", f"mirror:{ref}", "--disk", image, "--size", "2G", "--os", "boot"]
        for one in kargs:
            words += ["--karg-append", one]
        done = jigdo(*words, "--json", env=self.env).document
        return Machine(image, done["offset"], self.work / "logs", nvme)

    def requests(self) -> int:
        """Requests that the mirror has answered."""
        return len((self.work / "access.log").read_text().splitlines())

    def on_disk(self, machine: Machine, *commands: list[object]) -> list[Any]:
        """Run commands on a machine's disk while it is off; ``{root}`` is where it is mounted."""
        with machine.disk() as root:
            done = [
                jigdo(*(str(word).format(root=root) for word in words), env=self.env)
                for words in commands
            ]
        assert all(one.out for one in done), done
        return [one.document for one in done]

    def update(self, machine: Machine, ref: str) -> Any:
        """Pull what the mirror has into a machine's own repository, and deploy it."""
        pull = ["pull", f"mirror:{ref}", "--repo", "{root}/ostree/repo", "--json"]
        deploy = ["deploy", "--sysroot", "{root}", "--json"]
        return self.on_disk(machine, [*pull, "--disable-fsync"], [*deploy])[1]


def _link_packages(repository: Path, mirror: Path) -> None:
    for rpm in repository.rglob("*.rpm"):
        target = mirror / rpm.relative_to(repository)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _link(rpm, target)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
