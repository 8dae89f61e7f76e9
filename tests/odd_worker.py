"""Loaded by a Dask worker with --preload: it is not like the client, as ODD says."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _Absent(MetaPathFinder):
    """Our package is not installed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        if name.split(".")[0] == "composer":
            raise ModuleNotFoundError(f"No module named '{name}'")


def dask_setup(worker: object) -> None:
    """Make this process another one."""
    if os.environ["ODD"] == "package":
        for name in [name for name in sys.modules if name.split(".")[0] == "composer"]:
            del sys.modules[name]
        sys.meta_path.insert(0, _Absent())
        return
    from composer.system import executors

    ours = {**executors.identity(), "zstandard": "0.1"}
    executors.identity = lambda: ours  # type: ignore[assignment]
