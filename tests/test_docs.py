"""The documents say what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
