"""RPMs that nothing lists any more, but that are served still: ``DIR/.jigdo-unlisted.json``.

They keep their places for some days, for clients that are in the middle of a pull, and come
back as long as they are there.  Rule kept here: what is in the document is only ever a wish.
What an RPM is needed for is looked at again before it is removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.checksum import ContentDigest
from composer.errors import FormatError
from composer.jigdo.pointer import PointerEntry, dump_entry, parse_entry
from composer.mirror.needs import require_place
from composer.system.files import write_bytes

DOCUMENT = ".jigdo-unlisted.json"
_MAX = 1 << 28
_HINT = "remove it: what it names is then kept until the next prune finds it again"


@dataclass(frozen=True, slots=True)
class Unlisted:
    """An RPM that is not listed ``since`` (seconds since 1970; None: it is about to be).

    ``nevra`` is for people; ``entry`` is a set's, as the pointers had it.
    """

    location: str
    pkgid: ContentDigest
    size: int
    since: int | None
    nevra: str = ""
    entry: PointerEntry | None = None


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    location: Annotated[str, Field(min_length=1, max_length=4096)]
    pkgid: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0, lt=1 << 62)]
    since: Annotated[int, Field(ge=0, lt=1 << 62)] | None
    nevra: Annotated[str, Field(max_length=4096)] = ""
    entry: dict[str, Any] | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Annotated[int, Field(ge=1, le=1)]
    rpms: list[_Row]


def read_unlisted(repository: Path) -> tuple[Unlisted, ...]:
    """Read what is not listed any more and still there; raises FormatError."""
    path = repository / DOCUMENT
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    try:
        if len(data) > _MAX:
            raise FormatError(f"larger than {_MAX} bytes", hint=_HINT)
        rows = tuple(_parsed(row) for row in _Document.model_validate_json(data).rpms)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise FormatError(f"{path}: {where}: {problem['msg']}", hint=_HINT) from None
    except FormatError as error:
        error.hint = _HINT
        raise error.within(str(path)) from None
    return tuple(one for one in rows if _is_there(repository, one))


def _parsed(row: _Row) -> Unlisted:
    require_place(row.location, rpm=True)
    entry = parse_entry(row.entry) if row.entry is not None else None
    if entry is not None and entry.location != row.location:
        raise FormatError(f"{row.location}: its set is {entry.location}", hint=_HINT)
    pkgid = ContentDigest.parse(row.pkgid)
    return Unlisted(row.location, pkgid, row.size, row.since, row.nevra, entry)


def _is_there(repository: Path, one: Unlisted) -> bool:
    path = repository / one.location
    # What is there may have been put there since, by someone else.
    return path.is_file() and not path.is_symlink() and path.stat().st_size == one.size


def write_unlisted(repository: Path, rpms: Iterable[Unlisted]) -> None:
    """Write the document, or remove it where it has nothing to say."""
    rows = [
        {
            "location": one.location,
            "pkgid": str(one.pkgid),
            "size": one.size,
            "since": one.since,
            "nevra": one.nevra,
            **({"entry": dump_entry(one.entry)} if one.entry else {}),
        }
        for one in sorted(rpms, key=lambda one: one.location)
    ]
    if not rows:
        (repository / DOCUMENT).unlink(missing_ok=True)
        return
    text = json.dumps({"format": 1, "rpms": rows}, indent=1, sort_keys=True)
    write_bytes(repository / DOCUMENT, text.encode() + b"\n")
