"""Remotes: written whole, read strictly, trusted only as far as written."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from composer.cli.console import Console
from composer.cli.remote import remote as command
from composer.client.remote import (
    add_remote,
    find_remote,
    list_remotes,
    load_remote,
    remove_remote,
    writable_place,
)
from composer.errors import (
    FormatError,
    MissingRequirement,
    NotFound,
    UsageError,
    VerificationFailed,
)
from composer.net.statement import Untrusted
from composer.ostree.signature import require_ed25519
from tests.commands import jigdo
from tests.trust.scene import Publisher


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, str, str]]:
    """Two public keys, armored and binary, and their fingerprints."""
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    prints = []
    for name in ("first", "second"):
        argv = [*gpg, "--quick-gen-key", f"{name}@example.org", "ed25519", "sign", "never"]
        subprocess.run(argv, check=True, capture_output=True)
        listing = [*gpg, "--with-colons", "--list-keys", name]
        text = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
        prints.append(next(line.split(":")[9] for line in text.splitlines() if line[:3] == "fpr"))
    armored, binary = home / "first.asc", home / "second.gpg"
    subprocess.run([*gpg, "--armor", "--output", str(armored), "--export", "first"], check=True)
    subprocess.run([*gpg, "--output", str(binary), "--export", "second"], check=True)
    yield armored, binary, prints[0], prints[1]
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)


def test_keys_are_pinned(tmp_path: Path, keys: tuple[Path, Path, str, str]) -> None:
    armored, binary, first, second = keys
    added = add_remote(
        "os", ["http://a", "http://b/x"], keys=[armored, binary], config_dir=tmp_path
    )
    assert added.urls == ("http://a/", "http://b/x/")
    assert set(added.fingerprints) == {first, second}
    assert added.trust == "gpg"
    assert added.keyring == tmp_path / "remotes.d/os.gpg"
    argv = ["gpg", "--homedir", str(tmp_path), "--with-colons", "--show-keys", str(added.keyring)]
    shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert first in shown
    assert second in shown
    assert find_remote("os", tmp_path) == added
    assert stat.S_IMODE(added.keyring.stat().st_mode) == 0o644


def test_nothing_but_none_makes_unsigned_acceptable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="whom to trust") as caught:
        add_remote("os", ["http://a"], config_dir=tmp_path)
    assert "--gpg-key" in caught.value.hint
    assert "--trust none" in caught.value.hint
    with pytest.raises(UsageError):
        add_remote("os", ["http://a"], trust="gpg", config_dir=tmp_path)
    assert not list_remotes(tmp_path)
    assert add_remote("os", ["http://a"], trust="none", config_dir=tmp_path).keyring is None


def test_keys_beside_none_are_contradictory(
    tmp_path: Path, keys: tuple[Path, Path, str, str]
) -> None:
    with pytest.raises(UsageError, match="contradict"):
        add_remote("os", ["http://a"], keys=[keys[0]], trust="none", config_dir=tmp_path)


def test_file_without_a_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "no.key"
    file.write_text("no key")
    with pytest.raises(UsageError, match=r"no\.key: no GPG key"):
        add_remote("os", ["http://a"], keys=[file], config_dir=tmp_path)
    assert not list_remotes(tmp_path)


def test_repositories_have_their_own_mirrors(tmp_path: Path) -> None:
    directory = tmp_path / "local dir"
    directory.mkdir()
    repositories = {"updates": ["http://u1", str(directory)], "base.x-1": ["file:///srv"]}
    add_remote("os", ["http://a"], trust="none", repositories=repositories, config_dir=tmp_path)
    found = find_remote(None, tmp_path)
    assert found.mirrors_for("updates") == ("http://u1/", directory.as_uri() + "/")
    assert found.mirrors_for("base.x-1") == ("file:///srv/",)
    assert found.mirrors_for("") == found.mirrors_for("unknown") == ("http://a/",)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "a\n", "ä", "a" * 101])
def test_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        add_remote(name, ["http://a"], trust="none", config_dir=tmp_path)
    with pytest.raises(UsageError):
        find_remote(name, tmp_path)


@pytest.mark.parametrize("url", ["ftp://a", "a", "http://a?b", "http://u:secret@a", "missing/dir"])
def test_wrong_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="remote os: urls") as caught:
        add_remote("os", [url], trust="none", config_dir=tmp_path)
    assert "secret" not in caught.value.message
    with pytest.raises(UsageError, match=r"repositories"):
        add_remote("os", ["http://a"], trust="none", repositories={"x": [url]}, config_dir=tmp_path)


def test_taken_name_is_replaced_only_on_request(
    tmp_path: Path, keys: tuple[Path, Path, str, str]
) -> None:
    add_remote("os", ["http://a"], keys=[keys[0]], config_dir=tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        add_remote("os", ["http://b"], trust="none", config_dir=tmp_path)
    assert find_remote("os", tmp_path).trust == "gpg"
    add_remote("os", ["http://b"], trust="none", config_dir=tmp_path, replace=True)
    assert find_remote("os", tmp_path).urls == ("http://b/",)
    assert not (tmp_path / "remotes.d/os.gpg").exists()


def test_removed_remote_is_gone_with_its_keys(
    tmp_path: Path, keys: tuple[Path, Path, str, str]
) -> None:
    add_remote("os", ["http://a"], keys=[keys[0]], config_dir=tmp_path)
    remove_remote("os", tmp_path)
    assert not list((tmp_path / "remotes.d").iterdir())
    with pytest.raises(NotFound, match="no remote os"):
        remove_remote("os", tmp_path)


def test_one_of_several_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no remote"):
        find_remote(None, tmp_path)
    for name in ("b", "a"):
        add_remote(name, ["http://a"], trust="none", config_dir=tmp_path)
    assert [one.name for one in list_remotes(tmp_path)] == ["a", "b"]
    with pytest.raises(UsageError, match="a, b"):
        find_remote(None, tmp_path)
    with pytest.raises(NotFound) as caught:
        find_remote("c", tmp_path)
    assert caught.value.details == ("there are: a, b",)


def test_users_remotes_come_before_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("composer.client.remote.SYSTEM", tmp_path / "etc")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert writable_place(None) == tmp_path / "etc/remotes.d"
    add_remote("os", ["http://system"], trust="none")
    add_remote("only", ["http://system"], trust="none")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert writable_place(None) == tmp_path / "home/jigdo-composer/remotes.d"
    add_remote("os", ["http://user"], trust="none", replace=True)
    assert find_remote("os").urls == ("http://user/",)
    assert {one.name: one.urls[0] for one in list_remotes()} == {
        "os": "http://user/",
        "only": "http://system/",
    }


_GOOD = 'urls = ["http://a"]\ntrust = "none"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("urls = [", "remote.toml"),
        ('trust = "none"\n', "urls: Field required"),
        ('urls = ["http://a"]\n', "trust: Field required"),
        (_GOOD + "colour = 1\n", "colour: unknown key; there are urls, trust"),
        (_GOOD.replace("none", "all"), "trust: "),
        (_GOOD.replace("http", "ftp"), "urls: ftp://a: expected a URL"),
        ('urls = "http://a"\ntrust = "none"\n', "urls: "),
        ('urls = []\ntrust = "none"\n', "urls: "),
        (_GOOD + '[repositories]\n"a b" = ["http://a"]\n', "repositories.a b"),
        (_GOOD + "[repositories]\na = []\n", "repositories.a"),
        (_GOOD + 'fingerprints = ["abc"]\n', "fingerprints.0"),
        ('urls = ["http://a"]\ntrust = "gpg"\n', "there is no key"),
    ],
)
def test_error_in_a_file_names_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "remote.toml"
    path.write_text(text)
    with pytest.raises(FormatError) as caught:
        load_remote(path)
    assert str(path) in caught.value.message
    assert says in caught.value.message


def _run(*argv: str, config: Path) -> Result:
    return CliRunner().invoke(
        command, list(argv), obj=Console(), env={"JIGDO_COMPOSER_CONFIG": str(config)}
    )


def _json(result: Result) -> Any:
    assert result.exception is None, result.output
    return json.loads(result.stdout)


def test_command_adds_lists_and_removes(tmp_path: Path, keys: tuple[Path, Path, str, str]) -> None:
    argv = ["os", "http://a", "--gpg-key", str(keys[0]), "--repository", "u=http://u"]
    shown = _run("add", *argv, config=tmp_path)
    assert keys[2] in shown.stdout
    [listed] = _json(_run("list", "--json", config=tmp_path))
    assert listed == {
        "name": "os",
        "trust": "gpg",
        "fingerprints": [keys[2]],
        "ed25519_keys": [],
        "keyring": str(tmp_path / "remotes.d/os.gpg"),
        "tuf_root": None,
        "mirrorlist": None,
        "urls": ["http://a/"],
        "archives": [],
        "repositories": {"u": ["http://u/"]},
        "connection": {},
    }
    assert keys[2] in _run("list", config=tmp_path).stdout
    assert "removed" in _run("remove", "os", config=tmp_path).stdout
    assert _json(_run("list", "--json", config=tmp_path)) == []


def test_command_explains_a_wrong_repository(tmp_path: Path) -> None:
    argv = ["add", "os", "http://a", "--trust", "none", "--repository", "http://u"]
    result = _run(*argv, config=tmp_path)
    assert result.exit_code == 2
    assert "ID=URL" in result.output


def test_archives_are_kept_checked_and_shown(tmp_path: Path) -> None:
    argv = ["os", "http://a", "--trust", "none", "--archive", "http://old/{name}/{file}"]
    _run("add", *argv, "--archive", str(tmp_path), config=tmp_path)
    [listed] = _json(_run("list", "--json", config=tmp_path))
    assert listed["archives"] == ["http://old/{name}/{file}", f"{tmp_path.as_uri()}/"]
    assert "archive http://old/{name}/{file}" in _run("list", config=tmp_path).stdout
    path = tmp_path / "remotes.d/os.toml"
    path.write_text(path.read_text().replace("{file}", "{source}"))
    with pytest.raises(FormatError, match=r"os.toml: archives: .*no field \{source\}"):
        load_remote(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A publisher's root of signed statements."""
    return Publisher(tmp_path_factory.mktemp("publisher") / "p").root


_Keys = tuple[Path, Path, str, str]


def test_all_that_was_given_is_demanded(tmp_path: Path, keys: _Keys, root: Path) -> None:
    url, directory = ["http://a"], tmp_path / "remotes.d"
    added = add_remote("both", url, keys=[keys[0]], tuf_root=root, config_dir=tmp_path)
    assert added.trust == "tuf+gpg"
    assert added.root is not None
    assert added.root.data == (directory / "both.root.json").read_bytes() == root.read_bytes()
    assert added.keyring == directory / "both.gpg"
    one = add_remote("one", url, tuf_root=root, config_dir=tmp_path)
    assert (one.trust, one.keyring) == ("tuf", None)
    less = add_remote("less", url, keys=[keys[0]], tuf_root=root, trust="gpg", config_dir=tmp_path)
    assert (less.trust, less.root) == ("gpg", None)


@pytest.mark.parametrize("trust", ["tuf", "gpg", "tuf+gpg"])
def test_what_is_demanded_must_be_given(tmp_path: Path, trust: Any) -> None:
    with pytest.raises(UsageError, match="needs --") as refusal:
        add_remote("os", ["http://a"], trust=trust, config_dir=tmp_path)
    assert ("--tuf-root" in refusal.value.message) == ("tuf" in trust)
    assert ("--gpg-key" in refusal.value.message) == ("gpg" in trust)
    assert not list_remotes(tmp_path)


def test_root_beside_none_is_contradictory(tmp_path: Path, root: Path) -> None:
    with pytest.raises(UsageError, match="contradicts"):
        add_remote("os", ["http://a"], tuf_root=root, trust="none", config_dir=tmp_path)


@pytest.mark.parametrize("damage", ["gone", "another", "unreadable"])
def test_root_that_was_not_pinned_is_an_error_and_not_trust(
    tmp_path: Path, root: Path, damage: str
) -> None:
    add_remote("os", ["http://a"], tuf_root=root, config_dir=tmp_path)
    path = tmp_path / "remotes.d/os.root.json"
    if damage == "gone":
        path.unlink()
    elif damage == "another":
        path.write_bytes(Publisher(tmp_path / "other").root.read_bytes())
    else:
        path.write_text("{}")
    with pytest.raises(FormatError if damage != "unreadable" else Untrusted, match="os"):
        find_remote("os", tmp_path)


@pytest.mark.parametrize("data", [b"", b"{}", b"x" * 70_000], ids=["empty", "none", "long"])
def test_file_that_is_no_root_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "root.json").write_bytes(data)
    with pytest.raises(VerificationFailed, match=r"root\.json"):
        add_remote("os", ["http://a"], tuf_root=tmp_path / "root.json", config_dir=tmp_path)
    assert not list_remotes(tmp_path)


def test_root_that_does_not_sign_itself_is_refused(tmp_path: Path, root: Path) -> None:
    document = json.loads(root.read_bytes())
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    (tmp_path / "root.json").write_text(json.dumps(document))
    with pytest.raises(Untrusted, match="not signed by enough"):
        add_remote("os", ["http://a"], tuf_root=tmp_path / "root.json", config_dir=tmp_path)


def test_fingerprints_of_the_root_are_shown(tmp_path: Path, root: Path) -> None:
    shown = _run("add", "os", "http://a", "--tuf-root", str(root), config=tmp_path).stdout
    assert f"TUF root 1, SHA-256 {hashlib.sha256(root.read_bytes()).hexdigest()}" in shown
    [listed] = _json(_run("list", "--json", config=tmp_path))
    [key] = listed["tuf_root"]["keys"]
    assert f"1 of 1 keys: {key}" in shown


def test_ed25519_key_is_demanded_or_the_lack_of_it_told(tmp_path: Path) -> None:
    key = "A" * 43 + "="
    words = ["remote", "add", "os", "http://127.0.0.1:9/", "--ed25519-key", key]
    try:
        require_ed25519()
    except MissingRequirement:
        done = jigdo(*words, "--config-dir", tmp_path, status=1)
        assert "built without ed25519" in done.err
        assert "--gpg-key" in done.err
        assert not list(tmp_path.rglob("*.toml"))
    else:
        assert f"ed25519 key {key}" in jigdo(*words, "--config-dir", tmp_path).out


def test_ed25519_keys_of_a_file_are_read(tmp_path: Path) -> None:
    place = tmp_path / "remotes.d"
    place.mkdir()
    text = 'urls = ["http://127.0.0.1:9/"]\ntrust = "gpg"\n'
    (place / "os.toml").write_text(text + f'ed25519-keys = ["{"A" * 43}="]\n')
    remote = find_remote("os", tmp_path)
    assert (remote.ed25519_keys, remote.keyring) == (("A" * 43 + "=",), None)
    (place / "os.toml").write_text(text + 'ed25519-keys = ["short"]\n')
    with pytest.raises(FormatError, match="ed25519-keys"):
        find_remote("os", tmp_path)
