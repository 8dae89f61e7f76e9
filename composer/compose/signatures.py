"""Signatures of packages, as ``gpgcheck`` and ``gpgkey`` of each repository ask.

rpm itself judges, with a database of keys of its own for each repository: a key that one
repository trusts says nothing about another's packages, and this machine's keys count
nowhere.  Two things that rpm 4.18 leaves open are added: a key that has expired or was
revoked trusts nothing, and a signature has to cover the payload as well as the header.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from composer.errors import CommandFailed, ComposerError, VerificationFailed
from composer.progress import Report, Step
from composer.rpm.package import Nevra
from composer.system.command import require_program, run

_MOST_BYTES = 1 << 20
_AT_ONCE = 250
_MOST = 10
_SIGNATURE = re.compile(
    r"(?P<header>header )?.*signature, key (?:id|fingerprint):? (?P<key>[0-9a-f]+): (?P<said>.+)",
    re.IGNORECASE,
)
_PAYLOAD = re.compile(r"payload .*digest: ok", re.IGNORECASE)
_UNUSABLE = {"e": "has expired", "r": "was revoked", "i": "is not valid"}


class KeysUnusable(ComposerError):
    """Keys of a repository that cannot be read, or of which none can be trusted."""


class UntrustedPackage(VerificationFailed):
    """Packages without a good signature by a key of their repository."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key or subkey.  ``problem`` says why it trusts nothing ("": it does)."""

    ident: str
    owner: str
    problem: str = ""

    def __str__(self) -> str:
        text = f"{self.ident} ({self.owner})" if self.owner else self.ident
        return f"{text}, which {self.problem}" if self.problem else text


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of one repository: ``dbpath`` is rpm's database of those that can be trusted.

    ``armored`` is a file with them, and ``digest`` tells apart what was given.
    """

    repository: str
    keys: tuple[Key, ...]
    dbpath: Path
    armored: Path
    digest: str

    def find(self, ident: str) -> Key | None:
        """Find the key that rpm calls ``ident``: the end of its id, or a whole fingerprint."""
        wanted = ident.upper()
        matching = (k for k in self.keys if k.ident.endswith(wanted) or wanted.endswith(k.ident))
        return next(matching, None)


@dataclass(frozen=True, slots=True)
class Signed:
    """An RPM that has to be signed by a key of ``keyring``."""

    nevra: Nevra
    path: Path
    keyring: Keyring


def read_keyring(repository: Any, scratch: Path) -> Keyring:
    """Read the keys that dnf's ``repository`` names by ``gpgkey``, into ``scratch``.

    A key without a scheme is a path relative to the ``.repo`` file.  Raises KeysUnusable
    when there is no key, or when none can be trusted.
    """
    require_program("gpg", package="gnupg (Debian) or gnupg2 (Fedora)")
    require_program("rpmkeys", package="rpm")
    urls = key_urls(repository)
    if not urls:
        raise KeysUnusable(
            f"repository {repository.id}: signatures have to be checked, but it names no key",
            hint="add gpgkey=URL to its section in the .repo file, or write gpgcheck=0",
        )
    given = [_read(repository, url) for url in urls]
    home = scratch / hashlib.sha256(repository.id.encode()).hexdigest()[:16]
    home.mkdir(mode=0o700, parents=True)
    keys: list[Key] = []
    for url, data in zip(urls, given, strict=True):
        keys += _import(home, repository.id, url, data)
    armored = home / "trusted.asc"
    armored.write_bytes(_export(home, [key for key in keys if not key.problem]))
    _require_one(repository.id, urls, keys, armored)
    dbpath = home / "rpmdb"
    dbpath.mkdir()
    run([*_rpmkeys(dbpath), "--import", str(armored)], hint=f"the keys are those of {urls}")
    digest = hashlib.sha256(b"\0".join(given)).hexdigest()
    return Keyring(repository.id, tuple(keys), dbpath, armored, digest)


def key_urls(repository: Any) -> list[str]:
    """Return the URLs of a repository's keys; paths are relative to the ``.repo`` file."""
    base = Path(repository.repofile or ".").absolute().parent
    return [url if "://" in url else (base / url).as_uri() for url in repository.gpgkey if url]


def _read(repository: Any, url: str) -> bytes:
    where = f"repository {repository.id}: gpgkey {url}"
    parts = urlsplit(url)
    if parts.scheme == "file":
        try:
            with Path(unquote(parts.path)).open("rb") as stream:
                data = stream.read(_MOST_BYTES + 1)
        except OSError as error:
            raise KeysUnusable(f"{where}: {error.strerror}") from error
    else:
        data = _download(repository, url, where)
    if len(data) > _MOST_BYTES:
        raise KeysUnusable(f"{where}: more than {_MOST_BYTES} bytes; these are no keys")
    return data


def _download(repository: Any, url: str, where: str) -> bytes:
    """Fetch ``url`` by librepo, with the repository's proxy and certificates."""
    import tempfile

    with tempfile.TemporaryFile() as file:
        try:
            repository._repo.downloadUrl(url, file.fileno())
        except RuntimeError as error:
            raise KeysUnusable(f"{where}: cannot be fetched", details=[str(error)]) from error
        file.seek(0)
        return file.read(_MOST_BYTES + 1)


def _gpg(home: Path) -> list[str]:
    return ["gpg", "--homedir", str(home), "--batch", "--no-autostart", "--quiet", "--no-tty"]


def _rpmkeys(dbpath: Path) -> list[str]:
    level = ["--define", "_pkgverify_level all", "--define", "_keyring rpmdb"]
    return ["rpmkeys", "--dbpath", str(dbpath.absolute()), *level]


def _import(home: Path, repository: str, url: str, data: bytes) -> list[Key]:
    show = ["--with-colons", "--fixed-list-mode", "--show-keys"]
    try:
        listed = run([*_gpg(home), *show], stdin=data).decode(errors="replace")
        keys = list(_listed(listed))
        run([*_gpg(home), "--import"], stdin=data)
    except CommandFailed as error:
        keys, reason = [], error.output
    else:
        reason = "no key in it"
    if not keys:
        raise KeysUnusable(
            f"repository {repository}: gpgkey {url}: not a public GPG key",
            details=reason.strip().splitlines()[-4:],
        )
    return keys


def _listed(text: str) -> Iterator[Key]:
    """Read gpg's listing; a subkey of a key that trusts nothing trusts nothing."""
    found: list[list[str]] = []
    above = ""
    for line in text.splitlines():
        fields = line.split(":")
        if fields[0] in ("pub", "sub") and len(fields) > 6:
            problem = _problem(fields[1], fields[6])
            above = problem if fields[0] == "pub" else above
            found.append([fields[4].upper(), "", problem or above])
        elif fields[0] == "fpr" and found and len(fields) > 9 and len(found[-1][0]) < 40:
            found[-1][0] = fields[9].upper()
        elif fields[0] == "uid" and found and len(fields) > 9:
            for entry in found:
                entry[1] = entry[1] or fields[9]
    for ident, owner, problem in found:
        yield Key(ident, "".join(c if c.isprintable() else "?" for c in owner[:120]), problem)


def _problem(validity: str, expires: str) -> str:
    date = ""
    if expires.isdecimal():
        date = time.strftime(" on %Y-%m-%d", time.gmtime(int(expires)))
        if int(expires) <= time.time():
            validity = "e"
    said = _UNUSABLE.get(validity[:1], "")
    return said + date if said.endswith("expired") else said


def _export(home: Path, keys: Sequence[Key]) -> bytes:
    if not keys:
        return b""
    return run([*_gpg(home), "--armor", "--export", *(f"0x{key.ident}" for key in keys)])


def _require_one(repository: str, urls: list[str], keys: list[Key], armored: Path) -> None:
    if not armored.stat().st_size:
        raise KeysUnusable(
            f"repository {repository}: none of its keys can be trusted",
            details=[f"key {key}" for key in keys],
            hint=f"get its present key and name it by gpgkey; read was {', '.join(urls)}",
        )


def require_signed(packages: Sequence[Signed], report: Report) -> None:
    """Require of every package that all its digests are right and that its keyring signed it.

    Raises UntrustedPackage, which names each package, its repository and the key.
    """
    groups = list(_groups(packages))
    done = 0
    failures: dict[Nevra, str] = {}
    # rpmkeys is a process of its own each time, so threads use all cores.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for group, found in zip(groups, pool.map(_check, groups), strict=True):
            done += len(group)
            report(Step("signatures", done, len(packages), "packages"))
            failures |= found
    if failures:
        details = [f"{nevra}: {failures[nevra]}" for nevra in sorted(failures)]
        rest = len(details) - _MOST
        raise UntrustedPackage(
            f"{_count(failures)} not signed by a key that the repository names",
            details=[*details[:_MOST], *([f"and {rest} more"] if rest > 0 else [])],
            hint="do not install it; if the key changed, name the new one by gpgkey",
        )


def _count(failures: Mapping[Nevra, str]) -> str:
    if len(failures) == 1:
        return f"{next(iter(failures))}: it is"
    return f"{len(failures)} packages are"


def _groups(packages: Sequence[Signed]) -> Iterator[list[Signed]]:
    """Packages of one keyring each, as evenly as the cores want them."""
    by_keyring: dict[str, list[Signed]] = {}
    for package in packages:
        by_keyring.setdefault(package.keyring.repository, []).append(package)
    for group in by_keyring.values():
        size = min(_AT_ONCE, -(-len(group) // (os.cpu_count() or 1)))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _check(group: Sequence[Signed]) -> dict[Nevra, str]:
    keyring = group[0].keyring
    paths = [str(package.path.absolute()) for package in group]
    clean, output = _ask([*_rpmkeys(keyring.dbpath), "--checksig", "--verbose", *paths])
    said = _by_path(output, paths)
    failures: dict[Nevra, str] = {}
    for package, path in zip(group, paths, strict=True):
        if reason := _refusal(said[path], keyring):
            failures[package.nevra] = f"repository {keyring.repository}: {reason}"
    if not (clean or failures):
        failures[group[0].nevra] = f"rpmkeys failed: {' '.join(output.split())[-400:]}"
    return failures


def _ask(argv: list[str]) -> tuple[bool, str]:
    try:
        return True, run(argv).decode(errors="replace")
    except CommandFailed as error:
        return False, error.output


def _by_path(output: str, paths: Sequence[str]) -> dict[str, list[str]]:
    """Sort what rpmkeys said by path: a line that names it, then indented ones."""
    found: dict[str, list[str]] = {path: [] for path in paths}
    lines: list[str] = []
    for line in output.splitlines():
        if line.startswith(" "):
            lines.append(line.strip())
        else:
            lines = found.get(line.removesuffix(":"), [])
    return found


def _refusal(lines: Iterable[str], keyring: Keyring) -> str:
    """Say why rpm's words about a package are not enough; "" when they are."""
    signed = covered = False
    problems: list[str] = []
    lines = list(lines)
    if not lines:
        return "rpm cannot read it"
    for line in lines:
        if match := _SIGNATURE.fullmatch(line):
            reason = _signature_problem(match, keyring)
            problems += [reason] if reason else []
            signed |= not reason
            covered |= not reason and not match["header"]
        elif _PAYLOAD.fullmatch(line):
            covered = True
        elif not line.endswith((": OK", ": NOTFOUND")):
            problems.append(line)
    if problems:
        return "; ".join(dict.fromkeys(problems))
    if not signed:
        return f"not signed; expected a signature by {_names(keyring)}"
    return "" if covered else "its signature covers the header alone, not the payload"


def _signature_problem(match: re.Match[str], keyring: Keyring) -> str:
    said, ident = match["said"], match["key"].upper()
    key = keyring.find(ident)
    if key is not None and key.problem:
        return f"signed by key {key}"
    if said == "OK":
        return ""
    if said == "NOKEY":
        return f"signed by key {ident}, which it does not name; expected {_names(keyring)}"
    return f"its signature by key {key or ident} is wrong ({said})"


def _names(keyring: Keyring) -> str:
    return " or ".join(str(key) for key in keyring.keys if not key.problem)
