"""`mirror prune`: old versions go, and what the others need stays; with real repositories."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.client.published import BASE, MINIMAL, Published
from tests.client.pulling import run_here


def pruned(directory: Path, *words: object) -> Any:
    """Prune, which must succeed; returns the document of ``--json``."""
    done = run_here("mirror", "prune", directory, *words, "--json")
    assert done.status == 0, f"{done.status}\n{done.err}"
    return done.document


def tree(directory: Path) -> dict[str, int]:
    """All files and their sizes."""
    return {
        path.relative_to(directory).as_posix(): os.stat(path).st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def directory(published: Published, tmp_path: Path) -> Path:
    """A mirror at generation 2 that may be changed."""
    return published.mirror(2, tmp_path / "copy")


def test_dry_run_says_what_goes_and_what_versions_take(
    directory: Path, published: Published
) -> None:
    before = tree(directory)
    told = pruned(directory, "--keep", "1", "--dry-run")
    assert tree(directory) == before
    assert {(one["ref"], one["version"]): one["stays"] for one in told["versions"]} == {
        (ref, version): version == "1.1" for ref in (BASE, MINIMAL) for version in ("1", "1.1")
    }
    assert {one["version"]["version"] for one in told["unlisted"]} == {"1"}
    # What a version takes is what it would need alone.
    for row in told["versions"]:
        rpm = published.set_rpm(row["ref"], 1 if row["version"] == "1" else 2)
        sizes = {one.ref.pkgid: one.ref.size for one in rpm.jigdo.head.packages}
        assert row["own_bytes"] + row["shared_bytes"] == row["set_bytes"] + sum(sizes.values())
    shown = run_here("mirror", "prune", directory, "--keep", "1", "--dry-run").out
    assert "goes" in shown
    assert "one more version costs about" in shown
