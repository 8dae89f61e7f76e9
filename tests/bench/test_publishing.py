"""A sample of `make bench-publish`: readers at 100 Hz see no state between two."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.publishing import run
from tests.client.conftest import published
from tests.client.published import Published

__all__ = ["published"]


def test_readers_never_see_a_state_between_two(published: Published, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("composing takes root")
    mirrors = [published.root / "mirror1", published.root / "mirror2"]
    seen, _ = run(mirrors, tmp_path, 3)
    for one in seen:
        assert not one.wrong, one
        assert one.looks > 50
        assert one.states >= 3
