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
from composer.compose.document import Document, TreefileError
from composer.compose.keys import (
    ARCHITECTURES,
    BY_NAME,
    KEYS,
    Key,
    Keys,
    Merge,
    State,
    find,
    joined,
    require_architecture,
)
from composer.compose.values import AccountCheck, AddFile, Place, Variable, plain, quoted

_DEPTH = 50
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z")
_OF_EDITION_2024: Mapping[str, object] = {"boot-location": "modules", "tmp-is-dir": True}
_OF_CONTAINER: Mapping[str, object] = {
    "boot-location": "modules",
    "selinux": False,
    "tmp-is-dir": True,
    "preserve-passwd": False,
    "check-passwd": AccountCheck("none"),
    "check-groups": AccountCheck("none"),
}
# What the flattened treefile says without them.
_RESOLVED = ("variables",)


@dataclass(frozen=True, slots=True)
class Said:
    """A value that one file gives to a key, and where."""

    key: Key[Any]
    value: object
    place: Place


@dataclass(frozen=True, slots=True)
class Treefile(Keys):
    """A flattened treefile.  The attributes are the keys, with ``_`` for ``-``.

    ``packages`` holds those of the architecture too.  ``given`` has, by name and in the
    order of the table, only what the files said; ``places`` is where each key was said,
    the including file first.  ``warnings`` are for the person.
    """

    path: Path
    basearch: str
    files: tuple[Path, ...]
    given: Mapping[str, object]
    places: Mapping[str, tuple[str, ...]] = field(compare=False)
    warnings: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """Where the ``.repo`` files are looked for."""
        return self.path.parent

    def require_complete(self) -> None:
        """Raise TreefileError unless a compose can start from it."""
        refused = [
            f"{place}: not supported yet"
            for name, value in self.given.items()
            if BY_NAME[name].refuses(value)
            for place in self.places[name]
        ]
        if refused:
            hint = "docs/treefile.md says which keys work"
            raise TreefileError(refused[0], details=refused[1:], hint=hint)
        for name in ("ref", "packages"):
            if not getattr(self, name):
                raise TreefileError(f"{self.path}: the key {name} is missing")
        if not _REF.match(self.ref):
            raise TreefileError(f"{self.path}: ref: {self.ref!r} is not a valid OSTree ref")

    def flattened(self) -> dict[str, object]:
        """Return what the files said as plain values, ready for YAML or JSON.

        It can be loaded again, with the same meaning; paths of files are absolute.
        """
        said = {name: plain(value) for name, value in self.given.items() if name not in _RESOLVED}
        if self.packages:
            said["packages"] = quoted(self.packages)
        return said

    def digest(self) -> str:
        """Return a SHA-256 over the meaning: values, and the content of files they name."""
        said = self.flattened()
        said.pop("metadata", None)
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
    if basearch not in ARCHITECTURES:
        raise TreefileError(
            f"unknown architecture {basearch!r}", hint=f"known are {', '.join(ARCHITECTURES)}"
        )
    reader = _Reader(basearch)
    reader.read(path, ())
    given, places = {}, {}
    for key in KEYS:
        parts = reader.said.get(key.name) if key.merge is not Merge.NONE else None
        if parts:
            given[key.name] = _value(key, parts, reader.variables)
            places[key.name] = tuple(str(part.place) for part in parts)
    if "variables" in given:
        given["variables"] = reader.variables
    return Treefile(
        path=path,
        basearch=basearch,
        files=tuple(reader.files.values()),
        given=given,
        places=places,
        warnings=(*reader.warnings, *_accepted(reader.said.values())),
    )


def _value(key: Key[Any], parts: Sequence[Said], variables: Mapping[str, Variable]) -> object:
    return joined(key, [_expanded(part, variables) for part in parts])


def _expanded(said: Said, variables: Mapping[str, Variable]) -> object:
    if said.key.expands is None:
        return said.value
    return said.key.expands(said.value, lambda text: expanded(text, variables, said.place))


def _accepted(said: Iterable[Sequence[Said]]) -> list[str]:
    names = sorted({s.key.name for parts in said for s in parts if s.key.state is State.ACCEPTED})
    return [f"without effect here: {', '.join(names)}"] if names else []


class _Reader:
    """Gathers what files say, each before those that it includes."""

    def __init__(self, basearch: str) -> None:
        self._basearch = basearch
        self.said: dict[str, list[Said]] = {}
        self.variables: dict[str, Variable] = {"basearch": basearch}
        self.files: dict[Path, Path] = {}
        self.warnings: list[str] = []

    def read(self, path: Path, above: tuple[Path, ...]) -> None:
        """Read one file and what it includes; ``above`` are the files that led here."""
        self._note(path, above)
        document = Document.read(path)
        self._take(document.value, Place(document, ()), (*above, path))

    def _note(self, path: Path, above: tuple[Path, ...]) -> None:
        real = path.resolve()
        chain = " -> ".join(str(file) for file in (*above, path))
        if real in (file.resolve() for file in above):
            raise TreefileError(f"{above[0]}: include: a cycle: {chain}")
        if real in self.files:
            raise TreefileError(
                f"{above[0]}: include: {path} is included twice",
                details=[chain],
                hint="name it only once; what it says holds for all files",
            )
        if len(above) > _DEPTH:
            raise TreefileError(f"{above[0]}: include: more than {_DEPTH} files deep")
        self.files[real] = path

    def _take(self, value: object, place: Place, above: tuple[Path, ...]) -> None:
        """Take what the mapping at ``place`` says, then what it includes."""
        own = self._checked(value, place)
        self._variables(value, own)
        for name, parts in own.items():
            self.said.setdefault(name, []).extend(parts)
        for target, where in [*self._plain_includes(own), *self._conditional(own, above)]:
            if not target.is_file():
                raise where.wrong(f"{target} is not there", hint=f"{above[-1]} includes it")
            self.read(target, above)

    def _checked(self, value: object, place: Place) -> dict[str, list[Said]]:
        """Check the values of one mapping against their rows."""
        if not isinstance(value, dict):
            raise place.expected("a mapping of keys", value)
        own: dict[str, list[Said]] = {}
        for name, raw in value.items():
            where = place.at(name)
            key = self._find(name, where)
            if key is None:
                continue
            checked = Said(key, key.kind.check(raw, where), where)
            if key.into:
                if name in (key.name, f"packages-{self._basearch}"):
                    own.setdefault(key.into, []).append(checked)
            elif any(s.key is key for s in own.get(key.name, ())):
                raise where.wrong(f"the same as {key.name}, which is there too")
            else:
                own.setdefault(key.name, []).append(checked)
        self._imply(own, place)
        return own

    def _find(self, name: str, place: Place) -> Key[Any] | None:
        try:
            return find(name, place)
        except TreefileError as error:
            if not place.document.is_json:
                raise
            if "comment" not in name:
                hint = f" ({error.hint})" if error.hint.startswith("did you") else ""
                self.warnings.append(f"{error.message}; it is skipped{hint}")
            return None

    def _imply(self, own: dict[str, list[Said]], place: Place) -> None:
        """Add the values that editions and containers stand for."""
        for key in (Keys.edition, Keys.container):
            for said in own.get(key.name, ())[:1]:
                if said.value is True:
                    for name, value in _OF_CONTAINER.items():
                        own[name] = [Said(BY_NAME[name], value, said.place)]
                elif said.value == "2024":
                    for name, value in _OF_EDITION_2024.items():
                        own.setdefault(name, [Said(BY_NAME[name], value, said.place)])
        for said in own.get("basearch", ()):
            if said.value != self._basearch:
                raise said.place.wrong(f"{said.value} is not {self._basearch}")

    def _variables(self, value: object, own: Mapping[str, Sequence[Said]]) -> None:
        """Set what is not set yet: an including file's variables count."""
        for said in own.get("variables", ()):
            assert isinstance(said.value, dict)
            for name, variable in said.value.items():
                self.variables.setdefault(name, variable)
        if "releasever" in own:
            assert isinstance(value, dict)
            self.variables.setdefault("releasever", value["releasever"])

    def _plain_includes(self, own: Mapping[str, Sequence[Said]]) -> list[tuple[Path, Place]]:
        found = []
        for said in own.get("include", ()):
            found += _targets(said.value, said.place)
        for said in own.get("arch-include", ()):
            assert isinstance(said.value, dict)
            for arch, names in said.value.items():
                require_architecture(arch, said.place.at(arch))
                if arch == self._basearch:
                    found += _targets(names, said.place.at(arch))
        return found

    def _conditional(
        self, own: Mapping[str, Sequence[Said]], above: tuple[Path, ...]
    ) -> list[tuple[Path, Place]]:
        """Take treefiles that are written out; return the files of conditions that hold."""
        found = []
        for said in own.get("conditional-include", ()):
            assert isinstance(said.value, tuple)
            for entry in said.value:
                holds = [condition.holds(self.variables) for condition in entry.conditions]
                if entry.inline is not None:
                    if all(holds):
                        self._take(entry.inline, entry.place, above)
                    else:
                        self._checked(entry.inline, entry.place)
                elif all(holds):
                    found += _targets(entry.files, entry.place)
        return found


def _targets(names: object, place: Place) -> list[tuple[Path, Place]]:
    assert isinstance(names, tuple)
    return [(place.beside(name), place.at(index)) for index, name in enumerate(names)]


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
