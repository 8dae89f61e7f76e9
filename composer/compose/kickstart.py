"""Kickstart files (``.ks``), as far as treefiles include them: packages, and other such files.

``%packages [--exclude-weakdeps]`` to ``%end`` lists packages, with ``-`` those to leave
out; ``%include PATH`` names a file below the directory.  Everything else is refused.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

_Trail = tuple[str | int, ...]
Lines = Iterator[tuple[int, str]]


class KickstartError(Exception):
    """What is wrong, in which line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line, self.message = line, message


def parse(text: str) -> tuple[dict[str, object], dict[_Trail, int]]:
    """Return what a treefile would say, and the lines of it; raises KickstartError."""
    return _Parser().parse(text)


class _Parser:
    def __init__(self) -> None:
        self._lists: dict[str, list[str]] = {}
        self._lines: dict[_Trail, int] = {(): 1}
        self._weak = True

    def parse(self, text: str) -> tuple[dict[str, object], dict[_Trail, int]]:
        numbered = ((n, line) for n, line in enumerate(text.splitlines(), 1) if line[:1] != "#")
        lines = ((number, line.strip()) for number, line in numbered if line.strip())
        for number, line in lines:
            try:
                verb, *arguments = shlex.split(line)
            except ValueError as error:
                raise KickstartError(number, str(error)) from error
            if verb == "%packages":
                self._packages(number, arguments, lines)
            elif verb == "%include":
                self._include(number, arguments)
            else:
                raise KickstartError(number, f"expected %packages or %include, got {verb!r}")
        return {**self._lists, **({} if self._weak else {"recommends": False})}, self._lines

    def _add(self, number: int, key: str, item: str) -> None:
        items = self._lists.setdefault(key, [])
        self._lines.setdefault((key,), number)
        self._lines[(key, len(items))] = number
        items.append(item)

    def _include(self, number: int, arguments: list[str]) -> None:
        if len(arguments) != 1:
            raise KickstartError(number, "expected one path after %include")
        if arguments[0].startswith("/") or ".." in arguments[0].split("/"):
            raise KickstartError(number, f"{arguments[0]} is not below this directory")
        self._add(number, "include", arguments[0])

    def _packages(self, start: int, arguments: list[str], lines: Lines) -> None:
        for argument in arguments:
            if argument != "--exclude-weakdeps":
                raise KickstartError(start, f"expected --exclude-weakdeps, got {argument!r}")
            self._weak = False
            self._lines[("recommends",)] = start
        for number, line in lines:
            if line == "%end":
                return
            if line.startswith("-"):
                self._add(number, "exclude-packages", line[1:])
            else:
                self._add(number, "packages", line)
        raise KickstartError(start, "%packages has no %end")
