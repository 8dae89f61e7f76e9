"""Variables of a treefile: in conditions of includes, and replaced in values."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from composer.compose.kinds import (
    INCLUDE,
    STRINGS,
    WORD,
    Kind,
    Place,
    list_of,
)
from composer.compose.values import (
    Strings,
    Variable,
    brief,
)

_CONDITION = re.compile(
    r'\s*([A-Za-z0-9_]+)\s*(==|!=|>=|<=|>|<)\s*(?:(true|false)|([0-9]+)|"(.*)")\s*', re.DOTALL
)
_COMPARE: Mapping[str, Callable[[Variable, Variable], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_NAMES = {bool: "true or false", int: "a number", str: "a string"}
_VARIABLE = re.compile(r"\$(?:\{([^{}$]*)\}|(basearch|releasever)\b)")


@dataclass(frozen=True, slots=True)
class Condition:
    """``variable op value``, as in ``releasever >= 40``."""

    variable: str
    op: str
    value: Variable
    place: Place

    def holds(self, variables: Mapping[str, Variable]) -> bool:
        """Compare; raises TreefileError if there is no such variable, or one of another type."""
        value = known(self.variable, variables, self.place)
        if type(value) is not type(self.value):
            raise self.place.wrong(
                f"{self.variable} is {_NAMES[type(value)]}, {brief(self.value)} is "
                f"{_NAMES[type(self.value)]}",
                hint='strings have quotes: stream == "stable"',
            )
        if self.op not in ("==", "!=") and type(value) is not int:
            raise self.place.wrong(f"{self.op} is for numbers, {self.variable} is not one")
        return _COMPARE[self.op](value, self.value)


@dataclass(frozen=True, slots=True)
class ConditionalInclude:
    """Files to include, or (``inline``) a mapping that is a treefile, if all conditions hold."""

    conditions: tuple[Condition, ...]
    files: Strings
    inline: Mapping[str, object] | None
    place: Place


def known(name: str, variables: Mapping[str, Variable], place: Place) -> Variable:
    """Return the value of a variable; raises TreefileError."""
    if name not in variables:
        names = ", ".join(sorted(variables))
        raise place.wrong(f"the variable {name!r} is not set", hint=f"known: {names}")
    return variables[name]


def expanded(text: str, variables: Mapping[str, Variable], place: Place) -> str:
    """Replace ``${name}``, and ``$basearch`` and ``$releasever`` without braces too."""

    def value(match: re.Match[str]) -> str:
        found = known(match[2] or match[1], variables, place)
        return str(found).lower() if isinstance(found, bool) else str(found)

    return _VARIABLE.sub(value, text)


def _condition(value: object, place: Place) -> Condition:
    if not isinstance(value, str):
        raise place.expected("a condition", value)
    match = _CONDITION.fullmatch(value)
    if match is None:
        raise place.wrong(
            f"not a condition: {brief(value)}",
            hint='a condition is: variable, one of == != < <= > >=, then true, 7 or "text"',
        )
    wanted: Variable = match[5] or ""
    if match[3]:
        wanted = match[3] == "true"
    elif match[4]:
        if int(match[4]) >= 1 << 64:
            raise place.expected("a number of at most 64 bits", int(match[4]))
        wanted = int(match[4])
    return Condition(match[1], match[2], wanted, place)


_CONDITIONS = list_of(Kind("condition", _condition, {"type": "string"}), "conditions")


def _conditional_include(value: object, place: Place) -> ConditionalInclude:
    if not isinstance(value, dict):
        raise place.expected("a mapping with if and include", value)
    for name in value:
        if name not in ("if", "include"):
            raise place.at(name).wrong("unknown; known are if, include")
    for name in ("if", "include"):
        if name not in value:
            raise place.wrong(f"{name} is missing")
    condition, there = value["if"], place.at("if")
    found = (
        _CONDITIONS.check(condition, there)
        if isinstance(condition, list)
        else (_condition(condition, there),)
    )
    what = value["include"]
    if isinstance(what, dict):
        return ConditionalInclude(found, (), what, place.at("include"))
    return ConditionalInclude(found, _files(what, place), None, place.at("include"))


def _files(what: object, place: Place) -> Strings:
    if not isinstance(what, str | list):
        raise place.at("include").expected("a path, a list of paths or a treefile", what)
    return INCLUDE.check(what, place.at("include"))


CONDITIONAL_INCLUDE = Kind(
    "mapping of if and include",
    _conditional_include,
    {
        "type": "object",
        "properties": {
            "if": {"anyOf": [WORD.schema, STRINGS.schema]},
            "include": {"anyOf": [INCLUDE.schema, {"$ref": "#"}]},
        },
        "required": ["if", "include"],
        "additionalProperties": False,
    },
)
