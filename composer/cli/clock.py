"""What time it is: by SOURCE_DATE_EPOCH, where that is set."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from composer.errors import UsageError


def now() -> datetime:
    """Return the time that a command goes by; raises UsageError."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return datetime.now(UTC)
    if not (given.isascii() and given.isdecimal() and len(given) < 12):
        raise UsageError(f"SOURCE_DATE_EPOCH: expected seconds since 1970, got {given[:80]!r}")
    return datetime.fromtimestamp(int(given), UTC)
