"""Names of pages: safe as file names and in URLs, whatever the thing is called.

Rules kept here: two things never share a page; nothing leads out of the site; names depend
on what is named alone, so that links keep working.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_PLAIN = re.compile(r"[a-z0-9][a-z0-9+-]*(\.[a-z0-9+-]+)*\Z")
_OTHERS = re.compile(r"[^a-z0-9+.-]+")
_LONGEST = 60
_DIGITS = 12


def slug(text: str, *, digits: int = _DIGITS) -> str:
    """Name ``text``: as it is where that is safe, else what is safe of it, "~" and a digest.

    No two texts have one name (but for digests of ``digits`` digits that are equal), also
    where a file system does not tell capitals.
    """
    if len(text) <= _LONGEST and _PLAIN.match(text):
        return text
    safe = _OTHERS.sub("-", text.lower()).replace("..", ".").strip("-.+")[: _LONGEST - digits]
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:digits]
    return f"{safe.strip('-.+')}~{digest}"


def slugs(texts: Iterable[str]) -> dict[str, str]:
    """Name each of ``texts``; where digests are equal, by whole ones."""
    wanted = sorted(set(texts))
    names = {text: slug(text) for text in wanted}
    taken: dict[str, int] = {}
    for name in names.values():
        taken[name] = taken.get(name, 0) + 1
    return {t: name if taken[name] == 1 else slug(t, digits=64) for t, name in names.items()}
