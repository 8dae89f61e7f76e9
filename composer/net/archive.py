"""Archives: where RPMs are kept that mirrors have dropped.

An archive is a base URL, of a copy of a repository or of a directory of RPM files, or a
template of one, such as ``https://old.example/{name}/{version}/{release}/{arch}/{file}``.
Values come from a set and may only lead below what is before the first field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from composer.errors import FormatError
from composer.net.location import Mirrors, parse_base, safe_location
from composer.rpm.package import PackageRef, file_name

FIELDS = (
    "name", "epoch", "version", "release", "arch", "evr", "nevra", "file", "pkgid", "repository",
)  # fmt: skip
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Archive:
    """``base`` ends with a slash; ``template`` is relative to it, "" for a plain base URL."""

    base: str
    template: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL or a template; raises ValueError with the reason."""
        if "{" not in text and "}" not in text:
            return cls(parse_base(text))
        fixed, _, _ = text.partition("{")
        base, _, begun = fixed.rpartition("/")
        template = begun + text[len(fixed) :]
        if "://" not in base:
            raise ValueError(f"{text}: a template begins with the URL of a directory")
        parse_base(_FIELD.sub("x", text))
        unknown = [name for name in _FIELD.findall(template) if name not in FIELDS]
        if unknown or re.search(r"[{}]", _FIELD.sub("", template)):
            what = f"no field {{{unknown[0]}}}" if unknown else "a brace without its other half"
            raise ValueError(f"{text}: {what}; there are {', '.join(FIELDS)}")
        return cls(parse_base(base), template)

    def __str__(self) -> str:
        return self.base + self.template

    @property
    def mirrors(self) -> Mirrors:
        """What is before the first field."""
        return Mirrors((self.base,))

    def locations(self, package: PackageRef) -> Iterator[str]:
        """Yield where the RPM of ``package`` may be, relative to ``base``."""
        if self.template:
            values = _values(package)
            yield from _safe(_FIELD.sub(lambda match: values[match[1]], self.template))
        else:
            for location in dict.fromkeys((package.location, file_name(package))):
                yield from _safe(location)


def _safe(location: str) -> Iterator[str]:
    with suppress(FormatError):
        safe_location(location)
        yield location


def _values(package: PackageRef) -> dict[str, str]:
    nevra = package.nevra
    return {
        "name": nevra.name,
        "epoch": str(nevra.epoch),
        "version": nevra.version,
        "release": nevra.release,
        "arch": nevra.arch,
        "evr": nevra.evr,
        "nevra": str(nevra),
        "file": file_name(package),
        "pkgid": str(package.pkgid),
        "repository": package.repository,
    }
