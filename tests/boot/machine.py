"""Virtual machines: a disk image in qemu, with the kernel that it would boot, its console kept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from composer.sysroot.boot_files import BootFiles, copy_boot_files
from composer.sysroot.disk import Disk, mounted, private_mounts
from composer.sysroot.sysroot import Sysroot

QEMU = shutil.which("qemu-system-x86_64")
SECONDS = int(os.environ.get("JIGDO_BOOT_SECONDS", "240"))
"""What a boot may take; software emulation on a busy machine takes about one minute."""

_SAID = re.compile(r"boot-proof: (\w+) ?(.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Boot:
    """How a boot went: what the tree said of itself, and the whole console."""

    said: dict[str, str]
    console: str
    seconds: float


@dataclass(frozen=True)
class Machine:
    """A disk image as ``install --json`` describes it; consoles go to ``logs``."""

    image: Path
    offset: int
    logs: Path
    nvme: bool = False

    @contextmanager
    def disk(self) -> Iterator[Path]:
        """The disk's file system, mounted while the machine is off."""
        size = self.image.stat().st_size - self.offset - (1 << 20)
        private_mounts()
        with mounted(Disk(self.image, self.offset, size, "", "")) as root:
            yield root

    def leave(self, script: str) -> None:
        """Leave a script, which the next boot runs."""
        with self.disk() as root:
            (root / "ostree/deploy/boot/var/boot-proof").write_text(script)

    def boot(self, name: str, *, bios: bool = False, restarts: bool = False) -> Boot:
        """Boot what the first boot loader entry says, to where the machine goes off.

        With ``bios``, what the boot loader on the disk makes of it.  One that ``restarts`` by
        itself has no time to say what it is.
        """
        files = None if bios else self._boot_files()
        log = self.logs / f"{name}.log"
        started = time.monotonic()
        with (self.logs / f"{name}.qemu").open("wb") as complaints:
            subprocess.run(
                self._command(files, log), stderr=complaints, check=True, timeout=SECONDS
            )
        console = log.read_text(errors="replace")
        said = dict(_SAID.findall(console))
        assert restarts or "end" in said, f"{name}: the system never came up\n{console[-3000:]}"
        return Boot(said, console, time.monotonic() - started)

    def _boot_files(self) -> BootFiles:
        with self.disk() as root:
            return self._copied(root)

    def _copied(self, root: Path) -> BootFiles:
        place = self.image.with_suffix(".boot")
        place.mkdir(exist_ok=True)
        return copy_boot_files(Sysroot.open(root), place)

    def _command(self, files: BootFiles | None, log: Path) -> list[str]:
        assert QEMU is not None
        device = "nvme,drive=disk,serial=1" if self.nvme else "virtio-blk-pci,drive=disk"
        words = [QEMU, "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-m", "1024"]
        words += ["-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{log}"]
        words += ["-drive", f"if=none,id=disk,format=raw,file={self.image}", "-device", device]
        if files is None:
            return words
        words += ["-kernel", str(files.kernel), "-append", files.arguments]
        return words + (["-initrd", str(files.initramfs)] if files.initramfs else [])
