"""What rpm-md says of packages for people: descriptions, changelogs, advisories.

All of it is others' text, unchecked; whoever shows it makes it harmless.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.errors import FormatError
from composer.rpm.advisories import CVE, KINDS, SEVERITIES, Advisory
from composer.rpm.listing import ChangelogEntry
from composer.rpm.package import Nevra
from composer.rpm.rpmmd import REPOMD, Repomd, parse_repomd, require_harmless, unpack_record

_LARGEST_UPDATEINFO = 1 << 28
_MOST_ADVISORIES = 100_000


@dataclass(frozen=True, slots=True)
class Description:
    """What a package is, in its own words."""

    summary: str
    description: str
    url: str
    license: str


def read_descriptions(directory: Path, wanted: Collection[str]) -> dict[str, Description]:
    """Read what the repository at ``directory`` says of the packages with these pkgids."""
    import createrepo_c

    found: dict[str, Description] = {}

    def take(package: Any) -> None:
        if package.pkgId in wanted:
            found[package.pkgId] = Description(
                package.summary or "",
                package.description or "",
                package.url or "",
                package.rpm_license or "",
            )

    with _unpacked(directory, "primary") as path:
        if path is not None:
            _parse(lambda: createrepo_c.xml_parse_primary(str(path), None, take, None, 0), path)
    return found


def read_changelogs(
    directory: Path, wanted: Collection[str]
) -> dict[str, tuple[ChangelogEntry, ...]]:
    """Read changelogs, the newest entries first, of the packages with these pkgids."""
    import createrepo_c

    found: dict[str, tuple[ChangelogEntry, ...]] = {}

    def begin(pkgid: str, name: str, arch: str) -> Any:
        package = createrepo_c.Package()
        package.name, package.arch, package.pkgId = name, arch, pkgid
        return package if pkgid in wanted else None

    def take(package: Any) -> None:
        entries = (ChangelogEntry(int(e[1]), e[0] or "", e[2] or "") for e in package.changelogs)
        found[package.pkgId] = tuple(sorted(entries, key=lambda one: -one.time))

    with _unpacked(directory, "other") as path:
        if path is not None:
            _parse(lambda: createrepo_c.xml_parse_other(str(path), begin, take, None), path)
    return found


def read_advisories(directory: Path) -> list[Advisory]:
    """Read the advisories (updateinfo) of the repository, each with all its packages."""
    import createrepo_c

    with _unpacked(directory, "updateinfo", limit=_LARGEST_UPDATEINFO) as path:
        if path is None:
            return []
        updates = createrepo_c.UpdateInfo()
        _parse(lambda: createrepo_c.xml_parse_updateinfo(str(path), updates, None), path)
        return [_advisory(one) for one in updates.updates[:_MOST_ADVISORIES]]


def _advisory(update: Any) -> Advisory:
    severity = (update.severity or "").lower()
    references = {
        (reference.href or "", title)
        for reference in update.references
        if CVE.search(title := reference.title or reference.id or "")
    }
    return Advisory(
        ident=update.id or "",
        kind=update.type if update.type in KINDS else KINDS[0],
        severity=severity if severity in SEVERITIES else SEVERITIES[0],
        packages=tuple(sorted(set(_packages(update)))),
        references=tuple(sorted(references)),
    )


def _packages(update: Any) -> Iterator[str]:
    for collection in update.collections:
        for one in collection.packages:
            text = f"{one.name}-{one.epoch or 0}:{one.version}-{one.release}.{one.arch}"
            try:
                yield str(Nevra.parse(text))
            except ValueError:
                continue  # no package of that name can be in a set


def _parse(parse: Callable[[], object], path: Path) -> None:
    import createrepo_c

    with path.open("rb") as stream:
        require_harmless(stream, path.name)
    try:
        parse()
    except createrepo_c.CreaterepoCError as error:
        raise FormatError(f"rpm-md: {error}") from error


@contextmanager
def _unpacked(directory: Path, kind: str, *, limit: int | None = None) -> Iterator[Path | None]:
    """Unpack a file that repomd.xml names; yields None where there is none of that kind."""
    place = directory / REPOMD
    repomd = parse_repomd(place.read_bytes()) if place.is_file() else Repomd("", ())
    record = repomd.find(kind)
    if record is None:
        yield None
        return
    with (
        (directory / record.location).open("rb") as packed,
        tempfile.NamedTemporaryFile(suffix=f".{kind}.xml") as plain,
    ):
        bounds = {} if limit is None else {"limit": limit}
        unpack_record(packed, record, plain, **bounds)
        plain.flush()
        yield Path(plain.name)
