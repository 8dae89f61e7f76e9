"""Keys in files, in GPG and in a PKCS#11 token: added, revoked, with other terms; never shown."""

from __future__ import annotations

import glob
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from composer.errors import ComposerError, NotFound, UsageError
from composer.mirror.keys import KeyDirectory, dump_public, read_public
from composer.mirror.rotation import Change, add, revoke, set_terms
from composer.mirror.trust import DEFAULT_TERMS, Terms, describe, open_ledger
from tests.client.published import Gpg
from tests.commands import jigdo
from tests.mirror.test_publish import make
from tests.trust.scene import REF, Publisher, Scene, entry

_PIN = "4711-secret-pin"


def keys_of(publisher: Publisher, role: str) -> list[str]:
    (found,) = [one for one in describe(open_ledger(publisher.directory)) if one.name == role]
    return list(found.keys)


def private(place: Path) -> list[bytes]:
    """What must be nowhere else: the bodies of private keys, and seeds as bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    found = []
    for path in place.glob("*.pem"):
        data = path.read_bytes()
        found += [line for line in data.splitlines() if b"-----" not in line]
        if b"ENCRYPTED" not in data:
            key = load_pem_private_key(data, None)
            assert isinstance(key, Ed25519PrivateKey)
            raw = key.private_bytes_raw()
            found += [raw, raw.hex().encode()]
    return found


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with Scene.play(tmp_path, {**DEFAULT_TERMS, "timestamp": Terms(keys=2, days=7)}) as made:
        yield made


def change(scene: Scene, *words: object, **options: object) -> Change:
    """Change keys where they are published, and copy that to the mirror."""
    done = scene.publisher.change(*words, **options)  # type: ignore[arg-type]
    scene.sync()
    return done


def test_added_key_signs_and_clients_follow(scene: Scene) -> None:
    scene.believes(1)
    before = keys_of(scene.publisher, "snapshot")
    done = change(scene, add, "snapshot", threshold=2)
    assert keys_of(scene.publisher, "snapshot") == [*before, *done.added]
    scene.publish(entry(2))
    scene.believes(2)
    # One of the two is not enough any more.
    (scene.publisher.keys.path / "snapshot-1.pem").unlink()
    with pytest.raises(ComposerError, match="snapshot: cannot be signed"):
        scene.publish(entry(3))


def test_key_of_somebody_else_is_added_by_its_public_half(scene: Scene, tmp_path: Path) -> None:
    theirs = KeyDirectory(tmp_path / "theirs")
    public = tmp_path / "public.json"
    public.write_bytes(dump_public(theirs.make("anna")))
    done = change(scene, add, "root", key=read_public(public), threshold=2)
    assert done.waiting is not None  # the new root needs both
    assert "anna" not in "".join(path.name for path in scene.publisher.keys.path.iterdir())
    jigdo("mirror", "keys", "sign", done.waiting, "--tuf-keys", theirs.path)
    (scene.publisher.directory / "repodata").mkdir()
    words = [scene.publisher.directory, done.waiting, "--tuf-keys", scene.publisher.keys.path]
    # What is published there, by rpm-md, is nothing: statements of refs are withdrawn.
    jigdo("mirror", "keys", "adopt", *words)
    assert len(keys_of(scene.publisher, "root")) == 2


def test_public_half_that_is_none_is_refused(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "public.json"
    path.write_text("{}")
    with pytest.raises(ComposerError, match="not the public half"):
        read_public(path)
    # One that claims the id of another key.
    (root,) = keys_of(scene.publisher, "root")
    key = KeyDirectory(tmp_path / "k").make("x")
    path.write_bytes(dump_public(key).replace(key.keyid.encode(), root.encode()))
    with pytest.raises(UsageError, match=r"another key has this id|has the key"):
        change(scene, add, "snapshot", key=read_public(path))


def test_revoked_key_counts_for_nothing(scene: Scene) -> None:
    """It is stolen: what it signs is refused, by those who have seen the new root."""
    scene.believes(1)
    first, second = keys_of(scene.publisher, "timestamp")
    signers = scene.publisher.keys.signers()
    stolen = next(
        path.stem
        for path in scene.publisher.keys.path.glob("timestamp-*.pem")
        if KeyDirectory(path.parent)._read(path).public_key.keyid == first
    )
    assert first in signers
    done = change(scene, revoke, [first], replace=False)
    assert done.removed == (first,)
    assert keys_of(scene.publisher, "timestamp") == [second]
    scene.believes(1)
    scene.forge("timestamp", lambda signed: signed.update(version=signed["version"] + 1), stolen)
    scene.refuses("not signed by enough")


def test_revoked_key_leaves_every_role_that_has_it(scene: Scene, tmp_path: Path) -> None:
    (key,) = keys_of(scene.publisher, REF)
    public = tmp_path / "key.json"
    signer = scene.publisher.keys.signers()[key]
    public.write_bytes(dump_public(signer.public_key))
    change(scene, add, "snapshot", key=read_public(public))
    with pytest.raises(ComposerError, match="0 keys would be left"):
        change(scene, revoke, [key], replace=False)
    done = change(scene, revoke, [key], replace=True)
    assert done.removed == (key,)
    for role in describe(open_ledger(scene.publisher.directory)):
        assert key not in role.keys, role.name
    scene.publish(entry(2))
    scene.believes(2)
    with pytest.raises(NotFound, match="no role has this key"):
        change(scene, revoke, [key], replace=True)


def test_terms_change_threshold_and_days(scene: Scene) -> None:
    change(scene, set_terms, "timestamp", threshold=2, days=3)
    (role,) = [
        one for one in describe(open_ledger(scene.publisher.directory)) if one.name == "timestamp"
    ]
    assert role.threshold == 2
    scene.believes(1)
    change(scene, set_terms, "sets", days=30)
    scene.publish(entry(2))
    scene.believes(2)
    with pytest.raises(ComposerError, match="3 of 2 keys cannot sign"):
        change(scene, set_terms, "timestamp", threshold=3)


def test_no_private_key_gets_into_a_repository_or_a_message(tmp_path: Path) -> None:
    www, keys = tmp_path / "www", tmp_path / "keys"
    (www / "repodata").mkdir(parents=True)
    own = ["--tuf-keys", keys]
    said = ""

    def run(*words: object, status: int = 0) -> str:
        nonlocal said
        done = jigdo("-v", "mirror", *words, *own, status=status)
        said += done.out + done.err
        for secret in private(keys):
            assert secret not in said.encode()
            for path in www.rglob("*"):
                assert path.is_dir() or secret not in path.read_bytes(), path
        return done.out

    run("keys", "init", www)
    run("refresh", www)
    run("keys", "add", www, "snapshot", "--threshold", "2")
    rpm, _ = make(tmp_path, ref="tool")
    run("publish", "--packages", rpm, www)
    run("keys", "rotate", www, "timestamp")
    run("keys", "terms", www, "targets", "--days", "100")
    run("keys", "new", "anna", "--public", www / "anna.json")
    (key,) = keys_of_tree(www, "targets")
    run("keys", "revoke", www, key, "--replace")
    run("keys", "revoke", www, key, status=1)
    (keys / "broken.pem").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n")
    done = jigdo("-v", "mirror", "refresh", www, *own, status=1)
    assert "c2VjcmV0" not in done.err
    assert "BEGIN PRIVATE KEY" not in said


def keys_of_tree(www: Path, name: str) -> list[str]:
    return [key for one in describe(open_ledger(www)) if one.name == name for key in one.keys]


def test_timer_signs_and_systemd_takes_its_units(tmp_path: Path) -> None:
    www, keys, units = tmp_path / "www", tmp_path / "keys", tmp_path / "units"
    (www / "repodata").mkdir(parents=True)
    jigdo("mirror", "keys", "init", www, "--tuf-keys", keys)
    for role in ("root", "targets", "sets"):
        (keys / f"{role}-1.pem").unlink()
    words = [www, "--tuf-keys", keys, "--output", units, "--user", "daemon"]
    made = jigdo("mirror", "units", *words, "--calendar", "*-*-* 03:00", "--json").document
    service, timer = map(Path, made["files"])
    assert "OnCalendar=*-*-* 03:00\n" in timer.read_text()
    (line,) = [one for one in service.read_text().splitlines() if one.startswith("ExecStart=")]
    words_of_it = line.partition(" -m composer ")[2].split()
    version = {one.name: one.version for one in describe(open_ledger(www))}["timestamp"]
    jigdo(*words_of_it)
    after = {one.name: one.version for one in describe(open_ledger(www))}["timestamp"]
    assert after == version + 1
    done = jigdo("mirror", "units", *words, "--calendar", "daily\nExecStart=/bin/sh", status=2)
    assert "cannot be written into a unit" in done.err
    if shutil.which("systemd-analyze"):
        argv = ["systemd-analyze", "verify", "--recursive-errors=no", str(service), str(timer)]
        told = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert "jigdo-composer-refresh" not in told.stderr, told.stderr


# Keys that are elsewhere


@pytest.fixture(scope="module")
def gpg() -> Iterator[Gpg]:
    with Gpg.home() as home:
        yield home


@pytest.mark.parametrize("algorithm", ["ed25519", "rsa2048"])
def test_keys_in_gpg_sign_and_both_clients_believe_them(
    gpg: Gpg, algorithm: str, tmp_path: Path
) -> None:
    key = gpg.make_key(f"operator-{algorithm}", algorithm=algorithm).lower()
    uri = f"gnupg:{key}?homedir={gpg.directory}"
    taken = {role: [uri] for role in ("root", "sets", "timestamp")}
    with Scene.play(tmp_path, taken=taken) as scene:
        assert not list(scene.publisher.keys.path.glob("root-*.pem"))
        assert keys_of(scene.publisher, "root") == [key]
        scene.believes(1)  # python-tuf's own client does too
        scene.publish(entry(2))
        scene.believes(2)
        scene.forge("timestamp", lambda signed: signed.update(version=9))
        scene.refuses("not signed by enough")


def test_key_that_gpg_has_not_is_told(gpg: Gpg, tmp_path: Path) -> None:
    keys = KeyDirectory(tmp_path / "keys")
    with pytest.raises(ComposerError, match="cannot be used") as refused:
        keys.take("x", f"gnupg:{'0' * 40}?homedir={gpg.directory}")
    assert "is the secret key there" in refused.value.hint
    with pytest.raises(UsageError, match="not the URI of a key"):
        keys.take("x", "file:/etc/shadow")
    assert not (tmp_path / "keys").exists()


def test_locked_gpg_key_is_told_when_it_is_to_sign(tmp_path: Path) -> None:
    with Gpg.home() as home:
        key = home.make_key("gone").lower()
        keys = KeyDirectory(tmp_path / "publisher/keys")
        taken = {"timestamp": [f"gnupg:{key}?homedir={home.directory}"]}
        publisher = Publisher(tmp_path / "publisher", taken=taken)
        publisher.publish(entry(1))
        before = {path: path.read_bytes() for path in publisher.directory.rglob("*.json")}
        shutil.rmtree(home.directory / "private-keys-v1.d")
        with pytest.raises(ComposerError, match=f"key {key}: cannot be used"):
            publisher.publish(entry(2))
        assert {path: path.read_bytes() for path in publisher.directory.rglob("*.json")} == before
    assert keys.path.is_dir()


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A PKCS#11 token in software with a key of elliptic curves; its label."""
    places = ("/usr/lib/softhsm", "/usr/lib64/softhsm", "/usr/lib64/pkcs11", "/usr/lib/*/softhsm")
    libraries = [one for place in places for one in glob.glob(f"{place}/libsofthsm2.so")]
    if not libraries or importlib.util.find_spec("pkcs11") is None:
        pytest.skip("needs softhsm2 and python-pkcs11")
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    monkeypatch.setenv("PYKCS11LIB", libraries[0])
    label = f"jigdo-{os.getpid()}-{tmp_path.name[-20:]}"
    words = ["--init-token", "--free", "--label", label, "--pin", _PIN, "--so-pin", "12345678"]
    subprocess.run(["softhsm2-util", *words], check=True, capture_output=True)
    library = pkcs11.lib(libraries[0])
    with library.get_token(token_label=label).open(user_pin=_PIN, rw=True) as session:
        curve = encode_named_curve_parameters("1.2.840.10045.3.1.7")
        parameters = session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
        )
        parameters.generate_keypair(id=b"\x02", store=True)
    return label


def test_keys_in_a_token_sign_and_both_clients_believe_them(token: str, tmp_path: Path) -> None:
    uri = f"hsm:2?label={token}"
    with Scene.play(tmp_path, taken={"root": [uri]}, passphrase=_PIN.encode()) as scene:
        scene.believes(1)
        done = change(scene, add, "snapshot")
        assert done.waiting is None
        scene.publish(entry(2))
        scene.believes(2)
        # The PIN is in no file.
        for path in [*scene.publisher.keys.path.iterdir(), *scene.publisher.directory.rglob("*")]:
            assert path.is_dir() or _PIN.encode() not in path.read_bytes()
        only = tmp_path / "only"
        only.mkdir()
        shutil.copy(scene.publisher.keys.path / "root-1.key.json", only)
        for pin, saying in ((b"0000", r"token refuses|cannot be used"), (None, "needs its pin")):
            ledger = open_ledger(scene.publisher.directory)
            with pytest.raises(ComposerError, match=saying):
                set_terms(ledger, KeyDirectory(only, pin), "root", days=9, now=_now())


def _now() -> datetime:
    return datetime.now(UTC)
