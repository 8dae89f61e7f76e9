"""Remotes: where sets come from, and whom to trust; kept as TOML files.

``NAME.toml`` in ``remotes.d`` of the system's configuration (/etc/jigdo-composer,
written by root) or the user's ($XDG_CONFIG_HOME/jigdo-composer; read first), and
beside it ``NAME.gpg``, the keys that were given, as a binary keyring, and
``NAME.root.json``, the root of signed statements.  Format: docs/remotes.md.  Rules kept
here: unsigned is accepted only where ``none`` is written; what was given is demanded.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from itertools import chain
from pathlib import Path

from composer.client.remote_file import Document, Trust, validated
from composer.errors import FormatError, NotFound, UsageError
from composer.net.archive import Archive
from composer.net.bundle import Bundle
from composer.net.location import Mirrors
from composer.net.network import Limits, Network, Way, origin
from composer.net.statement import PinnedRoot, read_root
from composer.net.trust_store import TrustStore, forget
from composer.ostree.keyring import read_keys
from composer.ostree.signature import require_ed25519
from composer.system.files import write_bytes

SYSTEM = Path("/etc/jigdo-composer")
STATE = Path("/var/lib/jigdo-composer/trust")
_ROOT = ".root.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote as it is configured.

    ``urls`` and the values of ``repositories`` (by repository id) are base URLs,
    best first; ``archives`` URLs or templates (:mod:`composer.net.archive`).
    ``mirrorlist`` is the URL of a list of more mirrors of its own repository,
    ``way`` and ``limits`` say how all of them are reached.
    ``keyring`` and ``fingerprints`` (GPG's) and ``ed25519_keys`` are empty where ``trust`` is
    without "gpg": of each kind that is there, one has to have signed a commit.  ``root`` is
    empty where it is without "tuf".  With a ``bundle`` only that is asked.  What has been seen of
    signed statements is kept below ``state``.
    """

    name: str
    urls: tuple[str, ...]
    trust: Trust
    keyring: Path | None = None
    fingerprints: tuple[str, ...] = ()
    ed25519_keys: tuple[str, ...] = ()
    repositories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    archives: tuple[str, ...] = ()
    mirrorlist: str = ""
    root: PinnedRoot | None = None
    state: Path = Path()
    way: Way = field(default_factory=Way)
    limits: Limits = field(default_factory=Limits)
    bundle: Bundle | None = None

    def network(self) -> Network:
        """Make what a run talks to this remote's mirrors with."""
        named = [*self.urls, *self.archives, *chain(*self.repositories.values()), self.mirrorlist]
        own = frozenset(origin(url) for url in named if url)
        return Network.by(replace_fields(self.way, own=own), self.limits)

    def store(self) -> TrustStore:
        """What has been seen of this remote's signed statements."""
        assert self.root is not None
        return TrustStore(self.state, self.name, self.root.data)

    def mirrors(self, repository: str = "") -> Mirrors:
        """Mirrors of a repository id, or of the remote's own repository."""
        if self.bundle is not None:
            return Mirrors((self.bundle.base,), self.bundle.of(repository))
        return Mirrors.parse(*self.mirrors_for(repository))

    def within(self, bundle: Bundle) -> Remote:
        """The same, trusting the same, but all that it has is in a bundle."""
        return replace_fields(
            self, urls=(bundle.base,), repositories={}, archives=(), mirrorlist="", bundle=bundle
        )

    def mirrors_for(self, repository: str) -> tuple[str, ...]:
        """Base URLs of a repository id; the remote's own for "" and ids it does not name."""
        return self.repositories.get(repository, self.urls)


def add_remote(
    name: str,
    urls: Sequence[str],
    *,
    keys: Sequence[Path] = (),
    ed25519_keys: Sequence[str] = (),
    tuf_root: Path | None = None,
    trust: Trust | None = None,
    repositories: Mapping[str, Sequence[str]] | None = None,
    archives: Sequence[str] = (),
    mirrorlist: str | None = None,
    connection: Mapping[str, object] | None = None,
    config_dir: Path | None = None,
    replace: bool = False,
) -> Remote:
    """Write a remote and pin the GPG keys in the files ``keys`` and the root ``tuf_root``.

    ``ed25519_keys`` are public keys in base64, or files with one in each line, as
    `ostree sign` takes them; MissingRequirement where libostree cannot check them.
    ``urls``, ``archives`` and ``repositories`` may name existing directories too;
    ``connection`` has keys of the file that say how mirrors are reached.
    ``trust`` is what was given, all of it, by default.  Raises UsageError for a wrong
    value, a name that is taken, and for nothing to trust but no "none".
    """
    directory = writable_place(config_dir)
    _check_name(name)
    path = directory / f"{name}.toml"
    if path.exists() and not replace:
        raise UsageError(
            f"remote {name} exists already", hint="--replace writes it anew, with all it needs"
        )
    chosen = _chosen(name, trust, gpg=bool(keys or ed25519_keys), tuf=tuf_root is not None)
    ring, fingerprints = read_keys(keys)
    if ed25519_keys:
        require_ed25519()
    root = read_root(tuf_root) if tuf_root else None
    document = validated(
        {
            "urls": [as_url(url) for url in urls],
            "mirrorlist": mirrorlist,
            "trust": chosen,
            "fingerprints": list(fingerprints),
            "ed25519-keys": [key for text in ed25519_keys for key in _ed25519_keys(text)],
            "archives": [as_url(text) for text in archives],
            "tuf_root": str(root.digest) if root else None,
            "repositories": {
                key: [as_url(url) for url in more] for key, more in (repositories or {}).items()
            },
            **(connection or {}),
        },
        lambda problem: UsageError(f"remote {name}: {problem}"),
    )
    pinned = {".gpg": ring, _ROOT: root.data if root else b""}
    for suffix, data in pinned.items():
        if data:
            write_bytes(directory / f"{name}{suffix}", data)
    # A proxy's password is nobody else's business.
    write_bytes(path, document.to_toml().encode(), mode=0o600 if document.has_password else 0o644)
    for suffix, data in pinned.items():
        if not data:
            (directory / f"{name}{suffix}").unlink(missing_ok=True)
    return load_remote(path)


def _ed25519_keys(text: str) -> list[str]:
    if not Path(text).is_file():
        return [text]
    lines = Path(text).read_text(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _check_name(name: str) -> None:
    if not _NAME.match(name):
        raise UsageError(
            f"{name!r} cannot be a remote's name",
            hint="letters, digits and _ . - ; the first one a letter or digit",
        )


def _chosen(name: str, trust: Trust | None, *, gpg: bool, tuf: bool) -> Trust:
    """The policy: all that was given, or what is wanted of it."""
    given = {(True, True): "tuf+gpg", (True, False): "tuf", (False, True): "gpg"}.get((tuf, gpg))
    if trust == "none" and given:
        raise UsageError(
            f"remote {name}: --trust none contradicts --gpg-key, --ed25519-key and --tuf-root",
            hint="leave out one or the other",
        )
    wanted = trust or given
    if wanted is None:
        raise UsageError(
            f"remote {name}: nothing says whom to trust",
            details=["without a key, any mirror could send any system"],
            hint="give the publisher's root with --tuf-root FILE or key with --gpg-key FILE, "
            "or accept unsigned commits with --trust none",
        )
    lacking = [
        option
        for word, there, option in (
            ("tuf", tuf, "--tuf-root FILE"),
            ("gpg", gpg, "--gpg-key FILE or --ed25519-key KEY"),
        )
        if word in wanted and not there
    ]
    if lacking:
        raise UsageError(
            f"remote {name}: --trust {wanted} needs {' and '.join(lacking)}",
            hint="the publisher has them; without --trust, what is given is demanded",
        )
    return wanted  # type: ignore[return-value]


def as_url(text: str) -> str:
    """Return the URL of an existing directory; anything else as it is."""
    return Path(text).resolve().as_uri() if "://" not in text and Path(text).is_dir() else text


def parse_archives(texts: Iterable[str]) -> tuple[str, ...]:
    """Check URLs and templates of archives; an existing directory becomes a URL."""
    try:
        return tuple(str(Archive.parse(as_url(text))) for text in texts)
    except ValueError as error:
        raise UsageError(f"--archive: {error}") from None


def writable_place(config_dir: Path | None) -> Path:
    """The directory that this user's remotes are written to."""
    if config_dir is not None:
        return config_dir / "remotes.d"
    return (SYSTEM if os.geteuid() == 0 else _user_configuration()) / "remotes.d"


def _user_configuration() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "jigdo-composer"


def _places(config_dir: Path | None) -> list[Path]:
    roots = [config_dir] if config_dir is not None else [_user_configuration(), SYSTEM]
    return [root / "remotes.d" for root in roots]


def list_remotes(config_dir: Path | None = None) -> list[Remote]:
    """All remotes, sorted by name; the user's hide the system's of the same name."""
    paths: dict[str, Path] = {}
    for place in _places(config_dir):
        for path in sorted(place.glob("*.toml")):
            paths.setdefault(path.stem, path)
    return [load_remote(path) for _, path in sorted(paths.items())]


def find_remote(name: str | None = None, config_dir: Path | None = None) -> Remote:
    """The remote ``name``, or the only one there is; raises NotFound or UsageError."""
    if name is not None:
        return load_remote(_path_of(name, config_dir))
    remotes = list_remotes(config_dir)
    if len(remotes) == 1:
        return remotes[0]
    if not remotes:
        raise NotFound("there is no remote", hint="add one: jigdo-composer remote add NAME URL")
    names = ", ".join(remote.name for remote in remotes)
    raise UsageError(f"which remote?  There are {names}", hint="write REMOTE:REF")


def remove_remote(name: str, config_dir: Path | None = None) -> Path:
    """Remove a remote and its keys; returns the path of the file that described it."""
    path = _path_of(name, config_dir)
    path.unlink()
    path.with_suffix(".gpg").unlink(missing_ok=True)
    path.with_suffix(_ROOT).unlink(missing_ok=True)
    forget(_state_of(path), name)
    return path


def _path_of(name: str, config_dir: Path | None) -> Path:
    _check_name(name)
    for place in _places(config_dir):
        if (path := place / f"{name}.toml").is_file():
            return path
    known = [remote.name for remote in list_remotes(config_dir)]
    raise NotFound(
        f"there is no remote {name}",
        details=[f"there are: {', '.join(known)}"] if known else ["there is none at all"],
        hint="add it: jigdo-composer remote add NAME URL",
    )


def load_remote(path: Path) -> Remote:
    """Read a remote's file; raises FormatError that names the file and the key."""
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: {error}") from None
    document = validated(values, lambda problem: FormatError(f"{path}: {problem}"))
    gpg = "gpg" in document.trust and not (document.ed25519_keys and not document.fingerprints)
    keyring = path.with_suffix(".gpg") if gpg else None
    if keyring is not None and not (keyring.is_file() and document.fingerprints):
        raise FormatError(
            f"{path}: trust is {document.trust}, but there is no key",
            details=[f"expected {keyring}, and its fingerprints in {path.name}"],
            hint="write it anew: jigdo-composer remote add --replace --gpg-key FILE",
        )
    return Remote(
        name=path.stem,
        urls=tuple(document.urls),
        trust=document.trust,
        keyring=keyring,
        fingerprints=tuple(document.fingerprints),
        ed25519_keys=tuple(document.ed25519_keys) if "gpg" in document.trust else (),
        repositories={key: tuple(urls) for key, urls in document.repositories.items()},
        archives=tuple(document.archives),
        mirrorlist=document.mirrorlist or "",
        root=_pinned_root(path, document) if "tuf" in document.trust else None,
        state=_state_of(path),
        way=document.way,
        limits=document.limits,
    )


def _pinned_root(path: Path, document: Document) -> PinnedRoot:
    place = path.with_suffix(_ROOT)
    root = read_root(place) if place.is_file() else None
    if root is None or str(root.digest) != document.tuf_root:
        raise FormatError(
            f"{path}: trust is {document.trust}, but there is no root",
            details=[f"expected {place}, with the SHA-256 that is tuf_root in {path.name}"],
            hint="write it anew: jigdo-composer remote add --replace --tuf-root FILE",
        )
    return root


def _state_of(path: Path) -> Path:
    """Where is kept what was seen of the remotes that are beside ``path``."""
    root = path.parent.parent
    if root not in (SYSTEM, _user_configuration()):
        return root / "state"
    if os.geteuid() == 0:
        return STATE
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(base) / "jigdo-composer" / "trust"
