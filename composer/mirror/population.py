"""Who pulls, from where, and what is to be compared: the document of ``mirror simulate``, TOML."""

from __future__ import annotations

import re
import tomllib
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from composer.errors import FormatError, UsageError
from composer.mirror.retention import parse_span

_MAX = 1 << 20
_RATE = re.compile(r"([0-9]{1,9})([kMG]?)\Z")
_UNITS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}


def _span(value: Any) -> timedelta:
    if isinstance(value, timedelta) and value > timedelta():
        return value
    if not isinstance(value, str):
        raise ValueError("expected a span of time, as 12h, 7d or 8w")
    try:
        found = parse_span(value)
    except UsageError as error:
        raise ValueError(error.message) from None
    if not found:
        raise ValueError("a span of time is more than nothing")
    return found


def _rate(value: Any) -> int:
    match = _RATE.match(str(value))
    if match is None or not int(match[1]):
        raise ValueError("expected bytes per second, as 500k or 20M")
    return int(match[1]) * _UNITS[match[2]]


_NAME = Annotated[str, Field(min_length=1, max_length=100)]
_SPAN = Annotated[timedelta, BeforeValidator(_span)]
_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True)


class Group(BaseModel):
    """Clients of a kind.

    ``every`` says how often each looks for something new; ``behind`` which shares of them stay
    0, 1, 2 … versions behind the newest; ``bandwidth`` bytes per second of one.  Those that are
    ``installed`` have the first version from the start, others nothing.
    """

    model_config = _CONFIG

    name: _NAME
    count: Annotated[int, Field(ge=1, le=10_000_000)]
    every: _SPAN
    ref: Annotated[str, Field(max_length=500)] = ""
    bandwidth: Annotated[int, BeforeValidator(_rate)] = 2_500_000
    behind: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1, max_length=100)] = [
        1.0
    ]
    installed: bool = True


class Mirror(BaseModel):
    """A mirror, and what share of the clients it has."""

    model_config = _CONFIG

    name: _NAME
    share: Annotated[float, Field(gt=0)] = 1.0


class Scenario(BaseModel):
    """What is done otherwise: of each ref the newest ``keep`` versions stay (0: all); sets have
    ``deltas`` only from so many versions before theirs (None: as published).
    """

    model_config = _CONFIG

    name: _NAME
    keep: Annotated[int, Field(ge=0)] = 0
    deltas: Annotated[int, Field(ge=0)] | None = None


class Population(BaseModel):
    """All of it; ``seed`` decides what is drawn, ``tail`` how long it goes on after the last
    release.
    """

    model_config = _CONFIG

    seed: int = 1
    tail: _SPAN = timedelta(days=7)
    group: Annotated[list[Group], Field(min_length=1, max_length=1000)]
    mirror: Annotated[list[Mirror], Field(max_length=1000)] = [Mirror(name="mirror")]
    scenario: Annotated[list[Scenario], Field(max_length=50)] = [Scenario(name="as published")]


def parse_population(data: bytes, what: str) -> Population:
    """Read the document; raises FormatError that says where."""
    hint = "docs/mirror.md has an example of it"
    try:
        if len(data) > _MAX:
            raise FormatError(f"{what}: larger than {_MAX} bytes", hint=hint)
        found = Population.model_validate(tomllib.loads(data.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FormatError(f"{what}: {error}", hint=hint) from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        told = problem["msg"].removeprefix("Value error, ")
        raise FormatError(f"{what}: {where}: {told}", hint=hint) from None
    for kind, rows in (
        ("group", found.group),
        ("mirror", found.mirror),
        ("scenario", found.scenario),
    ):
        names = [row.name for row in rows]
        if len(set(names)) < len(names) or not names:
            raise FormatError(f"{what}: {kind}: none, or two of one name", hint=hint)
    for group in found.group:
        if not sum(group.behind):
            raise FormatError(f"{what}: group {group.name}: behind: all shares are 0", hint=hint)
    return found
