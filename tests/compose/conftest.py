"""Packages and places that several tests of the compose layer share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from composer.compose.install import KnownAccounts, install
from composer.compose.packages import ComposedPackage
from composer.compose.tree import Tree
from composer.compose.treefile import load
from composer.progress import silent
from composer.system.limits import Limits
from tests.compose.rpms import Spec, build, composed, shell

Install = Callable[..., Tree]


@pytest.fixture(scope="session")
def shell_rpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the RPM of a static shell, which scriptlets need."""
    return build(shell(), tmp_path_factory.mktemp("shell"))


@pytest.fixture
def install_specs(tmp_path: Path, shell_rpm: Path) -> Install:
    """Return a function that builds specs and installs them, with the shell, into a tree."""

    def run(
        *specs: Spec,
        keys: str = "",
        known: KnownAccounts | None = None,
        limits: Limits | None = None,
    ) -> Tree:
        treefile = tmp_path / "treefile.yaml"
        treefile.write_text(f"ref: test\npackages: [shell]\n{keys}")
        rpms: Sequence[Path] = [shell_rpm, *(build(spec, tmp_path) for spec in specs)]
        packages: list[ComposedPackage] = sorted(map(composed, rpms), key=lambda p: p.ref.nevra)
        tree = Tree(tmp_path / "tree", limits or Limits())
        tree.root.mkdir()
        install(
            tree,
            packages,
            load(treefile, basearch="x86_64"),
            timestamp=1_700_000_000,
            known=known or KnownAccounts({}, {}),
            report=silent,
        )
        return tree

    return run
