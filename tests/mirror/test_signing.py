"""The operator's side of signed statements: keys, days, several people, other clients."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.ngclient import Updater, UpdaterConfig

from composer.errors import ComposerError, UsageError
from composer.mirror.keys import KeyDirectory, require_apart
from composer.mirror.ledger import TOP_ROLES
from composer.mirror.rotation import adopt, rotate, sign_root
from composer.mirror.trust import DEFAULT_TERMS, Terms, begin, describe, open_ledger, refresh
from composer.net import trust
from composer.net.statement import role_of
from composer.system.files import write_bytes
from tests.commands import jigdo
from tests.net.lying_mirror import LyingMirror
from tests.trust.scene import OTHER, REF, Publisher, Scene, entry

ROLE = role_of(REF)
NOW = datetime.now(UTC)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    made = Publisher(tmp_path / "publisher")
    made.publish(entry(1), entry(1, OTHER))
    return made


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    terms = {**DEFAULT_TERMS, "root": Terms(threshold=2, keys=3)}
    with Scene.play(tmp_path, terms) as made:
        yield made


def files(publisher: Publisher) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (publisher.directory / "tuf").iterdir()}


def only(publisher: Publisher, place: Path, *roles: str) -> KeyDirectory:
    """A machine that has the keys of some roles alone."""
    place.mkdir()
    for role in roles:
        for path in publisher.keys.path.glob(f"{role}-*.pem"):
            shutil.copy(path, place)
    return KeyDirectory(place)


def test_keys_are_for_their_owner_alone(publisher: Publisher) -> None:
    paths = sorted(publisher.keys.path.iterdir())
    assert [path.name for path in paths] == [
        f"{role}-1.pem" for role in ("root", "sets", "snapshot", "targets", "timestamp")
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert stat.S_IMODE(publisher.keys.path.stat().st_mode) == 0o700


def test_keys_are_not_published(tmp_path: Path) -> None:
    (tmp_path / "www/repodata").mkdir(parents=True)
    with pytest.raises(UsageError, match="must not lie below"):
        require_apart(tmp_path / "www/keys", tmp_path / "www")
    words = ["mirror", "keys", "init", tmp_path / "www", "--tuf-keys", tmp_path / "www/keys"]
    assert "must not lie below" in jigdo(*words, status=2).err
    assert not (tmp_path / "www/keys").exists()


def test_second_beginning_is_refused(publisher: Publisher) -> None:
    before = files(publisher)
    with pytest.raises(UsageError, match="there is a root already"):
        begin(publisher.directory, publisher.keys, DEFAULT_TERMS, now=NOW)
    assert files(publisher) == before


def test_encrypted_keys_need_their_passphrase(tmp_path: Path) -> None:
    (tmp_path / "www/repodata").mkdir(parents=True)
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    words = [tmp_path / "www", "--tuf-keys", tmp_path / "keys"]
    jigdo("mirror", "keys", "init", *words, "--passphrase-file", secret)
    assert b"ENCRYPTED" in (tmp_path / "keys/root-1.pem").read_bytes()
    assert "--passphrase-file" in jigdo("mirror", "refresh", *words, status=1).err
    jigdo("mirror", "refresh", *words, "--passphrase-file", secret)
    secret.write_text("wrong\n")
    done = jigdo("mirror", "refresh", *words, "--passphrase-file", secret, status=1)
    assert "another passphrase" in done.err


def test_daily_refresh_needs_two_keys_and_signs_the_timestamp_alone(
    publisher: Publisher, tmp_path: Path
) -> None:
    before = files(publisher)
    daily = only(publisher, tmp_path / "daily", "timestamp", "snapshot")
    done = refresh(open_ledger(publisher.directory), publisher.pointer, daily, now=NOW)
    assert dict(done.signed) == {"timestamp": 2}
    after = files(publisher)
    assert {name for name in after if after[name] != before.get(name)} == {"timestamp.json"}


def test_news_need_the_key_of_sets(publisher: Publisher, tmp_path: Path) -> None:
    before = files(publisher)
    daily = only(publisher, tmp_path / "daily", "timestamp", "snapshot")
    pointer = publisher.pointer.with_entry(entry(2))
    with pytest.raises(ComposerError, match=f"{ROLE}: cannot be signed") as refusal:
        refresh(open_ledger(publisher.directory), pointer, daily, now=NOW)
    assert "1 more of these key ids" in refusal.value.details[0]
    assert files(publisher) == before


def test_new_ref_needs_the_key_of_targets(publisher: Publisher, tmp_path: Path) -> None:
    some = only(publisher, tmp_path / "some", "timestamp", "snapshot", "sets")
    ledger = open_ledger(publisher.directory)
    refresh(ledger, publisher.pointer.with_entry(entry(2)), some, now=NOW)
    pointer = publisher.pointer.with_entry(entry(1, "os/x86_64/new"))
    with pytest.raises(ComposerError, match="targets: cannot be signed"):
        refresh(open_ledger(publisher.directory), pointer, some, now=NOW)


def test_what_is_half_over_is_signed_anew(publisher: Publisher, tmp_path: Path) -> None:
    ledger = open_ledger(publisher.directory)
    daily = only(publisher, tmp_path / "daily", "timestamp", "snapshot")
    later = NOW + timedelta(days=16)
    assert dict(refresh(ledger, publisher.pointer, daily, now=later).signed) == {
        "snapshot": 2,
        "timestamp": 2,
    }
    later = NOW + timedelta(days=200)
    done = refresh(ledger, publisher.pointer, daily, now=later)
    assert set(done.due) == {"targets", ROLE, role_of(OTHER)}
    done = refresh(ledger, publisher.pointer, publisher.keys, now=later)
    assert set(done.signed) == {"targets", ROLE, role_of(OTHER), "snapshot", "timestamp"}
    assert done.due == ()
    done = refresh(ledger, publisher.pointer, publisher.keys, now=NOW + timedelta(days=400))
    assert done.signed["root"] == 2


def test_what_clients_may_be_reading_stays(publisher: Publisher) -> None:
    for version in range(2, 6):
        publisher.publish(entry(version))
    names = set(files(publisher))
    assert {"4.snapshot.json", "5.snapshot.json", f"4.{ROLE}.json", f"5.{ROLE}.json"} <= names
    assert not names & {"3.snapshot.json", f"3.{ROLE}.json", "1.targets.json"}
    assert f"1.{role_of(OTHER)}.json" in names
    assert "1.root.json" in names


@pytest.mark.parametrize("after", range(4))
def test_broken_off_publication_leaves_the_old_state(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scene.play(tmp_path) as scene:
        done = 0

        def write(path: Path, data: bytes) -> None:
            nonlocal done
            if done == after:
                raise OSError(28, "No space left on device", str(path))
            done += 1
            write_bytes(path, data)

        monkeypatch.setattr("composer.mirror.ledger.write_bytes", write)
        new_ref = entry(1, "os/x86_64/new")
        with pytest.raises(OSError, match="No space"):
            scene.publisher.publish(entry(2), new_ref)
        scene.sync()
        scene.believes(1)
        monkeypatch.undo()
        scene.publish(entry(3), new_ref)
        scene.believes(3)
        scene.believes(1, ref="os/x86_64/new")


def test_root_is_signed_by_people_who_never_meet(scene: Scene, tmp_path: Path) -> None:
    """Two of three must sign; each has one key, on a machine of their own."""
    publisher = scene.publisher
    scene.believes(1)
    people = []
    for number in (1, 2, 3):
        place = tmp_path / f"person{number}"
        place.mkdir()
        shutil.move(publisher.keys.path / f"root-{number}.pem", place)
        people.append(KeyDirectory(place))
    before = files(publisher)
    change = publisher.rotate("timestamp")
    assert change.waiting is not None
    assert change.lacking == 2
    assert files(publisher) == before
    carried = Path(shutil.copy(change.waiting, tmp_path / "usb-stick"))
    sign_root(carried, people[0])
    ledger = open_ledger(publisher.directory)
    assert adopt(ledger, carried).lacking == 1
    sign_root(carried, people[2])
    done = adopt(ledger, carried)
    assert done.waiting is None
    refresh(ledger, publisher.pointer, publisher.keys, now=NOW)
    publisher.publish(entry(2))
    scene.sync()
    scene.believes(2)
    assert {role.name: role.version for role in describe(ledger)}["root"] == 2


def test_all_of_it_from_a_shell(scene: Scene, tmp_path: Path) -> None:
    """`rotate` with a root that waits, `sign`, `adopt`; a client follows."""
    publisher = scene.publisher
    (publisher.directory / "repodata").mkdir()
    offline = tmp_path / "offline"
    offline.mkdir()
    for path in publisher.keys.path.glob("root-*"):
        shutil.move(path, offline)
    words = ["--tuf-keys", publisher.keys.path]
    rotation = ["mirror", "keys", "rotate", publisher.directory, "snapshot", *words, "--json"]
    waiting = jigdo(*rotation).document["waiting"]
    assert waiting == str(publisher.keys.path / "2.root.json")
    assert (
        "needs 2 more" in jigdo("mirror", "keys", "adopt", publisher.directory, waiting, *words).out
    )
    jigdo("mirror", "keys", "sign", waiting, "--tuf-keys", offline)
    jigdo("mirror", "keys", "adopt", publisher.directory, waiting, *words)
    shown = jigdo("mirror", "keys", "show", publisher.directory).out
    assert "root: version 2" in shown
    assert "  2 of 3: " in shown
    assert f"{REF}: version" in shown


def test_old_threshold_counts_for_a_new_root(scene: Scene, tmp_path: Path) -> None:
    """Whoever has one key of the old root cannot make a root of their own."""
    alone = KeyDirectory(tmp_path / "alone")
    alone.path.mkdir()
    shutil.copy(scene.publisher.keys.path / "root-1.pem", alone.path)
    ledger = open_ledger(scene.publisher.directory)
    change = rotate(ledger, alone, "root", count=1, threshold=1, now=NOW)
    assert change.lacking == 1
    shutil.copy(str(change.waiting), scene.tuf / "2.root.json")
    scene.refuses("root", "not signed by enough")


def test_root_keys_change_and_clients_follow(scene: Scene) -> None:
    scene.believes(1)
    for version in (2, 3, 4):
        change = scene.publisher.rotate("root", count=version, threshold=version - 1)
        assert len(change.added) == version
        scene.publish(entry(version))
        scene.believes(version)
    # A client that comes late follows the whole chain from the root that it was given.
    shutil.rmtree(scene.config / "state")
    scene.believes(4)


def test_keys_of_one_ref_change_alone(publisher: Publisher) -> None:
    before = {role.name: role for role in describe(open_ledger(publisher.directory))}
    publisher.rotate(REF, count=2, threshold=2)
    after = {role.name: role for role in describe(open_ledger(publisher.directory))}
    assert (after[REF].threshold, len(after[REF].keys)) == (2, 2)
    assert after[OTHER] == before[OTHER]
    assert (publisher.keys.path / "os~x86_64~stable-1.pem").exists()


def test_unknown_role_is_told(publisher: Publisher) -> None:
    with pytest.raises(ComposerError, match="neither a role nor a ref"):
        publisher.rotate("nobody")


def test_python_tufs_own_client_reads_it(publisher: Publisher, tmp_path: Path) -> None:
    """Any client of TUF finds and proves a set's RPM, whose name is the mirror's."""
    rpm = publisher.directory / entry(1).location
    rpm.parent.mkdir()
    rpm.write_bytes(b"?" * entry(1).size)
    for name in ("metadata", "targets"):
        (tmp_path / name).mkdir()
    with LyingMirror(publisher.directory) as mirror:
        updater = Updater(
            str(tmp_path / "metadata"),
            mirror.url + "tuf/",
            str(tmp_path / "targets"),
            mirror.url,
            config=UpdaterConfig(prefix_targets_with_hash=False),
            bootstrap=publisher.root.read_bytes(),
        )
        updater.refresh()
        found = updater.get_targetinfo(entry(1).location)
        assert found is not None
        assert found.custom["jigdo"]["commit"] == str(entry(1).commit)
        with pytest.raises(Exception, match="does not match"):  # these are not the bytes
            updater.download_target(found)


class _PowerCutError(Exception):
    pass


@pytest.mark.parametrize("role", [*TOP_ROLES, "sets", REF])
def test_rotation_that_ends_at_any_write_leaves_what_clients_believe(
    role: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both a client that knows the old root and one that begins with it."""
    publisher, left = scene.publisher, [0]

    def write(path: Path, data: bytes) -> None:
        if not left[0]:
            raise _PowerCutError
        left[0] -= 1
        write_bytes(path, data)

    monkeypatch.setattr("composer.mirror.ledger.write_bytes", write)
    for written in range(7):
        scene.believes(1)
        left[0] = written
        with suppress(_PowerCutError):
            publisher.rotate(role)
            break
        scene.sync()
        scene.believes(1)
        scene.add_remote(scene.mirror.url)
    assert 2 <= written < 6
    left[0] = 9
    scene.publish(entry(2))
    scene.believes(2)
    scene.add_remote(scene.mirror.url)
    scene.believes(2)


def test_rotation_without_the_old_keys_is_published_too(scene: Scene) -> None:
    publisher = scene.publisher
    for path in publisher.keys.path.glob("timestamp-*"):
        path.unlink()
    publisher.rotate("timestamp")
    scene.publish(entry(2))
    scene.believes(2)


def test_reader_whose_statements_are_replaced_meanwhile_begins_anew(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.believes(1)
    scene.publish(entry(2))
    real = trust._Reading._read_snapshot
    late = [entry(3), entry(4)]

    def read(reading: trust._Reading) -> None:
        while late:  # two publications: what the timestamp before them names has gone
            scene.publish(late.pop(0))
        real(reading)

    monkeypatch.setattr(trust._Reading, "_read_snapshot", read)
    done = scene.check()
    assert done.status == 0, done.err
    assert done.document["version"] == "4"
