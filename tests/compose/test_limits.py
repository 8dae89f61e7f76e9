"""Packages and scripts that take too much: ended soon, named, and nothing of them left."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from composer.compose.kernel import run_in_tree
from composer.compose.postprocess import postprocess
from composer.compose.tree import Tree
from composer.compose.treefile import load
from composer.progress import silent
from composer.system.limits import LimitExceeded, Limits
from tests.compose.conftest import Install
from tests.compose.rpms import Spec, needs_root, repository, shell
from tests.compose.test_cli import call

pytestmark = needs_root

SMALL = Limits(seconds=2, processes=100, memory=100 << 20, written=30 << 20)
# What a shell script does, and what is said of it.
HOGS = {
    "hang": ("sleep 1000", "did not end within 2 seconds"),
    "busy": ("while :; do :; done", "did not end within 2 seconds"),
    "background": ("sleep 1000 & wait", "did not end within 2 seconds"),
    "forks": (
        "f() { f | f & }; f; wait; sleep 9",
        "(had more than 100 processes and threads|did not end within 2 seconds)",
    ),
    "disk": ("cat /dev/zero > /usr/fill", "wrote more than 31 MB"),
    "files": (
        "cd /usr; cat /dev/zero | while :; do n=$((n + 1)); cat bin/busybox > fill$n; done",
        "wrote more than 31 MB",
    ),
    "memory": ("a=0123456789abcdef; while :; do a=$a$a; done", "used more than 105 MB of memory"),
    "tmp": ("cat /dev/zero > /tmp/fill", "used more than 105 MB of memory"),
}
# The shell and the processes that look after it are told from others by this.
MARK = f"jigdo-hog-{os.getpid()}"


def _marked(hog: str) -> str:
    # A shell that cannot fork ends with an error; on a busy machine that can be before anyone
    # has looked, and then it is time that ends the script.
    return f"echo begun\nexport MARK={MARK}\nsh -c '{HOGS[hog][0]}' 2> /dev/null || sleep 9"


def _left() -> list[str]:
    """Processes that have the mark in their environment or command."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            text = (directory / "environ").read_bytes() + (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if MARK.encode() in text:
            found.append(directory.name)
    return found


@pytest.mark.parametrize("hog", sorted(HOGS))
def test_scriptlet_that_takes_too_much_is_ended_and_named(install_specs: Install, hog: str) -> None:
    began = time.monotonic()
    with pytest.raises(LimitExceeded) as caught:
        install_specs(
            Spec("hog", scripts={"%post": _marked(hog)}, headers=["Requires: shell"]), limits=SMALL
        )
    assert time.monotonic() - began < 15
    # The bytes that the package itself and the shell may take are added.
    expected = HOGS[hog][1].replace("31 MB", "35 MB")
    assert re.fullmatch(f"hog-1-1.noarch: %post: {expected}", caught.value.message)
    assert caught.value.details == ("begun",)
    assert not _left()


def test_time_is_counted_for_each_scriptlet(install_specs: Install) -> None:
    slow = [
        Spec(f"slow{n}", scripts={"%post": "sleep 1"}, headers=["Requires: shell"]) for n in "123"
    ]
    install_specs(*slow, limits=Limits(seconds=2.5))


def test_lua_that_hangs_is_ended(install_specs: Install) -> None:
    hog = Spec("hog", scripts={"%pre -p <lua>": "print('begun') while true do end"})
    with pytest.raises(LimitExceeded) as caught:
        install_specs(hog, limits=Limits(seconds=1))
    assert caught.value.message == "hog-1-1.noarch: %pre: did not end within 1 seconds"


def test_what_packages_hold_is_not_held_against_them(install_specs: Install) -> None:
    # The shell alone is larger than a megabyte.
    install_specs(limits=Limits(written=1 << 20))


@pytest.mark.parametrize("hog", sorted(HOGS))
def test_postprocess_script_that_takes_too_much_is_ended_and_named(
    install_specs: Install, tmp_path: Path, hog: str
) -> None:
    tree = Tree(install_specs().root, SMALL)
    treefile = tmp_path / "treefile.yaml"
    script = f"#!/bin/sh\n{_marked(hog)}\n"
    treefile.write_text(
        json.dumps({"ref": "test", "packages": ["shell"], "postprocess": ["#!/bin/sh\n:", script]})
    )
    with pytest.raises(LimitExceeded) as caught:
        postprocess(
            tree, load(treefile, basearch="x86_64"), scratch=tmp_path, timestamp=1, report=silent
        )
    place = re.escape(f"{treefile}: postprocess[1] (line 1)")
    expected = f"{place}: /run/postprocess: {HOGS[hog][1]}"
    assert re.fullmatch(expected, caught.value.message)
    assert caught.value.details == ("begun",)
    assert not _left()


def test_program_of_the_tree_that_hangs_is_ended_and_named(install_specs: Install) -> None:
    tree = Tree(install_specs().root, SMALL)
    with pytest.raises(LimitExceeded, match=r"^/usr/bin/sleep: did not end within 2 seconds$"):
        run_in_tree(tree, ["/usr/bin/sleep", "999"], timestamp=1)


def test_limits_come_from_the_command_and_all_space_is_given_back(tmp_path: Path) -> None:
    hog = Spec("hog", scripts={"%post": _marked("disk")}, headers=["Requires(post): shell"])
    base = repository(tmp_path / "base", [shell(), hog])
    treefile = tmp_path / "os.yaml"
    treefile.write_text("ref: os\nrepos: [base]\npackages: [hog]\nselinux: false\n")
    words = ["compose", "os.yaml", "--repo", "r", "--repository", f"base={base}"]
    words += ["--cachedir", "cache", "--scriptlet-space", "30"]
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "error: hog-1-1.noarch: %post: wrote more than 3" in done.stderr
    assert "--scriptlet-space" in done.stderr
    assert not list((tmp_path / "cache/composing").iterdir())
    assert not (tmp_path / "r").exists()
    assert not _left()
    words[-2:] = ["--scriptlet-timeout", "0"]
    assert call(*words, cwd=tmp_path).returncode == 2
