"""The Vagrantfile, its provisioning and its walk-through belong together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

_TOP = Path(__file__).resolve().parents[1]
_PAGE = (_TOP / "docs/vagrant.md").read_text()


def _blocks(machine: str) -> list[str]:
    return re.findall(rf"^```sh {machine}\n(.*?)^```$", _PAGE, re.S | re.M)


def test_machines_are_those_that_provisioning_knows() -> None:
    text = (_TOP / "Vagrantfile").read_text()
    machines = re.findall(r'^  "(\w+)" => "([\d.]+)"', text, re.M)
    assert [name for name, _ in machines] == ["compose", "mirror", "client"]
    script = _TOP / "packaging/provision.sh"
    done = subprocess.run([script, "other"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    for name, _ in machines:
        assert name in script.read_text()
    addresses = dict(machines)
    told = set(re.findall(r"192\.168\.56\.\d+", _PAGE))
    assert told == {addresses["mirror"]}


def test_walk_through_has_every_step() -> None:
    words = " ".join(_blocks("compose") + _blocks("client"))
    for command in ("compose", "mirror keys init", "pull", "deploy", "plan", "rollback", "status"):
        assert f"jigdo-composer {command} " in words
    for block in _blocks("compose") + _blocks("client"):
        subprocess.run(["bash", "-n", "-c", block], check=True)


@pytest.mark.skipif(not shutil.which("vagrant"), reason="vagrant is not installed")
def test_vagrantfile_is_valid() -> None:
    words = ["vagrant", "validate", "--ignore-provider"]
    subprocess.run(words, cwd=_TOP, check=True, capture_output=True)


def test_scripts_parse() -> None:
    for name in (".ci/provision", ".ci/run", "packaging/provision.sh", "packaging/setup.sh"):
        subprocess.run(["bash", "-n", _TOP / name], check=True)
