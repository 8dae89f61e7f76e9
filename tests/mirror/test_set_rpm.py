"""The RPM of a set: reproducible, looked into by range, readable by rpm."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.checksum import ObjectChecksum
from composer.errors import CommandFailed, ComposerError, FormatError
from composer.mirror.set_rpm import About, build_set_rpm, locate_jigdo, rpm_version, sign_rpm
from composer.rpm.package import read_ref

COMMIT = ObjectChecksum(b"c" * 32)
DATA = b"JIGDOSET" + Random(1).randbytes(100_000)


@pytest.fixture
def jigdo(tmp_path: Path) -> Path:
    path = tmp_path / "some set.jigdo"
    path.write_bytes(DATA)
    return path


def _build(jigdo: Path, output: Path, **changes: str) -> Path:
    values = {
        "name": "os-stable",
        "version": "42.1",
        "release": "1",
        "arch": "noarch",
        "ref": "os/x86_64/stable",
    } | changes
    when = 1_760_000_000
    return build_set_rpm(
        jigdo, commit=COMMIT, output=output, timestamp=when, about=About(), **values
    )


def _described(jigdo: Path, output: Path, about: About) -> Path:
    return build_set_rpm(
        jigdo,
        name="os",
        version="1",
        release="1",
        arch="noarch",
        ref="os",
        commit=COMMIT,
        output=output,
        timestamp=1_760_000_000,
        about=about,
    )


def _query(rpm: Path, what: str) -> str:
    argv = ["rpm", "--dbpath", str(rpm.parent / "none"), "-qp", "--nosignature", "--qf", what]
    done = subprocess.run([*argv, str(rpm)], check=True, capture_output=True, text=True)
    return done.stdout


def test_set_is_a_range_of_its_rpm(jigdo: Path, tmp_path: Path) -> None:
    rpm = _build(jigdo, tmp_path / "out")
    offset, length = locate_jigdo(rpm)
    assert rpm.read_bytes()[offset : offset + length] == DATA
    assert rpm.name == "os-stable-42.1-1.noarch.rpm"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [rpm.name]


def test_rpm_says_what_the_publisher_says(jigdo: Path, tmp_path: Path) -> None:
    about = About("Summary with %(id) %{lua:x}", "MIT and %{y}", "First line\n100% %{z}")
    rpm = _described(jigdo, tmp_path, about)
    assert _query(rpm, "%{SUMMARY}") == about.summary
    assert _query(rpm, "%{LICENSE}") == about.license
    assert _query(rpm, "%{DESCRIPTION}").startswith(f"{about.description}\n\nWhat jigdo-composer")
    offset, length = locate_jigdo(rpm)
    assert rpm.read_bytes()[offset : offset + length] == DATA


@pytest.mark.parametrize(
    "about", [About("a\nName: b"), About(license="a\nb"), About(description="a\n %install\nid")]
)
def test_words_that_would_be_more_of_the_spec_are_refused(
    jigdo: Path, tmp_path: Path, about: About
) -> None:
    with pytest.raises(ComposerError, match="cannot be"):
        _described(jigdo, tmp_path, about)


def test_rpm_is_of_ref_and_commit(jigdo: Path, tmp_path: Path) -> None:
    rpm = _build(jigdo, tmp_path, version="42-1", arch="x86_64")
    provides = _query(rpm, "[%{PROVIDENEVRS}\n]").splitlines()
    assert "jigdo-set(os/x86_64/stable) = 42_2d1" in provides
    assert f"jigdo-commit({COMMIT})" in provides
    assert _query(rpm, "[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME}\n]") == (
        "/usr/lib/ostree-jigdo/os-stable.jigdo -rw-r--r-- root\n"
    )
    assert _query(rpm, "%{PAYLOADCOMPRESSOR} %{FILEDIGESTALGO}") == "(none) 8"
    assert str(read_ref(rpm).nevra) == "os-stable-42_2d1-1.x86_64"


def test_rpm_depends_on_its_inputs_alone(
    jigdo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _build(jigdo, tmp_path / "first")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".rpmmacros").write_text("%vendor Somebody\n%_binary_payload w9.gzdio\n%dist .fc1\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    other = tmp_path / "elsewhere.jigdo"
    shutil.copy(jigdo, other)
    other.chmod(0o600)
    os.utime(other, (1, 1))
    before = os.umask(0o077)
    try:
        second = _build(other, tmp_path / "second")
    finally:
        os.umask(before)
    assert second.read_bytes() == first.read_bytes()


@given(st.text("0a.-_~^+:% ü", max_size=8), st.text("0a.-_~^+:% ü", max_size=8))
def test_versions_stay_different(one: str, other: str) -> None:
    assert (rpm_version(one) == rpm_version(other)) == (one == other)


@pytest.mark.parametrize("version", ["", "..", "42-1 ü", "1:2", "%{nil}", "~", "^", "_", "a" * 200])
def test_rpm_accepts_every_version(jigdo: Path, tmp_path: Path, version: str) -> None:
    assert read_ref(_build(jigdo, tmp_path, version=version)).nevra.version == rpm_version(version)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "%{nil}"),
        ("name", "a b"),
        ("name", ""),
        ("ref", "a\nProvides: b"),
        ("ref", "%(id)"),
        ("release", "1-2"),
        ("arch", "x86 64"),
        ("version", "a" * 201),
    ],
)
def test_value_that_no_rpm_can_have_is_refused(
    jigdo: Path, tmp_path: Path, key: str, value: str
) -> None:
    with pytest.raises(ComposerError):
        _build(jigdo, tmp_path / "out", **{key: value})
    assert not list(tmp_path.rglob("*.rpm"))


def test_file_without_magic_is_no_set(jigdo: Path, tmp_path: Path) -> None:
    jigdo.write_bytes(b"something else")
    with pytest.raises(FormatError, match="no jigdo set"):
        _build(jigdo, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_other_rpms_have_no_set(tmp_path: Path) -> None:
    path = tmp_path / "no.rpm"
    path.write_bytes(b"no RPM at all")
    with pytest.raises(FormatError):
        locate_jigdo(path)


@pytest.fixture(scope="module")
def gpg_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # A short path: gpg-agent's socket has to fit into 108 bytes.
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    subprocess.run(
        [*gpg, "--quick-gen-key", "Test <test@example.org>", "ed25519", "sign", "never"],
        check=True,
        capture_output=True,
    )
    yield home
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)


def test_signed_rpm_still_has_its_set(jigdo: Path, tmp_path: Path, gpg_home: Path) -> None:
    rpm = _build(jigdo, tmp_path)
    unsigned = rpm.read_bytes()
    sign_rpm(rpm, key="test@example.org", homedir=gpg_home)
    assert rpm.read_bytes() != unsigned
    assert _query(rpm, "%{RSAHEADER:pgpsig}%{DSAHEADER:pgpsig}").count("(none)") == 1
    offset, length = locate_jigdo(rpm)
    assert rpm.read_bytes()[offset : offset + length] == DATA


def test_missing_key_is_explained(jigdo: Path, tmp_path: Path, gpg_home: Path) -> None:
    rpm = _build(jigdo, tmp_path)
    with pytest.raises(CommandFailed) as caught:
        sign_rpm(rpm, key="nobody@example.org", homedir=gpg_home)
    assert "secret key" in caught.value.hint
