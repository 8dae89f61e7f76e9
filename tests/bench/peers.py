"""The other ways to bring a tree to a client, by their own tools; each proven to give that tree.

A peer is a function of :class:`Scene` that yields results; ``PEERS`` lists them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.bench.measure import Measured, measure, together
from tests.bench.result import FRESH, UPDATE, Result, require_same
from tests.bench.trees import Image, file_digest, query, size_below
from tests.net.real_servers import RealServer, nginx

_MANIFESTS = 2
"""A manifest and a configuration come before a layer."""


class Program(NamedTuple):
    """A program and the distribution's package that has it."""

    name: str
    package: str


@dataclass(frozen=True, slots=True)
class Version:
    """One of the two trees: its commit, the repository and its RPMs in it, its image."""

    commit: str
    packages: Path
    rpms: Sequence[Path]
    image: Image


@dataclass(frozen=True, slots=True)
class Scene:
    """Two versions in one bare-user repository, and a directory for a peer to work in.

    ``new`` is missing when only the fresh install of ``old`` is asked for.
    """

    work: Path
    repo: Path
    ref: str
    old: Version
    new: Version | None
    seconds: float

    def run(self, *argv: object, stdout: Path | None = None) -> Measured:
        """Measure a command within the limit of time."""
        return measure(argv, stdout=stdout, seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to do it.  The slow ones are left out of a quick run."""

    key: str
    title: str
    run: Callable[[Scene], Iterator[Result]]
    needs: Sequence[Program]
    slow: bool = False
    updates_only: bool = False

    def missing(self) -> list[Program]:
        """Return the programs that are not on this machine."""
        path = "/usr/sbin:/usr/bin:/sbin:/bin"
        return [need for need in self.needs if shutil.which(need.name, path=path) is None]


# --- OSTree


def _ostree(repo: Path, *words: object) -> str:
    argv = ["ostree", f"--repo={repo}", *map(str, words)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def new_client(repo: Path) -> Path:
    """Make a client's repository; without flushing, for both sides alike."""
    _ostree(repo, "init", "--mode=bare-user")
    _ostree(repo, "config", "set", "core.fsync", "false")
    return repo


def point(repo: Path, ref: str, commit: str) -> None:
    """Make ``ref`` lead to a commit, forwards or backwards."""
    _ostree(repo, "refs", "--force", f"--create={ref}", commit)


def prove_commit(repo: Path, ref: str, commit: str) -> str:
    """Require that a client has the commit, whole and with every object proven."""
    require_same(f"commit in {repo.name}", commit, _ostree(repo, "rev-parse", ref))
    if "partial" in _ostree(repo, "fsck"):
        require_same(f"objects in {repo.name}", "all", "some")
    return f"commit {commit[:12]}, fsck"


def object_pull(scene: Scene) -> Iterator[Result]:
    """Pull objects over HTTP from an archive repository."""
    archive, client = scene.work / "archive", new_client(scene.work / "client")
    _ostree(archive, "init", "--mode=archive")
    _ostree(archive, "config", "set", "core.fsync", "false")
    with nginx(archive) as server:
        _ostree(client, "remote", "add", "--no-gpg-verify", "peer", server.url)
        for case, version in ((FRESH, scene.old), (UPDATE, scene.new)):
            if version is None:
                continue
            made = scene.run(
                "ostree", f"--repo={archive}", "pull-local", scene.repo, version.commit
            )
            point(archive, scene.ref, version.commit)
            before = Counted.of(server)
            applied = scene.run("ostree", f"--repo={client}", "pull", "peer", scene.ref)
            moved = Counted.of(server).since(before)
            proof = prove_commit(client, f"peer:{scene.ref}", version.commit)
            yield Result(
                case, "", moved.bytes, moved.requests, made, applied, proof=proof,
                note="make: into the archive repository",
            )  # fmt: skip


class Counted(NamedTuple):
    """What a server has sent so far."""

    bytes: int
    requests: int

    @classmethod
    def of(cls, server: RealServer) -> Counted:
        """Read the server's log."""
        rows = server.requests()
        return cls(sum(sent for *_, sent in rows), len(rows))

    def since(self, before: Counted) -> Counted:
        """Return the difference to an earlier count."""
        return Counted(self.bytes - before.bytes, self.requests - before.requests)


def static_delta(scene: Scene) -> Iterator[Result]:
    """Make one static delta with no fallback objects, and apply it to a client with v1."""
    old, new = _both(scene)
    made = scene.run(
        "ostree", f"--repo={scene.repo}", "static-delta", "generate",
        "--min-fallback-size=0", f"--from={old.commit}", f"--to={new.commit}",
    )  # fmt: skip
    deltas = scene.repo / "deltas"
    (superblock,) = deltas.rglob("superblock")
    moved = scene.work / "delta"
    shutil.move(superblock.parent, moved)
    shutil.rmtree(deltas)
    client = new_client(scene.work / "client")
    _ostree(client, "pull-local", scene.repo, old.commit)
    applied = scene.run("ostree", f"--repo={client}", "static-delta", "apply-offline", moved)
    point(client, scene.ref, new.commit)
    proof = prove_commit(client, scene.ref, new.commit)
    parts = sum(1 for _ in moved.iterdir())
    yield Result(UPDATE, "", size_below(moved), parts, made, applied, proof=proof)


def _both(scene: Scene) -> tuple[Version, Version]:
    if scene.new is None:
        raise LookupError("there is one version only")
    return scene.old, scene.new


# --- whole RPMs and the rest


def rojig(scene: Scene) -> Iterator[Result]:
    """Whole RPMs that changed, and one package with all that no RPM holds, as rojig did."""
    before: set[str] = set()
    for case, version in ((FRESH, scene.old), (UPDATE, scene.new)):
        if version is None:
            continue
        rpms = {file_digest(path): path for path in version.rpms}
        changed = [path for digest, path in rpms.items() if digest not in before]
        rest = scene.work / "rest.tar"
        _write_rest(scene, version, version.rpms, rest)
        made = scene.run("xz", "-6", "--force", rest)
        kinds = {
            "rpm": sum(path.stat().st_size for path in changed),
            "rest": rest.with_name("rest.tar.xz").stat().st_size,
            "repodata": sum(_repodata(version.packages)),
        }
        requests = len(changed) + 1 + len(_repodata(version.packages))
        yield Result(
            case, "", sum(kinds.values()), requests, make=made, kinds=kinds,
            proof="computed: every content is in an RPM or in the rest",
            note="make: compressing the rest",
        )  # fmt: skip
        before = set(rpms)


def _repodata(packages: Path) -> list[int]:
    found = (packages / "repodata").iterdir()
    wanted = [path for path in found if path.name == "repomd.xml" or "-primary.xml" in path.name]
    return [path.stat().st_size for path in wanted]


def _write_rest(scene: Scene, version: Version, rpms: Sequence[Path], into: Path) -> None:
    """Write what no RPM holds, each content once, and the commit's metadata objects."""
    held = set(query(rpms, "[%{FILEDIGESTS}\n]"))
    metadata = scene.work / "metadata"
    _ostree(metadata, "init", "--mode=bare-user")
    _ostree(metadata, "config", "set", "core.fsync", "false")
    _ostree(metadata, "pull-local", scene.repo, version.commit)
    with into.open("wb") as target, version.image.path.open("rb") as image:
        written: set[str] = set()
        for content in version.image.contents:
            if {content.sha256, content.md5} & (held | written):
                continue
            written.add(content.sha256)
            image.seek(content.offset)
            target.write(image.read(content.size))
        for kind in ("commit", "dirmeta", "dirtree"):
            for path in sorted((metadata / "objects").rglob(f"*.{kind}")):
                target.write(path.read_bytes())
    shutil.rmtree(metadata)


# --- the image tar


def librsync(scene: Scene) -> Iterator[Result]:
    """A librsync delta with blocks of 512 bytes over the image, gzipped, as balena sends it."""
    old, new = _both(scene)
    signature, delta = scene.work / "signature", scene.work / "delta"
    out = scene.work / "out.tar"
    signed = scene.run("rdiff", "-b", 512, "signature", old.image.path, signature)
    made = scene.run("rdiff", "delta", signature, new.image.path, delta)
    raw = delta.stat().st_size
    packed = scene.run("gzip", "-9", "--no-name", delta)
    unpacked = scene.run("gzip", "--decompress", "--keep", delta.with_name("delta.gz"))
    applied = scene.run("rdiff", "patch", old.image.path, delta, out)
    yield Result(
        UPDATE, "", delta.with_name("delta.gz").stat().st_size, 1,
        together(signed, made, packed), together(unpacked, applied),
        kinds={"uncompressed delta": raw}, proof=_prove_tar(new.image, out),
    )  # fmt: skip


def _prove_tar(image: Image, out: Path) -> str:
    return f"tar {require_same('tar', image.digest, file_digest(out))[:12]}"


def zstd_patch(scene: Scene) -> Iterator[Result]:
    """A zstd patch over the image."""
    old, new = _both(scene)
    patch, out = scene.work / "patch.zst", scene.work / "out.tar"
    common = ["zstd", "--quiet", "--long=31", f"--patch-from={old.image.path}"]
    made = scene.run(*common, "-19", new.image.path, "-o", patch)
    applied = scene.run(*common, "--decompress", patch, "-o", out)
    yield Result(
        UPDATE, "", patch.stat().st_size, 1, made, applied, proof=_prove_tar(new.image, out)
    )


def casync(scene: Scene) -> Iterator[Result]:
    """Chunks of 64 kB over HTTP, with the image of v1 as the seed."""
    served = scene.work / "served"
    served.mkdir()
    out, seed = scene.work / "out.tar", [f"--seed={scene.old.image.path}"]
    with nginx(served) as server:
        for case, version in ((FRESH, scene.old), (UPDATE, scene.new)):
            if version is None:
                continue
            index, store = served / f"{case[:1]}.caibx", served / "store.castr"
            argv = ["casync", "make", "--chunk-size=65536", f"--store={store}", index]
            made = scene.run(*argv, version.image.path)
            before = Counted.of(server)
            argv = ["casync", "extract", f"--store={server.url}store.castr"]
            argv += seed if case is UPDATE else []
            out.unlink(missing_ok=True)
            applied = scene.run(*argv, "--seed-output=no", f"{server.url}{index.name}", out)
            moved = Counted.of(server).since(before)
            proof = _prove_tar(version.image, out)
            yield Result(case, "", moved.bytes, moved.requests, made, applied, proof=proof)


def oci_layer(scene: Scene) -> Iterator[Result]:
    """The image as one gzipped layer, which a registry sends whole at every update."""
    for case, version in ((FRESH, scene.old), (UPDATE, scene.new)):
        if version is None:
            continue
        layer, out = scene.work / "layer.tar.gz", scene.work / "out.tar"
        made = scene.run("gzip", "--stdout", "--no-name", version.image.path, stdout=layer)
        applied = scene.run("gzip", "--decompress", "--stdout", layer, stdout=out)
        yield Result(
            case, "", layer.stat().st_size, 1 + _MANIFESTS, made, applied,
            proof=_prove_tar(version.image, out), note="apply: unpacking the layer only",
        )  # fmt: skip


_OSTREE, _NGINX = Program("ostree", "ostree"), Program("nginx", "nginx-light")
_GZIP, _XZ = Program("gzip", "gzip"), Program("xz", "xz-utils")

PEERS: Sequence[Peer] = (
    Peer("static-delta", "OSTree static delta", static_delta, [_OSTREE], updates_only=True),
    Peer("object-pull", "OSTree object pull", object_pull, [_OSTREE, _NGINX]),
    Peer("rojig", "whole changed RPMs and the rest (rojig)", rojig, [_OSTREE, _XZ]),
    Peer(
        "librsync", "librsync, 512-byte blocks of the tar, gzip (balena)", librsync,
        [Program("rdiff", "rdiff"), _GZIP], updates_only=True,
    ),
    Peer(
        "zstd", "zstd -19 --long=31 --patch-from, of the tar", zstd_patch,
        [Program("zstd", "zstd")], slow=True, updates_only=True,
    ),
    Peer(
        "casync", "casync, 64 kB chunks of the tar", casync,
        [Program("casync", "casync"), _NGINX], slow=True,
    ),
    Peer("oci", "OCI layer (tar, gzip)", oci_layer, [_GZIP]),
)  # fmt: skip


@contextmanager
def working_directory(parent: Path) -> Iterator[Path]:
    """Give an empty directory that is removed afterwards; a peer's files are large."""
    work = parent / "peer"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work)
