"""Advisories (updateinfo) out of a solution; how commits hold them: composer.rpm.advisories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from composer.rpm.advisories import CVE, KINDS, SEVERITIES, Advisory
from composer.rpm.changes import compare_versions
from composer.rpm.package import Nevra


def carried(base: Any) -> tuple[Advisory, ...]:
    """List the advisories of exactly the packages that ``base``, which solved, installs.

    Where several repositories have an advisory, they are one.
    """
    import hawkey

    found = _Found()
    for package in base.transaction.install_set:
        for advisory in package.get_advisories(hawkey.EQ):
            found.add(advisory, _nevra(package))
    return found.advisories()


def passed(base: Any, before: Iterable[Nevra]) -> tuple[Advisory, ...]:
    """List the advisories of versions newer than those of ``before``, older than the installed.

    Their packages are the installed ones, in which the same is fixed.
    """
    import hawkey

    old: dict[tuple[str, str], Nevra] = {}
    for nevra in before:
        known = old.setdefault((nevra.name, nevra.arch), nevra)
        if compare_versions(nevra, known) > 0:
            old[nevra.name, nevra.arch] = nevra
    found = _Found()
    for package in base.transaction.install_set:
        new = _nevra(package)
        was = old.get((new.name, new.arch))
        if was is None or compare_versions(was, new) >= 0:
            continue
        for advisory in package.get_advisories(hawkey.LT):
            if any(_is_between(was, row, new) for row in advisory.packages):
                found.add(advisory, new)
    return found.advisories()


def _nevra(package: Any) -> Nevra:
    return Nevra(package.name, package.epoch, package.version, package.release, package.arch)


def _is_between(was: Nevra, row: Any, new: Nevra) -> bool:
    if (row.name, row.arch) != (new.name, new.arch):
        return False
    epoch, _, rest = row.evr.rpartition(":")
    version, _, release = rest.partition("-")
    one = replace(new, epoch=int(epoch or 0), version=version, release=release)
    return compare_versions(was, one) < 0 and compare_versions(one, new) < 0


class _Found:
    """Collects libdnf's advisories with the packages that they were found for."""

    def __init__(self) -> None:
        self._sources: dict[str, list[Any]] = {}
        self._packages: dict[str, set[str]] = {}

    def add(self, advisory: Any, package: Nevra) -> None:
        self._sources.setdefault(advisory.id, []).append(advisory)
        self._packages.setdefault(advisory.id, set()).add(str(package))

    def advisories(self) -> tuple[Advisory, ...]:
        idents = sorted(self._sources)
        return tuple(_advisory(name, self._sources[name], self._packages[name]) for name in idents)


def _advisory(ident: str, sources: Sequence[Any], packages: Iterable[str]) -> Advisory:
    # The same in whatever order repositories were read.
    kind = max(source.type for source in sources)
    severity = max((source.severity or "").lower() for source in sources)
    return Advisory(
        ident=ident,
        kind=KINDS[kind] if 0 <= kind < len(KINDS) else KINDS[0],
        severity=severity if severity in SEVERITIES else SEVERITIES[0],
        packages=tuple(sorted(packages)),
        references=tuple(_references(sources)),
    )


def _references(sources: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield, by URL, the references that name a CVE which none before them named."""
    rows = {(ref.url or "", ref.title or ref.id or "") for one in sources for ref in one.references}
    named: set[str] = set()
    for url, title in sorted(rows):
        cves = set(CVE.findall(title))
        if url and not cves <= named:
            named |= cves
            yield url, title
