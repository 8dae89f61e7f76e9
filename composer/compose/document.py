"""Treefiles as documents: YAML or JSON text to plain values that know where they stood.

Scalars follow YAML 1.2's core schema, as rpm-ostree's own reader does: ``on``, ``no``,
``12:30`` and dates are strings.  Duplicate keys, custom tags and values that contain
themselves are refused.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from composer.compose import kickstart
from composer.errors import ComposerError

Trail = tuple[str | int, ...]

_MOST_NODES = 200_000
_MOST_BYTES = 16 << 20
_NULL, _BOOL, _INT, _FLOAT, _STR = (
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str")
)


class TreefileError(ComposerError):
    """A treefile that cannot be read, or that says something which makes no sense."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a file holds; ``lines`` has the line number (from 1) of each value.

    ``is_json`` is whether it is JSON, where unknown keys are no error.
    """

    path: Path
    value: object
    lines: Mapping[Trail, int]
    is_json: bool = False

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read ``path``: YAML if it is ``.yaml`` or ``.yml``, kickstart if ``.ks``, else JSON.

        Raises TreefileError.
        """
        try:
            with path.open("rb") as stream:
                data = stream.read(_MOST_BYTES + 1)
        except OSError as error:
            raise TreefileError(f"{path}: {error.strerror}") from error
        if len(data) > _MOST_BYTES:
            raise TreefileError(f"{path}: more than {_MOST_BYTES} bytes; this is no treefile")
        try:
            text = data.removeprefix(BOM_UTF8).decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise TreefileError(f"{path}: line {line}: not UTF-8 text") from error
        parse = _PARSERS.get(path.suffix, _parse_json)
        try:
            return parse(path, text)
        except RecursionError as error:
            raise TreefileError(f"{path}: nested too deeply") from error

    def wrong(self, trail: Trail, message: str, *, hint: str = "") -> TreefileError:
        """Make the error for the value at ``trail``: file, key, message, line."""
        where = f"{show(trail)}: " if trail else ""
        return TreefileError(f"{self.path}: {where}{message}{self._line(trail)}", hint=hint)

    def where(self, trail: Trail) -> str:
        """Say where the value at ``trail`` stands: ``base.yaml: packages[3] (line 12)``."""
        return f"{self.path}: {show(trail)}{self._line(trail)}"

    def line(self, trail: Trail) -> int | None:
        """Return the line of the value at ``trail``, or of what should hold it."""
        for end in range(len(trail), -1, -1):
            if trail[:end] in self.lines:
                return self.lines[trail[:end]]
        return None

    def _line(self, trail: Trail) -> str:
        line = self.line(trail)
        return f" (line {line})" if line else ""


def show(trail: Trail) -> str:
    """Format a trail as people write it: ``packages[3]``, ``check-passwd.entries.bin``."""
    text = ""
    for part in trail:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _parse_json(path: Path, text: str) -> Document:
    try:
        return Document(path, json.loads(text), _json_lines(path, text), is_json=True)
    except json.JSONDecodeError as error:
        raise TreefileError(f"{path}: line {error.lineno}: {error.msg}") from error
    except ValueError as error:  # an integer with thousands of digits
        raise TreefileError(f"{path}: {error}") from error


_JSON_TOKEN = re.compile(r'\n|"(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+')


def _json_lines(path: Path, text: str) -> dict[Trail, int]:
    """Return where the values of ``text``, which is JSON, begin; a member's is its name's."""
    lines: dict[Trail, int] = {}
    trail: list[str | int] = []
    line, is_name = 1, False
    for match in _JSON_TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
        elif token == ":":
            is_name = False
        elif token == ",":
            is_name = isinstance(trail[-1], str)
            if isinstance(trail[-1], int):
                trail[-1] += 1
        elif token in "]}":
            trail.pop()
        elif is_name:
            trail[-1] = name = json.loads(token)
            if tuple(trail) in lines:
                raise TreefileError(f"{path}: the key {name!r} is there twice (line {line})")
            lines[tuple(trail)] = line
        else:
            lines.setdefault(tuple(trail), line)
            if token in "[{":
                is_name = token == "{"
                trail.append("" if is_name else 0)
    return lines


class _Loader(yaml.SafeLoader):
    """Composes nodes with the core schema's scalars; values are made by _Builder."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


_SCALARS = (
    (_NULL, r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    (_BOOL, r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    (_INT, r"[-+]?[0-9]+\Z", list("-+0123456789")),
    (
        _FLOAT,
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z",
        list("-+.0123456789"),
    ),
    ("tag:yaml.org,2002:merge", r"<<\Z", ["<"]),
)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would not read as a string; scripts stay readable."""

    def represent_text(self, text: str) -> yaml.Node:
        # PyYAML would write these line ends of YAML 1.1 as they are, and read them as others.
        odd = re.search("[\r\x85\u2028\u2029\ufeff]", text)
        style = '"' if odd else "|" if "\n" in text else None
        return self.represent_scalar(_STR, text, style)


_Dumper.add_representer(str, _Dumper.represent_text)
for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def dump(value: object) -> str:
    """Write plain values as YAML that is read back as the same."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _parse_yaml(path: Path, text: str) -> Document:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        builder = _Builder(path, loader)
        value = {} if node is None else builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        problem = error.problem or error.context or "not YAML"
        hint = "indent with spaces; YAML has no tabs" if "\\t" in problem else ""
        raise TreefileError(f"{path}: {where}{problem}", hint=hint) from error
    except yaml.YAMLError as error:
        raise TreefileError(f"{path}: {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise TreefileError(f"{path}: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()
    return Document(path, value, builder.lines)


class _Builder:
    """Makes plain values of nodes and notes their lines."""

    def __init__(self, path: Path, loader: _Loader) -> None:
        self._path, self._loader = path, loader
        self._open: set[int] = set()
        self._count = 0
        self.lines: dict[Trail, int] = {}

    def build(self, node: yaml.Node, trail: Trail) -> object:
        self.lines[trail] = node.start_mark.line + 1
        self._count += 1
        # Aliases of aliases can stand for far more values than the file has bytes.
        if id(node) in self._open or self._count > _MOST_NODES:
            raise self._wrong(node, trail, "an alias that contains itself, or far too many values")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, trail)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*trail, i)) for i, item in enumerate(node.value)]
            return self._scalar(node, trail)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, trail: Trail) -> dict[str, object]:
        if node.tag != "tag:yaml.org,2002:map":
            raise self._wrong(node, trail, f"the tag {node.tag} is not known")
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._wrong(key_node, trail, "expected a string as a key")
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise self._wrong(key_node, trail, "merge keys (<<) are not known; use include")
            if key in found:
                raise self._wrong(key_node, trail, f"the key {key!r} is there twice")
            found[key] = self.build(value_node, (*trail, key))
            self.lines[(*trail, key)] = key_node.start_mark.line + 1
        return found

    def _scalar(self, node: yaml.Node, trail: Trail) -> object:
        text: str = node.value
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL:
            return text.lower() == "true"
        if node.tag == _INT:
            return int(text)
        if node.tag == _FLOAT:
            return float(text)
        if node.tag == _STR:
            return text
        raise self._wrong(node, trail, f"the tag {node.tag} is not known")

    def _wrong(self, node: yaml.Node, trail: Trail, message: str) -> TreefileError:
        return Document(self._path, None, {trail: node.start_mark.line + 1}).wrong(trail, message)


def _parse_kickstart(path: Path, text: str) -> Document:
    try:
        value, lines = kickstart.parse(text)
    except kickstart.KickstartError as error:
        raise TreefileError(f"{path}: line {error.line}: {error.message}") from error
    return Document(path, value, lines)


_PARSERS: Mapping[str, Callable[[Path, str], Document]] = {
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".ks": _parse_kickstart,
}
