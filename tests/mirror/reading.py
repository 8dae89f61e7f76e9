"""A published tree as its readers see it: by rpm-md, and by signed statements.

Each function reads once, as a client does, and raises where what it reads does not fit together.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

from composer.checksum import ContentDigest
from composer.jigdo.pointer import PointerEntry
from composer.net.fetch import Fetcher
from composer.net.location import Mirrors
from composer.net.repository import find_signed_version, read_listing, read_packages_of
from composer.net.trust import read_statements
from composer.net.trust_store import TrustStore
from composer.rpm.package import PackageRef

State = tuple[tuple[str, str, tuple[str, ...]], ...]
"""By ref: its newest version, and the others."""


def _digest(path: Path) -> ContentDigest:
    with path.open("rb") as stream:
        return ContentDigest.of_stream(stream)


def require_set(tree: Path, entry: PointerEntry, *, whole: bool = True) -> None:
    """Require that a set is there, with its size, and ``whole``: with its digest."""
    path = tree / entry.location
    assert path.stat().st_size == entry.size, f"{entry.location}: another size"
    assert not whole or _digest(path) == entry.pkgid, f"{entry.location}: another content"


def by_rpm_md(tree: Path, *, whole: bool = True) -> State:
    """Read what repomd.xml leads to: lists, sets, and all packages."""
    with closing(Fetcher(Mirrors.parse(tree.as_uri()))) as fetcher:
        listing = read_listing(fetcher)
        packages: list[PackageRef] = []
        read_packages_of(fetcher, listing.repomd, packages.append)
        for record in listing.repomd.records:
            data = fetcher.fetch_small(record.location, limit=1 << 30)
            assert ContentDigest.of(data) == record.checksum, record.location
    places = {package.location: package for package in packages}
    for entry in listing.entries:
        require_set(tree, entry, whole=whole)
        assert places[entry.location].pkgid == entry.pkgid, f"{entry.location} is not in primary"
    for package in packages:
        path = tree / package.location
        assert path.stat().st_size == package.size, f"{package.location}: another size"
        assert not whole or _digest(path) == package.pkgid, f"{package.location}: other content"
    return tuple(
        (
            entry.ref,
            entry.version,
            tuple(one.version for one in listing.versions.of(entry.ref).entries),
        )
        for entry in listing.pointer.entries
    )


def by_statements(tree: Path, root: bytes, *, whole: bool = True) -> State:
    """Read what the timestamp leads to, with the versions that are not the newest."""
    found = []
    mirrors = Mirrors.parse(tree.as_uri())
    with tempfile.TemporaryDirectory() as place:
        statements = read_statements(mirrors, TrustStore(Path(place), "reader", root))
    with closing(Fetcher(mirrors)) as fetcher:
        for ref, one in sorted(statements.items()):
            require_set(tree, one.entry, whole=whole)
            others = []
            for version in ("1", "1.1"):
                if one.versions and version != one.entry.version:
                    entry = find_signed_version(fetcher, one.entry, one.versions, version)
                    require_set(tree, entry, whole=whole)
                    others.append(entry.version)
            found.append((ref, one.entry.version, tuple(others)))
    return tuple(found)
