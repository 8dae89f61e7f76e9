"""The documents say what the program does."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]


def test_commands_page_is_the_help_of_the_commands() -> None:
    code = "import runpy; print(runpy.run_path('docs/make_commands.py')['render'](), end='')"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, check=True, capture_output=True, text=True
    )
    assert made.stdout == (TOP / "docs" / "commands.md").read_text(), (
        "run: python docs/make_commands.py"
    )


def test_links_between_documents_lead_somewhere() -> None:
    dead = []
    for page in [*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                dead.append(f"{page.relative_to(TOP)}: {target}")
    assert not dead, "\n".join(dead)


@pytest.mark.skipif(os.geteuid() != 0, reason="composing takes root")
def test_the_commands_in_the_readme_work(tmp_path: Path) -> None:
    block = re.search(r"## By hand.*?```sh\n(.*?)```", (TOP / "README.md").read_text(), re.S)
    assert block
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / ".venv").symlink_to(TOP / ".venv")
    for name in ("fixtures", "treefiles"):
        shutil.copytree(TOP / name, tmp_path / name)
    commands = block[1].replace("make setup\n", "").replace("8000", str(port))
    serve = f"mirror serve hand/mirror --port {port} &"
    assert serve in commands
    ready = f"{serve}\ntrap 'kill %1' EXIT; sleep 3"
    script = "set -e\n" + commands.replace(serve, ready)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no errors found" in done.stdout
