"""Where the project's templates lie, in a checkout and installed.

A checkout has them in ``templates/`` beside the package; a wheel puts them into
``share/jigdo-composer/templates`` below the prefix (pyproject.toml, data-files).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from composer.errors import MissingRequirement

_PACKAGE = Path(__file__).resolve().parents[1]
_SHARED = Path("share/jigdo-composer/templates")


def render(template: str, /, **values: object) -> str:
    """Fill in ``template``; an unknown name in it is an error.

    In one that is HTML (``NAME.html.j2``), values are escaped.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=template.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    return environment.from_string(find_template(template).read_text()).render(values)


def find_template(name: str) -> Path:
    """Path of the template ``name``; raises MissingRequirement when it is not installed."""
    places = list(_places())
    for place in places:
        if (place / name).is_file():
            return place / name
    raise MissingRequirement(
        f"the template {name} is not installed",
        details=[f"looked in {place}" for place in places],
        hint="install jigdo-composer again, or run it from a whole checkout",
    )


def _places() -> Iterator[Path]:
    yield _PACKAGE.parent / "templates"
    yield Path(sys.prefix) / _SHARED
    # pip install --user or --prefix: lib/pythonX.Y/site-packages below the prefix
    for parent in _PACKAGE.parents:
        if parent.name in ("lib", "lib64"):
            yield parent.parent / _SHARED
            return
