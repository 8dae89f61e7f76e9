"""The kinds of values that a treefile's keys have: how they are checked, and their schema.

A :class:`Kind` turns a plain value of a document into a frozen one, or says where and
what was wrong.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from composer.compose.document import Document, Trail, TreefileError
from composer.compose.pattern import compiled
from composer.compose.values import (
    AccountCheck,
    AddFile,
    Modules,
    RemoveFrom,
    RepoPackages,
    Rojig,
    Strings,
    Variable,
    brief,
)

T = TypeVar("T")
Schema = Mapping[str, object]

_U64 = (1 << 64) - 1
_DEEPEST = 64
_LONGEST_PATTERN = 2000
_ADDABLE = ("usr", "etc", "bin", "sbin", "lib", "lib64")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands; makes the errors for it."""

    document: Document
    trail: Trail

    def at(self, part: str | int) -> Place:
        return Place(self.document, (*self.trail, part))

    def __str__(self) -> str:
        return self.document.where(self.trail)

    @property
    def raw(self) -> object:
        """What the document has there; None if there is nothing."""
        value = self.document.value
        for part in self.trail:
            if isinstance(value, list) and isinstance(part, int):
                value = value[part]
            elif isinstance(value, dict):
                value = value.get(part)
            else:
                return None
        return value

    def beside(self, name: str) -> Path:
        """Return the path of the file ``name``, which stands relative to the document."""
        return self.document.path.parent / name

    def wrong(self, message: str, *, hint: str = "") -> TreefileError:
        return self.document.wrong(self.trail, message, hint=hint)

    def expected(self, what: str, value: object) -> TreefileError:
        return self.wrong(f"expected {what}, got {brief(value)}")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """``name`` is what the documentation calls the values that ``check`` takes."""

    name: str
    check: Callable[[object, Place], T]
    schema: Schema


def _text(value: object, place: Place) -> str:
    if not isinstance(value, str):
        raise place.expected("a string", value)
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise place.wrong("a string with a character that no file name or script can hold")
    return value


def _word(value: object, place: Place) -> str:
    if not (found := _text(value, place).strip()) or "\n" in found:
        raise place.expected("a string of one line", value)
    return found


def _word_or_number(value: object, place: Place) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= _U64:
            raise place.expected("a string or a number from 0 on", value)
        return str(value)
    return _word(value, place)


def _flag(value: object, place: Place) -> bool:
    if not isinstance(value, bool):
        raise place.expected("true or false", value)
    return value


def _list(value: object, place: Place) -> list[tuple[object, Place]]:
    if not isinstance(value, list):
        raise place.expected("a list", value)
    return [(item, place.at(index)) for index, item in enumerate(value)]


def _mapping(value: object, place: Place, what: str = "a mapping") -> dict[str, object]:
    if not isinstance(value, dict):
        raise place.expected(what, value)
    return value


def _fields(
    value: object, place: Place, needed: Iterable[str], optional: Iterable[str] = ()
) -> dict[str, object]:
    """Return a mapping that has all of ``needed`` and nothing but these and ``optional``."""
    needed, known = tuple(needed), (*needed, *optional)
    found = _mapping(value, place, f"a mapping with {', '.join(known)}")
    for name in found:
        if name not in known:
            raise place.at(name).wrong(f"unknown; known are {', '.join(known)}")
    for name in needed:
        if name not in found:
            raise place.wrong(f"{name} is missing")
    return found


TEXT = Kind("string", _text, {"type": "string"})
WORD = Kind("string", _word, {"type": "string", "pattern": r"\S"})
WORD_OR_NUMBER = Kind(
    "string or number",
    _word_or_number,
    {"anyOf": [WORD.schema, {"type": "integer", "minimum": 0}]},
)
FLAG = Kind("boolean", _flag, {"type": "boolean"})


def list_of(kind: Kind[T], plural: str) -> Kind[tuple[T, ...]]:
    """A list, each item as ``kind`` wants it."""

    def check(value: object, place: Place) -> tuple[T, ...]:
        return tuple(kind.check(item, where) for item, where in _list(value, place))

    return Kind(f"list of {plural}", check, {"type": "array", "items": kind.schema})


def set_of(kind: Kind[str], plural: str) -> Kind[Strings]:
    """A list whose order and repetitions mean nothing."""
    listed = list_of(kind, plural)

    def check(value: object, place: Place) -> Strings:
        return tuple(sorted(set(listed.check(value, place))))

    return Kind(listed.name, check, listed.schema)


def map_of(kind: Kind[T], name: str, *, reserved: Mapping[str, str] | None = None) -> Kind[
    Mapping[str, T]
]:  # fmt: skip
    """A mapping; ``reserved`` are names that may not be in it, and why."""
    reserved = reserved or {}

    def check(value: object, place: Place) -> Mapping[str, T]:
        found = {}
        for key, item in _mapping(value, place).items():
            if key in reserved:
                raise place.at(key).wrong(f"the name {key} is reserved", hint=reserved[key])
            found[key] = kind.check(item, place.at(key))
        return found

    names: Schema = {"propertyNames": {"not": {"enum": sorted(reserved)}}} if reserved else {}
    return Kind(name, check, {"type": "object", "additionalProperties": kind.schema, **names})


def one_of(*names: str, also: Mapping[str, str] | None = None) -> Kind[str]:
    """One of some words; ``also`` maps other spellings to these."""
    spellings = {**{name: name for name in names}, **(also or {})}

    def check(value: object, place: Place) -> str:
        found = str(value) if type(value) is int else value
        if not isinstance(found, str) or found not in spellings:
            raise place.expected(f"one of {', '.join(names)}", value)
        return spellings[found]

    numbers = [int(name) for name in spellings if name.isdecimal()]
    return Kind(" or ".join(names), check, {"enum": [*spellings, *numbers]})


def whole(*numbers: int) -> Kind[int]:
    """One of some numbers."""

    def check(value: object, place: Place) -> int:
        if type(value) is not int or value not in numbers:
            raise place.expected(f"one of {', '.join(map(str, numbers))}", value)
        return value

    return Kind(" or ".join(map(str, numbers)), check, {"enum": list(numbers)})


STRINGS = list_of(WORD, "strings")


def _split_packages(value: object, place: Place) -> Strings:
    found: set[str] = set()
    for raw, where in _list(value, place):
        item = _word(raw, where)
        parts = item.split("'")
        if len(parts) % 2 == 0:
            raise where.wrong(f"No closing quotation in {item!r}")
        for index, part in enumerate(parts):
            names = [part] if index % 2 else part.split()
            found.update(_package(name, where) for name in names)
        if any(not part.strip() for part in parts[1::2]):
            raise where.wrong(f"an empty name in {item!r}")
    return tuple(sorted(found))


def _package(name: str, place: Place) -> str:
    """Return the path of a local RPM, which is relative to the file that names it."""
    return str(place.beside(name).absolute()) if name.endswith(".rpm") else name


PACKAGES = Kind("list of strings", _split_packages, STRINGS.schema)


def _include(value: object, place: Place) -> Strings:
    if isinstance(value, str):
        return (_word(value, place),)
    if not isinstance(value, list):
        raise place.expected("a path or a list of paths", value)
    return STRINGS.check(value, place)


INCLUDE = Kind(
    "string or list of strings", _include, {"anyOf": [WORD.schema, STRINGS.schema]}
)  # fmt: skip


def _script(value: object, place: Place) -> str:
    found = _text(value, place).lstrip()
    if not found:
        raise place.expected("a script", value)
    return found


SCRIPT = Kind("script", _script, WORD.schema)


def _tree_path(value: object, place: Place) -> str:
    found = _word(value, place)
    parts = [part for part in found.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise place.wrong(f"{brief(value)} does not name something inside the tree")
    return "/".join(parts)


TREE_PATH = Kind("path in the tree", _tree_path, WORD.schema)


def _file(value: object, place: Place) -> Path:
    return place.beside(_word(value, place))


FILE: Kind[Path | None] = Kind("path of a file", _file, WORD.schema)


def _unit(value: object, place: Place) -> str:
    found = _word(value, place)
    if not re.fullmatch(r"[A-Za-z0-9:_.\\@-]+\.[a-z]+", found):
        raise place.expected("a unit such as sshd.service", value)
    return found


UNIT = Kind(
    "systemd unit", _unit, {"type": "string", "pattern": r"^\s*[A-Za-z0-9:_.\\@-]+\.[a-z]+\s*$"}
)


def _suffix(value: object, place: Place) -> str:
    if not isinstance(value, str) or len(value) != 1 or not "!" <= value <= "~":
        raise place.expected("one ASCII character", value)
    return value


SUFFIX = Kind("character", _suffix, {"type": "string", "pattern": "^[!-~]$"})


def _json(value: object, place: Place) -> object:
    """Anything that JSON can say."""
    if len(place.trail) > _DEEPEST:
        raise place.wrong("nested too deeply")
    if isinstance(value, dict):
        return {name: _json(item, place.at(name)) for name, item in value.items()}
    if isinstance(value, list):
        return tuple(_json(item, place.at(index)) for index, item in enumerate(value))
    if isinstance(value, str):
        return _text(value, place)
    if isinstance(value, float) and not math.isfinite(value):
        raise place.expected("a finite number", value)
    if isinstance(value, int) and not -(1 << 63) <= value <= _U64:
        raise place.expected("a number of at most 64 bits", value)
    return value


JSON: Kind[object] = Kind("any", _json, {})


def _variable(value: object, place: Place) -> Variable:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and 0 <= value <= _U64:
        return value
    if isinstance(value, str):
        found = _text(value, place)
        if re.search(r"[${}]", found):
            raise place.wrong(
                f"a variable's value cannot refer to another one: {brief(value)}",
                hint="$, { and } are not allowed here; write the value out",
            )
        return found
    raise place.expected("a string, true, false or a number from 0 on", value)


VARIABLE: Kind[Variable] = Kind(
    "string, boolean or number",
    _variable,
    {
        "anyOf": [
            {"type": "string", "pattern": "^[^${}]*$"},
            {"type": "boolean"},
            {"type": "integer", "minimum": 0},
        ]
    },
)


def _account_check(ids: Callable[[object, Place], tuple[int, int]]) -> Callable[
    [object, Place], AccountCheck
]:  # fmt: skip
    def check(value: object, place: Place) -> AccountCheck:
        said = _mapping(value, place, "a mapping with a type")
        kind = _ACCOUNT_TYPE.check(said.get("type"), place.at("type"))
        wanted = {"file": "filename", "data": "entries"}.get(kind)
        for key in said:
            if key not in ("type", wanted):
                raise place.at(key).wrong(f"unknown for the type {kind}")
        if wanted and wanted not in said:
            raise place.wrong(f"the type {kind} needs {wanted}")
        if kind == "file":
            return AccountCheck(kind, filename=_file(said["filename"], place.at("filename")))
        if kind == "data":
            return AccountCheck(kind, entries=entries(said["entries"], place.at("entries")))
        return AccountCheck(kind)

    def entries(value: object, place: Place) -> tuple[tuple[str, int, int], ...]:
        said = _mapping(value, place, "a mapping of names to numbers")
        return tuple(
            (_word(name, place.at(name)), *ids(number, place.at(name)))
            for name, number in sorted(said.items())
        )

    return check


_ACCOUNT_TYPE = one_of("none", "previous", "file", "data")


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 32


def _uid_and_gid(value: object, place: Place) -> tuple[int, int]:
    pair = value if isinstance(value, list) else [value]
    ids = [number for number in pair if isinstance(number, int) and _is_id(number)]
    if len(pair) not in (1, 2) or len(ids) != len(pair):
        raise place.expected("a number, or a list of uid and gid", value)
    return ids[0], ids[-1]


def _gid(value: object, place: Place) -> tuple[int, int]:
    if not isinstance(value, int) or not _is_id(value):
        raise place.expected("a number", value)
    return value, value


def _account_schema(ids: Schema) -> Schema:
    def case(kind: str, **more: object) -> Schema:
        return {
            "properties": {"type": {"const": kind}, **more},
            "required": ["type", *more],
            "additionalProperties": False,
        }

    entries = {"type": "object", "additionalProperties": ids}
    cases = [case("none"), case("previous"), case("file", filename=WORD.schema)]
    return {"type": "object", "oneOf": [*cases, case("data", entries=entries)]}


_ID: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 32) - 1}
CHECK_PASSWD = Kind(
    "mapping",
    _account_check(_uid_and_gid),
    _account_schema(
        {"anyOf": [_ID, {"type": "array", "items": _ID, "minItems": 1, "maxItems": 2}]}
    ),
)
CHECK_GROUPS = Kind("mapping", _account_check(_gid), _account_schema(_ID))


def _add_file(value: object, place: Place) -> AddFile:
    pair = _list(value, place)
    if len(pair) != 2:
        raise place.expected("a list of two: the file here, and its path in the tree", value)
    source, target = _file(*pair[0]), _tree_path(*pair[1])
    if ".." in _word(*pair[0]).split("/") or not _is_below(source, place.beside("")):
        raise pair[0][1].wrong(f"{source} is outside of the treefile's directory")
    if target.split("/")[0] not in _ADDABLE or "/" not in target or _is_local(target):
        raise pair[1][1].wrong(
            f"/{target} is not in /usr or /etc, or is in /usr/local",
            hint="an OSTree commit has what is in /usr and /etc",
        )
    return AddFile(source, target, str(place))


def _is_below(path: Path, directory: Path) -> bool:
    """Say whether ``path`` is in ``directory`` once symbolic links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))


def _is_local(target: str) -> bool:
    return f"{target}/".startswith("usr/local/")


_PAIR: Schema = {"type": "array", "items": WORD.schema, "minItems": 2, "maxItems": 2}
ADD_FILE = Kind("[file, path in the tree]", _add_file, _PAIR)


def _remove_from(value: object, place: Place) -> RemoveFrom:
    items = _list(value, place)
    if len(items) < 2:
        raise place.expected("a list of a package and regular expressions", value)
    patterns = tuple(_pattern(item, where) for item, where in items[1:])
    return RemoveFrom(_word(*items[0]), patterns, str(place))


def _pattern(value: object, place: Place) -> str:
    found = _text(value, place)
    if not found or len(found) > _LONGEST_PATTERN:
        raise place.expected(
            f"a regular expression of 1 to {_LONGEST_PATTERN} characters", value
        )  # fmt: skip
    try:
        compiled(found)
    except ValueError as error:
        raise place.wrong(f"{brief(value)} is no regular expression: {error}") from error
    return found


REMOVE_FROM = Kind(
    "[package, expression...]",
    _remove_from,
    {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 2},
)


def _repo_packages(value: object, place: Place) -> RepoPackages:
    said = _fields(value, place, ("repo", "packages"))
    return RepoPackages(
        _word(said["repo"], place.at("repo")),
        _split_packages(said["packages"], place.at("packages")),
        str(place),
    )


REPO_PACKAGES = Kind(
    "mapping of repo and packages",
    _repo_packages,
    {
        "type": "object",
        "properties": {"repo": WORD.schema, "packages": PACKAGES.schema},
        "required": ["repo", "packages"],
        "additionalProperties": False,
    },
)


def _modules(value: object, place: Place) -> Modules:
    said = _fields(value, place, (), ("enable", "install"))
    return Modules(**{name: _split_packages(said[name], place.at(name)) for name in said})


MODULES = Kind(
    "mapping",
    _modules,
    {
        "type": "object",
        "properties": {"enable": PACKAGES.schema, "install": PACKAGES.schema},
        "additionalProperties": False,
    },
)


def _rojig(value: object, place: Place) -> Rojig:
    said = _fields(value, place, ("name", "summary", "license"), ("description",))
    name, summary, terms = (
        _word(said[name], place.at(name)) for name in ("name", "summary", "license")
    )
    return Rojig(name, summary, terms, _text(said.get("description", ""), place.at("description")))


ROJIG: Kind[Rojig | None] = Kind(
    "mapping",
    _rojig,
    {
        "type": "object",
        "properties": {
            **dict.fromkeys(("name", "summary", "license"), WORD.schema),
            "description": TEXT.schema,
        },
        "required": ["name", "summary", "license"],
        "additionalProperties": False,
    },
)
