"""Metalinks, lists of mirrors and a ``.treeinfo``: documents that lead to several mirrors.  Pure.

A metalink binds repomd.xml by its digests, those of older ones too, so that mirrors that are
a little behind serve as well; librepo takes no other from any of them.  The format is
MirrorManager's (metalink 3.0 with ``mm0:alternates``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, cast

from composer.errors import FormatError
from composer.jigdo.pointer import PointerEntry
from composer.mirror.mirror_list import MirrorSite, in_order
from composer.rpm.rpmmd import REPOMD, parse_repomd

MAX_METALINK = 1 << 22
MAX_OLDER = 50
_NAMESPACE = "http://www.metalinker.org/"
_MM0 = "http://fedorahosted.org/mirrormanager"
_HASHES = ("sha256", "sha512")


@dataclass(frozen=True, slots=True)
class Edition:
    """A repomd.xml that was published: when (seconds since 1970), and what it is."""

    timestamp: int
    size: int
    sha256: str
    sha512: str

    @classmethod
    def of(cls, repomd: bytes) -> Edition:
        """Describe one; raises FormatError.  Its revision is its time, where it is a number."""
        revision = parse_repomd(repomd).revision
        time = int(revision) if revision.isdecimal() and len(revision) < 12 else 0
        digests = (hashlib.new(name, repomd).hexdigest() for name in _HASHES)
        return cls(time, len(repomd), *digests)


def read_editions(metalink: bytes) -> tuple[Edition, ...]:
    """Read which repomd.xml a metalink of ours binds, the newest first; raises FormatError."""
    from lxml import etree

    if len(metalink) > MAX_METALINK:
        raise FormatError(f"metalink: larger than {MAX_METALINK} bytes")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(metalink, parser)
    except etree.XMLSyntaxError as error:
        raise FormatError(f"metalink: {error}") from None
    if cast("Any", root.getroottree().docinfo).doctype:
        raise FormatError("metalink: has a document type, which none needs")
    nodes = root.findall(f".//{{{_NAMESPACE}}}file") + root.findall(f".//{{{_MM0}}}alternate")
    return tuple(_edition(node) for node in nodes[: MAX_OLDER + 1])


def _edition(node: Any) -> Edition:
    def number(name: str) -> int:
        text = (node.findtext(name) or "").strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            raise FormatError(f"metalink: {name}: expected a number, got {text[:80]!r}")
        return int(text)

    digests = {
        one.get("type"): (one.text or "").strip()
        for one in node.findall(f"{{{_NAMESPACE}}}verification/{{{_NAMESPACE}}}hash")
    }
    for name in _HASHES:
        length = hashlib.new(name).digest_size * 2
        found = digests.get(name, "")
        if len(found) != length or not set(found) <= set("0123456789abcdef"):
            raise FormatError(f"metalink: a repomd.xml without {name}")
    return Edition(
        number(f"{{{_MM0}}}timestamp"),
        number(f"{{{_NAMESPACE}}}size"),
        *(digests[name] for name in _HASHES),
    )


def next_editions(current: Edition, before: Sequence[Edition], older: int) -> tuple[Edition, ...]:
    """Return the editions to bind from now on: ``current`` and at most ``older`` before it."""
    rest = [one for one in before if one.sha256 != current.sha256]
    return (current, *rest[:older])


def make_metalink(
    editions: Sequence[Edition], sites: Sequence[MirrorSite], *, now: datetime, country: str = ""
) -> bytes:
    """Make a metalink; mirrors of ``country`` come first.  The same input gives the same bytes."""
    from lxml import etree

    root = etree.Element(
        f"{{{_NAMESPACE}}}metalink",
        {
            "version": "3.0",
            "type": "dynamic",
            "pubdate": format_datetime(now.astimezone(UTC), usegmt=True),
            "generator": "jigdo-composer",
        },
        nsmap=cast("Any", {None: _NAMESPACE, "mm0": _MM0}),
    )
    files = etree.SubElement(root, f"{{{_NAMESPACE}}}files")
    file = etree.SubElement(files, f"{{{_NAMESPACE}}}file", name="repomd.xml")
    _describe(file, editions[0])
    if editions[1:]:
        alternates = etree.SubElement(file, f"{{{_MM0}}}alternates")
        for edition in editions[1:]:
            _describe(etree.SubElement(alternates, f"{{{_MM0}}}alternate"), edition)
    resources = etree.SubElement(file, f"{{{_NAMESPACE}}}resources", maxconnections="1")
    for preference, site in _ranked(sites, country):
        attributes = {"protocol": site.scheme, "type": site.scheme, "preference": str(preference)}
        if site.country:
            attributes["location"] = site.country
        url = etree.SubElement(resources, f"{{{_NAMESPACE}}}url", attributes)
        url.text = site.base + REPOMD
    return etree.tostring(root, xml_declaration=True, encoding="utf-8", pretty_print=True)


def _describe(node: Any, edition: Edition) -> None:
    from lxml import etree

    etree.SubElement(node, f"{{{_MM0}}}timestamp").text = str(edition.timestamp)
    etree.SubElement(node, f"{{{_NAMESPACE}}}size").text = str(edition.size)
    verification = etree.SubElement(node, f"{{{_NAMESPACE}}}verification")
    for name in _HASHES:
        one = etree.SubElement(verification, f"{{{_NAMESPACE}}}hash", type=name)
        one.text = getattr(edition, name)


def _ranked(sites: Sequence[MirrorSite], country: str) -> list[tuple[int, MirrorSite]]:
    """Give mirrors their preferences; with a country, its own have the upper half."""
    if not country:
        return [(site.priority, site) for site in in_order(sites)]
    return [
        (-(-site.priority // 2) + (50 if site.country == country else 0), site)
        for site in in_order(sites, country)
    ]


def make_mirrorlist(sites: Sequence[MirrorSite], country: str = "") -> bytes:
    """Make a list of the mirrors that clients can fetch from, a URL a line, the best first."""
    bases = [site.base for site in in_order(sites, country) if site.serves_clients]
    return "".join(f"{base}\n" for base in bases).encode()


@dataclass(frozen=True, slots=True)
class Family:
    """What a ``.treeinfo`` calls the tree."""

    name: str
    version: str
    arch: str


def make_treeinfo(
    family: Family,
    entries: Sequence[PointerEntry],
    checksums: Mapping[str, str],
    *,
    timestamp: int,
    links: Sequence[str] = (),
) -> bytes:
    """Make a ``.treeinfo`` (productmd 1.2) of a repository without boot images.

    ``checksums`` are SHA-256 by location.  A section ``jigdo`` has the newest version of each
    ref, and ``links`` to lists of mirrors.
    """
    short = "".join(c for c in family.name if c.isalnum()) or "os"
    sections: list[tuple[str, list[tuple[str, str]]]] = [
        ("header", [("type", "productmd.treeinfo"), ("version", "1.2")]),
        ("release", [("name", family.name), ("short", short), ("version", family.version)]),
        (
            "tree",
            [
                ("arch", family.arch),
                ("build_timestamp", str(timestamp)),
                ("platforms", family.arch),
                ("variants", "Everything"),
            ],
        ),
        (
            "variant-Everything",
            [
                ("id", "Everything"),
                ("name", "Everything"),
                ("packages", "."),
                ("repository", "."),
                ("type", "variant"),
                ("uid", "Everything"),
            ],
        ),
        ("checksums", [(place, f"sha256:{digest}") for place, digest in sorted(checksums.items())]),
        (
            "general",
            [
                ("arch", family.arch),
                ("family", family.name),
                ("name", f"{family.name} {family.version}"),
                ("packagedir", ""),
                ("platforms", family.arch),
                ("repository", "."),
                ("timestamp", str(timestamp)),
                ("variant", "Everything"),
                ("variants", "Everything"),
                ("version", family.version),
            ],
        ),
        (
            "jigdo",
            [
                ("refs", ",".join(one.ref for one in entries)),
                ("lists", ",".join(links)),
                *((f"commit.{one.ref}", str(one.commit)) for one in entries),
                *((f"version.{one.ref}", one.version) for one in entries),
            ],
        ),
    ]
    for _, rows in sections:
        for key, value in rows:
            if any(ord(c) < 32 or ord(c) == 127 for c in key + value):
                raise FormatError(f".treeinfo: {key}: control characters in {value[:80]!r}")
    blocks = (
        f"[{name}]\n" + "".join(f"{key} = {value}".rstrip() + "\n" for key, value in rows)
        for name, rows in sections
    )
    return "\n".join(blocks).encode()
