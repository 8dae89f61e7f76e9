"""A publisher, a mirror that may lie, and a client: what attacks on trust are played with.

The publisher signs what it says of sets that nobody will fetch; so no RPM is needed, and a
scene costs milliseconds.  Keys that an attacker has stolen are in ``stolen``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

from composer.checksum import ContentDigest, ObjectChecksum
from composer.jigdo.container import IndexPlace
from composer.jigdo.pointer import Pointer, PointerEntry
from composer.mirror.keys import KeyDirectory
from composer.mirror.rotation import Change, rotate
from composer.mirror.trust import (
    DEFAULT_TERMS,
    Refreshed,
    Terms,
    begin,
    open_ledger,
    refresh,
)
from tests.attacks import said
from tests.client.pulling import check_message, run_here
from tests.commands import Done, ostree
from tests.net.lying_mirror import LyingMirror

REF = "os/x86_64/stable"
OTHER = "os/x86_64/testing"
REMOTE = "demo"


def entry(version: int, ref: str = REF, *, timestamp: int | None = None) -> PointerEntry:
    """What a publisher says of a version of a ref."""
    digest = ContentDigest.of(f"{ref} {version}".encode())
    made = 1_760_000_000 + version if timestamp is None else timestamp
    return PointerEntry(
        ref=ref,
        version=str(version),
        commit=ObjectChecksum(bytes(digest)),
        timestamp=made,
        location=f"jigdo/{ref.replace('/', '-')}-{version}-1.noarch.rpm",
        pkgid=digest,
        size=9000,
        offset=1000,
        length=8000,
        index=IndexPlace(4000, 500, 900, digest),
    )


@dataclass
class Publisher:
    """A repository's signed statements, and the keys that make them."""

    place: Path
    terms: Mapping[str, Terms] = field(default_factory=lambda: DEFAULT_TERMS)
    days_ago: int = 0
    pointer: Pointer = field(default_factory=Pointer)
    taken: Mapping[str, Sequence[str]] = field(default_factory=dict)
    passphrase: bytes | None = None

    def __post_init__(self) -> None:
        self.place.mkdir()
        self.keys = KeyDirectory(self.place / "keys", self.passphrase)
        now = datetime.now(UTC) - timedelta(days=self.days_ago)
        self.root = begin(self.directory, self.keys, self.terms, taken=self.taken, now=now)

    @property
    def directory(self) -> Path:
        """What is published."""
        return self.place / "published"

    def publish(self, *entries: PointerEntry, days_ago: float = 0) -> Refreshed:
        """Say that these are the newest, so many days ago."""
        for one in entries:
            self.pointer = self.pointer.with_entry(one)
        now = datetime.now(UTC) - timedelta(days=days_ago)
        return refresh(open_ledger(self.directory), self.pointer, self.keys, now=now)

    def rotate(self, name: str, **options: Any) -> Change:
        """Change the keys of a role, and sign with the new ones."""
        return self.change(rotate, name, **options)

    def change(self, how: Callable[..., Change], *words: Any, **options: Any) -> Change:
        """Change keys or terms, and sign by them."""
        ledger, now = open_ledger(self.directory), datetime.now(UTC)
        change = how(ledger, self.keys, *words, now=now, **options)
        if change.waiting is None:
            refresh(ledger, self.pointer, self.keys, now=now)
        return change


@dataclass
class Reference:
    """python-tuf's own client, which is asked the same of the same mirror, and remembers it."""

    place: Path
    url: str
    root: bytes

    def finds(self, wanted: PointerEntry) -> str:
        """Look for what is said of a set, in all that is signed; returns why not, "" for found."""
        from tuf.api.exceptions import DownloadError, RepositoryError
        from tuf.ngclient import Updater

        try:
            updater = Updater(str(self.place), self.url + "tuf/", bootstrap=self.root)
            updater.refresh()
            found = updater.get_targetinfo(wanted.location)
        except (RepositoryError, DownloadError) as error:
            return f"{type(error).__name__}: {error}"
        return "" if found else "nothing is said of it"


@dataclass
class Scene:
    """The publisher's files are at ``publisher``; the mirror serves a copy, and may change it."""

    place: Path
    publisher: Publisher
    mirror: LyingMirror
    reference: Reference | None = None

    @classmethod
    @contextmanager
    def play(
        cls,
        place: Path,
        terms: Mapping[str, Terms] = DEFAULT_TERMS,
        *,
        days_ago: int = 0,
        offline: str = "",
        taken: Mapping[str, Sequence[str]] = MappingProxyType({}),
        passphrase: bytes | None = None,
    ) -> Iterator[Scene]:
        """One in which version 1 of both refs is published and the client has a remote.

        All was signed so many days ago; keys of the role ``offline`` are elsewhere, and
        ``taken`` ones by role in GPG or a token.
        """
        publisher = Publisher(
            place / "publisher", terms, days_ago, taken=taken, passphrase=passphrase
        )
        for path in publisher.keys.path.glob(f"{offline}-*"):
            path.unlink()
        publisher.publish(entry(1), entry(1, OTHER), days_ago=days_ago)
        ostree(place / "repo", "init", "--mode=bare-user")
        (place / "mirror").mkdir()
        with LyingMirror(place / "mirror") as mirror:
            scene = cls(place, publisher, mirror)
            scene.sync()
            scene.add_remote(mirror.url)
            yield scene

    # The mirror's side.

    @property
    def tuf(self) -> Path:
        """The mirror's metadata."""
        return self.mirror.directory / "tuf"

    def sync(self) -> None:
        """Copy what is published, all of it."""
        shutil.rmtree(self.mirror.directory)
        shutil.copytree(self.publisher.directory, self.mirror.directory)

    def publish(self, *entries: PointerEntry, days_ago: float = 0) -> None:
        """Publish, and copy it to the mirror."""
        self.publisher.publish(*entries, days_ago=days_ago)
        self.sync()

    def saved(self) -> dict[str, bytes]:
        """What the mirror has, to be brought back later."""
        return {path.name: path.read_bytes() for path in self.tuf.iterdir()}

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Put back files, beside those that are there."""
        for name, data in files.items():
            (self.tuf / name).write_bytes(data)

    def read(self, name: str) -> Any:
        """A metadata file of the mirror, as a document."""
        return json.loads((self.tuf / f"{name}.json").read_bytes())

    def forge(
        self, name: str, change: Callable[[Any], object], *stolen: str, into: str = ""
    ) -> None:
        """Change what a file says and sign it with stolen keys; without, the signature stays."""
        from tuf.api.metadata import Metadata

        document = self.read(name)
        change(document["signed"])
        # As python-tuf writes it, so that only what it says is another.
        data = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
        if stolen:
            metadata = Metadata[Any].from_dict(document)
            metadata.signatures.clear()
            for signer in self.stolen(*stolen).signers().values():
                metadata.sign(signer, append=True)
            data = metadata.to_bytes()
        (self.tuf / f"{into or name}.json").write_bytes(data)

    def stolen(self, *names: str) -> KeyDirectory:
        """Keys of the publisher, by the names of their files, in the attacker's hands."""
        place = Path(tempfile.mkdtemp(dir=self.place))
        for name in names:
            shutil.copy(self.publisher.keys.path / f"{name}.pem", place)
        return KeyDirectory(place)

    def newest(self, role: str) -> str:
        """The name of the newest file of a role on the mirror."""
        return f"{open_ledger(self.mirror.directory).versions(role)[-1]}.{role}"

    def vouch(self, *, snapshot: int = 0, timestamp: int = 0) -> None:
        """With the keys of both, make snapshot and timestamp fit what is on the mirror.

        Their versions are raised by one, or to those that are given.
        """
        from tuf.api.metadata import MetaFile

        def describe(signed: Any) -> None:
            signed["version"] = snapshot or signed["version"] + 1
            for name in signed["meta"]:
                data = (self.tuf / f"{self.newest(name.removesuffix('.json'))}.json").read_bytes()
                version = json.loads(data)["signed"]["version"]
                signed["meta"][name] = MetaFile.from_data(version, data, ["sha256"]).to_dict()

        old = self.newest("snapshot")
        version = snapshot or self.read(old)["signed"]["version"] + 1
        self.forge(old, describe, "snapshot-1", into=f"{version}.snapshot")
        self.point(version, timestamp=timestamp)

    def point(self, snapshot: int, *, timestamp: int = 0) -> None:
        """With the key of the timestamp, name a snapshot of the mirror as the newest."""
        from tuf.api.metadata import MetaFile

        def describe(signed: Any) -> None:
            signed["version"] = timestamp or signed["version"] + 1
            data = (self.tuf / f"{snapshot}.snapshot.json").read_bytes()
            meta = MetaFile.from_data(snapshot, data, ["sha256"])
            signed["meta"]["snapshot.json"] = meta.to_dict()

        self.forge("timestamp", describe, "timestamp-1")

    # The client's side.

    @property
    def config(self) -> Path:
        return self.place / "config"

    @property
    def repo(self) -> Path:
        return self.place / "repo"

    def commit(self, timestamp: int) -> str:
        """Give the client a commit under the ref; returns it."""
        tree = self.place / "tree"
        tree.mkdir()
        words = [f"--branch={REF}", f"--tree=dir={tree}", f"--timestamp=@{timestamp}"]
        return ostree(self.repo, "commit", *words)

    def add_remote(self, *urls: object, root: Path | None = None) -> None:
        """Write the remote anew."""
        words = ["remote", "add", REMOTE, *urls, "--replace", "--config-dir", self.config]
        root = root or self.publisher.root
        done = run_here(*words, "--tuf-root", root)
        assert done.status == 0, done.err
        # It knows one mirror and no clock but this machine's.
        self.reference = None
        if urls == (self.mirror.url,):
            place = Path(tempfile.mkdtemp(dir=self.place, prefix="reference-"))
            self.reference = Reference(place, self.mirror.url, root.read_bytes())

    def check(self, *options: str, ref: str = REF) -> Done:
        """Ask whether there is something new."""
        words = ["check", f"{REMOTE}:{ref}", "--repo", self.repo, "--config-dir", self.config]
        return run_here(*words, "--json", *options)

    def believes(self, version: int, *options: str, ref: str = REF) -> Any:
        """Require that the client takes this version for the newest; returns what it says."""
        done = self.check(*options, ref=ref)
        assert done.status == 0, done.err
        assert done.document["version"] == str(version)
        if self.reference and not options:
            assert self.reference.finds(entry(version, ref)) == ""
        said(f"{ref} {version} is newest")
        return done.document

    def refuses(
        self,
        *words: str,
        status: int = 3,
        options: tuple[str, ...] = (),
        stricter: bool = False,
    ) -> Done:
        """Require that the client does not believe the mirror, and says why.

        python-tuf's own client does not either, unless this one is the ``stricter``.
        """
        done = self.check(*options)
        if self.reference and not options:
            assert bool(self.reference.finds(entry(1))) == (not stricter)
        assert done.status == status, f"status {done.status}\n{done.out}\n{done.err}"
        check_message(done.err, *words)
        assert done.out == ""
        said(done.err.splitlines()[0])
        return done
