"""What the solver says when there is no solution, shortened to what a person can act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from composer.errors import ComposerError

_MOST = 10
_CHAINS = 3
# What libsolv adds to every problem, and what it says of each candidate in vain.
_NOISE = re.compile(
    r"conflicting requests\Z|cannot install the best candidate for the job\Z"
    r"|cannot install the best update candidate|problem with installed package"
)
_NEVRA = r"\S+-[^-\s]+-[^-\s]+\.[A-Za-z0-9_]+"
# What a problem leads to: one line for each that needs what cannot be had.
_CHAIN = re.compile(rf"package ({_NEVRA}) requires .+, but none of the providers can be installed")
_FILTERED = re.compile(rf"package ({_NEVRA}) is filtered out by exclude filtering\Z")
_HINTS = (
    (r"nothing provides (.+?) needed by (\S+)", "no repository has {0}: add one that does"),
    (r"package (\S+) conflicts with (.+?) provided by (\S+)", "leave out {0} or {2}"),
    (r"package (\S+) obsoletes (.+?) provided by (\S+)", "leave out {0} or {2}"),
    (r"cannot install both (\S+) .*and (\S+)", "ask for one of {0} and {1}"),
    (r"package (\S+) does not have a compatible architecture", "{0} is for other machines"),
)


Why = Callable[[str], str]


def shortened(lines: Sequence[str], most: int = 20) -> list[str]:
    """Return the first lines, and how many more there are."""
    rest = len(lines) - most
    return [*lines[:most], *([f"and {rest} more"] if rest > 0 else [])]


class SolveFailed(ComposerError):
    """Packages that are not there, or that cannot be installed together."""


def unsolvable(problems: Iterable[Iterable[str]], explain: Why) -> SolveFailed:
    """Make the error for the solver's ``problems``, each a list of lines.

    ``explain`` says why a package of that name was not to be had ("": it was).
    """
    causes: dict[str, str] = {}
    chains: dict[str, str] = {}
    for problem in problems:
        for line in problem:
            if _NOISE.match(line):
                continue
            if match := _CHAIN.match(line):
                chains.setdefault(_name(match[1]), line)
                continue
            text = _explained(line, explain)
            # Other versions of a package fail in the same way; the first is the newest.
            causes.setdefault(re.sub(_NEVRA, lambda match: _name(match[0]), text), text)
    shown = [*list(causes.values())[:_MOST]]
    shown += list(chains.values())[: min(_CHAINS if causes else _MOST, _MOST - len(shown))]
    rest = len(causes) + len(chains) - len(shown)
    if rest:
        shown.append(f"and {rest} more that follow from these or are like them")
    return SolveFailed(
        "these packages cannot be installed together",
        details=shown or ["the solver gave no reason"],
        hint=_hint(shown),
    )


def _name(nevra: str) -> str:
    return nevra.rsplit("-", 2)[0]


def _explained(line: str, explain: Why) -> str:
    match = _FILTERED.match(line)
    reason = explain(_name(match[1])) if match else ""
    return f"package {match[1]} may not be taken: {reason}" if match and reason else line


def _hint(lines: Iterable[str]) -> str:
    found = []
    for line in lines:
        for pattern, hint in _HINTS:
            if match := re.search(pattern, line):
                found.append(hint.format(*match.groups()))
        if " may not be taken: " in line:
            found.append(line.partition(" may not be taken: ")[0] + " is needed: allow it")
    return "; ".join(list(dict.fromkeys(found))[:2])
