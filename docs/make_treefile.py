"""Write the table of docs/treefile.md from the rows: ``python docs/make_treefile.py``."""

from __future__ import annotations

import re
from pathlib import Path

from composer.compose.schema import table


def main() -> None:
    """Put the table where the page has one."""
    page = Path(__file__).parent / "treefile.md"
    text = page.read_text()
    page.write_text(re.sub(r"(?m)^\| key \|.*\n(?:\|.*\n)*", lambda _: table(), text))


if __name__ == "__main__":
    main()
