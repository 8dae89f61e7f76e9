"""A second compose reads what may have changed, and comes to what a first one would."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from composer.compose.install import TransactionFailed
from composer.compose.pipeline import ComposeRequest, ComposeResult, compose
from composer.compose.untouched import Untouched, can_tell
from composer.ostree import committing
from composer.ostree.digests import DIGESTS
from composer.ostree.repo import Repository
from composer.progress import silent
from tests.commands import ostree
from tests.compose.rpms import File, Spec, build, composed, index, needs_root, shell

pytestmark = needs_root

WORDS = Spec("words", files={f"/usr/share/words/{n}": File(f"word {n}\n") for n in range(20)})
# What was written in the same tick of the clock as the end of a watch is read all the same:
# this takes librpm longer than a tick.
PAD = File(bytes(24 << 20))
TOOL = Spec("tool", files={"/usr/bin/tool": File("#!/bin/sh\nexit 0\n", "0755"), "/usr/tool": PAD})


class Place:
    """A treefile, its packages, and composes of it; ``read`` are the files that were hashed."""

    def __init__(self, path: Path, specs: Sequence[Spec], read: list[str]) -> None:
        self.path, self.rpms, self.read = path, path / "rpms", read
        self.rpms.mkdir(parents=True)
        after = [f"Requires: {spec.name}" for spec in specs]
        self.add(shell(), *specs, Spec("last", files={"/usr/last": PAD}, headers=after))
        names = ", ".join(["shell", *(spec.name for spec in specs), "last"])
        self.treefile = path / "os.yaml"
        self.treefile.write_text(
            f"ref: small\nrepos: [base]\npackages: [{names}]\nselinux: false\n"
        )

    def add(self, *specs: Spec) -> None:
        for spec in specs:
            build(spec, self.rpms)
        index(self.rpms)

    def compose(self, name: str = "warm") -> ComposeResult:
        self.read.clear()
        request = ComposeRequest(
            treefile=self.treefile,
            repo=self.path / name / "repo",
            cachedir=self.path / name / "cache",
            basearch="x86_64",
            repositories={"base": str(self.rpms)},
            parent=False,
            force=True,
        )
        return compose(request, silent)

    def require_as_if_first(self) -> list[str]:
        """Compose again and from nothing; returns what the former read, by name."""
        again = self.compose()
        read = list(self.read)
        assert again.commit == self.compose(f"cold-{len(list(self.path.iterdir()))}").commit
        ostree(self.repo, "fsck", "--quiet")
        return read

    @property
    def cache(self) -> Path:
        return self.path / "warm/cache" / DIGESTS

    @property
    def repo(self) -> Path:
        return self.path / "warm/repo"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Place]:
    read: list[str] = []
    hashed = committing._Writer._hash

    def hash_and_tell(writer: committing._Writer, file: committing._File, fd: int) -> object:
        read.append(file.path.partition("/tree/")[2])
        return hashed(writer, file, fd)

    monkeypatch.setattr(committing._Writer, "_hash", hash_and_tell)
    if not can_tell(tmp_path):
        pytest.skip("the file system of the temporary directory does not tell by ctime")
    return lambda *specs: Place(tmp_path / "place", specs, read)


def of(read: list[str], directory: str) -> list[str]:
    return sorted(name for name in read if name.startswith(directory))


def test_only_what_changed_is_read(place: Callable[..., Place]) -> None:
    here = place(WORDS, TOOL)
    here.compose()
    assert len(of(here.read, "usr/share/words")) == 20
    files = {**WORDS.files, "/usr/share/words/3": File("another\n")}
    here.add(replace(WORDS, version="2", files=files))
    assert of(here.require_as_if_first(), "usr/share/words") == ["usr/share/words/3"]


def test_file_below_etc_is_not_read_though_it_moved(place: Callable[..., Place]) -> None:
    here = place(Spec("settings", files={"/etc/settings": File("a=b\n", mark="%config")}))
    here.compose()
    assert "usr/etc/settings" not in here.require_as_if_first()


# Each does it to a file of its own.
_WAYS = (
    "busybox touch -r $f /tmp/t; busybox cat /tmp/new > $f; busybox touch -r /tmp/t $f",
    "busybox touch -r $f /tmp/t; busybox dd if=/tmp/new of=$f conv=notrunc bs=1 count=1; "
    "busybox touch -r /tmp/t $f",
    "busybox sed -i s/word/WORD/ $f",
    "busybox mv /usr/share/words/18 $f",
    "busybox cp -p /usr/share/words/19 $f",
    "busybox chmod 0600 $f",
    "busybox chown 1:1 $f",
    "busybox ln $f /usr/share/words/linked",
)


@pytest.mark.parametrize("section", ["%post", "%posttrans"])
def test_what_a_scriptlet_changed_is_seen(place: Callable[..., Place], section: str) -> None:
    here = place(WORDS, TOOL)
    here.compose()
    lines = ["busybox printf 'WORD 7\\n' > /tmp/new"]
    lines += [f"f=/usr/share/words/{number}; {way}" for number, way in enumerate(_WAYS)]
    scripts = {section: "\n".join(lines)}
    here.add(replace(TOOL, version="2", scripts=scripts, headers=["Requires: words"]))
    changed = {f"usr/share/words/{number}" for number in range(len(_WAYS))}
    read = of(here.require_as_if_first(), "usr/share/words")
    assert changed < set(read)
    assert len(read) < 20


def test_process_left_behind_is_seen_at_work(place: Callable[..., Place]) -> None:
    here = place(WORDS, TOOL)
    here.compose()
    late = "( busybox sleep 0.2; busybox sed -i s/word/WORD/ /usr/share/words/7 ) > /dev/null 2>&1"
    scripts = {"%post": f"{late} & busybox sleep 0.5"}
    here.add(replace(TOOL, version="2", scripts=scripts, headers=["Requires: words"]))
    assert "usr/share/words/7" in here.require_as_if_first()


def test_what_lua_changed_is_seen(place: Callable[..., Place]) -> None:
    here = place(WORDS, TOOL)
    here.compose()
    body = "f = io.open('/usr/share/words/7', 'r+') f:write('W') f:close()"
    scripts = {"%post -p <lua>": body}
    here.add(replace(TOOL, version="2", scripts=scripts, headers=["Requires: words"]))
    assert "usr/share/words/7" in here.require_as_if_first()


def test_process_that_a_scriptlet_left_may_have_changed_anything(
    place: Callable[..., Place],
) -> None:
    # As long as it is there, nothing that is unpacked counts as untouched.
    here = place(TOOL, WORDS)
    here.compose()
    script = "( busybox sleep 60 ) > /dev/null 2>&1 &"
    here.add(replace(TOOL, version="2", scripts={"%post": script}))
    here.add(replace(WORDS, version="2", headers=["Requires: tool"]))
    assert len(of(here.require_as_if_first(), "usr/share/words")) == 20


def test_macro_in_a_scriptlet_may_have_changed_anything(place: Callable[..., Place]) -> None:
    # librpm expands it before it says that the scriptlet begins.
    here = place(WORDS, TOOL)
    here.compose()
    body = "%%(busybox sed -i s/word/WORD/ /usr/share/words/7)"
    here.add(replace(TOOL, version="2", scripts={"%post -e": body}, headers=["Requires: words"]))
    assert len(of(here.require_as_if_first(), "usr/share/words")) == 20


def test_what_a_postprocess_script_changed_is_seen(place: Callable[..., Place]) -> None:
    here = place(WORDS)
    here.compose()
    with here.treefile.open("a") as stream:
        stream.write("postprocess:\n- |\n  #!/bin/sh\n  busybox sed -i s/w/W/ /usr/share/words/7\n")
    assert "usr/share/words/7" in here.require_as_if_first()


def test_object_that_is_gone_is_made_again(place: Callable[..., Place]) -> None:
    here = place(WORDS)
    result = here.compose()
    found = Repository.open(here.repo)
    gone = found.file_at(found.require(result.ref), "usr/share/words/7")
    path = here.repo / "objects" / str(gone)[:2] / f"{str(gone)[2:]}.file"
    path.unlink()
    assert of(here.require_as_if_first(), "usr/share/words") == ["usr/share/words/7"]
    assert path.is_file()


def _truncate(cache: Path) -> None:
    os.truncate(cache, cache.stat().st_size // 2)


def _overwrite(cache: Path) -> None:
    data = bytearray(cache.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start + 1000 : start + 2000] = bytes(1000)
    cache.write_bytes(data)


def _exchange(cache: Path) -> None:
    """Give each content the object of another."""
    with sqlite3.connect(cache) as database:
        rows = database.execute("SELECT object, digest FROM sealed ORDER BY digest").fetchall()
        digests = [digest for _, digest in rows]
        for (checksum, _), digest in zip(rows, digests[1:] + digests[:1], strict=True):
            database.execute("UPDATE sealed SET digest = ? WHERE object = ?", (digest, checksum))
    database.close()


def _exchange_headers(cache: Path) -> None:
    with sqlite3.connect(cache) as database:
        database.execute("UPDATE header SET mode = mode + 1000000")
        database.execute("UPDATE header SET mode = mode - 1000000 + (id % 2) * 64")
    database.close()


def _confuse(cache: Path) -> None:
    with sqlite3.connect(cache) as database:
        database.execute("UPDATE sealed SET size = NULL, seal = NULL")
        database.execute("UPDATE header SET xattrs = x'ff'")
    database.close()


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        _truncate,
        _overwrite,
        _exchange,
        _exchange_headers,
        _confuse,
        lambda cache: cache.write_bytes(b"no database" * 500),
    ],
)
def test_damaged_cache_is_as_good_as_none(
    place: Callable[..., Place], damage: Callable[[Path], object]
) -> None:
    here = place(WORDS)
    here.compose()
    damage(here.cache)
    here.require_as_if_first()
    # It is of use again, all but what SQLite's own index has lost.
    assert len(of(here.require_as_if_first(), "usr/share/words")) < 5


def test_second_name_of_a_file_is_read(place: Callable[..., Place]) -> None:
    # librpm compares the content of linked files with the digest of one of them.
    at = "%{buildroot}/usr/share/linked"
    files = {f"/usr/share/linked/{name}": File(f"{name}\n") for name in "abc"}
    # Not a section: it goes on where %install ends.
    here = place(Spec("linked", files=files, scripts={f"ln -f {at}/a {at}/b": ""}))
    here.compose()
    read = of(here.require_as_if_first(), "usr/share/linked")
    assert read == ["usr/share/linked/a", "usr/share/linked/b"]


def test_content_that_is_not_what_the_header_says_is_refused(place: Callable[..., Place]) -> None:
    # What is not read here relies on it.
    here = place(WORDS)
    here.compose()
    rpm = build(replace(WORDS, version="2", headers=["%define _binary_payload w.ufdio"]), here.rpms)
    data = rpm.read_bytes()
    assert data.count(b"word 7\n") == 1
    rpm.write_bytes(data.replace(b"word 7\n", b"WORD 7\n"))
    index(here.rpms)
    with pytest.raises(TransactionFailed):
        here.compose()


@pytest.fixture
def noted(tmp_path: Path) -> tuple[Untouched, Path, ContentDigest]:
    rpm = build(replace(WORDS, files={"/usr/words": File("word\n")}), tmp_path)
    path = tmp_path / "file"
    path.write_text("word\n")
    return Untouched([composed(rpm), composed(rpm)]), path, ContentDigest.of(b"word\n")


def test_digest_is_of_the_inode_that_was_noted(
    noted: tuple[Untouched, Path, ContentDigest],
) -> None:
    untouched, path, digest = noted
    assert untouched.digest(path.lstat()) is None
    untouched.note([[0, 0, path.lstat().st_ino, path.lstat().st_ctime_ns]])
    assert untouched.digest(path.lstat()) == digest
    path.chmod(0o600)
    assert untouched.digest(path.lstat()) is None


def test_whole_seconds_tell_nothing(noted: tuple[Untouched, Path, ContentDigest]) -> None:
    untouched, path, _ = noted
    whole = list(path.lstat())
    status = os.stat_result(
        [*whole, 1.0, 1.0, 1.0, 10**18, 10**18, 10**18, 4096, 8, 0, 10**18, 10**18, 10**18][:19]
    )
    untouched.note([[0, 0, status.st_ino, status.st_ctime_ns]])
    assert untouched.digest(status) is None


@pytest.mark.parametrize("files", [[[2, 0, 5, 5]], [[-1, 0, 5, 5]]])
def test_package_that_is_none_is_refused(
    noted: tuple[Untouched, Path, ContentDigest], files: list[list[int]]
) -> None:
    with pytest.raises(ValueError, match="no package"):
        noted[0].note(files)
