"""Where the value of a treefile's key comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.compose.document import show
from composer.compose.keys import Key, Merge
from composer.compose.kinds import Place
from composer.compose.reading import Said
from composer.compose.treefile import explained_parts
from composer.compose.values import plain


@dataclass(frozen=True, slots=True)
class Origin:
    """A part of a value, as its file says it; ``counts`` is whether nothing overrides it."""

    file: Path
    line: int | None
    key: str
    value: object
    counts: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """The ``value`` that came out for ``key``; ``is_default``: because no file says one."""

    key: Key[Any]
    value: object
    is_default: bool
    origins: tuple[Origin, ...]


def explain(path: Path, name: str, *, basearch: str) -> Explanation:
    """Say where the value of the key ``name`` in the treefile at ``path`` comes from.

    The origins stand in the order in which they are joined, an included file's before
    the including one's.  Raises TreefileError, and UsageError if there is no such key.
    """
    key, value, parts = explained_parts(path, name, basearch=basearch)
    nearest_first: list[Origin] = []
    seen: set[str] = set()
    for part in parts:
        pieces = _pieces(key, part)
        nearest_first += [
            Origin(
                file=place.document.path,
                line=place.document.line(place.trail),
                key=show(place.trail),
                value=plain(found),
                counts=name is None or name not in seen,
            )
            for name, found, place in reversed(pieces)
        ]
        seen.update(name for name, _, _ in pieces if name is not None)
    return Explanation(key, plain(value), not parts, tuple(reversed(nearest_first)))


def _pieces(key: Key[Any], said: Said) -> list[tuple[str | None, object, Place]]:
    """Split what a file says: the name under which nearer ones override it, value, place."""
    raw = said.place.raw
    if key.merge is Merge.NEAREST:
        return [("", said.value, said.place)]
    if isinstance(raw, list):
        return [(None, item, said.place.at(index)) for index, item in enumerate(raw)]
    if isinstance(raw, dict):
        named = key.merge is Merge.NAMES
        return [(n if named else None, item, said.place.at(n)) for n, item in raw.items()]
    return [(None, raw, said.place)]
