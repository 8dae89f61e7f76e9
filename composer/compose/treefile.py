"""The treefile: read, with its includes, into one frozen value.

Whatever passes :func:`load` is valid; what is behind it trusts it.  The rows in
:mod:`composer.compose.keys` say what each key means; this module only walks them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from composer.compose.document import Document, TreefileError
from composer.compose.keys import ARCHITECTURES, KEYS, AccountCheck, Key, Place, find, join

_DEPTH = 50
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z")
_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_EDITION_DEFAULTS: dict[str, dict[str, object]] = {
    "2014": {},
    "2024": {"boot-location": "modules", "tmp-is-dir": True},
}


@dataclass(frozen=True, slots=True)
class Treefile:
    """A flattened treefile.  The attributes are the keys, with ``_`` for ``-``.

    ``packages`` holds those of the architecture too.  ``given`` has, by name and in
    the order of the table, only what the files said.
    """

    path: Path
    basearch: str
    files: tuple[Path, ...]
    given: Mapping[str, object]
    edition: str
    ref: str
    repos: tuple[str, ...]
    releasever: str
    packages: tuple[str, ...]
    recommends: bool
    documentation: bool
    install_langs: tuple[str, ...]
    units: tuple[str, ...]
    default_target: str
    postprocess: tuple[str, ...]
    remove_files: tuple[str, ...]
    automatic_version_prefix: str
    selinux: bool
    boot_location: str
    no_initramfs: bool
    tmp_is_dir: bool
    check_passwd: AccountCheck

    @property
    def directory(self) -> Path:
        """Where the ``.repo`` files are looked for."""
        return self.path.parent

    def require_complete(self) -> None:
        """Raise TreefileError unless a compose can start from it."""
        for name in ("ref", "packages"):
            if not getattr(self, name):
                raise TreefileError(f"{self.path}: the key {name} is missing")
        if not _REF.match(self.ref):
            raise TreefileError(f"{self.path}: ref: {self.ref!r} is not a valid OSTree ref")

    def flattened(self) -> dict[str, object]:
        """Return what the files said as plain values, ready for YAML or JSON."""
        return {name: _plain(value) for name, value in self.given.items()}

    def digest(self) -> str:
        """Return a SHA-256 over the meaning: values, and the content of files they name."""
        said = self.flattened()
        if self.check_passwd.filename is not None:
            content = read_account_file(self.check_passwd.filename)
            said["check-passwd"] = {"type": "file", "content": content}
        text = json.dumps({"basearch": self.basearch, **said}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load(path: Path, *, basearch: str) -> Treefile:
    """Read the treefile at ``path`` and all that it includes, for architecture ``basearch``.

    Raises TreefileError that names file, key, and line where there is one.
    """
    if basearch not in ARCHITECTURES:
        raise TreefileError(
            f"unknown architecture {basearch!r}", hint=f"known are {', '.join(ARCHITECTURES)}"
        )
    seen: dict[Path, Path] = {}
    values = _expanded(_read(path, basearch, seen, ()), path, basearch)
    edition = str(values.get("edition", "2014"))
    defaults = _EDITION_DEFAULTS[edition]
    fields = {
        key.attribute: values.get(key.name, defaults.get(key.name, key.default))
        for key in KEYS
        if key.name not in ("include", "packages-<basearch>")
    }
    order = [key.name for key in KEYS if key.name in values]
    given = {name: values[name] for name in order}
    return Treefile(
        path=path,
        basearch=basearch,
        files=tuple(seen.values()),
        given=given,
        **fields,  # type: ignore[arg-type]
    )


def _read(
    path: Path, basearch: str, seen: dict[Path, Path], above: tuple[Path, ...]
) -> dict[str, object]:
    """Read one file and, below it, its includes; ``above`` are the files that led here."""
    _note(path, seen, above)
    document = Document.read(path)
    values = _checked(document, basearch)
    includes = values.pop("include", ())
    assert isinstance(includes, tuple)
    for index, name in enumerate(includes):
        target = path.parent / name
        if not target.is_file():
            place = Place(document, ("include",)).at(index)
            raise place.wrong(f"{target} is not there", hint=f"{path} includes it")
        for key_name, far in _read(target, basearch, seen, (*above, path)).items():
            key = next(key for key in KEYS if key.name == key_name)
            values[key_name] = join(key, values[key_name], far) if key_name in values else far
    return values


def _note(path: Path, seen: dict[Path, Path], above: tuple[Path, ...]) -> None:
    real = path.resolve()
    chain = " -> ".join(str(file) for file in (*above, path))
    if real in (file.resolve() for file in above):
        raise TreefileError(f"{above[0]}: include: a cycle: {chain}")
    if real in seen:
        raise TreefileError(
            f"{above[0]}: include: {path} is included twice",
            details=[chain],
            hint="name it only once; what it says holds for all files",
        )
    if len(above) > _DEPTH:
        raise TreefileError(f"{above[0]}: include: more than {_DEPTH} files deep")
    seen[real] = path


def _checked(document: Document, basearch: str) -> dict[str, object]:
    """Check one file's values against their rows; the architecture's packages are folded in."""
    root = Place(document, ())
    if not isinstance(document.value, dict):
        raise root.expected("a mapping of keys", document.value)
    comments = document.path.suffix == ".json"
    values: dict[str, object] = {}
    packages: set[str] = set()
    for name, raw in document.value.items():
        if comments and name.startswith("comment"):
            continue
        place = root.at(name)
        key = find(name, place)
        value = key.check(raw, place)
        if key.attribute.startswith("packages"):
            packages |= _for_arch(key, name, value, basearch)
            values["packages"] = tuple(sorted(packages))
        elif key.name in values:
            raise place.wrong(f"the same as {key.name}, which is there too")
        else:
            values[key.name] = value
    return values


def _for_arch(key: Key, name: str, value: object, basearch: str) -> set[str]:
    assert isinstance(value, tuple)
    return set(value) if name in (key.name, f"packages-{basearch}") else set()


def _expanded(values: dict[str, object], path: Path, basearch: str) -> dict[str, object]:
    variables = {"basearch": basearch, "releasever": str(values.get("releasever", ""))}
    for name in ("ref", "automatic-version-prefix"):
        if name in values:
            values[name] = _expand(str(values[name]), variables, f"{path}: {name}")
    return values


def _expand(text: str, variables: Mapping[str, str], where: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] if match[1] is not None else match[2]
        if not variables.get(name):
            known = ", ".join(sorted(variables))
            raise TreefileError(
                f"{where}: the variable {name!r} is not set", hint=f"known: {known}"
            )
        return variables[name]

    return _VARIABLE.sub(value, text)


def read_account_file(path: Path) -> str:
    """Return the text of a passwd file that a treefile names; raises TreefileError."""
    try:
        return path.read_text()
    except OSError as error:
        raise TreefileError(f"check-passwd: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TreefileError(f"check-passwd: {path}: not UTF-8 text") from error


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, AccountCheck):
        return _plain_check(value)
    return value


def _plain_check(check: AccountCheck) -> dict[str, object]:
    plain: dict[str, object] = {"type": check.kind}
    if check.filename is not None:
        plain["filename"] = str(check.filename)
    if check.entries:
        plain["entries"] = {name: [uid, gid] for name, uid, gid in check.entries}
    return plain
