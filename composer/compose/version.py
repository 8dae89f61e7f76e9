"""The commit's version: counted up from the previous one, as rpm-ostree does."""

from __future__ import annotations


def next_version(prefix: str, previous: str) -> str:
    """Return the version after ``previous`` ("": none) for an automatic-version-prefix.

    The prefix itself comes first, then ``.1``; what follows the prefix and a dot is
    counted up.  A previous version with another prefix counts as none.
    """
    if not prefix:
        return ""
    if previous == prefix:
        return f"{prefix}.1"
    rest = previous.removeprefix(f"{prefix}.")
    if rest == previous:
        return prefix
    number = rest.split(".")[0]
    return f"{prefix}.{int(number) + 1}" if number.isdecimal() else prefix
