"""What the rows of the treefile's keys say, for programs and for people."""

from __future__ import annotations

from composer.compose.keys import ARCHITECTURES, KEYS, OTHER_ARCHITECTURES
from composer.compose.kinds import PACKAGES, Schema
from composer.compose.values import AccountCheck, plain


def schema() -> dict[str, object]:
    """Return the JSON Schema of treefiles."""
    properties: dict[str, Schema] = {}
    for key in KEYS:
        if "<" not in key.name:
            said = {"description": key.meaning, **_or_nothing(key.kind.schema)}
            properties.update(dict.fromkeys((key.name, *key.aliases), said))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Treefile",
        "type": "object",
        "properties": properties,
        "patternProperties": {
            f"^packages-({'|'.join((*ARCHITECTURES, *OTHER_ARCHITECTURES))})$": _or_nothing(
                PACKAGES.schema
            ),
            "comment": {},
        },
        "additionalProperties": False,
    }


def _or_nothing(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def table() -> str:
    """Return the keys as the Markdown table of docs/treefile.md."""
    rows = ["| key | value | default | includes | state | meaning |", "|---|---|---|---|---|---|"]
    for key in KEYS:
        names = ", ".join(f"`{name}`" for name in (key.name, *key.aliases))
        default, merge, state = _shown(key.default), key.merge.value, key.state.value
        cells = (names, key.kind.name, default, merge, state, key.meaning)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _shown(default: object) -> str:
    if isinstance(default, AccountCheck):
        return f"`type: {default.kind}`"
    if isinstance(default, bool):
        return str(default).lower()
    said = plain(default)
    return "" if said in (None, "", [], {}) else f"`{said}`" if said == "." else str(said)
