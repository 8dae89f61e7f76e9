"""A pytest plugin: the fixture repositories, built once and kept between runs.

They are in ``$JIGDO_TEST_CACHE/fixtures``, or in ``.cache/fixtures`` of the checkout.
The builder locks and stamps that directory, so workers of pytest-xdist share it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.rpms.build import build

_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class FixtureRepos:
    """Two generations of one operating system, each an rpm-md repository."""

    gen1: Path
    gen2: Path

    def generation(self, number: int) -> Path:
        """Return the repository of generation 1 or 2."""
        return {1: self.gen1, 2: self.gen2}[number]


@pytest.fixture(scope="session")
def fixture_repos() -> FixtureRepos:
    """Return the fixture repositories; nothing may write into them."""
    out = Path(os.environ.get("JIGDO_TEST_CACHE", _CHECKOUT / ".cache")) / "fixtures"
    build(out, jobs=2)
    return FixtureRepos(gen1=out / "gen1", gen2=out / "gen2")
