"""libostree itself: its module, and its errors as ours."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from composer.errors import ComposerError, NoSpace, VerificationFailed
from composer.system.files import DISK_HINT, explained


@lru_cache(maxsize=1)
def library() -> Any:
    """Return libostree's module; imported when it is first asked for."""
    import gi

    gi.require_version("OSTree", "1.0")
    from gi.repository import Gio, OSTree

    # PyGObject makes an enumeration when it is first asked for, and another thread may see it
    # without its members: asked for here, it is whole before there are threads.
    assert Gio.FileType.SYMBOLIC_LINK
    return OSTree


class RepositoryError(ComposerError):
    """libostree could not do what was asked of a repository."""


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn a GLib.Error into one of ours; ``what`` names the repository or the object."""
    from gi.repository import Gio, GLib

    try:
        yield
    except OSError as error:
        explanation = explained(error, Path(what))
        raise (
            explanation if explanation is not error else RepositoryError(f"{what}: {error}")
        ) from error
    except GLib.Error as error:
        full = error.matches(Gio.io_error_quark(), Gio.IOErrorEnum.NO_SPACE)
        if full or "min-free-space" in error.message or "No space left" in error.message:
            raise NoSpace(
                f"{what}: no space left: {error.message}",
                hint="free some space there and run the same command again",
            ) from error
        if "Corrupted" in error.message:
            raise VerificationFailed(f"{what}: {error.message}") from error
        if "Opening lock file" in error.message:
            # libostree 2022.7 tells an errno of another call, and no path: ask the disk.
            _write_a_little(Path(what))
        lost = "Input/output error" in error.message or "Opening lock file" in error.message
        raise RepositoryError(f"{what}: {error.message}", hint=DISK_HINT if lost else "") from error


def _write_a_little(directory: Path) -> None:
    """Raise what the file system of ``directory`` has against a small file: NoSpace and kin."""
    if not directory.is_dir():
        return
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(b"?")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        if (explanation := explained(error, directory)) is not error:
            raise explanation from error
