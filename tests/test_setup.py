"""What a fresh checkout needs is declared, pinned and quick (docs/install.md)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".venv"
LAYOUT = [
    ".ci/run",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "Vagrantfile",
    "composer",
    "docs/architecture.md",
    "docs/exit-status.md",
    "docs/install.md",
    "fixtures",
    "packaging/setup.sh",
    "requirements.lock",
    "templates",
    "tests/corpus/seeds.txt",
    "treefiles",
]


def _pins() -> dict[str, str]:
    lock = (ROOT / "requirements.lock").read_text()
    return dict(re.findall(r"^([a-z0-9.-]+)(?:\[[a-z0-9,]+\])?==(\S+) \\$", lock, re.MULTILINE))


def _required() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = dict(project["project"]["optional-dependencies"])
    del extras["fuzz"]  # few platforms have wheels of it, and no test needs it
    return [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(requirement for extra in extras.values() for requirement in extra),
    ]


def _package_rows() -> list[list[str]]:
    lines = (ROOT / "packaging/system-packages.txt").read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _quietly(*argv: str) -> float:
    """Run a command as a user's shell would, without coverage; returns its seconds."""
    environ = {name: value for name, value in os.environ.items() if "COV" not in name}
    started = time.monotonic()
    subprocess.run(argv, check=True, capture_output=True, cwd=ROOT, env=environ, timeout=60)
    return time.monotonic() - started


@pytest.mark.parametrize("requirement", _required())
def test_lock_satisfies_what_pyproject_asks_for(requirement: str) -> None:
    parsed = re.fullmatch(r"([A-Za-z0-9-]+)(?:\[[a-z0-9,]+\])?(?:>=([0-9.]+))?", requirement)
    assert parsed, f"{requirement}: expected name or name>=version"
    pinned = _pins()[parsed[1].lower()]
    assert _release(pinned) >= _release(parsed[2] or "0")


def test_every_pin_has_hashes_and_no_registry_is_named() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(_pins())
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in lock


@pytest.mark.skipif(
    Path(sys.prefix) != VENV, reason="not in this checkout's .venv: run `make test`"
)
def test_environment_is_what_the_lock_says() -> None:
    installed = {name: metadata.version(name) for name in _pins()}
    assert installed == _pins()


def test_package_table_names_both_distributions_for_every_need() -> None:
    rows = _package_rows()
    assert all(len(row) == 4 for row in rows), rows
    assert {row[1] for row in rows} == {"run", "test", "bench"}


@pytest.mark.parametrize("column", [0, 2, 3], ids=["need", "debian", "fedora"])
def test_package_table_has_no_duplicates(column: int) -> None:
    counts = Counter(name for row in _package_rows() for name in row[column].split(","))
    assert [name for name, count in counts.items() if count > 1] == []


@pytest.mark.skipif(not (VENV / "setup-stamp").exists(), reason="no .venv: run `make setup`")
def test_setup_is_quick_when_nothing_is_to_do() -> None:
    assert _quietly("make", "setup") < 3


def test_setup_refuses_an_unknown_scope() -> None:
    script = str(ROOT / "packaging/setup.sh")
    done = subprocess.run([script, "all"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "unknown scope: all" in done.stderr


def test_setup_leaves_an_environment_alone_that_it_only_has_a_link_to(tmp_path: Path) -> None:
    checkout, other = tmp_path / "checkout", tmp_path / "other"
    (checkout / "packaging").mkdir(parents=True)
    other.mkdir()
    (other / "precious").touch()
    script = checkout / "packaging" / "setup.sh"
    script.write_bytes((ROOT / "packaging" / "setup.sh").read_bytes())
    (checkout / ".venv").symlink_to(other)
    argv = ["bash", str(script), "run"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert ".venv is a symlink" in done.stderr
    assert (other / "precious").exists()


def test_help_page_appears_at_once() -> None:
    argv = (sys.executable, "-m", "composer", "--help")
    assert min(_quietly(*argv) for _ in range(5)) < 0.2


@pytest.mark.parametrize("path", LAYOUT)
def test_layout_is_complete(path: str) -> None:
    assert (ROOT / path).exists()
