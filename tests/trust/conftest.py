"""The scene that attacks are played in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.conftest import client, published, updatable
from tests.trust.scene import Scene

__all__ = ["client", "published", "updatable"]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A publisher at version 1, an honest mirror, a client that has asked nobody yet."""
    with Scene.play(tmp_path) as made:
        yield made
