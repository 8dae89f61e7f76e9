"""Lists of mirrors: read within bounds, trusted with nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.client.remote import find_remote
from composer.errors import FormatError, VerificationFailed
from composer.net.mirrorlist import fetch_mirrorlist, parse_mirrorlist
from tests.client.pulling import run_here
from tests.net.lying_mirror import LyingMirror
from tests.trust.scene import REMOTE, Scene, entry

_V3 = b"""<?xml version="1.0" encoding="utf-8"?>
<metalink version="3.0" xmlns="http://www.metalinker.org/" type="dynamic">
 <files><file name="repomd.xml"><size>3</size><resources maxconnections="1">
  <url protocol="rsync" preference="100">rsync://a.example/os/repodata/repomd.xml</url>
  <url protocol="http" preference="98">http://b.example/os/repodata/repomd.xml</url>
  <url protocol="https" preference="99">https://c.example/os/repodata/repomd.xml</url>
  <url protocol="https" preference="97">https://d.example/os/elsewhere.xml</url>
 </resources></file></files>
</metalink>"""
_V4 = b"""<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="repomd.xml">
 <url priority="2">http://b.example/os/repodata/repomd.xml</url>
 <url priority="1">https://c.example/os/repodata/repomd.xml</url>
</file></metalink>"""
_LINES = b"# fedora\nhttps://c.example/os/\n\nhttp://b.example/os\nftp://a.example/os/\nx y\n"
_BOTH = ("https://c.example/os/", "http://b.example/os/")


@pytest.mark.parametrize("data", [_V3, _V4, _LINES], ids=["metalink 3", "metalink 4", "lines"])
def test_lists_are_read_best_first(data: bytes) -> None:
    assert parse_mirrorlist(data) == _BOTH


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"file:///etc/\n",
        b"http://user:secret@a.example/\n",
        b"<html><url>http://a.example/</url></html>",
        b"<metalink",
        b'<!DOCTYPE m [<!ENTITY a "http://a/repodata/repomd.xml">]><m><url>&a;</url></m>',
        b'<!DOCTYPE m SYSTEM "http://127.0.0.1:9/m.dtd">' + _V4,
    ],
)
def test_what_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_mirrorlist(data)


def test_long_list_is_cut() -> None:
    data = b"".join(b"http://m%d.example/\n" % number for number in range(1000))
    assert len(parse_mirrorlist(data)) == 20


def test_endless_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(_LINES)
    with LyingMirror(tmp_path) as server:
        assert fetch_mirrorlist(f"{server.url}list?repo=os&arch=x86_64") == _BOTH
        server.endless("list")
        with pytest.raises(VerificationFailed, match="more than the declared"):
            fetch_mirrorlist(f"{server.url}list")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene.play(tmp_path) as made:
        yield made


def test_remote_lives_by_its_list_alone(scene: Scene, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "list").write_text(f"http://127.0.0.1:9/dead/\n{scene.mirror.url}\n")
    with LyingMirror(lists) as server:
        words = ["remote", "add", REMOTE, "--replace", "--config-dir", scene.config]
        words += ["--mirrorlist", f"{server.url}list?repo=os", "--tuf-root", scene.publisher.root]
        done = run_here(*words)
        assert done.status == 0, done.err
        assert f"mirrors by {server.url}list?repo=os" in done.out
        scene.believes(1)
        scene.publish(entry(2))
        server.drop("list")
        scene.believes(2)
        assert [one.status for one in server.log] == [200]  # once a day
        kept = scene.config / f"state/{REMOTE}.mirrors.json"
        os.utime(kept, (time.time() - 90_000,) * 2)
        scene.believes(2)  # by the old list, as there is no new one
        kept.unlink()
        scene.refuses("not found on any mirror", status=1)


def test_remote_without_any_place_is_refused(scene: Scene) -> None:
    words = ["remote", "add", "other", "--trust", "none", "--config-dir", scene.config]
    done = run_here(*words)
    assert done.status == 2
    assert "a URL is needed, or --mirrorlist URL" in done.err
    assert find_remote(None, scene.config).name == REMOTE
