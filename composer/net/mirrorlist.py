"""Lists of mirrors as distributions publish them: a URL a line, or a metalink.

A list is trusted with nothing: it only says where to ask.  Rules kept here: what is in it
leads to http and https alone; its size and the number of mirrors have a bound; XML without
entities, document types and network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from composer.errors import FormatError
from composer.net.fetch import Fetcher
from composer.net.location import Mirrors, parse_base
from composer.net.network import Network

_MAX_LIST = 1 << 20
_MAX_MIRRORS = 20
_REPOMD = "repodata/repomd.xml"
_HINT = "is that the URL of a list of mirrors?  `remote add` takes a repository's own URL too"


def fetch_mirrorlist(url: str, *, network: Network | None = None) -> tuple[str, ...]:
    """Return the base URLs that the list at ``url`` has, best first, 20 at most.

    Raises what a :class:`Fetcher` raises, and FormatError for what is no such list.
    """
    with Fetcher(Mirrors((url,)), kind="mirrorlist", network=network) as fetcher:
        return parse_mirrorlist(fetcher.fetch_whole(limit=_MAX_LIST, check=parse_mirrorlist))


def parse_mirrorlist(data: bytes) -> tuple[str, ...]:
    """Read a list of mirrors; raises FormatError where no mirror is in it."""
    texts = _of_metalink(data) if data.lstrip()[:1] == b"<" else _of_lines(data)
    found: dict[str, None] = {}
    for text in texts:
        try:
            base = parse_base(text)
        except ValueError:
            continue
        if base.startswith(("http://", "https://")):
            found[base] = None
        if len(found) == _MAX_MIRRORS:
            break
    if not found:
        raise FormatError("list of mirrors: it has no http or https URL", hint=_HINT)
    return tuple(found)


def _of_lines(data: bytes) -> Iterator[str]:
    for line in data.decode(errors="replace").splitlines():
        if (text := line.strip()) and not text.startswith("#"):
            yield text


def _of_metalink(data: bytes) -> list[str]:
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise FormatError(f"metalink: {error}", hint=_HINT) from None
    if cast("Any", root.getroottree().docinfo).doctype:
        raise FormatError("metalink: has a document type, which none needs", hint=_HINT)
    ranked = [
        (_rank(node), text.removesuffix(_REPOMD))
        for node in root.iterfind(".//{*}url")
        if (text := (node.text or "").strip()).endswith(_REPOMD)
    ]
    return [text for _, text in sorted(ranked, key=lambda pair: pair[0])]


def _rank(node: Any) -> int:
    """Version 3 has preferences, the highest is best; version 4 has priorities, 1 is best."""
    preference, priority = node.get("preference", ""), node.get("priority", "")
    if preference.isdecimal():
        return -int(preference[:9])
    return int(priority[:9]) if priority.isdecimal() else 1 << 30
