"""systemd units: enabled as their [Install] section asks, without running systemctl.

The tree need not be of this machine's architecture and has no systemd running; what
``systemctl enable`` does is a few links in /etc/systemd/system.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from composer.compose.tree import BadTree, Tree

_CONFIG = "usr/etc/systemd/system"
_VENDOR = "usr/lib/systemd/system"
_PLACES = (_CONFIG, _VENDOR, "usr/local/lib/systemd/system")
_DIRECTORIES = {"WantedBy": "wants", "RequiredBy": "requires", "UpheldBy": "upholds"}
# rpm-ostree enables every unit there, also one that has no [Install] section.
_FALLBACK = "multi-user.target"


@dataclass(frozen=True, slots=True)
class _Unit:
    """A unit as it is enabled: its name, and where its file is in the running system."""

    name: str
    file: str
    install: dict[str, list[str]]


def enable(tree: Tree, name: str) -> None:
    """Enable a unit, and those that it names with Also=.  Raises BadTree for a missing one."""
    todo, done = [name], set()
    while todo:
        name = todo.pop(0)
        if name in done:
            continue
        done.add(name)
        unit = _find(tree, name)
        _link(tree, unit)
        todo += unit.install.get("Also", [])


def set_default_target(tree: Tree, name: str) -> None:
    """Make ``name`` what the system boots into.  Raises BadTree when it is missing.

    It is a default of the tree, in /usr, so that a machine's own choice counts more; one
    that a scriptlet made in the tree's /etc does not stay.
    """
    file = _find(tree, name).file
    tree.remove(f"{_CONFIG}/default.target")
    beside = file.rpartition("/")[0] == f"/{_VENDOR}"
    tree.link(f"{_VENDOR}/default.target", name if beside else file)


def _find(tree: Tree, name: str) -> _Unit:
    template, instance = _template(name)
    for candidate in dict.fromkeys((name, template)):
        for place in _PLACES:
            text = tree.read(f"{place}/{candidate}")
            if text is None:
                continue
            install = _install_section(text)
            if template == name and "@." in name and not instance:
                instance = next(iter(install.get("DefaultInstance", [])), "")
                if not instance:
                    raise BadTree(f"{name} is a template; name an instance of it")
                name = name.replace("@.", f"@{instance}.")
            running = place.replace("usr/etc", "etc")
            return _Unit(name, f"/{running}/{candidate}", _expanded(install, name, instance))
    raise _missing(tree, name)


def _template(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    prefix, at, instance = stem.partition("@")
    return (f"{prefix}@{dot}{suffix}", instance) if at else (name, "")


def _missing(tree: Tree, name: str) -> BadTree:
    known = {
        path.name
        for place in _PLACES
        if (directory := tree.path(place, follow=True)).is_dir()
        for path in directory.iterdir()
    }
    near = difflib.get_close_matches(name, sorted(known), 1, 0.6)
    return BadTree(
        f"the tree has no unit {name}",
        hint=f"did you mean {near[0]}?" if near else "neither a package nor add-files brings it",
    )


def _install_section(text: str) -> dict[str, list[str]]:
    """Collect [Install]: lists of words; an empty value starts a list anew, as in systemd."""
    found: dict[str, list[str]] = {}
    section = ""
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line
        elif section == "[Install]" and "=" in line and line[0] not in "#;":
            key, _, value = line.partition("=")
            words = value.split()
            found[key.strip()] = [*found.get(key.strip(), []), *words] if words else []
    return found


def _expanded(install: dict[str, list[str]], name: str, instance: str) -> dict[str, list[str]]:
    stem = name.rpartition(".")[0]
    specifiers = {"%i": instance, "%I": instance, "%n": name, "%N": stem}
    specifiers["%p"] = stem.partition("@")[0]

    def expand(word: str) -> str:
        for specifier, value in specifiers.items():
            word = word.replace(specifier, value)
        # A unit's name is one path component, whatever the file says.
        return word.replace("/", "-")

    return {key: [expand(word) for word in words] for key, words in install.items()}


def _link(tree: Tree, unit: _Unit) -> None:
    links = [
        f"{target}.{suffix}/{unit.name}"
        for key, suffix in _DIRECTORIES.items()
        for target in unit.install.get(key, [])
    ]
    links += [alias for alias in unit.install.get("Alias", []) if alias != unit.name]
    if not links and not unit.install.get("Also"):
        links = [f"{_FALLBACK}.wants/{unit.name}"]
    for link in links:
        tree.link(f"{_CONFIG}/{link}", unit.file)
