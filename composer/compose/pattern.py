"""The regular expressions of a treefile: GLib's, in its mode for JavaScript's, as rpm-ostree's."""

from __future__ import annotations

from typing import Any


def compiled(pattern: str) -> Any:
    """Return ``pattern`` as a GLib.Regex; raises ValueError that says what is wrong with it."""
    from gi.repository import GLib

    try:
        return GLib.Regex.new(pattern, GLib.RegexCompileFlags.JAVASCRIPT_COMPAT, 0)
    except GLib.Error as error:
        # GLib repeats the whole expression first.
        _, at, reason = error.message.rpartition("at char ")
        raise ValueError(f"{at}{reason}") from error
