"""Every key of a treefile, as one row each.

A row says what a value may be, how an included file's value joins the including
file's, and what the key does; parser, merge and docs/treefile.md come from it.  Names
and meanings are rpm-ostree's, so that existing treefiles work unchanged.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from composer.compose.document import Document, Trail, TreefileError

ARCHITECTURES = (
    "aarch64", "armhfp", "i386", "loongarch64", "ppc64", "ppc64le", "riscv64", "s390x", "x86_64",
)  # fmt: skip


class Merge(Enum):
    """How the value of an included file (``far``) joins that of the including one."""

    NEAREST = "the including file's value wins; of several includes, the first one's"
    PARENT_FIRST = "lists are joined, the included file's first"
    TOGETHER = "lists are joined, sorted, without repetition"
    NONE = "not inherited"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands; makes the errors for it."""

    document: Document
    trail: Trail

    def at(self, part: str | int) -> Place:
        return Place(self.document, (*self.trail, part))

    def wrong(self, message: str, *, hint: str = "") -> TreefileError:
        return self.document.wrong(self.trail, message, hint=hint)

    def expected(self, what: str, value: object) -> TreefileError:
        return self.wrong(f"expected {what}, got {_brief(value)}")


Check = Callable[[object, Place], object]


@dataclass(frozen=True, slots=True)
class AccountCheck:
    """What ``check-passwd`` or ``check-groups`` compares with.

    ``entries`` is for the type "data": name to uid and gid (the same number twice
    where one was written).
    """

    kind: str
    filename: Path | None = None
    entries: tuple[tuple[str, int, int], ...] = ()


def _brief(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def text(value: object, place: Place) -> str:
    """A string of printable text."""
    if not isinstance(value, str):
        raise place.expected("a string", value)
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise place.wrong("a string with a character that no file name or script can hold")
    return value


def word(value: object, place: Place) -> str:
    """A string that is not empty, on one line."""
    if not (found := text(value, place).strip()) or "\n" in found:
        raise place.expected("a string of one line", value)
    return found


def word_or_number(value: object, place: Place) -> str:
    """A word; a whole number stands for its digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return word(value, place)


def version_prefix(value: object, place: Place) -> str:
    """A word or number; rpm-ostree's tags are not known yet."""
    found = word_or_number(value, place)
    if "<" in found:
        raise place.wrong("tags such as <date:%Y> are not supported", hint="write it out")
    return found


def flag(value: object, place: Place) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise place.expected("true or false", value)
    return value


def list_of(
    check: Callable[[object, Place], str],
) -> Callable[[object, Place], tuple[str, ...]]:
    """A list, each item as ``check`` wants it."""

    def listed(value: object, place: Place) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise place.expected("a list", value)
        return tuple(check(item, place.at(index)) for index, item in enumerate(value))

    return listed


def one_of(*names: str) -> Check:
    """One of some words."""

    def chosen(value: object, place: Place) -> str:
        found = word_or_number(value, place)
        if found not in names:
            raise place.expected(f"one of {', '.join(names)}", value)
        return found

    return chosen


def packages(value: object, place: Place) -> tuple[str, ...]:
    """A list of package names; an item may hold several, or one with spaces in quotes."""
    found: list[str] = []
    for index, item in enumerate(list_of(word)(value, place)):
        try:
            found += shlex.split(item)
        except ValueError as error:
            raise place.at(index).wrong(f"{error} in {item!r}") from error
    return tuple(sorted(set(found)))


def include(value: object, place: Place) -> tuple[str, ...]:
    """A path, or a list of paths, relative to the file that names them."""
    if isinstance(value, str):
        return (word(value, place),)
    return list_of(word)(value, place)


def script(value: object, place: Place) -> str:
    """An inline script: its first line names the interpreter."""
    found = text(value, place).lstrip()
    first = found.split("\n", 1)[0]
    if not re.match(r"#!\s*/\S", first):
        raise place.wrong(
            f"a script must begin with #! and an interpreter's path, not {_brief(first)}",
            hint="begin it with #!/usr/bin/bash or the interpreter that the tree has",
        )
    return found


def tree_path(value: object, place: Place) -> str:
    """A path in the tree, without ``..``."""
    found = word(value, place)
    parts = [part for part in found.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise place.wrong(f"{_brief(value)} does not name something inside the tree")
    return "/".join(parts)


def unit(value: object, place: Place) -> str:
    """A systemd unit's name."""
    found = word(value, place)
    if not re.fullmatch(r"[A-Za-z0-9:_.\\@-]+\.[a-z]+", found):
        raise place.expected("a unit such as sshd.service", value)
    return found


def account_check(value: object, place: Place) -> AccountCheck:
    """A mapping with ``type`` none, previous, file (with filename) or data (with entries)."""
    if not isinstance(value, dict):
        raise place.expected("a mapping with a type", value)
    kind = one_of("none", "previous", "file", "data")(value.get("type"), place.at("type"))
    wanted = {"file": "filename", "data": "entries"}.get(str(kind))
    for key in value:
        if key not in ("type", wanted):
            raise place.at(key).wrong(f"unknown for the type {kind}")
    if wanted and wanted not in value:
        raise place.wrong(f"the type {kind} needs {wanted}")
    if kind == "file":
        name = word(value["filename"], place.at("filename"))
        return AccountCheck("file", filename=place.document.path.parent / name)
    if kind == "data":
        return AccountCheck("data", entries=_entries(value["entries"], place.at("entries")))
    return AccountCheck(str(kind))


def _entries(value: object, place: Place) -> tuple[tuple[str, int, int], ...]:
    if not isinstance(value, dict):
        raise place.expected("a mapping of names to numbers", value)
    found = []
    for name, ids in sorted(value.items()):
        pair = ids if isinstance(ids, list) else [ids, ids]
        whole = [n for n in pair if isinstance(n, int) and not isinstance(n, bool)]
        if len(pair) != 2 or len(whole) != 2 or not all(0 <= n < 1 << 32 for n in whole):
            raise place.at(name).expected("a number, or a list of uid and gid", ids)
        found.append((word(name, place), whole[0], whole[1]))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Key:
    """One row: ``kind`` is what the documentation calls the values that ``check`` takes."""

    name: str
    kind: str
    check: Check
    merge: Merge
    default: object
    meaning: str
    aliases: tuple[str, ...] = ()

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")


KEYS = (
    Key("edition", "2014 or 2024", one_of("2014", "2024"), Merge.NEAREST, "2014",
        "2024 makes `boot-location: modules` and `tmp-is-dir: true` the defaults."),
    Key("ref", "string", word, Merge.NEAREST, "",
        "The OSTree ref to commit to.  `${basearch}` and `${releasever}` are replaced."),
    Key("repos", "list of strings", list_of(word), Merge.PARENT_FIRST, (),
        "Repository ids to use, from the `.repo` files beside the treefile or from "
        "`--repository ID=URL`.  Without this key, all that are enabled there."),
    Key("releasever", "string or number", word_or_number, Merge.NEAREST, "",
        "What `$releasever` stands for in `ref` and in the `.repo` files."),
    Key("include", "string or list of strings", include, Merge.NONE, (),
        "Treefiles to build upon, relative to this one; none may be included twice."),
    Key("packages", "list of strings", packages, Merge.TOGETHER, (),
        "Packages to install: names, NEVRAs, globs, provides, or `@group`.  An item may hold "
        "several, separated by spaces; single quotes keep `'podman >= 4.1'` together."),
    Key("packages-<basearch>", "list of strings", packages, Merge.TOGETHER, (),
        "Packages for that architecture only, for example `packages-x86_64`."),
    Key("recommends", "boolean", flag, Merge.NEAREST, True,
        "Whether weak dependencies are installed too."),
    Key("documentation", "boolean", flag, Merge.NEAREST, True,
        "`false` leaves out files that packages mark as documentation."),
    Key("install-langs", "list of strings", list_of(word), Merge.PARENT_FIRST, (),
        "Languages whose files are installed, for example `[de, fr_FR]`; all by default."),
    Key("units", "list of strings", list_of(unit), Merge.PARENT_FIRST, (),
        "systemd units to enable, as their `[Install]` section asks."),
    Key("default-target", "string", unit, Merge.NEAREST, "",
        "The systemd target to boot into.", ("default_target",)),
    Key("postprocess", "list of scripts", list_of(script), Merge.PARENT_FIRST, (),
        "Scripts to run in the tree, without network; each begins with `#!`.  Those of an "
        "included file run first, and of several includes the last one's first."),
    Key("remove-files", "list of paths", list_of(tree_path), Merge.PARENT_FIRST, (),
        "Files and directories to remove from the tree.  Missing ones are no error."),
    Key("automatic-version-prefix", "string", version_prefix, Merge.NEAREST, "",
        "The commit's version: this prefix, then with `.1`, `.2`, ... while it stays the same.",
        ("automatic_version_prefix",)),
    Key("selinux", "boolean", flag, Merge.NEAREST, True,
        "Whether files are labelled by the tree's own policy; without a policy in the tree, "
        "`true` is an error."),
    Key("boot-location", "new or modules", one_of("new", "modules"), Merge.NEAREST, "new",
        "`modules`: the kernel is in `/usr/lib/modules/<version>`; `new`: also in "
        "`/usr/lib/ostree-boot`.", ("boot_location",)),
    Key("no-initramfs", "boolean", flag, Merge.NEAREST, False,
        "`true`: no initramfs is made, even if the tree has a kernel and dracut."),
    Key("tmp-is-dir", "boolean", flag, Merge.NEAREST, False,
        "`true`: `/tmp` is a directory, not a link to `sysroot/tmp`."),
    Key("check-passwd", "mapping", account_check, Merge.NEAREST, AccountCheck("previous"),
        "What users must agree with: `type: none`, `previous` (the ref's current commit), "
        "`file` (with `filename`) or `data` (with `entries: {name: [uid, gid]}`).  The same "
        "users get the same numbers, and one that still owns files may not disappear."),
)  # fmt: skip

_BY_NAME = {name: key for key in KEYS for name in (key.name, *key.aliases)}
_ARCH_PACKAGES = _BY_NAME["packages-<basearch>"]


def find(name: str, place: Place) -> Key:
    """Return the row for the key ``name``; raises TreefileError that names the nearest one."""
    if name in _BY_NAME and "<" not in name:
        return _BY_NAME[name]
    prefix, _, arch = name.partition("-")
    if prefix == "packages" and arch:
        if arch in ARCHITECTURES:
            return _ARCH_PACKAGES
        near = difflib.get_close_matches(arch, ARCHITECTURES, 1, 0.5)
        hint = f"did you mean packages-{near[0]}?" if near else _known(ARCHITECTURES)
        raise place.wrong(f"unknown architecture {arch!r}", hint=hint)
    names = [known for known in _BY_NAME if "<" not in known]
    near = difflib.get_close_matches(name.replace("_", "-"), names, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else "docs/treefile.md lists the keys"
    raise place.wrong("unknown key", hint=hint)


def _known(names: Iterable[str]) -> str:
    return f"known are {', '.join(names)}"


def join(key: Key, near: object, far: object) -> object:
    """Join the value of an including file with that of an included one."""
    if key.merge is Merge.NEAREST or key.merge is Merge.NONE:
        return near
    assert isinstance(near, tuple)
    assert isinstance(far, tuple)
    both = (*far, *near)
    return tuple(sorted(set(both))) if key.merge is Merge.TOGETHER else both


def table() -> str:
    """Return the keys as the Markdown table of docs/treefile.md."""
    rows = ["| key | value | default | includes | meaning |", "|---|---|---|---|---|"]
    for key in KEYS:
        names = ", ".join(f"`{name}`" for name in (key.name, *key.aliases))
        rows.append(
            f"| {names} | {key.kind} | {_shown(key.default)} | {key.merge.value} | {key.meaning} |"
        )
    return "\n".join(rows) + "\n"


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, AccountCheck):
        return f"`type: {default.kind}`"
    return str(default) if default else ""
