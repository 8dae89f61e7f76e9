"""Kernel arguments: a line of words, of which one in double quotes may have spaces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from composer.errors import UsageError

# libostree writes these itself, for each deployment; init= only where prepare-root is it.
_OURS = ("ostree",)
_LONGEST = 1800  # x86 kernels read 2048 bytes, and libostree's own word comes beside these

_WORD = re.compile(r'(?:[^\s"]|"[^"]*")+')


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to become of the arguments: ``delete`` first, then ``replace``, then ``append``.

    ``delete`` holds KEY=VALUE or KEY (all of them); ``replace`` KEY=VALUE or KEY, which
    takes the place of every argument of that key; ``append`` adds one more.
    """

    replace: tuple[str, ...] = ()
    append: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.replace or self.append or self.delete)


NO_EDIT = Edit()


def split(line: str) -> tuple[str, ...]:
    """Take a line apart; a quote that nothing closes is a word's own character."""
    if line.count('"') % 2:
        return tuple(line.split())
    return tuple(_WORD.findall(line))


def join(arguments: Iterable[str]) -> str:
    """Make a line of arguments."""
    return " ".join(arguments)


def edited(arguments: Sequence[str], edit: Edit) -> tuple[str, ...]:
    """Return ``arguments`` as ``edit`` wants them, without those that libostree writes.

    Raises UsageError for what is no argument, for one to delete that is not there, and
    for a line that kernels would cut.
    """
    for text in (*edit.replace, *edit.append, *edit.delete):
        _require_argument(text)
    found = [word for word in arguments if key_of(word) not in _OURS]
    for text in edit.delete:
        left = [word for word in found if text not in (word, key_of(word))]
        if len(left) == len(found):
            raise UsageError(
                f"there is no kernel argument {text}",
                details=[f"there are: {join(found)}"] if found else ["there is none at all"],
            )
        found = left
    for text in edit.replace:
        found = _replaced(found, text)
    found += edit.append
    if len(line := join(found).encode()) > _LONGEST:
        raise UsageError(
            f"the kernel's arguments would be {len(line)} bytes; kernels read {_LONGEST} of them"
        )
    return tuple(found)


def key_of(argument: str) -> str:
    """The part before the first equals sign."""
    return argument.partition("=")[0]


def _replaced(arguments: Sequence[str], text: str) -> list[str]:
    """Put ``text`` where the first argument of its key is, or at the end."""
    found: list[str] = []
    done = False
    for word in arguments:
        if key_of(word) != key_of(text):
            found.append(word)
        elif not done:
            found.append(text)
            done = True
    return found if done else [*found, text]


def _require_argument(text: str) -> None:
    if text.count('"') % 2 or split(text) != (text,) or not text.isprintable() or not key_of(text):
        raise UsageError(
            f"{text!r} is not one kernel argument",
            hint='KEY or KEY=VALUE; a value with spaces in double quotes: KEY="A B"',
        )
    if key_of(text) in _OURS:
        raise UsageError(f"{text}: that argument is written for each deployment, by libostree")
