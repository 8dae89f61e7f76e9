"""Pins and tags of versions, as an operator sets them: ``DIR/.jigdo-labels.json``.

Named by ref and commit, so that they hold whatever a version is called.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.checksum import ObjectChecksum
from composer.errors import FormatError, UsageError
from composer.jigdo.pointer import PointerEntry
from composer.mirror.lists import read_lists
from composer.mirror.needs import chosen
from composer.mirror.renewing import alone
from composer.mirror.retention import Labels
from composer.system.files import write_bytes

DOCUMENT = ".jigdo-labels.json"
_MAX = 1 << 22
_TAG = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]


class _Label(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    ref: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/+-]{1,500}$")]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    pinned: bool = False
    tags: list[_TAG] = []


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Annotated[int, Field(ge=1, le=1)]
    versions: Annotated[list[_Label], Field(max_length=1 << 14)]


def read_labels(repository: Path) -> Labels:
    """Read the labels of a repository, none where there is no document; raises FormatError."""
    path = repository / DOCUMENT
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Labels()
    try:
        if len(data) > _MAX:
            raise FormatError(f"{path}: larger than {_MAX} bytes")
        document = _Document.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise FormatError(
            f"{path}: {where}: {problem['msg']}",
            hint="mend it, or remove it and label anew: `mirror pin`, `mirror tag`",
        ) from None
    rows = {(one.ref, ObjectChecksum.parse(one.commit)): one for one in document.versions}
    return Labels(
        frozenset(key for key, one in rows.items() if one.pinned),
        {key: frozenset(one.tags) for key, one in rows.items() if one.tags},
    )


def write_labels(repository: Path, labels: Labels) -> None:
    """Write the labels of a repository; equal labels give equal bytes."""
    tags = labels.tags or {}
    rows = [
        {
            "ref": ref,
            "commit": str(commit),
            "pinned": (ref, commit) in labels.pins,
            "tags": sorted(tags.get((ref, commit), ())),
        }
        for ref, commit in sorted({*labels.pins, *(key for key, own in tags.items() if own)})
    ]
    text = json.dumps({"format": 1, "versions": rows}, indent=1, sort_keys=True)
    write_bytes(repository / DOCUMENT, text.encode() + b"\n")


def label(
    repository: Path,
    name: str,
    *,
    pin: bool | None = None,
    add: Iterable[str] = (),
    remove: Iterable[str] = (),
) -> Labels:
    """Pin (or with False unpin) the version ``REF@VERSION``, add and remove tags of it.

    Raises NotFound for a version that is not published, UsageError for one that several
    commits have.
    """
    with alone(repository):
        labels = read_labels(repository)
        entry = _one(repository, name)
        key = (entry.ref, entry.commit)
        pins = labels.pins if pin is None else labels.pins | {key} if pin else labels.pins - {key}
        tags = dict(labels.tags or {})
        tags[key] = tags.get(key, frozenset()) - {*remove} | {*add}
        changed = Labels(pins, {one: own for one, own in tags.items() if own})
        _check(changed)
        write_labels(repository, changed)
    return changed


def _one(repository: Path, name: str) -> PointerEntry:
    if "@" not in name:
        raise UsageError(f"{name}: expected REF@VERSION, or REF@COMMIT")
    found = chosen(read_lists(repository).entries, [name])
    if len(found) > 1:
        raise UsageError(
            f"{name}: {len(found)} commits have that version",
            hint=f"name one by its checksum: {', '.join(str(one.commit) for one in found)}",
        )
    return found[0]


def _check(labels: Labels) -> None:
    for own in (labels.tags or {}).values():
        for tag in own:
            try:
                _Label(ref="x", commit="0" * 64, tags=[tag])
            except ValidationError:
                raise UsageError(
                    f"{tag}: a tag has letters, digits and . _ + -, and at most 100 of them"
                ) from None
