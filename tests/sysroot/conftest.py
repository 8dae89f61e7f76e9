"""A sysroot in a directory, with real libostree and small systems made for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import pytest

from composer.checksum import ObjectChecksum
from composer.sysroot.deploying import Order, deploy
from composer.sysroot.deployment import Deployment
from composer.sysroot.kernel_arguments import NO_EDIT, Edit
from composer.sysroot.sysroot import Sysroot
from tests.commands import ostree

REF = "small/x86_64/os"
OS = "small"
KERNEL = "usr/lib/modules/1.0"
FILES = {
    f"{KERNEL}/vmlinuz": "kernel",
    f"{KERNEL}/initramfs.img": "initramfs",
    "usr/lib/os-release": "ID=small\nPRETTY_NAME=Small\n",
    "usr/etc/settings": "default\n",
    "usr/etc/other": "default\n",
}
DAY = 86_400


class _Choices(TypedDict, total=False):
    stage: bool
    allow_downgrade: bool
    retry_failed: bool
    remote: str


@dataclass
class Scene:
    """A sysroot and what is committed into its repository.  ``day`` is that of a commit."""

    sysroot: Sysroot
    scratch: Path
    day: int = 0

    def commit(
        self,
        version: str,
        files: Mapping[str, str | None] | None = None,
        *,
        day: int | None = None,
        words: tuple[str, ...] = (),
    ) -> ObjectChecksum:
        """Commit ``FILES`` with changes (None removes one) to the ref, a day after the last."""
        self.day = self.day + 1 if day is None else day
        tree = self.scratch / f"tree-{version}-{self.day}"
        for name, text in {**FILES, **(files or {})}.items():
            if text is not None:
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / name).write_text(text)
        options = [f"--tree=dir={tree}", f"--timestamp=@{self.day * DAY}", *words]
        options += [f"--add-metadata-string=version={version}", "--owner-uid=0", "--owner-gid=0"]
        repo = self.sysroot.path / "ostree/repo"
        return ObjectChecksum.parse(ostree(repo, "commit", "--branch", REF, *options))

    def deploy(
        self,
        commit: ObjectChecksum,
        kargs: Edit = NO_EDIT,
        *,
        os_name: str = OS,
        **choices: Unpack[_Choices],
    ) -> Deployment:
        """Deploy, as the command does."""
        return deploy(self.sysroot, Order(os_name, commit, REF, kargs=kargs, **choices))

    def commits(self) -> list[ObjectChecksum]:
        """What is deployed, next first."""
        return [one.commit for one in self.sysroot.deployments()]

    def directory(self, one: Deployment) -> Path:
        """Where a deployment is."""
        return self.sysroot.path / "ostree/deploy" / one.os / "deploy" / one.name

    def entries(self) -> list[dict[str, str]]:
        """The boot loader's entries, what boots first first."""
        found = []
        for path in (self.sysroot.path / "boot/loader/entries").glob("*.conf"):
            rows = (line.partition(" ") for line in path.read_text().splitlines())
            found.append({key: value for key, _, value in rows})
        return sorted(found, key=lambda entry: -int(entry["version"]))

    def fsck(self) -> None:
        """Require a whole repository."""
        assert "no errors found" in ostree(self.sysroot.path / "ostree/repo", "fsck")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    # Without it libostree makes deployments immutable, which only root can undo.
    monkeypatch.setenv("OSTREE_SYSROOT_DEBUG", "mutable-deployments")
    root = tmp_path / "sysroot"
    root.mkdir()
    sysroot = Sysroot.create(root)
    sysroot.add_os(OS)
    return Scene(sysroot, tmp_path / "scratch")
