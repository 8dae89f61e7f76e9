"""The first page, how a client is set up, and the feed."""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from composer.mirror.site.collecting import Collected, RefView
from composer.mirror.site.rendering import Pages, clean
from composer.mirror.site.staging import Staging

REFS_PER_PAGE = 40
_ENTRIES = 50
_ATOM = "http://www.w3.org/2005/Atom"
UNKNOWN = "https://mirror.example/path/"


def overview_pages(
    staging: Staging,
    pages: Pages,
    site: dict[str, Any],
    found: Collected,
    setup: dict[str, Any],
    time: int,
) -> None:
    """Make the first page, more of it where there are many refs, and the feed."""
    views = found.views
    parts = [views[at : at + REFS_PER_PAGE] for at in range(0, len(views), REFS_PER_PAGE)]
    names = ["index.html", *(f"refs-{n}.html" for n in range(2, len(parts) + 1))]
    for position, (name, part) in enumerate(zip(names, parts, strict=True)):
        values = {
            "site": site,
            "root": "",
            "here": name,
            "refs": [_ref(view, found.lists) for view in part],
            "setup": setup,
            "time_made": time,
            "pages": [(names[n], f"{n + 1}", n == position) for n in range(len(names))],
        }
        staging.group(
            name,
            values,
            lambda n=name, v=values: [(n, pages.render("index.html.j2", **v))],  # type: ignore[misc]
        )
    rows = _rows(views)
    staging.group("feed.atom", [site, rows, time], lambda: [("feed.atom", feed(site, rows, time))])


def _ref(view: RefView, lists: int) -> dict[str, Any]:
    last = len(view.versions) - 1
    newest, cost = view.brief(last), view.cost(last, last - 1)
    return {
        "name": view.ref,
        "slug": view.slug,
        "newest": newest,
        "count": len(view.versions),
        "changed": newest["changed"],
        "update_bytes": cost.bytes + lists if cost else None,
        "expires": view.expires,
    }


def setup_block(
    found: Collected,
    view: RefView,
    *,
    base_url: str,
    remote: str,
    fingerprints: Sequence[str],
    key_files: Sequence[str],
    repositories: Mapping[str, str],
) -> dict[str, Any]:
    """Say how a client is set up: lines of words, of which some are URLs below the base."""
    base = base_url or UNKNOWN
    signed = any(view.signatures[-1])
    files = [path.rpartition("/")[2] for path in key_files]
    root = found.statements.root if found.statements else ""
    lines = [[("text", "curl -fsSO "), ("url", f"site/{path}")] for path in key_files]
    if root:
        lines.append([("text", "curl -fsSO "), ("url", root)])
    add: list[tuple[str, str]] = [("text", f"jigdo-composer remote add {remote} "), ("url", "")]
    gpg, tuf = bool(files) or signed, bool(root)
    for name in files or (["KEY-OF-THE-PUBLISHER.asc"] if signed else []):
        add.append(("text", f" --gpg-key {shlex.quote(name)}"))
    if root:
        add.append(("text", f" --tuf-root {root.rpartition('/')[2]}"))
    trust = {(True, True): "tuf+gpg", (True, False): "gpg", (False, True): "tuf"}.get(
        (gpg, tuf), "none"
    )
    add.append(("text", f" --trust {trust}"))
    ids = sorted({row[3] for row in view.versions[-1].packages if row[3]})
    for ident in ids:
        url = repositories.get(ident, f"URL-OF-{re.sub('[^A-Za-z0-9]+', '-', ident).upper()}")
        add.append(("text", f" --repository {shlex.quote(f'{ident}={url}')}"))
    lines += [add, [("text", f"jigdo-composer pull {remote}:{view.ref} --repo /ostree/repo")]]
    return {
        "words": _words(gpg=bool(files), signed=signed, tuf=tuf),
        "lines": [*lines],
        "base": base,
        "fill": not base_url,
        "keys": list(fingerprints),
        "root": found.statements.root_digest if found.statements else "",
        "expires": view.expires,
    }


def _words(*, gpg: bool, signed: bool, tuf: bool) -> str:
    if gpg or tuf:
        return (
            "Compare the fingerprints with what the publisher says elsewhere: this page comes "
            "from where the files do."
        )
    if signed:
        return "Commits are signed; ask the publisher for the key, and compare its fingerprint."
    return (
        "Nothing here is signed: whoever can change what this mirror sends can change the system."
    )


def _rows(views: Sequence[RefView]) -> list[dict[str, Any]]:
    """What the feed has: the newest versions of all refs."""
    found = []
    for view in views:
        for number in range(max(0, len(view.versions) - _ENTRIES), len(view.versions)):
            changes, brief = view.changes[number], view.brief(number)
            names = [
                *(f"{new.name} {old.evr} → {new.evr}" for old, new in changes.upgraded),
                *(f"{new.name} {old.evr} → {new.evr}" for old, new in changes.downgraded),
                *(f"{nevra.name} {nevra.evr} added" for nevra in changes.added),
                *(f"{nevra.name} {nevra.evr} removed" for nevra in changes.removed),
            ] if changes else []  # fmt: skip
            more = [f"and {len(names) - 50} more"] if len(names) > 50 else []
            found.append(
                {
                    "title": f"{view.ref} {brief['label']}",
                    "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{view.ref} {brief['commit']}")),
                    "time": brief["timestamp"],
                    "href": view.href(number),
                    "text": "; ".join([*names[:50], *more]) or "The first version.",
                }
            )
    found.sort(key=lambda row: (-row["time"], row["id"]))
    return found[:_ENTRIES]


def feed(site: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], time: int) -> bytes:
    """Make the Atom feed."""
    from lxml import etree

    base = f"{site['base_url']}site/" if site["base_url"] else ""
    root = etree.Element(f"{{{_ATOM}}}feed", nsmap={None: _ATOM})  # type: ignore[dict-item]
    _add(root, "title", site["title"])
    _add(root, "id", f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, base or site['title'])}")
    _add(root, "updated", _when(time))
    _add(_add(root, "author"), "name", site["title"])
    _add(root, "link", rel="self", href=f"{base}feed.atom")
    _add(root, "link", rel="alternate", href=f"{base}index.html")
    for row in rows:
        entry = _add(root, "entry")
        _add(entry, "title", row["title"])
        _add(entry, "id", f"urn:uuid:{row['id']}")
        _add(entry, "updated", _when(row["time"]))
        _add(entry, "link", rel="alternate", type="text/html", href=f"{base}{row['href']}")
        _add(entry, "summary", row["text"], type="text")
    data: bytes = etree.tostring(root, xml_declaration=True, encoding="utf-8", pretty_print=True)
    return data


def _add(parent: Any, tag: str, text: str = "", **attributes: str) -> Any:
    from lxml import etree

    element = etree.SubElement(parent, f"{{{_ATOM}}}{tag}", attributes)
    if text:
        element.text = clean(text)
    return element


def _when(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00Z"
