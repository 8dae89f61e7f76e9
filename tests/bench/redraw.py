"""Write the documentation's tables and plots from a run's FILE.json, without running again.

python -m tests.bench.redraw FILE.json...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.bench.bytes import markdown, write_docs
from tests.bench.measure import Measured
from tests.bench.result import Result


def results(document: dict[str, Any]) -> list[Result]:
    """Return the results that a document holds."""
    found = []
    for row in document["results"]:
        costs = {side: Measured(**row[side]) for side in ("make", "apply") if row[side]}
        found.append(Result(**{**row, **costs}))
    return found


def main() -> None:
    """Redraw what each document tells of."""
    for name in sys.argv[1:]:
        document = json.loads(Path(name).read_text())
        rows = results(document)
        write_docs(document["case"], markdown(document, rows), rows)


if __name__ == "__main__":
    main()
