"""The treefile: read, with its includes, into one frozen value.

Whatever passes :func:`load` is valid; what is behind it trusts it.  The rows in
:mod:`composer.compose.keys` say what each key means; this module only walks them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.compose.conditions import expanded
from composer.compose.document import TreefileError
from composer.compose.keys import (
    ARCHITECTURES,
    BY_NAME,
    KEYS,
    Key,
    Keys,
    Merge,
    State,
    UnknownKey,
    find,
    joined,
)
from composer.compose.reading import Reader, Said
from composer.compose.values import AccountCheck, AddFile, Variable, plain, quoted
from composer.errors import UsageError

_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z")

_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\Z")


@dataclass(frozen=True, slots=True)
class Treefile(Keys):
    """A flattened treefile.  The attributes are the keys, with ``_`` for ``-``.

    ``packages`` holds those of the architecture too.  ``given`` has, by name and in the
    order of the table, only what the files said, without what is used up by reading
    them (includes, variables); ``places`` is where each key was said, the including
    file first, ``item_places`` where each item of a list was.  ``warnings`` are for the person.
    """

    path: Path
    basearch: str
    files: tuple[Path, ...]
    given: Mapping[str, object]
    places: Mapping[str, tuple[str, ...]] = field(compare=False)
    item_places: Mapping[str, tuple[str, ...]] = field(compare=False)
    variables: Mapping[str, Variable]
    warnings: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """Where the ``.repo`` files are looked for."""
        return self.path.parent

    def require_complete(self) -> None:
        """Raise TreefileError unless a compose can start from it."""
        if not self.ref:
            raise TreefileError(f"{self.path}: the key ref is missing")
        if not (self.packages or self.repo_packages or self.modules.install):
            raise TreefileError(
                f"{self.path}: the key packages is missing",
                hint="repo-packages, or modules with install, would do too",
            )
        if self.rojig and not _SET_NAME.match(self.rojig.name):
            place = self.places["rojig"][0]
            raise TreefileError(f"{place}: {self.rojig.name!r} cannot be the name of a package")
        if not _REF.match(self.ref):
            raise TreefileError(f"{self.path}: ref: {self.ref!r} is not a valid OSTree ref")

    def flattened(self) -> dict[str, object]:
        """Return what the files said as plain values, ready for YAML or JSON.

        It can be loaded again, with the same meaning; paths of files are absolute.
        """
        said = {name: plain(value) for name, value in self.given.items()}
        if self.packages:
            said["packages"] = quoted(self.packages)
        return said

    def digest(self) -> str:
        """Return a SHA-256 over the meaning: values, and the content of files they name."""
        said = self.flattened()
        said.pop("metadata", None)
        # The packages that come of these count, and are part of the input beside this.
        said.pop("lockfile-repos", None)
        said["repos"] = sorted(set(self.repos))
        said["packages"] = [name for name in self.packages if not name.endswith(".rpm")]
        for name in ("check-passwd", "check-groups"):
            check = self.given.get(name)
            if isinstance(check, AccountCheck) and check.filename is not None:
                said[name] = {"type": "file", "content": read_account_file(check.filename, name)}
        if self.postprocess_script is not None:
            said["postprocess-script"] = _content(self.postprocess_script)
        if self.add_files:
            said["add-files"] = [_added(file) for file in self.add_files]
        text = json.dumps({"basearch": self.basearch, **said}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load(path: Path, *, basearch: str) -> Treefile:
    """Read the treefile at ``path`` and all that it includes, for architecture ``basearch``.

    Raises TreefileError that names file, key, and line where there is one.
    """
    reader = _read(path, basearch)
    given = {
        key.name: _value(key, reader.said[key.name], reader.variables)
        for key in KEYS
        if key.name in reader.said and not _is_used_up(key)
    }
    return Treefile(
        path=path,
        basearch=basearch,
        files=tuple(reader.files.values()),
        given=given,
        places={
            name: tuple(str(part.place) for part in parts) for name, parts in reader.said.items()
        },
        item_places={
            name: _item_places(BY_NAME[name], value, reader.said[name])
            for name, value in given.items()
            if isinstance(value, tuple)
        },
        variables=reader.variables,
        warnings=(*dict.fromkeys(reader.warnings), *_accepted(reader.said.values())),
    )


def explained_parts(
    path: Path, name: str, *, basearch: str
) -> tuple[Key[Any], object, Sequence[Said]]:
    """Return the key called ``name``, its value in the treefile, and what files say to it.

    Raises TreefileError, and UsageError if there is no such key.
    """
    try:
        key = find(name)
    except UnknownKey as error:
        raise UsageError(f"{name}: {error.message}", hint=error.hint) from error
    key = BY_NAME.get(key.into, key)
    reader = _read(path, basearch)
    parts = reader.said.get(key.name, ())
    return key, _value(key, parts, reader.variables) if parts else key.default, parts


def _read(path: Path, basearch: str) -> Reader:
    if basearch not in ARCHITECTURES:
        raise TreefileError(
            f"unknown architecture {basearch!r}", hint=f"known are {', '.join(ARCHITECTURES)}"
        )
    reader = Reader(basearch)
    reader.read(path)
    return reader


def _is_used_up(key: Key[Any]) -> bool:
    return key.merge is Merge.NONE or key is Keys.own_variables


def _value(key: Key[Any], parts: Sequence[Said], variables: Mapping[str, Variable]) -> object:
    """Join what files say to a key, and replace variables in what is left."""
    value = joined(key, [part.value for part in parts])
    if key.expands is None:
        return value

    def expand(text: str, part: str = "") -> str:
        saying = [p for p in parts if isinstance(p.value, dict) and part in p.value] or parts
        place = saying[0].place
        return expanded(text, variables, place.at(part) if part else place)

    found: object = key.expands(value, expand)
    return found


def _item_places(key: Key[Any], value: Sequence[Any], parts: Sequence[Said]) -> tuple[str, ...]:
    """Say where each item of a joined list stands; () where that is not to be told."""
    if key.merge is Merge.PARENT_FIRST:
        return tuple(
            str(part.place.at(index))
            for part in reversed(parts)
            if isinstance(part.value, tuple)
            for index in range(len(part.value))
        )
    if key is not Keys.packages:
        return ()
    found: dict[str, str] = {}
    for part in parts:
        assert isinstance(part.place.raw, list)
        for index, item in enumerate(part.place.raw):
            place = part.place.at(index)
            for name in key.kind.check([item], part.place):
                found.setdefault(name, str(place))
    return tuple(found[name] for name in value)


def _accepted(said: Iterable[Sequence[Said]]) -> list[str]:
    names = sorted({s.key.name for parts in said for s in parts if s.key.state is State.ACCEPTED})
    return [f"without effect here: {', '.join(names)}"] if names else []


def _added(file: AddFile) -> list[object]:
    executable = bool(file.source.stat().st_mode & 0o100)
    return [_content(file.source), executable, file.target]


def _content(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise TreefileError(f"{path}: {error.strerror}") from error


def read_account_file(path: Path, key: str = "check-passwd") -> str:
    """Return the text of a passwd or group file that a treefile names; raises TreefileError."""
    try:
        return path.read_text()
    except OSError as error:
        raise TreefileError(f"{key}: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TreefileError(f"{key}: {path}: not UTF-8 text") from error
