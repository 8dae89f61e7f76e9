"""Where things lie on mirrors: base URLs that people configure, and the paths below them.

Base URLs come from a person and are trusted to lead anywhere.  Locations come
from documents that a mirror served, so they may only lead below a base.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self
from urllib.parse import quote, urlsplit

from composer.errors import FormatError

SCHEMES = ("http", "https", "file")
_MAX_LOCATION = 4096


class Container(Protocol):
    """Holds pieces of a repository's files within another file."""

    def find(self, location: str, first: int, length: int | None) -> tuple[str, int, int] | None:
        """Return URL, first byte and length of a piece, or None; ``length`` None: all of it."""


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Base URLs of the same repository, best first; each ends with a slash.

    With a ``container`` all there is lies in that, and the only base names it.
    """

    bases: tuple[str, ...]
    container: Container | None = None

    def only(self, base: str) -> Mirrors:
        """One of them."""
        return replace(self, bases=(base,))

    @classmethod
    def parse(cls, *urls: str) -> Self:
        """Read base URLs (http, https, file); raises ValueError for anything else."""
        if not urls:
            raise ValueError("at least one base URL is needed")
        return cls(tuple(dict.fromkeys(parse_base(url) for url in urls)))

    def __str__(self) -> str:
        return ", ".join(self.bases)


def parse_base(text: str) -> str:
    """Read one base URL and end it with a slash; raises ValueError with the reason."""
    if any(character <= " " or character == "\x7f" for character in text):
        raise ValueError(f"{text!r}: a URL has no spaces or control characters")
    parts = urlsplit(text)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"{text}: expected a URL of {', '.join(SCHEMES)}")
    if parts.query or parts.fragment:
        raise ValueError(f"{text}: a base URL has no ? or # part, locations are added to it")
    if parts.username or parts.password:
        raise ValueError(f"{text.split('@')[-1]}: passwords in URLs would get into messages")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError(f"{text}: a file URL looks like file:///absolute/path")
    elif not parts.hostname:
        raise ValueError(f"{text}: the URL names no host")
    return text.rstrip("/") + "/"


def safe_location(location: str) -> str:
    """Return ``location``, a path relative to a base, percent-quoted for a URL.

    Raises FormatError for what could lead elsewhere: an absolute URL or path,
    ``..``, backslashes, control characters, nothing at all.
    """
    if not location or len(location) > _MAX_LOCATION:
        raise FormatError(f"a location has 1 to {_MAX_LOCATION} characters, not {len(location)}")
    if any(ord(c) < 32 or ord(c) == 127 or c == "\\" for c in location):
        raise FormatError(f"location {location!r}: control characters or backslashes")
    if location.startswith("/") or "://" in location:
        raise FormatError(f"location {location!r}: expected a path relative to the repository")
    segments = [segment for segment in location.split("/") if segment not in ("", ".")]
    if not segments or ".." in segments:
        raise FormatError(f"location {location!r}: leads out of the repository")
    try:
        # "+" is quoted too: S3 and its kin read a bare one as a space.
        return "/".join(quote(segment, safe="") for segment in segments)
    except UnicodeEncodeError as error:
        raise FormatError(f"location {location!r}: not valid Unicode") from error
