"""What people read: a Markdown table and a bar plot (SVG) of a benchmark of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from tests.bench.measure import Measured
from tests.bench.result import UPDATE, Result

_HEAD = "| way | bytes | ratio | requests | make: CPU, peak | apply: wall, CPU, peak | proof |"
_BAR, _GAP, _LEFT, _WIDTH = 20, 8, 390, 940


def table(results: Sequence[Result], against: str) -> str:
    """Return a table for each case; the ratio is to the way ``against`` of the same case."""
    parts = []
    for case in dict.fromkeys(result.case for result in results):
        rows = [result for result in results if result.case == case]
        base = next((r.bytes for r in rows if r.way == against and r.bytes), None)
        parts += [f"**{case}**", "", _HEAD, "|---|--:|--:|--:|--:|--:|---|"]
        for row in _ordered(rows):
            if row.bytes is not None:
                parts += [_row(row, row.bytes, base), *_packing(row)]
        parts += ["", *_left_out(rows)]
    return "\n".join(parts).rstrip() + "\n"


def _ordered(results: Iterable[Result]) -> list[Result]:
    return sorted(results, key=lambda r: (r.bytes is None, r.bytes or 0, r.way))


def _left_out(results: Sequence[Result]) -> list[str]:
    left = left_out(results)
    return [left, ""] if left else []


def left_out(results: Sequence[Result]) -> str:
    """Return a sentence on the ways without figures, with the reasons; "" when all have them."""
    ways: dict[str, list[str]] = {}
    for result in results:
        if result.bytes is None:
            ways.setdefault(result.skipped, []).append(result.way)
    parts = [f"{'; '.join(names)} ({reason})" for reason, names in ways.items()]
    return f"Left out: {'; '.join(parts)}." if parts else ""


def _row(result: Result, count: int, base: int | None) -> str:
    way = f"**{result.way}**" if result.ours else result.way
    ratio = f"{count / base:.2f}x" if base else ""
    make = _cost(result.make, wall=False)
    apply = _cost(result.apply, wall=True)
    proof = result.proof
    return f"| {way} | {count:,} | {ratio} | {result.requests} | {make} | {apply} | {proof} |"


def _packing(result: Result) -> list[str]:
    """Return the row of what packing took of a pull, and of the memory that was announced."""
    parts = []
    if seconds := result.packing.get("cpu_seconds"):
        parts.append(f"packing again {result.packing['seconds']:.1f} s, {seconds:.1f} s")
    if result.announced:
        parts.append(f"announced {result.announced / 1e6:.0f} MB")
    return [f"| - of which | | | | | {'; '.join(parts)} | |"] if parts else []


def _cost(run: Measured | None, *, wall: bool) -> str:
    if run is None:
        return ""
    first = [f"{run.wall:.1f} s"] if wall else []
    return ", ".join([*first, f"{run.cpu:.1f} s", f"{run.peak / 1e6:.0f} MB"])


def plot(results: Sequence[Result], title: str, case: str = UPDATE) -> str:
    """Return the bars of one case as SVG, fewest bytes first."""
    rows = [r for r in _ordered(results) if r.case == case and r.bytes is not None]
    most = max((r.bytes or 0 for r in rows), default=1) or 1
    height = 50 + len(rows) * (_BAR + _GAP)
    scale = (_WIDTH - _LEFT - 90) / most
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
        ' font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for number, result in enumerate(rows):
        y = 42 + number * (_BAR + _GAP)
        width = max((result.bytes or 0) * scale, 1)
        color = "#1b6ca8" if result.ours else "#a9b4bd"
        middle = y + _BAR - 5
        lines += [
            f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(result.way)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{color}"/>',
            f'<text x="{_LEFT + width + 6:.1f}" y="{middle}">{human(result.bytes or 0)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def human(count: int) -> str:
    """Return bytes as a person reads them."""
    for limit, unit in ((1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} B"


def replace_section(document: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks of a section; at the end where there is none yet."""
    begin, end = f"<!-- bench-bytes {name}: begin -->", f"<!-- bench-bytes {name}: end -->"
    before = document.read_text()
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in before and end in before:
        head, rest = before.split(begin, 1)
        after = head + section + rest.split(end, 1)[1]
    else:
        after = f"{before.rstrip()}\n\n{section}\n"
    document.write_text(after)
