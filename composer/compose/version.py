"""The commit's version: counted up from the previous one, as rpm-ostree does."""

from __future__ import annotations

import re
from itertools import takewhile

from composer.compose.document import TreefileError

_TAG = re.compile(r"<date:([^<>]*)>")


def next_version(prefix: str, previous: str, *, suffix: str = ".", now: int = 0) -> str:
    """Return the version after ``previous`` ("": none) for an automatic-version-prefix.

    The prefix itself comes first, then with ``suffix`` and 1; what follows the prefix and
    the suffix is counted up (no number: as if it were 0).  A previous version with another
    prefix counts as none.
    ``<date:FORMAT>`` in the prefix is ``now``, in seconds since 1970, as GLib formats it;
    then the first version ends in 0.
    """
    if not prefix:
        return ""
    dated = _TAG.sub(lambda match: _date(match[1], now), prefix)
    has_date = _TAG.search(prefix) is not None
    if previous.startswith(dated + suffix):
        digits = "".join(takewhile(str.isdecimal, previous[len(dated) + 1 :]))
        return f"{dated}{suffix}{int(digits or 0) + 1}"
    if has_date:
        return f"{dated}{suffix}0"
    return f"{dated}{suffix}1" if previous == dated else dated


def _date(text: str, now: int) -> str:
    from gi.repository import GLib

    moment = GLib.DateTime.new_from_unix_utc(now)
    found = moment.format(text) if moment else None
    if found is None:
        raise TreefileError(f"automatic-version-prefix: <date:{text}> is no date that GLib knows")
    return str(found)
