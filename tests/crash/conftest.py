"""What the crash tests share: a fast place, a mirror, commands to interrupt; and the table."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.conftest import published, with_deltas
from tests.client.published import Published
from tests.client.pulling import REMOTE
from tests.crash.layer import Runner
from tests.crash.operations import DELTAS
from tests.mirror.conftest import history
from tests.net.lying_mirror import LyingMirror

__all__ = ["history", "published", "with_deltas"]

TABLE = "crash"
ALL = "JIGDO_CRASH_ALL" in os.environ
"""Whether all calls are hit, and not a sample."""

EVERY = int(os.environ.get("JIGDO_CRASH_EVERY", "1"))
"""Of all, each so many."""


def mounted(place: Path, *words: object) -> Path:
    """Mount something at ``place``, which is made; skips where that cannot be."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", *map(str, words), str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    return place


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    place = mounted(tmp_path_factory.mktemp("crash") / "fast", "-t", "tmpfs", "tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture(scope="module")
def honest(published: Published) -> Iterator[LyingMirror]:
    """A mirror at generation 2; nobody may change its files."""
    with LyingMirror(published.root / "mirror2") as server:
        yield server


@pytest.fixture(scope="module")
def env(
    request: pytest.FixtureRequest, published: Published, honest: LyingMirror, fast: Path
) -> dict[str, str]:
    """What tells commands where the remotes are; deployments can be removed again."""
    published.write_remote(fast / "config", REMOTE, honest.url)
    if ALL:  # making one takes a while
        published.write_remote(fast / "config", DELTAS, request.getfixturevalue("with_deltas"))
    return {
        "JIGDO_COMPOSER_CONFIG": str(fast / "config"),
        "OSTREE_SYSROOT_DEBUG": "mutable-deployments",
    }


@pytest.fixture(scope="module")
def runner(env: dict[str, str], fast: Path) -> Iterator[Runner]:
    """Runs commands, with faults."""
    with Runner(fast / "runner", env) as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of what was explored; bytes are of RPMs that had reached the disk."""
    rows: dict[tuple[str, str], list[int]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties:
                if name == TABLE:
                    operation, fault, *counts = value
                    sums = rows.setdefault((operation, fault), [0] * len(counts))
                    sums[:3] = [old + new for old, new in zip(sums, counts[:3], strict=False)]
                    sums[3] = max(sums[3], counts[3])
    if not rows:
        return
    terminalreporter.section("crash points")
    line = "{:24} {:38} {:>8} {:>8} {:>8} {:>12}".format
    terminalreporter.write_line(line("operation", "fault", "points", "hit", "torn", "bytes lost"))
    for (operation, fault), (points, hit, torn, lost) in sorted(rows.items()):
        terminalreporter.write_line(line(operation, fault, points, hit, torn, lost))
    total = [sum(counts[column] for counts in rows.values()) for column in range(3)]
    terminalreporter.write_line(line("all", "", *total, ""))
