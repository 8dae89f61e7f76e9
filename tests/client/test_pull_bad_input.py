"""What mirrors get wrong, by accident or on purpose: a clear error, and nothing is lost.

Every case ends with a documented status and a message that names what, where and
what to do; the ref is the old one, the repository passes fsck, and the same command
completes as soon as the mirror is good again.
"""

from __future__ import annotations

import gzip
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import createrepo_c
import pytest

from composer.jigdo.container import DESCRIPTION, Kind
from composer.net.network import Limits
from fixtures.rpms.build import SPECS, build_repository
from tests.client.published import (
    BASE,
    MINIMAL,
    Published,
    SetRpm,
    build_set,
    copy_of,
    fsck,
    pointer_path,
    put,
    read_pointer,
    write_packed_pointer,
    write_pointer,
)
from tests.client.pulling import REMOTE, Client, check_message, rpm_requests, run_here
from tests.commands import Done, ostree
from tests.net.lying_mirror import LyingMirror

REPOMD = "repodata/repomd.xml"


@dataclass(frozen=True)
class Site:
    """A lying mirror at generation 2, and what lies where."""

    mirror: LyingMirror
    published: Published

    @property
    def set_rpm(self) -> SetRpm:
        return SetRpm.of(self.published.root / "mirror2", MINIMAL)

    @property
    def paint(self) -> str:
        """The location of a package that the update needs."""
        return self.set_rpm.locations()["paint"]

    @property
    def pointer(self) -> str:
        return pointer_path(self.mirror.directory).name

    @property
    def directory(self) -> Path:
        return self.mirror.directory


@pytest.fixture
def site(mirror: LyingMirror, published: Published, updatable: Client) -> Site:
    updatable.add_remote(mirror.url)
    return Site(mirror, published)


@dataclass(frozen=True, slots=True)
class Lie:
    """What the mirror does, the status that the pull ends with, words of the message."""

    name: str
    tell: Callable[[Site], object]
    status: int
    words: tuple[str, ...] = ()


def _frame_flipped(kind: Kind) -> Callable[[Site], object]:
    def tell(site: Site) -> None:
        rpm = site.set_rpm
        site.mirror.flip_bit(rpm.location, rpm.middle_of(kind))

    return tell


def _index_flipped(site: Site) -> None:
    rpm = site.set_rpm
    site.mirror.flip_bit(rpm.location, rpm.start + rpm.jigdo.place.offset + 20)


_PAINT = "paint-5.1-1.fx.x86_64"
_SET = "jigdo/jigdo-fixture-x86_64-minimal-1.1-1.noarch.rpm"

_PACKAGE_LIES = [
    Lie("truncated", lambda s: s.mirror.truncate(s.paint), 3, (_PAINT, "bytes")),
    Lie("bit-flipped", lambda s: s.mirror.flip_bit(s.paint, 5000), 3, (_PAINT, "expected")),
    Lie("missing", lambda s: s.mirror.drop(s.paint), 1, (_PAINT, "not found")),
    Lie("html", lambda s: s.mirror.html(s.paint), 1, (_PAINT, "HTML")),
    Lie("endless", lambda s: s.mirror.endless(s.paint), 3, (_PAINT, "more than")),
    Lie("redirects", lambda s: s.mirror.redirect_loop(s.paint), 1, (_PAINT, "redirects")),
    Lie("forbidden", lambda s: s.mirror.fail(s.paint, 403, 99), 1, (_PAINT, "403")),
]
_SET_LIES = [
    Lie("index", _index_flipped, 3, (_SET, "index")),
    *(
        Lie(kind.name.lower(), _frame_flipped(kind), 3, (_SET, kind.name.lower()))
        for kind in (*DESCRIPTION, Kind.DATA)
    ),
    Lie("truncated", lambda s: s.mirror.truncate(_SET), 3, (_SET,)),
    Lie("missing", lambda s: s.mirror.drop(_SET), 1, (_SET, "not found")),
    Lie("html", lambda s: s.mirror.html(_SET), 1, (_SET, "HTML")),
    Lie("wrong content range", lambda s: s.mirror.wrong_content_range(), 1, (_SET, "asked for")),
    Lie("redirects", lambda s: s.mirror.redirect_loop(_SET), 1, (_SET, "redirects")),
    Lie("redirect to a file", lambda s: s.mirror.redirect(_SET, "file:///etc/passwd"), 1, (_SET,)),
]
_DOCUMENT_LIES = [
    Lie("repomd missing", lambda s: s.mirror.drop(REPOMD), 1, (REPOMD, "not found")),
    Lie("repomd truncated", lambda s: s.mirror.truncate(REPOMD), 3, (REPOMD, "repomd.xml")),
    Lie("repomd html", lambda s: s.mirror.html(REPOMD), 1, (REPOMD, "HTML")),
    Lie("repomd endless", lambda s: s.mirror.endless(REPOMD), 3, (REPOMD, "more than")),
    Lie("repomd redirects", lambda s: s.mirror.redirect_loop(REPOMD), 1, (REPOMD, "redirects")),
    Lie(
        "pointer missing",
        lambda s: s.mirror.drop(f"repodata/{s.pointer}"),
        1,
        ("jigdo.json.gz", "not found"),
    ),
    Lie(
        "pointer flipped",
        lambda s: s.mirror.flip_bit(f"repodata/{s.pointer}", 30),
        3,
        ("jigdo.json.gz", "expected"),
    ),
    Lie(
        "pointer truncated",
        lambda s: s.mirror.truncate(f"repodata/{s.pointer}"),
        3,
        ("jigdo.json.gz",),
    ),
]


def _named(lies: Sequence[Lie]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lie", lies, ids=[lie.name for lie in lies])


@pytest.mark.attack("lies about bytes", "of a package")
@_named(_PACKAGE_LIES)
def test_bad_package_is_refused(lie: Lie, site: Site, updatable: Client) -> None:
    lie.tell(site)
    updatable.refused(*lie.words, site.mirror.url, status=lie.status, own_process=True)
    assert site.paint in {one.path for one in rpm_requests(site.mirror.log)}
    site.mirror.honest()
    updatable.completes()


@pytest.mark.attack("lies about bytes", "of a set, in answers to ranges")
@_named(_SET_LIES)
def test_bad_set_is_refused(lie: Lie, site: Site, updatable: Client) -> None:
    lie.tell(site)
    updatable.refused(*lie.words, status=lie.status)
    if lie.name != "data":  # content is the last thing that is fetched
        assert not rpm_requests(site.mirror.log)
    site.mirror.honest()
    updatable.completes()


@pytest.mark.attack("lies about bytes", "of repomd.xml or the pointer")
@_named(_DOCUMENT_LIES)
def test_bad_document_is_refused(lie: Lie, site: Site, updatable: Client) -> None:
    lie.tell(site)
    updatable.refused(*lie.words, status=lie.status)
    assert not any(one.path.endswith(".rpm") for one in site.mirror.log)
    site.mirror.honest()
    updatable.completes()


_BOMB = gzip.compress(bytes(50 << 20), mtime=0)
_ENTITIES = b"""<?xml version="1.0"?>
<!DOCTYPE repomd [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY file SYSTEM "file:///etc/passwd">]>
<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>&b;&file;</revision></repomd>
"""
_REPOMDS = {
    "garbage": (b"\x00\xff garbage " * 100, "repomd.xml"),
    "empty": (b"", "repomd.xml"),
    "not repomd": (b"<html/>", "the document is a <html>"),
    "huge": (b"<!--" + b"x" * (2 << 20) + b"-->", "more than the declared 1048576 bytes"),
    "entities": (_ENTITIES, "document type"),
}


@pytest.mark.attack("hostile XML", "serves another repomd.xml")
@pytest.mark.parametrize("name", _REPOMDS)
def test_bad_repomd_is_refused(name: str, site: Site, updatable: Client) -> None:
    data, words = _REPOMDS[name]
    good = (site.directory / REPOMD).read_bytes()
    put(site.directory / REPOMD, data)
    done = updatable.refused(words, site.mirror.url, status=3)
    assert "root:x" not in done.err
    put(site.directory / REPOMD, good)
    updatable.completes()


def test_repository_without_sets_says_so(site: Site, updatable: Client) -> None:
    shutil.rmtree(site.directory / "repodata")
    shutil.copytree(site.published.packages(2) / "repodata", site.directory / "repodata")
    updatable.refused("carries no jigdo sets", site.mirror.url, status=1)


# Pointers that are well published and wrong


def _entry(pointer: Any, ref: str = MINIMAL) -> Any:
    return next(one for one in pointer["refs"] if one["ref"] == ref)


def _changed(**changes: Any) -> Callable[[Any], Any]:
    """Edit the entry of the ref; "set.size" is keyed as ``set_size``."""

    def edit(pointer: Any) -> Any:
        for key, value in changes.items():
            place = _entry(pointer)
            *above, last = key.split("_")
            for part in above:
                place = place[part]
            place[last] = value(place[last]) if callable(value) else value
        return pointer

    return edit


def _of_another_ref(pointer: Any) -> Any:
    other, mine = _entry(pointer, BASE), _entry(pointer)
    mine |= {key: other[key] for key in ("set", "index", "commit", "version", "timestamp")}
    return pointer


def _set_of_another_ref(pointer: Any) -> Any:
    _entry(pointer)["set"] = _entry(pointer, BASE)["set"]
    return pointer


_ZERO = "0" * 64
_POINTERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another ref's set": (_of_another_ref, "the pointer says"),
    "another ref's file": (_set_of_another_ref, "index"),
    "another commit": (_changed(commit=_ZERO), _ZERO),
    "another version": (_changed(version="9.9"), "9.9"),
    "another index": (_changed(index_digest=_ZERO), "index"),
    "shifted file": (_changed(set_offset=lambda n: n + 1, set_length=lambda n: n - 1), "index"),
    "shifted index": (_changed(index_offset=lambda n: n - 1), "index"),
    "small index": (_changed(index_uncompressed=10), "index"),
    "huge index": (_changed(index_uncompressed=1 << 40), "index"),
    "outside its file": (_changed(set_length=1 << 50), "bytes outside their file"),
    "behind the end": (
        _changed(set_size=1 << 40, set_length=1 << 39, index_offset=1 << 38),
        "jigdo/",
    ),
    "parent directory": (_changed(set_location="../../../etc/passwd"), "../../../etc/passwd"),
    "absolute path": (_changed(set_location="/etc/passwd"), "/etc/passwd"),
    "another server": (_changed(set_location="http://127.0.0.1:9/x.rpm"), "127.0.0.1:9"),
    "backslashes": (_changed(set_location="a\\..\\b.rpm"), "backslash"),
    "negative": (_changed(set_size=-1), "set.size"),
    "number as text": (_changed(set_size="12"), "set.size"),
    "no digest": (_changed(set_pkgid="abc"), "set.pkgid"),
    "unordered": (lambda pointer: pointer | {"refs": pointer["refs"][::-1]}, "order"),
    "twice": (lambda pointer: pointer | {"refs": [_entry(pointer)] * 2}, "twice"),
    "another format": (lambda pointer: pointer | {"format": 2}, "format"),
    "no document": (lambda pointer: b"[1, 2", "pointer"),
    "deep": (lambda pointer: b"[" * 100_000, "pointer"),
    "not text": (lambda pointer: b"\xff\xfe{}", "pointer"),
}


@pytest.mark.attack("wrong pointer", "serves a pointer that is wrong")
@pytest.mark.parametrize("name", _POINTERS)
def test_wrong_pointer_is_refused(name: str, site: Site, updatable: Client) -> None:
    edit, words = _POINTERS[name]
    good = read_pointer(site.directory)
    write_pointer(site.directory, edit(read_pointer(site.directory)))
    updatable.refused(words, status=3)
    assert not rpm_requests(site.mirror.log)
    assert all(one.path.startswith(("repodata/", "jigdo/")) for one in site.mirror.log)
    write_pointer(site.directory, good)
    updatable.completes()


@pytest.mark.attack("endless data", "serves a pointer that unpacks to very much")
@pytest.mark.parametrize("open_size", [None, 1000], ids=["declared", "undeclared"])
def test_pointer_that_unpacks_to_very_much_is_refused(
    open_size: int | None, site: Site, updatable: Client
) -> None:
    write_packed_pointer(site.directory, _BOMB, open_size=open_size)
    updatable.refused("jigdo", status=3)


def test_unknown_ref_lists_what_there_is(site: Site, updatable: Client) -> None:
    updatable.refused("no/such/ref", MINIMAL, BASE, status=1, ref="no/such/ref")


# Packages that are not the ones that the set was made of


@pytest.fixture
def impostor(tmp_path: Path) -> Path:
    """An RPM with the NEVRA of generation 2's paint, and another content."""
    spec = tmp_path / "paint.spec"
    spec.write_text((SPECS / "paint.spec").read_text().replace("--size 200k", "--size 201k"))
    (rpm,) = build_repository([spec], tmp_path / "impostor", generation=2)
    assert rpm.name == f"{_PAINT}.rpm"
    return rpm


@pytest.mark.attack("arbitrary software", "serves another package of the same name")
@pytest.mark.parametrize("indexed", [False, True], ids=["silently", "with rpm-md of it"])
def test_same_nevra_with_another_payload_is_refused(
    indexed: bool, site: Site, updatable: Client, impostor: Path
) -> None:
    good = (site.directory / site.paint).read_bytes()
    put(site.directory / site.paint, impostor.read_bytes())
    if indexed:
        _index(site.directory)
    # By its rpm-md it could be one that was only made anew: then its contents tell.
    updatable.refused(_PAINT, "/usr/bin/paint" if indexed else site.paint, status=3)
    put(site.directory / site.paint, good)
    if indexed:
        _index(site.directory)
    updatable.completes()


@pytest.mark.attack("arbitrary software", "serves another package of the same name and size")
def test_same_nevra_of_the_same_size_is_refused(site: Site, updatable: Client) -> None:
    path = site.directory / site.paint
    good = path.read_bytes()
    put(path, good[:-1000] + bytes(1000))
    updatable.refused(_PAINT, site.paint, "expected", status=3)
    put(path, good)
    updatable.completes()


def _index(directory: Path) -> None:
    """Make the packages' rpm-md again and keep the pointer."""
    pointer = read_pointer(directory)
    subprocess.run(["createrepo_c", "--quiet", "--no-database", directory], check=True)
    write_pointer(directory, pointer)


def _primary(directory: Path) -> str:
    repomd = createrepo_c.Repomd(str(directory / REPOMD))
    (record,) = (one for one in repomd.records if one.type == "primary")
    return str(record.location_href)


def test_package_that_no_repository_has_is_named(site: Site, updatable: Client) -> None:
    lost = site.directory / site.paint
    kept = lost.read_bytes()
    lost.unlink()
    _index(site.directory)
    updatable.refused(_PAINT, site.paint, "not found", status=1)
    # The package list was asked, once.
    assert len([one for one in site.mirror.log if "primary" in one.path]) == 1
    put(lost, kept)
    updatable.completes()


@pytest.mark.parametrize("spoil", ["missing", "flipped", "truncated"])
def test_bad_package_list_says_which_package_needed_it(
    spoil: str, site: Site, updatable: Client
) -> None:
    (site.directory / site.paint).rename(site.directory / "elsewhere.rpm")
    _index(site.directory)
    location = _primary(site.directory)
    _spoil(site.mirror, location, spoil)
    updatable.refused(location, status=1 if spoil == "missing" else 3)
    site.mirror.honest()
    updatable.completes()


@pytest.mark.parametrize("spoil", ["missing", "flipped", "truncated"])
def test_next_mirror_gives_the_package_list(
    spoil: str, site: Site, updatable: Client, tmp_path: Path
) -> None:
    (site.directory / site.paint).rename(site.directory / "elsewhere.rpm")
    _index(site.directory)
    with LyingMirror(copy_of(site.directory, tmp_path / "second")) as second:
        updatable.add_remote(site.mirror.url, second.url)
        _spoil(site.mirror, _primary(site.directory), spoil)
        updatable.completes()


def _spoil(mirror: LyingMirror, location: str, how: str) -> None:
    if how == "missing":
        mirror.drop(location)
    elif how == "flipped":
        mirror.flip_bit(location, 100)
    else:
        mirror.truncate(location)


# Servers that are odd, and still good enough


def test_server_that_ignores_ranges_still_serves(site: Site, updatable: Client) -> None:
    site.mirror.ignore_ranges()
    updatable.completes()


def test_server_that_is_busy_for_a_moment_still_serves(site: Site, updatable: Client) -> None:
    site.mirror.fail(REPOMD, 503, 1)
    site.mirror.fail(site.paint, 503, 1)
    updatable.completes()


def test_connection_that_breaks_is_continued_where_it_broke(site: Site, updatable: Client) -> None:
    kernel = site.set_rpm.locations()["kernel-core"]
    site.mirror.cut(kernel, after=1_500_000)
    updatable.completes()
    assert [one.range for one in site.mirror.requests(kernel)][:2] == [
        "",
        f"bytes=1500000-{(site.directory / kernel).stat().st_size - 1}",
    ]
    assert site.mirror.sent(kernel) == (site.directory / kernel).stat().st_size


# The next mirror


@pytest.fixture
def second(site: Site, tmp_path: Path, updatable: Client) -> Iterator[LyingMirror]:
    """Another mirror, good, that the remote names after the lying one."""
    directory = copy_of(site.published.root / "mirror2", tmp_path / "second")
    with LyingMirror(directory) as server:
        updatable.add_remote(site.mirror.url, server.url)
        yield server


@_named(_PACKAGE_LIES)
def test_next_mirror_gives_the_package(
    lie: Lie, site: Site, second: LyingMirror, updatable: Client
) -> None:
    lie.tell(site)
    updatable.completes()
    assert site.paint in {one.path for one in second.log}


@_named(_SET_LIES)
def test_next_mirror_gives_the_set(
    lie: Lie, site: Site, second: LyingMirror, updatable: Client
) -> None:
    lie.tell(site)
    updatable.completes()


@_named(_DOCUMENT_LIES)
def test_next_mirror_gives_the_document(
    lie: Lie, site: Site, second: LyingMirror, updatable: Client
) -> None:
    lie.tell(site)
    updatable.completes()


def test_mirror_that_is_not_there_costs_nothing_but_time(
    site: Site, published: Published, updatable: Client
) -> None:
    updatable.add_remote("http://127.0.0.1:9/", site.mirror.url)
    updatable.completes()


def test_no_mirror_that_answers_names_them_all(updatable: Client) -> None:
    updatable.add_remote("http://127.0.0.1:9/", "http://127.0.0.2:9/")
    updatable.refused("127.0.0.1:9", "127.0.0.2:9", "repomd.xml", status=1)


# Content that no RPM holds and that is too large to be held in memory


@pytest.fixture(scope="module")
def large(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror whose only set has 3 MB of noise; the ref is "noise"."""
    place = tmp_path_factory.mktemp("large")
    tree, repo, mirror = place / "tree", place / "repo", place / "mirror"
    tree.mkdir()
    (tree / "noise").write_bytes(random.Random(1).randbytes(3_000_000))
    copy_of(published.packages(1) / "Packages/z", mirror / "Packages/z")
    ostree(repo, "init", "--mode=bare-user")
    ostree(repo, "commit", "--branch=noise", "--owner-uid=0", "--owner-gid=0", f"--tree=dir={tree}")
    build_set(repo, "noise", mirror, mirror, place / "cache")
    return mirror


@pytest.mark.parametrize("lie", ["flipped", "cut", "truncated", "none"])
def test_next_mirror_gives_large_content(
    lie: str, large: Path, published: Published, tmp_path: Path
) -> None:
    client = Client.create(tmp_path / "client", published)
    rpm = SetRpm.of(large, "noise")
    with LyingMirror(large) as first, LyingMirror(large) as second:
        if lie == "flipped":
            first.flip_bit(rpm.location, rpm.middle_of(Kind.DATA))
        elif lie == "cut":
            first.cut(rpm.location, after=1_400_000)
        elif lie == "truncated":
            first.truncate(rpm.location, to=rpm.middle_of(Kind.DATA))
        words = ["remote", "add", REMOTE, first.url, second.url, "--trust", "none"]
        assert run_here(*words, "--config-dir", client.config).status == 0
        done = client.run("noise")
        assert done.status == 0, done.err
        moved = sum(part["bytes"] for part in done.document["moved"].values())
        assert moved == first.sent() + second.sent()
        if lie in ("cut", "none"):  # nothing that arrived is fetched again
            assert moved < rpm.path.stat().st_size
    fsck(client.repo)


def test_large_content_that_every_mirror_spoils_is_refused(
    large: Path, published: Published, tmp_path: Path
) -> None:
    client = Client.create(tmp_path / "client", published)
    rpm = SetRpm.of(large, "noise")
    with LyingMirror(large) as mirror:
        mirror.flip_bit(rpm.location, rpm.middle_of(Kind.DATA))
        words = ["remote", "add", REMOTE, mirror.url, "--trust", "none"]
        assert run_here(*words, "--config-dir", client.config).status == 0
        client.refused(rpm.location, "data", mirror.url, status=3, ref="noise")
        mirror.honest()
        assert client.run("noise").status == 0


# Stalls, with a patience that suits a test


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(connect_seconds=2, stall_seconds=1, attempts=1, backoff_seconds=0.01)
    monkeypatch.setattr("composer.client.remote_file.Limits", lambda: limits)


@pytest.mark.attack("slow retrieval", "sends nothing more")
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", ["repomd", "set", "package"])
def test_mirror_that_stalls_is_given_up(what: str, site: Site, updatable: Client) -> None:
    places = {"repomd": (REPOMD, 100), "set": (_SET, 50), "package": (site.paint, 20_000)}
    place, after = places[what]
    site.mirror.stall(after, place)
    updatable.refused(place, "stalled", status=1)
    site.mirror.honest()
    updatable.completes()


@pytest.mark.usefixtures("impatient")
def test_next_mirror_continues_what_stalled(
    site: Site, second: LyingMirror, updatable: Client
) -> None:
    site.mirror.stall(20_000, site.paint)
    updatable.completes()
    size = (site.directory / site.paint).stat().st_size
    assert [one.range for one in second.requests(site.paint)] == [f"bytes=20000-{size - 1}"]


# What the person got wrong


def _pull(
    client: Client, ref: str = f"{REMOTE}:{MINIMAL}", *, repo: Path | None = None, status: int
) -> Done:
    words = ["pull", ref, "--repo", repo or client.repo, "--config-dir", client.config]
    done = run_here(*words)
    assert done.status == status, done.err
    assert "Traceback" not in done.err
    return done


def test_unknown_remote_lists_what_there_is(site: Site, updatable: Client) -> None:
    done = _pull(updatable, f"nobody:{MINIMAL}", status=1)
    check_message(done.err, "nobody", REMOTE)


def test_pull_without_any_remote_says_how_to_add_one(published: Published, client: Client) -> None:
    done = _pull(client, MINIMAL, status=1)
    check_message(done.err, "no remote", "remote add")


def test_remote_must_be_named_where_there_are_several(site: Site, updatable: Client) -> None:
    updatable.add_remote(site.mirror.url, name="other")
    done = _pull(updatable, MINIMAL, status=2)
    check_message(done.err, REMOTE, "other", "REMOTE:REF")


@pytest.mark.parametrize("what", ["missing", "empty directory", "file"])
def test_pull_into_what_is_no_repository_says_how_to_make_one(
    what: str, site: Site, updatable: Client, tmp_path: Path
) -> None:
    place = tmp_path / "no-repo"
    if what == "file":
        place.write_text("")
    elif what == "empty directory":
        place.mkdir()
    done = _pull(updatable, repo=place, status=1)
    check_message(done.err, str(place), "not an OSTree repository", "init")
    assert not place.is_dir() or not list(place.iterdir())


def test_broken_repository_is_an_error_that_names_it(site: Site, updatable: Client) -> None:
    put(updatable.repo / "config", b"[core]\nrepo_version=1\nmode=nonsense\n")
    done = _pull(updatable, status=1)
    assert str(updatable.repo) in done.err


def test_broken_remote_file_is_an_error_that_names_it(site: Site, updatable: Client) -> None:
    put(updatable.place / "config/remotes.d" / f"{REMOTE}.toml", b"urls = 7\n")
    done = _pull(updatable, status=3)
    assert f"{REMOTE}.toml: urls" in done.err


def test_odd_refs_are_refused(site: Site, updatable: Client) -> None:
    for ref in ("", "..", "/", "a b", "-", "\udcff"):
        _pull(updatable, f"{REMOTE}:{ref}", status=1)
    assert ostree(updatable.repo, "refs") == MINIMAL
