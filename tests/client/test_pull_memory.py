"""A package with a very large file costs no memory: neither ``repo import`` nor a pull."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.rpms.build import build_repository
from tests.client.large_file import REF as LARGE
from tests.client.large_file import Large
from tests.client.published import build_set, fsck
from tests.commands import jigdo, ostree

_SPEC = """\
%global _binary_payload w1.zstdio
Name: huge
Version: 1
Release: 1
Summary: One large file
License: GPL-2.0-or-later
BuildArch: noarch
%description
%{summary}.
%install
mkdir -p %{buildroot}/usr/share/huge
truncate -s 512M %{buildroot}/usr/share/huge/zeros
%files
%defattr(0644,root,root,0755)
/usr/share/huge
"""
_SIZE = 512 << 20
_MOST = 120 << 20
_LARGE = 96 << 20
_TIGHT = 125  # MB

# The child's peak alone: a small process of its own starts it, since a process begins
# with the peak of the one that it was forked from.
_MEASURE = """
import os, sys
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _peak(scratch: Path, *words: object, env: dict[str, str] | None = None) -> int:
    """Run jigdo-composer, which must succeed; returns its peak memory in bytes."""
    out = scratch / "peak"
    measured = [sys.executable, "-m", "composer", *map(str, words)]
    argv = [sys.executable, "-I", "-S", "-c", _MEASURE, str(out), *measured]
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(out.read_text()) * 1024


@dataclass(frozen=True, slots=True)
class _Huge:
    rpm: Path
    mirror: Path
    ref: str
    repo: Path
    import_peak: int


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Huge]:
    """A package with 512 MiB of zeros, imported and published."""
    scratch = tmp_path_factory.mktemp("huge")
    spec, repo, mirror = scratch / "huge.spec", scratch / "repo", scratch / "mirror"
    spec.write_text(_SPEC)
    (rpm,) = build_repository([spec], mirror)
    assert rpm.stat().st_size < 1 << 20
    ostree(repo, "init", "--mode=bare-user")
    ostree(repo, "config", "set", "core.fsync", "false")
    peak = _peak(scratch, "repo", "import", rpm, "--repo", repo)
    (ref,) = ostree(repo, "refs").split()
    build_set(repo, ref, mirror, mirror, scratch / "cache")
    yield _Huge(rpm, mirror, ref, repo, peak)
    shutil.rmtree(scratch)


def test_import_of_a_huge_file_takes_little_memory(huge: _Huge) -> None:
    assert huge.import_peak < _MOST
    listed = ostree(huge.repo, "ls", huge.ref, "/usr/share/huge/zeros")
    assert f" {_SIZE} " in listed


@pytest.mark.parametrize("mode", ["bare-user", "archive"])
def test_pull_of_a_huge_file_takes_little_memory(mode: str, huge: _Huge, tmp_path: Path) -> None:
    repo, env = tmp_path / "client", {"JIGDO_COMPOSER_CONFIG": str(tmp_path / "config")}
    ostree(repo, "init", f"--mode={mode}")
    jigdo("remote", "add", "here", huge.mirror, "--trust", "none", env=env)
    words = ["pull", f"here:{huge.ref}", "--repo", repo, "--disable-fsync"]
    try:
        assert _peak(tmp_path, *words, env=env) < _MOST
        assert ostree(repo, "rev-parse", huge.ref) == ostree(huge.repo, "rev-parse", huge.ref)
        if mode == "archive":  # small on disk, and so soon read again
            fsck(repo)
    finally:
        shutil.rmtree(repo)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    """A file of 96 MiB, one packed by xz and some by gzip, in two versions, with deltas."""
    scratch = tmp_path_factory.mktemp("large")
    yield Large.make(scratch, _LARGE)
    shutil.rmtree(scratch)


@pytest.mark.parametrize("mode", ["bare-user", "archive"])
def test_pull_takes_no_more_memory_than_is_announced(large: Large, mode: str) -> None:
    client = large.client(mode)
    for generation in (1, 2):
        announced, taken, told = client.pull(generation)
        assert ostree(client.repo, "rev-parse", LARGE).strip() == large.commits[generation - 1]
        print(f"{mode}, {generation}: {taken.peak:,} bytes taken, {announced:,} announced")
        assert taken.peak <= announced <= 1.5 * taken.peak
        # Whoever held the large file would take more.
        assert announced < _LARGE + (70 << 20)
    assert told["moved"]["rpm"]["bytes"] == 0 < told["packing"]["cpu_seconds"]
    fsck(client.repo)
    shutil.rmtree(client.repo)


def test_pull_keeps_to_the_memory_that_is_allowed(large: Large) -> None:
    """Two workers at once would take more: one waits for the other, and no delta is left out."""
    client = large.client("bare-user")
    client.pull(1)
    announced, taken, told = client.pull(2, "--max-memory", _TIGHT)
    assert taken.peak <= announced <= _TIGHT * 1_000_000
    assert told["moved"]["rpm"]["bytes"] == 0
    shutil.rmtree(client.repo)
