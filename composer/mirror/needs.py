"""What clients need of a repository: files of published versions, and all that rpm-md lists.

A million files fit into a few hundred megabytes: of each its location, size, digest and
the number by which versions name it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from composer.errors import FormatError, NotFound, UsageError
from composer.jigdo.pointer import PointerEntry
from composer.mirror.bucket import http_base, is_bucket
from composer.net.location import Mirrors, parse_base, safe_location
from composer.net.probing import Probe

_DIGEST = 32


@dataclass(frozen=True, slots=True)
class Place:
    """One copy of a repository: its base URL, and its directory where that is of this machine."""

    url: str
    directory: Path | None = None

    @classmethod
    def of(cls, text: str) -> Self:
        """Read a URL or the path of a directory; raises UsageError for anything else.

        A bucket, s3://BUCKET/PREFIX, is the URL by which HTTP clients read it.
        """
        if is_bucket(text):
            text = http_base(text)
        if "://" not in text:
            directory = Path(text).resolve()
            if not directory.is_dir():
                raise UsageError(f"{text}: neither a directory nor a URL")
            return cls(directory.as_uri().rstrip("/") + "/", directory)
        try:
            url = parse_base(text)
        except ValueError as error:
            raise UsageError(str(error)) from None
        parts = urlsplit(url)
        return cls(url, Path(unquote(parts.path)) if parts.scheme == "file" else None)

    @property
    def mirrors(self) -> Mirrors:
        """It alone."""
        return Mirrors((self.url,))


def parse_repositories(texts: Sequence[str]) -> dict[str, Place]:
    """Read ``NAME=URL`` options; raises UsageError."""
    found = {}
    for text in texts:
        name, equals, url = text.partition("=")
        if not (name and equals and url):
            raise UsageError(f"--repository {text}: expected NAME=URL")
        found[name] = Place.of(url)
    return found


class Files:
    """Files of one repository, each once; by number, in the order in which they were added.

    Two digests that are claimed of one location are two files, and ``disputed``.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._locations: list[str] = []
        self._sizes = array("Q")
        self._digests = bytearray()
        self._listed = bytearray()
        self.disputed: set[int] = set()

    def add(self, location: str, size: int, digest: bytes, *, listed: bool = False) -> int:
        """Add a file, if it is not there; ``listed`` says that rpm-md names it."""
        number = self._numbers.get(location)
        key, other = location, number
        if other is not None and self.digest(other) != digest:
            key = f"{location}\0{digest.hex()}"
            number = self._numbers.get(key)
        if number is None:
            safe_location(location)
            if not 0 <= size < 1 << 62:
                raise FormatError(f"{location}: a size of {size} bytes")
            number = self._numbers[key] = len(self._locations)
            self._locations.append(location)
            self._sizes.append(size)
            self._digests += digest
            self._listed.append(0)
            if other is not None:
                self.disputed |= {other, number}
        self._listed[number] |= listed
        return number

    def __contains__(self, location: str) -> bool:
        return location in self._numbers

    def __len__(self) -> int:
        return len(self._locations)

    def __iter__(self) -> Iterator[Probe]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Probe:
        return Probe(number, self._locations[number], self._sizes[number], self.digest(number))

    def digest(self, number: int) -> bytes:
        """The SHA-256 of a file."""
        return bytes(self._digests[number * _DIGEST : (number + 1) * _DIGEST])

    def is_listed(self, number: int) -> bool:
        """Tell whether rpm-md names it."""
        return bool(self._listed[number])

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(self._sizes)


@dataclass(frozen=True, slots=True)
class Version:
    """A published version, and the numbers of its files by the repository that has them."""

    entry: PointerEntry
    files: Mapping[str, array[int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How a person calls it."""
        return f"{self.entry.ref} {self.entry.version or self.entry.commit}"


def chosen(entries: Sequence[PointerEntry], wanted: Sequence[str]) -> list[PointerEntry]:
    """Return the entries that ``wanted`` names: REF for all its versions, or REF@VERSION.

    Without any, all.  Raises NotFound for a name that there is not.
    """
    if not wanted:
        return list(entries)
    found: dict[tuple[str, str], PointerEntry] = {}
    for name in wanted:
        ref, _, version = name.partition("@")
        some = [
            one
            for one in entries
            if one.ref == ref and version in ("", one.version, str(one.commit))
        ]
        if not some:
            known = dict.fromkeys(f"{one.ref}@{one.version}" for one in entries)
            raise NotFound(
                f"{name}: the repository has no such set",
                details=[f"it has: {', '.join(list(known)[:20])}" if known else "it has none"],
                hint="check the spelling",
            )
        found |= {(one.ref, str(one.commit)): one for one in some}
    return list(found.values())


def require_place(location: str, *, rpm: bool) -> None:
    """Raise FormatError unless an RPM, or else a file of rpm-md, may lie at ``location`` here.

    What the origin names must not become a file that this program, or a web server, believes.
    """
    safe_location(location)
    hidden = any(segment.startswith(".") for segment in location.split("/"))
    usual = location.endswith(".rpm") if rpm else location.startswith("repodata/")
    if hidden or not usual:
        what = "an RPM" if rpm else "a file of rpm-md"
        raise FormatError(
            f"{location}: no place for {what}",
            hint="the origin is damaged or lies: ask its operator",
        )
