"""A plot of what a fleet moves a day, a line per scenario: SVG.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from composer.mirror.fleet import DAY, Outcome

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 940, 420, 90, 60, 50, 20
_COLORS = ("#1b6ca8", "#c5532d", "#3b8a4f", "#8a5fa8", "#a58a1d", "#59636b")
_NAMESPACE = "http://www.w3.org/2000/svg"
_TICKS = 5


def plot(outcomes: Sequence[Outcome], *, first: int, title: str) -> bytes:
    """Return the plot; ``first`` is the time of the first release."""
    from lxml import etree

    root = etree.Element(
        f"{{{_NAMESPACE}}}svg",
        {
            "viewBox": f"0 0 {_WIDTH} {_HEIGHT}",
            "role": "img",
            "font-family": "sans-serif",
            "font-size": "13",
        },
        nsmap=cast("Any", {None: _NAMESPACE}),
    )

    def add(tag: str, text: str = "", **attributes: object) -> Any:
        named = {key.replace("_", "-"): str(value) for key, value in attributes.items()}
        node = etree.SubElement(root, f"{{{_NAMESPACE}}}{tag}", named)
        node.text = _harmless(text) or None
        return node

    add("title", title)
    add("rect", width=_WIDTH, height=_HEIGHT, fill="#ffffff")
    add("text", title, x=10, y=24, font_size=15, font_weight="bold")
    days = max(len(one.days) for one in outcomes)
    most = max((size for one in outcomes for size in one.days), default=0) or 1
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in range(_TICKS + 1):
        y = bottom - (bottom - _TOP) * tick / _TICKS
        add("line", x1=_LEFT, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}", stroke="#e2e6e9")
        label = _human(most * tick / _TICKS)
        add("text", label, x=_LEFT - 8, y=f"{y + 4:.1f}", text_anchor="end")
        day = (days - 1) * tick // _TICKS
        when = datetime.fromtimestamp(first + day * DAY, UTC)
        x = _LEFT + (right - _LEFT) * (day / max(days - 1, 1))
        anchor = "end" if tick == _TICKS else "middle"
        add("text", f"{when:%Y-%m-%d}", x=f"{x:.1f}", y=bottom + 20, text_anchor=anchor)
    for number, one in enumerate(outcomes):
        color = _COLORS[number % len(_COLORS)]
        points = " ".join(
            f"{_LEFT + (right - _LEFT) * day / max(days - 1, 1):.1f},"
            f"{bottom - (bottom - _TOP) * size / most:.1f}"
            for day, size in enumerate(one.days)
        )
        add("polyline", points=points, fill="none", stroke=color, stroke_width=2)
        x = _LEFT + number * (right - _LEFT) // max(len(outcomes), 1)
        add("rect", x=x, y=38, width=12, height=12, fill=color)
        add("text", f"{one.scenario.name}: {_human(one.bytes)}", x=x + 18, y=49)
    data: bytes = etree.tostring(root, xml_declaration=False, encoding="utf-8", pretty_print=True)
    return data


def _harmless(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _human(count: float) -> str:
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"
