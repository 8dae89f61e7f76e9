"""Pages of packages, lists of them by their initial letters, and what search reads.

Search is done by the browser, on small files: names of packages in one for each ref; names of
files sorted and cut into many, and a list of the names that these begin with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from composer.mirror.site.collecting import Collected, RefView
from composer.mirror.site.history import shortened
from composer.mirror.site.reading import Kept, read_paths
from composer.mirror.site.rendering import Pages, clean
from composer.mirror.site.staging import Staging

_PART = 1000
_MOST_FILES = 2000
_MOST_VERSIONS = 200
_MOST_ENTRIES = 10
_PER_LETTER = 2000
_OTHER = "other"


class PackagePages:
    """What there is of packages: of each ref's newest version, and their histories."""

    def __init__(self, found: Collected, repository: Path, kept: Kept) -> None:
        self._found, self._repository, self._kept = found, repository, kept
        self._slugs = found.views[0].package_names
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in self._slugs}
        for view in found.views:
            for name, row in _histories(view).items():
                self._rows[name].append(row)
        # Texts and files are those of the newest commit that has a package.
        self._latest = sorted(found.views, key=lambda one: one.versions[-1].timestamp)
        self._now: dict[str, tuple[str, str]] = {}
        for view in self._latest:
            facts = view.versions[-1]
            for nevra, (_, pkgid, *_) in zip(facts.nevras, facts.packages, strict=True):
                self._now[nevra.name] = view.ref, pkgid

    def make(self, staging: Staging, pages: Pages, site: dict[str, Any]) -> None:
        """Make all of them."""
        for view in self._found.views:
            self._search_files(staging, view)
        files = self._files()
        for name in sorted(self._rows):
            self._package(staging, pages, site, name, files.get(name, []))
        self._letters(staging, pages, site)
        self._search(staging, pages, site)

    # One package

    def _package(
        self,
        staging: Staging,
        pages: Pages,
        site: dict[str, Any],
        name: str,
        files: Sequence[str],
    ) -> None:
        rows, (ref, pkgid) = self._rows[name], self._now.get(name, ("", ""))
        changelogs = {
            f"{evr}.{arch}": [
                shortened(e) for e in self._found.changelogs.get(key, ())[:_MOST_ENTRIES]
            ]
            for evr, arch, key in self._builds(name)
        }
        told = self._found.descriptions.get(pkgid)
        values: dict[str, Any] = {
            "site": site,
            "root": "../",
            "here": "",
            "name": name,
            "refs": rows,
            "summary": told.summary if told else "",
            "description": told.description[:10_000] if told else "",
            "url": told.url if told else "",
            "license": told.license if told else "",
            "changelog": [
                shortened(e) for e in self._found.changelogs.get(pkgid, ())[:_MOST_ENTRIES]
            ],
            "files": list(files[:_MOST_FILES]),
            "ref": ref,
            "more_files": max(0, len(files) - _MOST_FILES),
        }
        page, data = f"package/{self._slugs[name]}.html", f"package/{self._slugs[name]}.json"
        document = _changelog_document({k: v for k, v in changelogs.items() if v})

        def made() -> Iterator[tuple[str, bytes]]:
            yield page, pages.render("package.html.j2", **values)
            yield data, json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

        staging.group(f"package/{name}", [values, document], made)

    def _builds(self, name: str) -> list[tuple[str, str, str]]:
        return sorted(self._by_name[name])

    @property
    def _by_name(self) -> Mapping[str, set[tuple[str, str, str]]]:
        if not hasattr(self, "_known"):
            self._known: dict[str, set[tuple[str, str, str]]] = {name: set() for name in self._rows}
            for view in self._found.views:
                for facts in view.versions:
                    for nevra, row in zip(facts.nevras, facts.packages, strict=True):
                        self._known[nevra.name].add((nevra.evr, nevra.arch, row[1]))
        return self._known

    def _files(self) -> dict[str, list[str]]:
        """Files by package."""
        found: dict[str, list[str]] = {}
        for view in self._latest:
            own: dict[str, list[str]] = {}
            packages = view.versions[-1].nevras
            for path, number in self._paths(view):
                if number >= 0:
                    own.setdefault(packages[number].name, []).append(path)
            found |= own
        return {name: sorted(paths) for name, paths in found.items()}

    def _paths(self, view: RefView) -> list[tuple[str, int]]:
        return read_paths(self._repository, view.entries[-1], self._kept)

    # Lists

    def _letters(self, staging: Staging, pages: Pages, site: dict[str, Any]) -> None:
        groups: dict[str, list[dict[str, str]]] = {}
        for name in sorted(self._rows):
            newest = next((row["now"] for row in self._rows[name] if row["now"]), "")
            row = {"name": name, "slug": self._slugs[name], "now": newest}
            groups.setdefault(_letter(name), []).append(row | {"summary": self._summary(name)})
        letters = [(letter, len(groups[letter])) for letter in sorted(groups)]
        common: dict[str, Any] = {"site": site, "root": "../", "letters": letters}
        index = {**common, "here": "packages/index.html", "letter": "", "rows": [], "more": 0}
        for letter, rows in [*sorted(groups.items()), ("", [])]:
            name = f"packages/{letter or 'index'}.html"
            values = {**common, "here": "", "letter": letter, "rows": rows[:_PER_LETTER]}
            values |= {"more": max(0, len(rows) - _PER_LETTER)}
            values = values if letter else index
            staging.group(
                name,
                values,
                lambda n=name, v=values: [(n, pages.render("packages.html.j2", **v))],  # type: ignore[misc]
            )

    def _summary(self, name: str) -> str:
        for _, _, pkgid in self._builds(name)[::-1]:
            if told := self._found.descriptions.get(pkgid):
                return told.summary[:200]
        return ""

    # Search

    def _search(self, staging: Staging, pages: Pages, site: dict[str, Any]) -> None:
        views = self._found.views[:1000]
        for view in views:
            rows = []
            for nevra in view.versions[-1].nevras:
                summary = clean(self._summary(nevra.name))
                rows.append([nevra.name, nevra.evr, nevra.arch, self._slugs[nevra.name], summary])
            name = f"search/{view.slug}/packages.json"
            text = json.dumps(rows, separators=(",", ":")).encode()
            staging.group(name, rows, lambda n=name, t=text: [(n, t)])  # type: ignore[misc]
        values = {
            "site": site,
            "root": "",
            "here": "search.html",
            "refs": [(view.ref, view.slug) for view in views],
            "letters": sorted({_letter(name) for name in self._rows}),
        }
        staging.group(
            "search.html",
            values,
            lambda: [("search.html", pages.render("search.html.j2", **values))],
        )

    def _search_files(self, staging: Staging, view: RefView) -> None:
        packages = view.versions[-1].nevras
        owners = [(nevra.name, self._slugs[nevra.name]) for nevra in packages]
        place = f"search/{view.slug}"

        def made() -> Iterator[tuple[str, bytes]]:
            parts = file_parts(self._paths(view))
            yield f"{place}/files.json", _json([_name(rows[0][0]) for rows in parts])
            for number, rows in enumerate(parts):
                yield f"{place}/files-{number}.json", _json(_compact(rows, owners))

        staging.group(f"{place}/files", [view.versions[-1].pkgid, owners], made)


def _histories(view: RefView) -> dict[str, dict[str, Any]]:
    """What of each package was in which versions of a ref: runs of versions, the newest first."""
    names: dict[str, list[tuple[int, tuple[str, ...]]]] = {}
    for number, facts in enumerate(view.versions):
        here: dict[str, list[str]] = {}
        for nevra in facts.nevras:
            here.setdefault(nevra.name, []).append(f"{nevra.evr}.{nevra.arch}")
        for name in names.keys() | here.keys():
            builds = tuple(here.get(name, ()))
            known = names.setdefault(name, [(0, ())] if number else [])
            if not known or known[-1][1] != builds:
                known.append((number, builds))
    return {name: _history(view, runs) for name, runs in names.items()}


def _history(view: RefView, runs: list[tuple[int, tuple[str, ...]]]) -> dict[str, Any]:
    rows = [
        {
            "builds": ", ".join(builds) or "not there",
            "since": view.versions[number].label,
            "href": view.href(number),
            "time": view.versions[number].timestamp,
        }
        for number, builds in runs
        if builds or number
    ]
    return {
        "ref": view.ref,
        "slug": view.slug,
        "now": ", ".join(runs[-1][1]),
        "rows": rows[::-1][:_MOST_VERSIONS],
    }


def _changelog_document(changelogs: Mapping[str, Sequence[tuple[int, str, str]]]) -> dict[str, Any]:
    """Entries, each once, and which of them each build has, the newest first."""
    entries: dict[tuple[int, str, str], int] = {}
    builds = {
        build: [entries.setdefault(entry, len(entries)) for entry in own]
        for build, own in sorted(changelogs.items())
    }
    return {"entries": list(entries), "builds": builds}


def file_parts(paths: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """Sort paths by their names, in lower case, as a browser does, and cut them into parts."""
    rows = sorted(paths, key=lambda row: (_name(row[0]).encode("utf-16-be", "replace"), row[0]))
    return [rows[at : at + _PART] for at in range(0, len(rows), _PART)]


def _name(path: str) -> str:
    return clean(path.rpartition("/")[2]).lower()


def _compact(
    rows: Sequence[tuple[str, int]], owners: Sequence[tuple[str, str]]
) -> dict[str, list[Any]]:
    """Rows of [name, directory, package], of which the latter are numbers in lists of a shard's."""
    directories: dict[str, int] = {}
    packages: dict[tuple[str, str], int] = {}
    found = []
    for path, number in rows:
        directory, _, name = path.rpartition("/")
        owner = packages.setdefault(owners[number], len(packages)) if number >= 0 else -1
        found.append(
            [clean(name), directories.setdefault(clean(directory), len(directories)), owner]
        )
    return {"files": found, "directories": list(directories), "packages": list(packages)}


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _letter(name: str) -> str:
    first = name[:1].lower()
    return first if first.isascii() and first.isalnum() else _OTHER
