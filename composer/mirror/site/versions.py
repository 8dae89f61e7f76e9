"""Pages of refs and versions, and what compares any two of these."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from composer.jigdo.between import Cost
from composer.mirror.site.collecting import RefView
from composer.mirror.site.history import document, fixed_by
from composer.mirror.site.plots import Series, share, stacked
from composer.mirror.site.reading import Facts
from composer.mirror.site.rendering import Pages, markup
from composer.mirror.site.staging import Staging
from composer.rpm.advisories import Advisory
from composer.rpm.changes import Changes
from composer.rpm.package import Nevra

PER_PAGE = 100
_MOST_ROWS, _MOST_ADVISORIES = 1000, 500
_MOST_SHARES = 20
_MOST_TEXT = 400_000  # characters of changelogs in a page
_WORDS = {
    "head": "what it is",
    "commit": "the commit and its signatures",
    "dirmeta": "owners and modes of directories",
    "tree": "directories",
    "headers": "owners, modes and labels of files",
    "map": "which file is in which package",
    "contents": "what the set itself holds",
    "data": "content that is in no RPM",
    "patch": "deltas",
    "deltas": "what deltas make of what",
    "index": "where all of this is",
}


def version_pages(
    staging: Staging,
    pages: Pages,
    site: dict[str, Any],
    view: RefView,
    lists: int,
    setup: dict[str, Any],
    human: Callable[[float], str],
) -> None:
    """Make the pages of a ref."""
    for number in range(len(view.versions)):
        values = {"site": site, "root": "../../", "here": "", **_version(view, number)}
        name = view.href(number)
        # What is drawn is no input: it is made of what is.
        staging.group(name, values, lambda n=name, v=values: [(n, _drawn(pages, v))])  # type: ignore[misc]
    _ref_pages(staging, pages, site, view, lists, setup, human)
    data = document(view.timeline, view.names, view.package_names)
    text = json.dumps(data, separators=(",", ":"), sort_keys=True).encode()
    staging.group(f"history/{view.slug}", data, lambda: [(f"history/{view.slug}.json", text)])
    values = {
        "site": site,
        "root": "../",
        "here": "",
        "ref": _ref(view),
        "versions": [view.brief(n) for n in reversed(range(len(view.versions)))][:_MOST_ROWS],
    }
    name = f"compare/{view.slug}.html"
    staging.group(name, values, lambda: [(name, pages.render("compare.html.j2", **values))])


def _drawn(pages: Pages, values: dict[str, Any]) -> bytes:
    rows = values["parts_of_set"]
    whole = max(sum(row["bytes"] for row in rows), 1)
    drawn = [row | {"bar": markup(share(row["bytes"] / whole))} for row in rows]
    return pages.render("version.html.j2", **(values | {"parts_of_set": drawn}))


def _ref(view: RefView) -> dict[str, str]:
    return {"name": view.ref, "slug": view.slug}


def _version(view: RefView, number: int) -> dict[str, Any]:
    facts = view.versions[number]
    beside = {
        "previous": view.brief(number - 1) if number else None,
        "next": view.brief(number + 1) if number + 1 < len(view.versions) else None,
    }
    keys = ("label", "slug", "href")
    links = {k: v and {key: v[key] for key in keys} for k, v in beside.items()}
    changes, cost = view.changes[number], view.cost(number, number - 1)
    advisories = fixed_by(changes, view.timeline.advisories) if changes else []
    rows = _change_rows(view, number, changes) if changes else []
    hrefs = {one.commit: view.href(n) for n, one in enumerate(view.versions)}
    return {
        "ref": _ref(view),
        "version": {
            **view.brief(number),
            "totals": facts.totals,
            "location": facts.location,
            "file": PurePosixPath(facts.location).name,
        },
        **links,
        "changes": _bounded(rows),
        "more": max(0, sum(len(part) for _, part in rows) - _MOST_ROWS),
        "advisories": [_advisory(one) for one in advisories[:_MOST_ADVISORIES]],
        "more_advisories": max(0, len(advisories) - _MOST_ADVISORIES),
        "rebuilt": _rebuilt(view.versions[number - 1], facts) if number else 0,
        "cost": _cost(cost) if cost else None,
        "parts_of_set": _parts(facts),
        "shares": _shares(view) if number == len(view.versions) - 1 else None,
        "codecs": [(codec, frames, size) for codec, frames, size, _ in facts.codecs],
        "bases": [(version or commit[:12], hrefs.get(commit)) for commit, version in facts.bases],
    }


def _advisory(one: Advisory) -> dict[str, Any]:
    return {
        "ident": one.ident,
        "kind": one.kind,
        "severity": one.severity,
        "packages": list(one.packages[:20]),
        "references": [list(pair) for pair in one.references[:20]],
    }


def _change_rows(
    view: RefView, number: int, changes: Changes
) -> list[tuple[str, list[dict[str, Any]]]]:
    entries = view.timeline.entries(number, changes)

    def row(nevra: Nevra, before: Nevra | None = None) -> dict[str, Any]:
        return {
            "name": nevra.name,
            "slug": view.package_names[nevra.name],
            "arch": nevra.arch,
            "evr": nevra.evr,
            "before": before.evr if before else "",
            "entries": entries.get(str(nevra), []) if before else [],
        }

    parts = [
        ("Upgraded", [row(new, old) for old, new in changes.upgraded]),
        ("Downgraded", [row(new, old) for old, new in changes.downgraded]),
        ("Added", [row(nevra) for nevra in changes.added]),
        ("Removed", [row(nevra) for nevra in changes.removed]),
    ]
    return [(title, rows) for title, rows in parts if rows]


def _bounded(parts: list[tuple[str, list[dict[str, Any]]]]) -> list[tuple[str, list[Any]]]:
    """As many rows, and as much of their changelogs, as a page may have."""
    found, left, text = [], _MOST_ROWS, _MOST_TEXT
    for title, rows in parts:
        kept = []
        for row in rows[:left]:
            size = sum(len(entry[2]) for entry in row["entries"])
            text -= size
            kept.append(row if text >= 0 else row | {"entries": []})
        left -= len(kept)
        if kept:
            found.append((title, kept))
    return found


def _rebuilt(before: Facts, after: Facts) -> int:
    old = {row[0]: row[1] for row in before.packages}
    return sum(old.get(row[0], row[1]) != row[1] for row in after.packages)


def _cost(cost: Cost) -> dict[str, int]:
    return asdict(cost) | {"bytes": cost.bytes}


def _parts(facts: Facts) -> list[dict[str, Any]]:
    rows = [*facts.sections, ("index", 1, facts.index_bytes, facts.index_bytes)]
    found = [
        {"kind": kind, "words": _WORDS[kind], "frames": n, "bytes": size, "uncompressed": whole}
        for kind, n, size, whole in rows
    ]
    return sorted(found, key=lambda row: (-row["bytes"], row["kind"]))


def _shares(view: RefView) -> dict[str, Any]:
    """Which packages take most of the newest set."""
    rows, other = view.shares["packages"], view.shares["other"]
    rest = rows[_MOST_SHARES:]
    labels = {one.commit: one.label for one in view.versions}
    return {
        "rows": rows[:_MOST_SHARES],
        "rest": len(rest),
        "rest_bytes": sum(row["bytes"] for row in rest),
        "other": other["patch_bytes"],
        "bases": [
            row | {"label": labels.get(row["commit"], row["version"] or row["commit"][:12])}
            for row in view.shares["bases"]
        ],
    }


def _ref_pages(
    staging: Staging,
    pages: Pages,
    site: dict[str, Any],
    view: RefView,
    lists: int,
    setup: dict[str, Any],
    human: Callable[[float], str],
) -> None:
    last = len(view.versions) - 1
    rows = []
    for number in reversed(range(last + 1)):
        cost = view.cost(number, number - 1)
        rows.append(view.brief(number) | {"update_bytes": cost.bytes if cost else None})
    parts = [rows[at : at + PER_PAGE] for at in range(0, len(rows), PER_PAGE)]
    names = [
        f"ref/{view.slug}.html",
        *(f"ref/{view.slug}~{n}.html" for n in range(2, len(parts) + 1)),
    ]
    for position, (name, part) in enumerate(zip(names, parts, strict=True)):
        first = position == 0
        updates = _updates(view, lists) if first else []
        values = {
            "site": site,
            "root": "../",
            "here": "",
            "ref": _ref(view),
            "newest": view.brief(last) if first else None,
            "versions": part,
            "updates": updates,
            "sizes": _sizes(view) if first else [],
            "setup": setup if first else None,
            "pages": [(names[n], f"{n + 1}", n == position) for n in range(len(names))],
        }
        staging.group(
            name,
            values,
            lambda n=name, v=values: [(n, pages.render("ref.html.j2", **_plotted(v, human)))],  # type: ignore[misc]
        )


def _updates(view: RefView, lists: int) -> list[dict[str, Any]]:
    last, found = len(view.versions) - 1, []
    for number in range(last):
        if cost := view.cost(last, number):
            row = _cost(cost) | {"set": cost.set + lists, "total": cost.bytes + lists}
            found.append(row | {"label": view.versions[number].label, "href": view.href(number)})
    return found


def _sizes(view: RefView) -> list[tuple[str, tuple[int, int, int]]]:
    """Of the newest sets: label, bytes of deltas, of content, of the rest."""
    found = []
    for facts in view.versions[-500:]:
        by_kind = {kind: size for kind, _, size, _ in facts.sections}
        delta, new = by_kind.get("patch", 0) + by_kind.get("deltas", 0), by_kind.get("data", 0)
        found.append((facts.label, (delta, new, facts.set_bytes - delta - new)))
    return found


def _plotted(values: dict[str, Any], human: Callable[[float], str]) -> dict[str, Any]:
    """Add the plots to a page's values."""
    updates, sizes = values["updates"], values["sizes"]
    return values | {
        "updates": updates[::-1],
        "update_plot": markup(_update_plot(values, human)) if updates else None,
        "size_plot": markup(_size_plot(sizes, human)) if len(sizes) > 1 else None,
    }


def _update_plot(values: dict[str, Any], human: Callable[[float], str]) -> str:
    rows, newest = values["updates"], values["newest"]["label"]
    names = (("RPMs", "rpm"), ("deltas", "delta"), ("content", "new"), ("metadata", "set"))
    least, most = min(r["total"] for r in rows), max(r["total"] for r in rows)
    return stacked(
        f"Bytes that an update to {newest} moves",
        f"A bar for each of {len(rows)} versions, the oldest first: between {human(least)} and "
        f"{human(most)}.",
        [row["label"] for row in rows],
        [Series(name, style, [row[style] for row in rows]) for name, style in names],
        human=human,
        ident="updates-plot",
    )


def _size_plot(
    rows: Sequence[tuple[str, tuple[int, int, int]]], human: Callable[[float], str]
) -> str:
    totals = [sum(row[1]) for row in rows]
    names = (("deltas", "delta"), ("content", "new"), ("metadata", "set"))
    return stacked(
        "Sizes of sets",
        f"A bar for each of {len(rows)} versions, the oldest first: between "
        f"{human(min(totals))} and {human(max(totals))}.",
        [row[0] for row in rows],
        [Series(name, style, [row[1][n] for row in rows]) for n, (name, style) in enumerate(names)],
        human=human,
        ident="sizes-plot",
    )
