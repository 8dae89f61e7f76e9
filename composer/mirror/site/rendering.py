"""Filling in the site's templates.  Rule kept here: text of others is text, never markup.

Everything is escaped; what cannot be printed, and what turns the direction of writing, is
replaced; only http and https addresses become links.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from composer.system.templates import find_template

_PLACE = "site/base.html.j2"


def clean(text: str) -> str:
    """Replace what is not printable, but for line ends and tabulators."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


class Pages:
    """The templates, and what they use.  ``human`` shows numbers of bytes."""

    def __init__(self, human: Callable[[float], str]) -> None:
        import jinja2

        self.directory = find_template(_PLACE).parent

        class ItemsFirst(jinja2.Environment):
            """In which ``row.keys`` is what a row has under that name, not dict's method."""

            def getattr(self, obj: Any, attribute: str) -> Any:
                if isinstance(obj, dict) and attribute in obj:
                    return obj[attribute]
                return super().getattr(obj, attribute)

        self._environment = ItemsFirst(
            loader=jinja2.FileSystemLoader(self.directory),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            finalize=_shown,
        )
        self._environment.globals.update(
            human=human, time=_time, day=_day, until=_until, link=_link, many=_many
        )

    @cached_property
    def digest(self) -> str:
        """Of all templates."""
        state = hashlib.sha256()
        for path in sorted(self.directory.iterdir()):
            state.update(path.name.encode() + b"\0" + path.read_bytes())
        return state.hexdigest()

    def asset(self, name: str) -> bytes:
        """A file that is served as it is."""
        return (self.directory / name).read_bytes()

    def render(self, template: str, /, **values: Any) -> bytes:
        """Fill in a template; an unknown name in it is an error."""
        return self._environment.get_template(template).render(values).encode()


def markup(text: str) -> Any:
    """Say of text that it is HTML already: what this program drew."""
    import markupsafe

    return markupsafe.Markup(text)


def _shown(value: Any) -> Any:
    return clean(value) if type(value) is str else value


def _many(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _moment(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _time(seconds: int) -> Any:
    """A moment, to the minute."""
    moment = _moment(seconds)
    if moment is None:
        return f"@{seconds}"
    return markup(
        f'<time datetime="{moment:%Y-%m-%dT%H:%M:%SZ}">{moment:%Y-%m-%d %H:%M} UTC</time>'
    )


def _day(seconds: int) -> Any:
    moment = _moment(seconds)
    if moment is None:
        return f"@{seconds}"
    return markup(f'<time datetime="{moment:%Y-%m-%d}">{moment:%Y-%m-%d}</time>')


def _until(seconds: int) -> Any:
    """A moment at which something ends; a script says when it has passed."""
    moment = _moment(seconds)
    if moment is None:
        return f"@{seconds}"
    exact, shown = f"{moment:%Y-%m-%dT%H:%M:%SZ}", f"{moment:%Y-%m-%d %H:%M} UTC"
    return markup(f'<time datetime="{exact}" data-until>{shown}</time>')


def _link(url: str, text: str) -> Any:
    """A link to elsewhere, where it is one that a browser may follow; else its text."""
    import markupsafe

    try:
        good = urlsplit(url).scheme in ("http", "https") and url.isprintable()
    except ValueError:
        good = False
    shown = markupsafe.escape(clean(text or url))
    if not good:
        return shown
    rel = "noopener noreferrer nofollow"
    return markup(f'<a rel="{rel}" href="{markupsafe.escape(url)}">{shown}</a>')
