"""Kickstart files that a treefile includes."""

from __future__ import annotations

from pathlib import Path

import pytest

from composer.compose.explain import explain
from tests.compose.treefiles import read, refusal, write

_KICKSTART = """# packages of the base
%packages --exclude-weakdeps

bash
@core
-python3
# a remark
%end
%include sub/more.ks
"""


def test_packages_excludes_and_includes_are_read(tmp_path: Path) -> None:
    write(tmp_path, "base.ks", _KICKSTART)
    write(tmp_path, "sub/more.ks", "%packages\nvim\n%end\n")
    treefile = read(tmp_path, "include: base.ks\npackages: [own]\n")
    assert treefile.packages == ("@core", "bash", "own", "vim")
    assert treefile.exclude_packages == ("python3",)
    assert treefile.recommends is False
    found = explain(tmp_path / "fedora.yaml", "packages", basearch="x86_64")
    assert [(o.file.name, o.line) for o in found.origins] == [
        ("more.ks", 2), ("base.ks", 4), ("base.ks", 5), ("fedora.yaml", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%packages\nbash\n", "line 1: %packages has no %end"),
        ("\nlang de_DE\n", "line 2: expected %packages or %include, got 'lang'"),
        ("%packages --nocore\n%end\n", "line 1: expected --exclude-weakdeps, got '--nocore'"),
        ("%include\n", "line 1: expected one path after %include"),
        ("%include /etc/x.ks\n", "line 1: /etc/x.ks is not below this directory"),
        ("%include a/../../x.ks\n", "line 1: a/../../x.ks is not below this directory"),
        ("%include 'a\n", "line 1: No closing quotation"),
        ("\n%include gone.ks\n", "include[0]: "),
    ],
)
def test_wrong_kickstart_is_told_with_file_and_line(
    tmp_path: Path, text: str, message: str
) -> None:
    write(tmp_path, "base.ks", text)
    assert refusal(tmp_path, "include: base.ks\n").startswith(f"base.ks: {message}")
