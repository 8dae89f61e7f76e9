"""A sysroot: the deployments of a machine or of a disk, through libostree.

Rules kept here: one process changes a sysroot at a time, and none its repository meanwhile, for
libostree removes from there what no deployment needs any more; what changes becomes what
boots in libostree's one step, the last; a failure before it leaves what was there, and what
it began is swept away.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from composer.errors import EXIT_BUSY, ComposerError, NotFound, UsageError
from composer.ostree.library import library, library_errors
from composer.ostree.locking import Busy, Holder, Wait, removing
from composer.ostree.pruning import deployed, prune, versions
from composer.ostree.repo import Repository
from composer.sysroot.deployment import Deployment, read_deployments

HOST = Path("/")


_POLL = 0.2


class SysrootBusy(ComposerError):
    """Another process changes the sysroot."""

    exit_status = EXIT_BUSY


@contextmanager
def _output_elsewhere() -> Iterator[None]:
    """Lead what libostree prints (it says what its cleaning freed) to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class Sysroot:
    """A sysroot that is there."""

    def __init__(self, sysroot: Any, path: Path) -> None:
        self._sysroot, self.path, self._is_mine = sysroot, path, False
        self.repo = Repository.open(path / "ostree/repo")

    @classmethod
    def open(cls, path: Path = HOST) -> Self:
        """Open the sysroot at ``path``; ``/`` is this machine's.  Raises NotFound without one."""
        from gi.repository import Gio

        if not (path / "ostree/repo/config").is_file():
            raise NotFound(
                f"{path}: not a sysroot of OSTree",
                hint="this machine does not run from one; --sysroot names another"
                if path == HOST
                else f"make one: jigdo-composer os-init NAME --sysroot {path}",
            )
        sysroot = library().Sysroot.new(Gio.File.new_for_path(str(path)))
        with library_errors(str(path)):
            # On a machine that runs from it, /sysroot may be read-only for all others.
            sysroot.initialize_with_mount_namespace(None)
            # What it holds by now is of the namespace before, where /sysroot stays read-only.
            sysroot.unload()
            sysroot.load(None)
        return cls(sysroot, path)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make (or open) a sysroot at ``path``, an existing directory."""
        from gi.repository import Gio

        if not path.is_dir():
            raise NotFound(f"{path}: not a directory")
        sysroot = library().Sysroot.new(Gio.File.new_for_path(str(path)))
        with library_errors(str(path)):
            sysroot.ensure_initialized(None)
        # What every kernel and initramfs mounts something on.
        for name in ("boot", "dev", "proc", "run", "sys", "sysroot"):
            (path / name).mkdir(mode=0o755, exist_ok=True)
        return cls.open(path)

    @contextmanager
    def changing(self, wait: Wait | None = None) -> Iterator[Any]:
        """Give libostree's object, locked against other processes and loaded anew.

        Its repository is locked too.  A block within such a block is part of it.  When the
        outermost fails, what it had begun is removed.  Raises SysrootBusy and Busy, unless there
        is ``wait``.
        """
        with library_errors(str(self.path)):
            if self._is_mine:
                yield self._sysroot
                return
            with _output_elsewhere(), self._locked(wait), removing(self.repo, wait):
                self._sysroot.load_if_changed(None)
                self._is_mine = True
                try:
                    yield self._sysroot
                except BaseException:
                    self._sweep()
                    raise
                finally:
                    self._is_mine = False

    @contextmanager
    def _locked(self, wait: Wait | None) -> Iterator[None]:
        told, sysroot = False, self._sysroot
        # libostree can wait itself, but then Ctrl-C would have to wait too.
        while not sysroot.try_lock()[1]:
            if wait is None:
                raise SysrootBusy(
                    f"{self.path}: another process changes this sysroot",
                    hint="wait until it has ended (--wait does), or end it",
                )
            if not told:
                wait(Holder())
                told = True
            time.sleep(_POLL)
        try:
            yield
        finally:
            sysroot.unlock()

    def _sweep(self) -> None:
        """Remove what no deployment uses; what cannot be removed is left for the next time."""
        from gi.repository import GLib

        # Read anew: libostree notes only at its very end which boot loader entries count, and
        # one that failed just before would take those for what no deployment uses.
        self._sysroot = library().Sysroot.new(self._sysroot.get_path())
        with suppress(GLib.Error):
            self._sysroot.load(None)
            self._sysroot.prepare_cleanup(None)

    def deployments(self) -> tuple[Deployment, ...]:
        """List what is deployed, what boots next first."""
        with library_errors(str(self.path)):
            self._sysroot.load_if_changed(None)
        return read_deployments(self.raw(), self._sysroot.get_booted_deployment())

    def raw(self) -> list[Any]:
        """libostree's own deployments, in the same order."""
        return list(self._sysroot.get_deployments())

    @property
    def is_booted(self) -> bool:
        """Whether this machine runs from it."""
        return self._sysroot.get_booted_deployment() is not None

    @property
    def disk(self) -> Path:
        """The root of the disk that it is on; of a machine that runs from it, not its own root."""
        return self.path / "sysroot" if self.is_booted else self.path

    def oses(self) -> tuple[str, ...]:
        """Names of the operating systems that have a place here."""
        places = (self.path / "ostree/deploy").glob("*")
        return tuple(sorted(path.name for path in places if path.is_dir()))

    def add_os(self, name: str, wait: Wait | None = None) -> None:
        """Make the place of an operating system; raises UsageError if it is there."""
        if not name or "/" in name or name.startswith(".") or not name.isprintable():
            raise UsageError(f"{name!r} cannot be an operating system's name")
        with self.changing(wait) as sysroot:
            if (self.path / "ostree/deploy" / name).exists():
                raise UsageError(f"{self.path}: there is an operating system {name} already")
            sysroot.init_osname(name, None)

    def choose_os(self, name: str = "") -> str:
        """Return ``name``, or the one that is booted or first, or the only one there is.

        Raises NotFound and UsageError.
        """
        known = self.oses()
        if name:
            if name not in known:
                raise NotFound(
                    f"{self.path}: no operating system {name}",
                    details=[f"there are: {', '.join(known)}"] if known else (),
                    hint=f"jigdo-composer os-init {name} --sysroot {self.path}",
                )
            return name
        deployments = self.deployments()
        booted = [one.os for one in deployments if one.role == "booted"]
        if booted or deployments:
            return (booted or [deployments[0].os])[0]
        if len(known) == 1:
            return known[0]
        raise UsageError(
            f"{self.path}: which operating system?" if known else f"{self.path}: has none yet",
            details=known,
            hint="--os NAME" if known else f"jigdo-composer os-init NAME --sysroot {self.path}",
        )

    def merge_deployment(self, os_name: str) -> Deployment | None:
        """The deployment whose /etc and kernel arguments a new one takes over."""
        found = self._sysroot.get_merge_deployment(os_name)
        if found is None:
            return None
        return next(
            d for d, raw in zip(self.deployments(), self.raw(), strict=True) if raw.equal(found)
        )

    def write(self, order: Sequence[Any]) -> None:
        """Make ``order``, of :meth:`raw`, what there is and boots; to be called in ``changing``.

        What is not needed any more stays until :meth:`clean`.
        """
        options = library().SysrootWriteDeploymentsOpts()
        options.do_postclean = False
        with library_errors(str(self.path)):
            self._sysroot.write_deployments_with_options(list(order), options, None)

    def clean(self) -> None:
        """Remove what no deployment needs: trees, boot files, objects.  In ``changing``, too.

        libostree would remove objects in no order: a commit without its tree could be left.
        """
        with library_errors(str(self.path)):
            self._sysroot.prepare_cleanup(None)
        # What boots is written; objects that another program keeps from being removed can wait.
        with suppress(Busy):
            prune(self.repo, versions(self.repo, keep=1) | deployed(self.repo).keys())
