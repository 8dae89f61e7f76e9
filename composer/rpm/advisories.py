"""Advisories (updateinfo) in a commit's metadata: what was put there, and what came with a change.

``rpmostree.advisories`` is of rpm-ostree's type, ``a(suuasa{sv})``, and like there holds
those about security; what else the packages carry is under a key of our own.  So is what
an update passed over: advisories of versions between the previous commit's and this one's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer.rpm.package import Nevra

SECURITY_KEY, OTHER_KEY = "rpmostree.advisories", "jigdo-composer.advisories"
PASSED_KEY = "jigdo-composer.advisories-passed"

KEYS = (SECURITY_KEY, OTHER_KEY, PASSED_KEY)

KINDS = ("unknown", "security", "bugfix", "enhancement", "newpackage")
"""libdnf's kinds of advisories, by number."""

SEVERITIES = ("none", "low", "moderate", "important", "critical")
"""rpm-ostree's severities, by number."""

CVE = re.compile(r"\bCVE-[0-9]+-[0-9]+\b")
"""What the name of a vulnerability looks like."""


@dataclass(frozen=True, slots=True, order=True)
class Advisory:
    """One advisory, and which of a tree's packages carry it, as sorted NEVRAs.

    ``references`` are (URL, title) of those that name a CVE.
    """

    ident: str
    kind: str
    severity: str
    packages: tuple[str, ...]
    references: tuple[tuple[str, str], ...] = ()

    @property
    def cves(self) -> tuple[str, ...]:
        """The CVE names in the references, sorted."""
        found = {name for reference in self.references for name in CVE.findall(" ".join(reference))}
        return tuple(sorted(found))

    def document(self) -> dict[str, object]:
        """Describe it as a JSON document."""
        return {
            "id": self.ident,
            "kind": self.kind,
            "severity": self.severity,
            "packages": list(self.packages),
            "cves": list(self.cves),
            "references": [{"url": url, "title": title} for url, title in self.references],
        }


def metadata(advisories: Iterable[Advisory], *, key: str = "") -> dict[str, Any]:
    """Make the keys (or ``key``) of a commit's metadata, as GVariants in this byte order."""
    from gi.repository import GLib

    own_key = key
    rows: dict[str, list[Any]] = {}
    for one in sorted(advisories):
        key = own_key or (SECURITY_KEY if one.kind == "security" else OTHER_KEY)
        more = {"cve_references": GLib.Variant("a(ss)", list(one.references))}
        numbers = KINDS.index(one.kind), SEVERITIES.index(one.severity)
        rows.setdefault(key, []).append((one.ident, *numbers, list(one.packages), more))
    return {key: GLib.Variant("a(suuasa{sv})", value) for key, value in rows.items()}


def read(metadata: Mapping[str, object]) -> tuple[Advisory, ...]:
    """Return the advisories of a commit's (or its detached) metadata, sorted.

    What is not of the right type is left out: the metadata can be anybody's.
    """
    rows = [row for key in KEYS for row in _rows(metadata.get(key))]
    return tuple(sorted(rows))


def _rows(value: object) -> Iterator[Advisory]:
    for row in value if isinstance(value, list) else ():
        match row:
            case (str(ident), int(kind), int(severity), list(packages), dict(more)):
                references = more.get("cve_references")
                yield Advisory(
                    ident,
                    _word(KINDS, kind),
                    _word(SEVERITIES, severity),
                    tuple(sorted(name for name in packages if isinstance(name, str))),
                    tuple(_pairs(references if isinstance(references, list) else ())),
                )


def _pairs(rows: Iterable[object]) -> Iterator[tuple[str, str]]:
    for row in rows:
        match row:
            case (str(url), str(title)):
                yield url, title


def _word(words: Sequence[str], number: int) -> str:
    if not 0 <= number < 1 << 32:
        return words[0]
    # All integers in OSTree's metadata are in network byte order.
    index = int.from_bytes(number.to_bytes(4, "big"), sys.byteorder)
    return words[index] if index < len(words) else words[0]


def fixed(
    before: Iterable[Advisory], after: Iterable[Advisory], changed: Iterable[Nevra]
) -> tuple[Advisory, ...]:
    """Return those of ``after`` that came with what changed: new, and for a changed package.

    ``changed`` are the new packages.  So a commit that says nothing of advisories does not
    make all of the next one's new.
    """
    known = {advisory.ident for advisory in before}
    names = {str(package) for package in changed}
    return tuple(a for a in after if a.ident not in known and not names.isdisjoint(a.packages))
