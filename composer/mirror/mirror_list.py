"""The operator's list of mirrors: a small TOML document.

::

    [[mirror]]
    url = "https://mirror.example/os/"
    country = "DE"
    priority = 80
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from composer.errors import FormatError
from composer.net.location import parse_base

_MAX = 1 << 20
_HTTP = ("https", "http")


class MirrorSite(BaseModel):
    """A mirror: where it is, in which country (ISO 3166), and how good, 100 at best.

    Other protocols than HTTP are for programs that copy.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    url: Annotated[str, Field(max_length=2048)]
    country: Annotated[str, Field(pattern=r"^([A-Z]{2})?$")] = ""
    priority: Annotated[int, Field(ge=1, le=100)] = 100
    protocol: Literal["https", "http", "rsync", ""] = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        scheme = urlsplit(self.url).scheme
        if scheme not in (*_HTTP, "rsync"):
            raise ValueError(f"{self.url[:200]}: expected a URL of https, http or rsync")
        if self.protocol not in ("", scheme):
            raise ValueError(f"{self.url[:200]}: its protocol is not {self.protocol}")
        parse_base(self.url.replace("rsync:", "http:", 1) if scheme == "rsync" else self.url)
        return self

    @property
    def base(self) -> str:
        """The URL, with a slash at its end."""
        return self.url.rstrip("/") + "/"

    @property
    def scheme(self) -> str:
        """By which protocol it is reached."""
        return urlsplit(self.url).scheme

    @property
    def serves_clients(self) -> bool:
        """Tell whether clients can fetch from it."""
        return self.scheme in _HTTP


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    mirror: Annotated[list[MirrorSite], Field(min_length=1, max_length=1000)]


def parse_mirrors(data: bytes, what: str) -> tuple[MirrorSite, ...]:
    """Read a list of mirrors, the best first; raises FormatError that says where.

    ``what`` is the document's name.  Mirrors of one priority stay in their order.
    """
    try:
        if len(data) > _MAX:
            raise FormatError(f"{what}: larger than {_MAX} bytes")
        document = _Document.model_validate(tomllib.loads(data.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FormatError(f"{what}: {error}", hint="it is TOML: [[mirror]] and url = ...") from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise FormatError(
            f"{what}: {where}: {problem['msg'].removeprefix('Value error, ')}",
            hint="each [[mirror]] has a url, and may have country, priority and protocol",
        ) from None
    known: set[str] = set()
    for site in document.mirror:
        if site.base in known:
            raise FormatError(f"{what}: {site.base}: occurs twice", hint="leave one of them out")
        known.add(site.base)
    if not any(site.serves_clients for site in document.mirror):
        raise FormatError(f"{what}: no mirror of https or http", hint="clients know no rsync")
    return in_order(document.mirror)


def in_order(sites: Sequence[MirrorSite], country: str = "") -> tuple[MirrorSite, ...]:
    """Sort mirrors, the best first: those of ``country``, then by priority."""
    far = [bool(country) and site.country != country for site in sites]
    numbers = sorted(range(len(sites)), key=lambda one: (far[one], -sites[one].priority))
    return tuple(sites[number] for number in numbers)


def countries(sites: Sequence[MirrorSite]) -> list[str]:
    """Return the countries that have mirrors for clients."""
    return sorted({site.country for site in sites if site.country and site.serves_clients})
