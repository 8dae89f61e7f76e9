"""`mirror metalink`: librepo and our own client go by what it writes, over HTTP."""

from __future__ import annotations

import configparser
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from composer.checksum import ContentDigest
from composer.net.mirrorlist import parse_mirrorlist
from composer.rpm.rpmmd import REPOMD
from tests.client.published import copy_of, put
from tests.client.pulling import check_message, run_here
from tests.commands import Done, ostree
from tests.mirror.histories import STABLE, TIME, History
from tests.net.lying_mirror import LyingMirror


def write(directory: Path, sites: str, *words: object, status: int = 0) -> Done:
    """Write the documents for mirrors ``sites``, TOML."""
    path = directory.parent / "mirrors.toml"
    path.write_text(sites)
    with patch.dict(os.environ, {"SOURCE_DATE_EPOCH": str(TIME)}):
        done = run_here("mirror", "metalink", directory, "--mirrors", path, *words)
    assert done.status == status, f"{done.status}\n{done.out}\n{done.err}"
    return done


def site(url: str, country: str = "", priority: int = 100) -> str:
    """One mirror of the document."""
    return f'[[mirror]]\nurl = "{url}"\ncountry = "{country}"\npriority = {priority}\n'


@pytest.fixture
def directory(history: History, tmp_path: Path) -> Path:
    """A copy of the mirror that may be changed."""
    return copy_of(history.mirror, tmp_path / "mirror")


@pytest.fixture
def servers(directory: Path, tmp_path: Path) -> Iterator[list[LyingMirror]]:
    """The repository, and two copies of it as it is now, each at a URL."""
    copies = [copy_of(directory, tmp_path / name) for name in ("one", "two")]
    with ExitStack() as stack:
        yield [stack.enter_context(LyingMirror(place)) for place in (directory, *copies)]


def fetch(url: str, into: Path) -> dict[str, Any]:
    """Let librepo fetch rpm-md by a metalink; returns what it made of that."""
    import librepo

    handle = librepo.Handle()
    handle.repotype = librepo.LR_YUMREPO
    handle.metalinkurl = url
    handle.destdir = str(into)
    handle.yumdlist = ["primary"]
    handle.maxmirrortries = 3
    into.mkdir()
    result = handle.perform()
    found: dict[str, Any] = result.getinfo(librepo.LRR_YUM_REPO)
    return found


def publish_anew(directory: Path) -> None:
    """Change repomd.xml, as a publication does."""
    assert run_here("mirror", "prune", directory, "--keep", "2").status == 0


def test_librepo_takes_what_the_metalink_binds_from_the_best_mirror(
    directory: Path, servers: list[LyingMirror], tmp_path: Path
) -> None:
    _, one, two = servers
    write(directory, site(one.url, priority=50) + site(two.url, priority=90))
    repo = fetch(f"{servers[0].url}metalink.xml", tmp_path / "got")
    assert Path(repo["repomd"]).read_bytes() == (directory / REPOMD).read_bytes()
    assert two.log[0].path == REPOMD
    assert not one.log


def test_mirror_that_lags_serves_as_long_as_the_metalink_binds_its_state(
    directory: Path, servers: list[LyingMirror], tmp_path: Path
) -> None:
    _, one, _ = servers
    metalink = f"{servers[0].url}metalink.xml"
    write(directory, site(one.url))
    publish_anew(directory)
    write(directory, site(one.url))
    assert (directory / REPOMD).read_bytes() != (one.directory / REPOMD).read_bytes()
    repo = fetch(metalink, tmp_path / "got")
    assert Path(repo["repomd"]).read_bytes() == (one.directory / REPOMD).read_bytes()
    # Without older ones it is refused.
    write(directory, site(one.url), "--older", 0)
    with pytest.raises(Exception, match=r"repomd\.xml|checksum"):
        fetch(metalink, tmp_path / "again")


def test_lying_mirror_is_not_believed_and_the_next_one_serves(
    directory: Path, servers: list[LyingMirror], tmp_path: Path
) -> None:
    _, one, two = servers
    data = (one.directory / REPOMD).read_bytes()
    put(one.directory / REPOMD, data.replace(b"<revision>", b"<revision>9"))
    write(directory, site(one.url) + site(two.url, priority=1))
    repo = fetch(f"{servers[0].url}metalink.xml", tmp_path / "got")
    assert Path(repo["repomd"]).read_bytes() == data


def test_our_client_goes_by_metalink_and_by_list(
    directory: Path, servers: list[LyingMirror], tmp_path: Path
) -> None:
    _, one, two = servers
    write(directory, site(one.url, priority=10) + site(two.url, priority=20))
    for name in ("metalink.xml", "mirrorlist"):
        words = ["remote", "add", "x", "--mirrorlist", f"{servers[0].url}{name}"]
        config, repo = tmp_path / f"config-{name}", tmp_path / f"repo-{name}"
        done = run_here(*words, "--trust", "none", "--config-dir", config)
        assert done.status == 0, done.err
        ostree(repo, "init", "--mode=bare-user")
        done = run_here("pull", f"x:{STABLE}", "--repo", repo, "--config-dir", config, "--json")
        assert done.status == 0, done.err
        assert any(entry.path == REPOMD for entry in two.log)
        two.log.clear()
    assert not one.log


def test_countries_have_documents_of_their_own_with_their_mirrors_first(
    directory: Path,
) -> None:
    de, us = "https://de.example/os/", "https://us.example/os/"
    rsync = '[[mirror]]\nurl = "rsync://de.example/os"\nprotocol = "rsync"\n'
    write(directory, site(us, "US", 90) + site(de, "DE", 20) + site("http://x.example/") + rsync)

    def read(name: str) -> list[str]:
        return list(parse_mirrorlist((directory / name).read_bytes()))

    other = "http://x.example/"
    assert read("metalink.xml") == read("mirrorlist") == [other, us, de]
    assert read("metalink.DE.xml") == read("mirrorlist.DE") == [de, other, us]
    assert read("metalink.US.xml") == read("mirrorlist.US") == [us, other, de]
    assert "rsync://de.example/os/repodata/repomd.xml" in (directory / "metalink.xml").read_text()
    write(directory, site(us, "US"))
    assert not (directory / "metalink.DE.xml").exists()
    assert not (directory / "mirrorlist.DE").exists()


def test_documents_are_reproducible_and_nothing_is_written_twice(
    directory: Path, tmp_path: Path
) -> None:
    sites = site("https://a.example/", "DE") + site("https://b.example/")
    names = ["metalink.xml", "metalink.DE.xml", "mirrorlist", "mirrorlist.DE", ".treeinfo"]
    write(directory, sites, "--treeinfo", "Fixture/1/x86_64")
    before = {name: (directory / name).read_bytes() for name in names}
    write(directory, sites, "--treeinfo", "Fixture/1/x86_64")
    assert {name: (directory / name).read_bytes() for name in names} == before
    output = tmp_path / "elsewhere"
    output.mkdir()
    done = write(directory, sites, "--treeinfo", "Fixture/1/x86_64", "--output", output, "--json")
    assert sorted(done.document["files"]) == sorted(names)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_treeinfo_says_what_the_tree_is(directory: Path, history: History) -> None:
    write(directory, site("https://a.example/"), "--treeinfo", "Fixture OS/1/x86_64")
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((directory / ".treeinfo").read_text())
    digest = ContentDigest.of((directory / REPOMD).read_bytes())
    assert parser["checksums"][REPOMD] == f"sha256:{digest}"
    assert parser["general"]["name"] == "Fixture OS 1"
    assert parser["tree"]["arch"] == "x86_64"
    assert parser["jigdo"][f"commit.{STABLE}"] == history.commits[STABLE][-1]


def test_check_leaves_out_what_is_stale_damaged_or_down(
    directory: Path, servers: list[LyingMirror], tmp_path: Path
) -> None:
    own, one, two = servers
    for path in (two.directory / "jigdo").iterdir():
        path.unlink()
    sites = site(own.url) + site(one.url) + site(two.url) + site("http://127.0.0.1:9/")
    told = write(directory, sites, "--check", "--json").document
    assert told["mirrors"] == [own.url, one.url]
    assert "problems" in told["left_out"][two.url]
    assert "127.0.0.1:9" in told["left_out"]["http://127.0.0.1:9/"]
    # A state that nothing binds.
    publish_anew(directory)
    told = write(directory, sites, "--check", "--older", 0, "--json").document
    assert told["mirrors"] == [own.url]
    assert "none of those" in told["left_out"][one.url]


def test_where_no_mirror_is_left_the_documents_stay(directory: Path) -> None:
    write(directory, site("https://a.example/"))
    before = (directory / "metalink.xml").read_bytes()
    done = write(directory, site("http://127.0.0.1:9/"), "--check", status=1)
    assert "no mirror is left" in done.err
    assert (directory / "metalink.xml").read_bytes() == before


@pytest.mark.parametrize(
    ("sites", "told"),
    [
        ("", "Field required"),
        ("mirror = 3", "valid list"),
        ("[[mirror]]\nurl = 'gopher://x/'", "https, http or rsync"),
        ("[[mirror]]\nurl = 'https://x/?a'", "? or #"),
        ("[[mirror]]\nurl = 'https://user:secret@x/'", "passwords"),
        ("[[mirror]]\nurl = 'https://x/'\ncountry = 'Germany'", "mirror.0.country"),
        ("[[mirror]]\nurl = 'https://x/'\npriority = 0", "mirror.0.priority"),
        ("[[mirror]]\nurl = 'https://x/'\nprotocol = 'http'", "protocol"),
        ("[[mirror]]\nurl = 'https://x/'\nweight = 1", "mirror.0.weight"),
        ("[[mirror]]\nurl = 'https://x/'\n[[mirror]]\nurl = 'https://x'", "occurs twice"),
        ("[[mirror]]\nurl = 'rsync://x/'", "no mirror of https"),
        ("[[mirror", "mirrors.toml"),
    ],
)
def test_wrong_lists_of_mirrors_are_refused(directory: Path, sites: str, told: str) -> None:
    done = write(directory, sites, status=3)
    check_message(done.err, told)
    assert "secret" not in done.err
    assert not (directory / "metalink.xml").exists()


def test_wrong_words_and_damaged_documents_are_refused(directory: Path, tmp_path: Path) -> None:
    sites = site("https://a.example/")
    assert "NAME/VERSION/ARCH" in write(directory, sites, "--treeinfo", "x", status=2).err
    (directory / "metalink.xml").write_text("<metalink/>")
    write(directory, sites)
    (directory / "metalink.xml").write_text("<!DOCTYPE x []><metalink/>")
    check_message(write(directory, sites, status=3).err, "document type", "remove it")
    empty = tmp_path / "empty"
    empty.mkdir()
    check_message(write(empty, sites, status=1).err, "no rpm-md repository")
    shutil.rmtree(empty)
