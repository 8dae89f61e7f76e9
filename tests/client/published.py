"""The fixture OS, composed in two generations and published: what the tests of pulling pull.

Two refs: ``BASE``, with a file of 64 MB, and ``MINIMAL``, which is pulled in a moment.
All commits are signed.  Copies for a test are hard links and cost next to nothing;
whoever changes a file of a copy goes through :func:`put`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from composer.checksum import ObjectChecksum
from composer.jigdo.container import Kind
from composer.jigdo.reader import JigdoSet
from composer.jigdo.tree import Ordinals, walk
from composer.mirror.making import open_set
from composer.mirror.set_rpm import locate_jigdo
from composer.ostree.repo import Repository
from tests.commands import jigdo, ostree

BASE = "fixture/x86_64/base"
MINIMAL = "fixture/x86_64/minimal"
_TREEFILES = {BASE: "fixture.yaml", MINIMAL: "fixture-minimal.yaml"}
_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Published:
    """Where everything is.  ``commits`` are by ref, generation 1 first."""

    root: Path
    commits: Mapping[str, tuple[str, str]]
    fingerprint: str

    @property
    def repo(self) -> Path:
        """The repository that was composed into; it has all commits and their signatures."""
        return self.root / "repo"

    @property
    def key(self) -> Path:
        """The public key that signed."""
        return self.root / "key.gpg"

    def packages(self, generation: int) -> Path:
        """An rpm-md repository of the generation's packages alone."""
        return self.root / "packages" / f"gen{generation}"

    def commit(self, ref: str, generation: int) -> str:
        """The commit of a ref in a generation."""
        return self.commits[ref][generation - 1]

    def mirror(self, generation: int, into: Path) -> Path:
        """A copy of the mirror at a generation; that of generation 2 has the older RPMs too."""
        return _linked(self.root / f"mirror{generation}", into)

    def client(self, into: Path) -> Path:
        """A copy of a repository that pulled generation 1 of ``MINIMAL``."""
        return _linked(self.root / "client", into)

    def write_remote(self, config: Path, name: str, *urls: object) -> None:
        """What ``remote add --gpg-key`` writes, without asking gpg again."""
        made, place = self.root / "config/remotes.d", config / "remotes.d"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy2(made / "here.gpg", place / f"{name}.gpg")
        texts = [one.as_uri() if isinstance(one, Path) else str(one) for one in urls]
        lines = (made / "here.toml").read_text().splitlines()
        lines = [f"urls = {json.dumps(texts)}" if row.startswith("urls") else row for row in lines]
        put(place / f"{name}.toml", "\n".join([*lines, ""]).encode())

    def set_rpm(self, ref: str, generation: int) -> SetRpm:
        """The set of a ref in a generation."""
        mirror = self.root / f"mirror{generation}"
        return SetRpm.of(mirror, ref, Repository.open(self.repo))


@dataclass(frozen=True)
class SetRpm:
    """A set's RPM in a mirror: where its parts are, what it needs."""

    mirror: Path
    location: str
    repo: Repository | None = None

    @classmethod
    def of(cls, mirror: Path, ref: str, repo: Repository | None = None) -> SetRpm:
        """The set that the mirror's pointer names for ``ref``."""
        entry = next(one for one in read_pointer(mirror)["refs"] if one["ref"] == ref)
        return cls(mirror, entry["set"]["location"], repo)

    @property
    def path(self) -> Path:
        return self.mirror / self.location

    @cached_property
    def jigdo(self) -> JigdoSet:
        """The set, opened."""
        return open_set(self.path)

    @cached_property
    def start(self) -> int:
        """Where the .jigdo file begins in the RPM."""
        return locate_jigdo(self.path)[0]

    def middle_of(self, kind: Kind, position: int = 0) -> int:
        """The offset in the RPM of a byte in the middle of a frame."""
        frame = list(self.jigdo.index.of(kind))[position]
        return self.start + frame.offset + frame.size // 2

    def locations(self) -> dict[str, str]:
        """Name of a package -> where its RPM is in the mirror."""
        return {p.ref.nevra.name: p.ref.location for p in self.jigdo.head.packages}

    def objects(self) -> dict[str, set[ObjectChecksum]]:
        """Location of an RPM -> the commit's objects that can be made of it."""
        jigdo, repo = self.jigdo, self.repo
        assert repo is not None
        _, _, headers, _ = jigdo.read_start()
        root = repo.commit(jigdo.head.commit).tree
        ordinals = Ordinals()
        for visit in walk(root, lambda checksum: repo.metadata("dirtree", checksum)):
            ordinals.add(visit.tree)
        numbers = range(len(jigdo.head.packages))
        maps = jigdo.maps(numbers, objects=len(ordinals), headers=headers)
        return {
            jigdo.head.packages[number].ref.location: {
                ordinals.checksums[ordinal] for ordinal in mapping.ordinals
            }
            for number, mapping in maps.items()
        }

    def arrived(self, repo: Path) -> set[str]:
        """Locations of RPMs that need not be fetched: all objects, or the RPM, are in ``repo``."""
        here = staged_objects(repo)
        whole = {path.stem for path in repo.glob("tmp/jigdo-packages/*.rpm")}
        packages = [package.ref for package in self.jigdo.head.packages]
        done = {ref.location for ref in packages if str(ref.pkgid) in whole}
        for location, objects in self.objects().items():
            if {str(checksum) for checksum in objects} <= here:
                done.add(location)
        return done


# Making it


def publish(root: Path, sources: Mapping[int, Path]) -> Published:
    """Compose, sign and publish both generations of both refs; ``sources`` are rpm-md."""
    repo, cache = root / "repo", root / "cache"
    (root / "packages").mkdir(parents=True)
    commits: dict[str, tuple[str, ...]] = {BASE: (), MINIMAL: ()}
    with Gpg.home() as gpg:
        key = gpg.make_key("publisher")
        gpg.export(key, root / "key.gpg")
        for generation, source in sorted(sources.items()):
            _linked(source, root / "packages" / f"gen{generation}")
            mirror = root / f"mirror{generation}"
            if generation > 1:
                _linked(root / f"mirror{generation - 1}", mirror)
            _linked(source / "Packages", mirror / "Packages")
            for ref, name in _TREEFILES.items():
                words = ["compose", _CHECKOUT / "treefiles" / name, "--repo", repo, "--json"]
                words += ["--cachedir", cache, "--repository", f"fixture={source}"]
                words += ["--gpg-sign", key, "--gpg-homedir", gpg.directory]
                commits[ref] += (jigdo(*words).document["commit"],)
                build_set(repo, ref, source, mirror, cache)
    made = Published(root, {ref: (one, two) for ref, (one, two) in commits.items()}, key)
    _pull_first(made)
    return made


def build_set(repo: Path, ref: str, packages: Path, mirror: Path, cache: Path) -> None:
    """Build the set of ``ref`` and publish it in ``mirror``."""
    words = ["set", "build", "--from", "none", "--repo", repo, "--ref", ref, "--output", mirror]
    jigdo(*words, "--packages", packages, "--cachedir", cache, "--json")


def _pull_first(made: Published) -> None:
    """Make the repository that has generation 1 of the small ref."""
    client, config = made.root / "client", {"JIGDO_COMPOSER_CONFIG": str(made.root / "config")}
    ostree(client, "init", "--mode=bare-user")
    jigdo("remote", "add", "here", made.root / "mirror1", "--gpg-key", made.key, env=config)
    jigdo("pull", f"here:{MINIMAL}", "--repo", client, "--disable-fsync", env=config)


def save(made: Published) -> None:
    """Say, for other processes, that it is complete."""
    document = asdict(made) | {"root": str(made.root)}
    (made.root / "complete.json").write_text(json.dumps(document))


def saved(root: Path) -> Published | None:
    """What another process has made at ``root``, if it has."""
    try:
        document = json.loads((root / "complete.json").read_text())
    except FileNotFoundError:
        return None
    commits = {ref: (one, two) for ref, (one, two) in document["commits"].items()}
    return Published(root, commits, document["fingerprint"])


@dataclass(frozen=True, slots=True)
class Gpg:
    """A throw-away GPG home."""

    directory: Path

    @classmethod
    @contextmanager
    def home(cls) -> Iterator[Gpg]:
        """A new one; its agent ends with the block."""
        # Not below pytest's directories: the agent's socket must have a short path.
        with tempfile.TemporaryDirectory(prefix="gpg.") as directory:
            try:
                yield cls(Path(directory))
            finally:
                stop = ["gpgconf", "--homedir", directory, "--kill", "gpg-agent"]
                subprocess.run(stop, check=True)

    def run(self, *words: object) -> str:
        """Run gpg; returns what it prints."""
        argv = ["gpg", f"--homedir={self.directory}", "--batch", "--quiet", *map(str, words)]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make_key(self, name: str, *, algorithm: str = "ed25519", expire: str = "never") -> str:
        """Make a key without a passphrase; returns its fingerprint."""
        address = f"{name} <{name}@example.org>"
        self.run("--passphrase", "", "--quick-gen-key", address, algorithm, "sign", expire)
        listing = self.run("--list-keys", "--with-colons", address)
        found = re.search(r"^fpr:{9}([0-9A-F]{40}):", listing, re.MULTILINE)
        assert found is not None
        return found[1]

    def export(self, key: str, path: Path) -> Path:
        """Write the public half of a key to a file."""
        self.run("--output", path, "--export", key)
        return path


# Copies, and changes to them


def _linked(source: Path, into: Path) -> Path:
    """Copy a directory by hard links where content is large and never written in place."""

    def copy(old: str, new: str) -> None:
        if not old.endswith((".rpm", ".file", ".filez", ".dirtree", ".dirmeta", ".commit")):
            shutil.copy2(old, new)
        elif not os.path.lexists(new):
            os.link(old, new, follow_symlinks=False)

    shutil.copytree(source, into, symlinks=True, dirs_exist_ok=True, copy_function=copy)
    return into


def copy_of(source: Path, into: Path) -> Path:
    """A copy of a repository or mirror, by hard links."""
    return _linked(source, into)


def put(path: Path, data: bytes) -> None:
    """Give ``path`` this content, and not what is linked to it."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read_pointer(mirror: Path) -> Any:
    """The mirror's pointer, as a document."""
    import gzip

    return json.loads(gzip.decompress(pointer_path(mirror).read_bytes()))


def pointer_path(mirror: Path) -> Path:
    """Where the mirror's pointer is."""
    import createrepo_c

    repomd = createrepo_c.Repomd(str(mirror / "repodata/repomd.xml"))
    (record,) = (one for one in repomd.records if one.type == "jigdo")
    return mirror / str(record.location_href)


def write_pointer(mirror: Path, document: object) -> None:
    """Publish another pointer, with a repomd.xml that says so; bytes are taken as they are."""
    import gzip

    plain = document if isinstance(document, bytes) else json.dumps(document).encode()
    write_packed_pointer(mirror, gzip.compress(plain, mtime=0))


def write_packed_pointer(mirror: Path, packed: bytes, *, open_size: int | None = None) -> None:
    """The same for compressed bytes, of which repomd.xml may declare any size."""
    import createrepo_c

    path = mirror / "repodata" / "jigdo.json.gz"
    put(path, packed)
    record = createrepo_c.RepomdRecord("jigdo", str(path))
    record.fill(createrepo_c.SHA256)
    if open_size is not None:
        record.size_open = open_size
    repomd = createrepo_c.Repomd(str(mirror / "repodata/repomd.xml"))
    repomd.set_record(record)
    put(mirror / "repodata/repomd.xml", repomd.xml_dump().encode())


# Looking at a client


def fsck(repo: Path) -> None:
    """Require that ``ostree fsck`` finds nothing wrong."""
    assert "no errors found" in ostree(repo, "fsck")


def staged_objects(repo: Path) -> set[str]:
    """Checksums of the content objects that a killed process left, landed or staged."""
    found = [*repo.glob("objects/*/*.file*"), *repo.glob("tmp/staging-*/*/*.file*")]
    return {path.parent.name + path.name.partition(".")[0] for path in found}
