"""Plots as SVG that is part of a page: drawn here, coloured by its style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 760, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 40
_LABELS = 8


@dataclass(frozen=True, slots=True)
class Series:
    """A row of values: its name, and the class that the style sheet colours."""

    name: str
    style: str
    values: Sequence[int]


def stacked(
    title: str,
    summary: str,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    human: Callable[[float], str],
    ident: str,
) -> str:
    """Draw bars of bytes, a bar for each label, its series upon each other.

    ``summary`` says in a sentence what is seen; ``ident`` makes ids of it unique in the page.
    """
    totals = [sum(one.values[n] for one in series) for n in range(len(labels))]
    ticks = _ticks(max(totals, default=0))
    inner, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step: float = inner / max(len(labels), 1)
    wide = min(step * 0.8, 36.0)
    scale = high / ticks[-1]
    lines = [
        f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-labelledby="{ident}-t {ident}-d">',
        f'<title id="{ident}-t">{_text(title)}</title><desc id="{ident}-d">{_text(summary)}</desc>',
    ]
    for tick in ticks:
        named, y = _text(_round(human(tick))), _TOP + high - tick * scale
        lines.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{named}</text>'
        )
    labelled = _named(len(labels))
    for number, label in enumerate(labels):
        x = _LEFT + step * number + (step - wide) / 2
        lines.append(f"<g><title>{_text(_told(label, series, number, totals, human))}</title>")
        at: float = _TOP + high
        for one in series:
            tall = one.values[number] * scale
            if tall > 0:
                at -= tall
                lines.append(
                    f'<rect class="{one.style}" x="{x:.1f}" y="{at:.2f}"'
                    f' width="{wide:.1f}" height="{max(tall, 0.3):.2f}"/>'
                )
        lines.append("</g>")
        if number in labelled:
            lines.append(
                f'<text x="{x + wide / 2:.1f}" y="{_HEIGHT - _BOTTOM + 18}"'
                f' text-anchor="middle">{_text(_short(label))}</text>'
            )
    return "".join([*lines, "</svg>"])


def _told(
    label: str,
    series: Sequence[Series],
    number: int,
    totals: Sequence[int],
    human: Callable[[float], str],
) -> str:
    parts = [f"{one.name} {human(one.values[number])}" for one in series if one.values[number]]
    return f"{label}: {human(totals[number])}" + (f" ({', '.join(parts)})" if parts[1:] else "")


def _text(text: str) -> str:
    return escape("".join(c if c.isprintable() else "�" for c in text))


def _round(text: str) -> str:
    """``400 kB`` for ``400.0 kB``."""
    return text.replace(".0 ", " ")


def _short(label: str) -> str:
    return label if len(label) <= 10 else f"{label[:9]}…"


def _named(count: int) -> set[int]:
    """Say which bars get a label below them: the first, the last, and some between."""
    every = max(1, math.ceil(count / _LABELS))
    found = {number for number in range(0, count, every) if number <= count - 1 - every / 2}
    return found | ({count - 1} if count else set())


def _ticks(most: int) -> list[float]:
    """Round values from 0 to at least ``most``, about five of them."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    return [step * number for number in range(math.ceil(most / step) + 1)]


def share(part: float) -> str:
    """Draw a share of a whole as a bar; the figure stands beside it."""
    wide = max(100 * part, 0.4) if part else 0
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="all" width="100" height="10"/><rect class="rpm" width="{wide:.2f}"'
        ' height="10"/></svg>'
    )
