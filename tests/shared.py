"""Where the shared test data is, for tests that use it; they skip, with the reason, without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared(name: str) -> Path:
    """Return a folder of the shared data: $JIGDO_SHARED, or ../shared beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    place = Path(os.environ.get("JIGDO_SHARED") or beside) / name
    if not place.exists():
        pytest.skip(
            f"the shared test data is not here (no {name}; set JIGDO_SHARED)",
            allow_module_level=True,
        )
    return place
