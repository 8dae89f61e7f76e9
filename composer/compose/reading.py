"""Reading a treefile and its includes: what each file says to each key, in order."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.compose.document import Document
from composer.compose.keys import BY_NAME, Key, UnknownKey, find, require_architecture
from composer.compose.kinds import Place
from composer.compose.values import AccountCheck, AddFile, Variable

_DEPTH = 50
_OF_EDITION_2024: Mapping[str, object] = {"boot-location": "modules", "tmp-is-dir": True}
_OF_CONTAINER: Mapping[str, object] = {
    "boot-location": "modules",
    "selinux": False,
    "tmp-is-dir": True,
    "preserve-passwd": False,
    "check-passwd": AccountCheck("none"),
    "check-groups": AccountCheck("none"),
}


@dataclass(frozen=True, slots=True)
class Said:
    """A value that one file gives to a key, and where."""

    key: Key[Any]
    value: object
    place: Place


class Reader:
    """Gathers what files say, each before those that it includes."""

    def __init__(self, basearch: str) -> None:
        self._basearch = basearch
        self.said: dict[str, list[Said]] = {}
        self.variables: dict[str, Variable] = {"basearch": basearch}
        self.files: dict[str, Path] = {}
        self.warnings: list[str] = []

    def read(self, path: Path, above: tuple[Path, ...] = (), named: Place | None = None) -> None:
        """Read one file and what it includes.

        ``above`` are the files that led here; ``named`` is where the last one says so.
        """
        self._note(path, above, named)
        document = Document.read(path)
        self._take(document.value, Place(document, ()), (*above, path))
        if not above:
            _imply(self.said)

    def _note(self, path: Path, above: tuple[Path, ...], named: Place | None) -> None:
        real = os.path.realpath(path)
        if named is not None:
            chain = " -> ".join(str(file) for file in (*above, path))
            if real in map(os.path.realpath, above):
                raise named.wrong(f"a cycle: {chain}")
            if real in self.files:
                hint = "name it only once; what it says holds for all files"
                raise named.wrong(f"{path} is included twice", hint=hint)
            if len(above) > _DEPTH:
                raise named.wrong(f"more than {_DEPTH} files deep")
        self.files[real] = path

    def _take(self, value: object, place: Place, above: tuple[Path, ...]) -> None:
        """Take what the mapping at ``place`` says, then what it includes."""
        own = self._checked(value, place)
        for name, parts in own.items():
            for part in parts:
                _require_files(part)
            self.said.setdefault(name, []).extend(parts)
        self._set_variables(own)
        for target, where in [*self._plain_includes(own), *self._conditional(own, above)]:
            _require_file(target, where)
            self.read(target, above, where)

    def _checked(self, value: object, place: Place) -> dict[str, list[Said]]:
        """Check the values of one mapping against their rows; nothing is as if not said."""
        if not isinstance(value, dict):
            raise place.expected("a mapping of keys", value)
        own: dict[str, list[Said]] = {}
        for name, raw in value.items():
            where = place.at(name)
            key = self._find(name, where)
            if key is None or raw is None:
                continue
            checked = Said(key, key.kind.check(raw, where), where)
            if key.into:
                if name in (key.name, f"packages-{self._basearch}"):
                    own.setdefault(key.into, []).append(checked)
            elif any(said.key is key for said in own.get(key.name, ())):
                raise where.wrong(f"the same as {key.name}, which is there too")
            else:
                own.setdefault(key.name, []).append(checked)
        self._check_further(own)
        _imply(own)
        return own

    def _check_further(self, own: Mapping[str, Sequence[Said]]) -> None:
        for said in own.get("basearch", ()):
            if said.value != self._basearch:
                raise said.place.expected(f"{self._basearch}, for which this is", said.value)
        for said in own.get("arch-include", ()):
            assert isinstance(said.value, dict)
            for arch in said.value:
                try:
                    require_architecture(arch)
                except UnknownKey as error:
                    raise said.place.at(arch).wrong(error.message, hint=error.hint) from error
        for said in own.get("conditional-include", ()):
            assert isinstance(said.value, tuple)
            for entry in said.value:
                if entry.inline is not None:
                    self._checked(entry.inline, entry.place)

    def _find(self, name: str, place: Place) -> Key[Any] | None:
        try:
            return find(name)
        except UnknownKey as error:
            if not place.document.is_json:
                raise place.wrong(error.message, hint=error.hint) from error
            if "comment" not in name:
                hint = f"; {error.hint}" if error.hint.startswith("did you") else ""
                self.warnings.append(f"{place.wrong(error.message).message}: skipped{hint}")
            return None

    def _set_variables(self, own: Mapping[str, Sequence[Said]]) -> None:
        """Set what is not set yet: an including file's variables count."""
        for said in own.get("variables", ()):
            assert isinstance(said.value, dict)
            for name, variable in said.value.items():
                self.variables.setdefault(name, variable)
        for said in own.get("releasever", ()):
            # A number stays one, for conditions.
            raw = said.place.raw
            self.variables.setdefault(
                "releasever", raw if isinstance(raw, int) else str(said.value)
            )

    def _plain_includes(self, own: Mapping[str, Sequence[Said]]) -> list[tuple[Path, Place]]:
        found = []
        for said in own.get("include", ()):
            found += _targets(said.value, said.place)
        for said in own.get("arch-include", ()):
            assert isinstance(said.value, dict)
            if self._basearch in said.value:
                found += _targets(said.value[self._basearch], said.place.at(self._basearch))
        return found

    def _conditional(
        self, own: Mapping[str, Sequence[Said]], above: tuple[Path, ...]
    ) -> list[tuple[Path, Place]]:
        """Take treefiles that are written out; return the files of conditions that hold."""
        found = []
        for said in own.get("conditional-include", ()):
            assert isinstance(said.value, tuple)
            for entry in said.value:
                # All are evaluated: a wrong one is told even where another does not hold.
                hold = [condition.holds(self.variables) for condition in entry.conditions]
                if not all(hold):
                    continue
                if entry.inline is not None:
                    self._take(entry.inline, entry.place, above)
                found += _targets(entry.files, entry.place)
        return found


def _imply(own: dict[str, list[Said]]) -> None:
    """Add the values that editions and containers stand for."""
    for said in own.get("container", ())[:1]:
        if said.value:
            for name, value in _OF_CONTAINER.items():
                others = own.get(name, [])
                if not others or others[0].value != value:
                    own[name] = [Said(BY_NAME[name], value, said.place), *others]
    for said in own.get("edition", ()):
        if said.value == "2024":
            for name, value in _OF_EDITION_2024.items():
                own.setdefault(name, [Said(BY_NAME[name], value, said.place)])


def _targets(names: object, place: Place) -> list[tuple[Path, Place]]:
    assert isinstance(names, tuple)
    listed = isinstance(place.raw, list)
    return [
        (place.beside(name), place.at(index) if listed else place)
        for index, name in enumerate(names)
    ]


def _require_files(said: Said) -> None:
    """Raise TreefileError unless the files that a value names are there."""
    listed = isinstance(said.value, tuple)
    for index, item in enumerate(said.value if isinstance(said.value, tuple) else (said.value,)):
        path = item if isinstance(item, Path) else None
        if isinstance(item, AccountCheck):
            path = item.filename
        elif isinstance(item, AddFile):
            path = item.source
        if path is not None:
            _require_file(path, said.place.at(index) if listed else said.place)


def _require_file(path: Path, place: Place) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise place.wrong(f"{path} is not there") from error
    except (OSError, ValueError) as error:
        raise place.wrong(f"{str(path)[:200]}: {error.args[-1]}") from error
    if not stat.S_ISREG(mode):
        raise place.wrong(f"{path} is not a file")
