"""CVE-2020-14352: librepo wrote metadata wherever repomd.xml said, ``../`` included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.conftest import published, updatable
from tests.client.published import Published, put
from tests.client.pulling import Client
from tests.compose.rpms import Spec, build, index

__all__ = ["published", "updatable"]

_LOCATIONS = ["../../../planted.xml.gz", "repodata/../../../planted.xml.gz", "/planted.xml.gz"]


def _led_astray(repomd: Path, location: str) -> bytes:
    text = repomd.read_text()
    start = text.index('href="', text.index('type="primary"')) + 6
    return (text[:start] + location + text[text.index('"', start) :]).encode()


@pytest.mark.parametrize("location", _LOCATIONS)
def test_cve_2020_14352_client_refuses(
    published: Published, updatable: Client, tmp_path: Path, location: str
) -> None:
    """The location is refused as such, before anything is asked for or written."""
    directory = published.mirror(2, tmp_path / "mirror")
    repomd = directory / "repodata" / "repomd.xml"
    put(repomd, _led_astray(repomd, location))
    updatable.add_remote(directory)
    before = sorted(path for path in tmp_path.rglob("*") if "updatable" not in path.parts)
    updatable.refused("location", status=3)
    after = sorted(path for path in tmp_path.rglob("*") if "updatable" not in path.parts)
    assert after == before
    assert not list(tmp_path.rglob("planted*"))


@pytest.mark.parametrize("location", _LOCATIONS)
def test_cve_2020_14352_compose_writes_nothing_outside_its_cache(
    tmp_path: Path, location: str
) -> None:
    """librepo reads this one; the metadata that it is led to exists, with the right checksum.

    librepo 1.14.5 ends the process by an assertion at ``../``; an error would do as well.
    """
    place = tmp_path / "a" / "b" / "base"
    place.mkdir(parents=True)
    build(Spec("one"), place)
    index(place)
    repomd = place / "repodata" / "repomd.xml"
    [primary] = repomd.parent.glob("*primary.xml.gz")
    (place / location.lstrip("/")).resolve().write_bytes(primary.read_bytes())
    repomd.write_bytes(_led_astray(repomd, location))
    treefile = tmp_path / "os.yaml"
    treefile.write_text("ref: a\nrepos: [base]\npackages: [one]\n")
    planted = sorted(tmp_path.rglob("planted*"))
    words = ["compose", treefile, "--dry-run", "--repo", tmp_path / "repo"]
    words += ["--repository", f"base={place}", "--cachedir", tmp_path / "cache"]
    command = [sys.executable, "-m", "composer", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if location.startswith("/"):
        assert done.returncode == 0, done.stderr  # below the repository, as ever
    else:
        assert done.returncode != 0
    now = sorted(tmp_path.rglob("planted*"))
    assert [path for path in now if not path.is_relative_to(tmp_path / "cache")] == planted
