"""Mirrors that lie about what is newest: each is found out, said, and left (docs/trust.md).

The first of the catalogue are those of "A look in the mirror" (CCS 2008), which python-tuf's
rules are about; here the whole client is attacked, over HTTP, as a person runs it.
"""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from composer.checksum import ObjectChecksum
from composer.client.remote import find_remote
from composer.mirror.trust import DEFAULT_TERMS, Terms
from composer.net.location import Mirrors
from composer.net.statement import Expired, role_of
from composer.net.trust import find_signed_entry
from tests.attacks import said
from tests.commands import jigdo
from tests.net.lying_mirror import LyingMirror
from tests.trust.scene import OTHER, REF, Publisher, Scene, entry

ROLE = role_of(REF)
_HUGE = 2_000_000_000


def test_honest_mirror_is_believed(scene: Scene) -> None:
    scene.believes(1)
    scene.publish(entry(2))
    told = scene.believes(2)
    assert told["commit"] == str(entry(2).commit)
    assert told["signed"]
    assert told["mirror"] == scene.mirror.url
    scene.believes(1, ref=OTHER)


@pytest.mark.attack("arbitrary software", "changes a statement, under the old signature")
@pytest.mark.parametrize("name", ["timestamp", "1.snapshot", "2.targets", f"1.{ROLE}"])
def test_changed_statement_is_refused(scene: Scene, name: str) -> None:
    def change(signed: Any) -> None:
        signed["expires"] = "2099-01-01T00:00:00Z"

    scene.forge(name, change)
    words = "not signed by" if name == "timestamp" else "not the one that belongs to the rest"
    scene.refuses(name.split(".", 1)[-1], words)


@pytest.mark.attack("arbitrary software", "signs everything with keys of its own")
def test_statements_of_a_stranger_are_refused(scene: Scene, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path / "stranger")
    stranger.publish(entry(9))
    shutil.rmtree(scene.tuf)
    shutil.copytree(stranger.directory / "tuf", scene.tuf)
    scene.refuses("timestamp", "not signed by enough")


@pytest.mark.attack("wrong repository", "serves what the publisher says of another repository")
def test_statements_about_another_repository_are_refused(scene: Scene, tmp_path: Path) -> None:
    another = Publisher(tmp_path / "another")
    another.publish(entry(5))
    scene.believes(1)
    (scene.tuf / "timestamp.json").write_bytes(
        (another.directory / "tuf/timestamp.json").read_bytes()
    )
    scene.refuses("timestamp", "not signed by enough")


@pytest.mark.attack("rollback", "brings back what was newest before")
def test_older_statements_are_refused(scene: Scene) -> None:
    old = scene.saved()
    scene.publish(entry(2))
    scene.believes(2)
    scene.restore(old)
    scene.refuses("timestamp", "older than what this machine has seen")


@pytest.mark.attack("rollback", "the same, and the client asks with --ignore-expiry")
def test_rollback_is_refused_where_expiry_is_ignored(scene: Scene) -> None:
    old = scene.saved()
    scene.publish(entry(2))
    scene.believes(2)
    scene.restore(old)
    scene.refuses("older than what this machine has seen", options=("--ignore-expiry",))


@pytest.mark.attack("rollback", "stole the key of the timestamp, names an old snapshot")
def test_old_snapshot_under_a_new_timestamp_is_refused(scene: Scene) -> None:
    old = scene.saved()
    scene.publish(entry(2))
    scene.believes(2)
    scene.restore({name: data for name, data in old.items() if "snapshot" in name})
    scene.point(1)
    scene.refuses("timestamp", "older than what this machine has seen")


@pytest.mark.attack("rollback", "stole timestamp and snapshot, names an old version of a ref")
def test_old_ref_under_a_new_snapshot_is_refused(scene: Scene) -> None:
    scene.publish(entry(2))
    scene.believes(2)
    (scene.tuf / f"2.{ROLE}.json").unlink()
    (scene.tuf / f"1.{ROLE}.json").write_bytes(
        (scene.publisher.directory / f"tuf/1.{ROLE}.json").read_bytes()
    )
    scene.vouch()
    scene.refuses("snapshot", "older than what this machine has seen")


@pytest.mark.attack("freeze", "serves for ever what was newest once")
def test_statements_whose_time_is_over_are_refused(scene: Scene) -> None:
    scene.believes(1)
    scene.publish(entry(2), days_ago=8)
    done = scene.refuses("timestamp: expired on", "nobody vouches", "--ignore-expiry", "clock")
    assert scene.mirror.url in done.err


@pytest.mark.attack("freeze", "goes on with what this machine knows, and its time passes")
def test_time_passes_for_what_is_known_too(scene: Scene) -> None:
    scene.believes(1)
    remote = find_remote("demo", scene.config)
    mirrors = Mirrors.parse(*remote.urls)
    soon, later = (datetime.now(UTC) + timedelta(days=days) for days in (6, 8))
    assert find_signed_entry(mirrors, REF, remote.store(), now=soon).entry == entry(1)
    with pytest.raises(Expired) as refusal:
        find_signed_entry(mirrors, REF, remote.store(), now=later)
    said(refusal.value.message)


def test_expiry_is_ignored_where_a_person_says_so(scene: Scene) -> None:
    """For machines without a clock; what was published after that is still found."""
    scene.publish(entry(2), days_ago=100)
    scene.refuses("expired")
    scene.believes(2, "--ignore-expiry")
    scene.publish(entry(3))
    scene.believes(3)


@pytest.mark.attack("freeze", "waits until the time of one role is over")
@pytest.mark.parametrize("name", ["root", "timestamp", "snapshot", "targets", "sets"])
def test_each_role_has_its_time(tmp_path: Path, name: str) -> None:
    terms = {**DEFAULT_TERMS, name: Terms(days=1)}
    with Scene.play(tmp_path, terms, days_ago=2, offline="root") as scene:
        scene.refuses(f"{ROLE if name == 'sets' else name}: expired on")
        scene.believes(1, "--ignore-expiry")
        scene.refuses("expired on")


@pytest.mark.attack("freeze", "sets this machine's clock back, and serves what is old")
def test_clock_before_the_commit_does_not_help(scene: Scene) -> None:
    """What was signed for a week before the commit says it was made cannot hold."""
    future = int(time.time()) + 30 * 86_400
    scene.publish(entry(2, timestamp=future))
    scene.refuses("expired on")


def test_clock_a_little_behind_is_told(scene: Scene) -> None:
    scene.publish(entry(2, timestamp=int(time.time()) + 86_400))
    assert scene.believes(2)["clock_behind"]
    assert "clock" in scene.check().err


@pytest.mark.attack("mix and match", "serves an old statement about a ref under the new name")
def test_parts_of_different_states_are_refused(scene: Scene) -> None:
    scene.publish(entry(2))
    (scene.tuf / f"2.{ROLE}.json").write_bytes(
        (scene.publisher.directory / f"tuf/1.{ROLE}.json").read_bytes()
    )
    scene.refuses(ROLE, "not the one that belongs to the rest")


@pytest.mark.attack("mix and match", "serves an old snapshot under the new name")
def test_old_snapshot_under_the_new_name_is_refused(scene: Scene) -> None:
    scene.publish(entry(2))
    shutil.copy(scene.tuf / "1.snapshot.json", scene.tuf / "2.snapshot.json")
    scene.refuses("snapshot", "not the one that belongs to the rest")


@pytest.mark.attack("mix and match", "stole timestamp and snapshot, leaves a ref out")
def test_snapshot_that_forgets_a_ref_is_refused(scene: Scene) -> None:
    scene.believes(1)
    old = scene.newest("snapshot")

    def forget(signed: Any) -> None:
        signed["version"] += 1
        del signed["meta"][f"{ROLE}.json"]

    scene.forge(old, forget, "snapshot-1", into="2.snapshot")
    scene.point(2)
    scene.refuses("snapshot", ROLE)


@pytest.mark.attack("endless data", "never ends a file")
@pytest.mark.parametrize("name", ["2.root", "timestamp", "1.snapshot", "2.targets", f"1.{ROLE}"])
def test_endless_file_is_cut_off(scene: Scene, name: str) -> None:
    shutil.copy(scene.tuf / "1.root.json", scene.tuf / "2.root.json")
    if name != "2.root":
        (scene.tuf / "2.root.json").unlink()
    scene.mirror.endless(f"tuf/{name}.json")
    scene.refuses(name, "more than the declared")
    assert scene.mirror.sent(f"tuf/{name}.json") < 20 << 20


@pytest.mark.attack("endless data", "stole the keys, declares a statement of a gigabyte")
def test_absurd_length_is_refused(scene: Scene) -> None:
    def grow(signed: Any) -> None:
        signed["version"] += 1
        signed["meta"]["targets.json"]["length"] = 1 << 30

    scene.forge("1.snapshot", grow, "snapshot-1", into="2.snapshot")
    scene.point(2)
    scene.refuses("targets", "more than any has")


@pytest.mark.attack("slow retrieval", "sends a byte now and then")
def test_slow_mirror_is_left(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from composer.net.network import Limits

    patient = Limits(stall_rate=1000, stall_seconds=1, attempts=1)
    monkeypatch.setattr("composer.net.trust._LIMITS", patient)
    scene.mirror.trickle("tuf/timestamp.json", 0.05)
    scene.reference = None  # it would read to the end
    began = time.monotonic()
    scene.refuses("could not be fetched", "stalled", status=1)
    assert time.monotonic() - began < 10


@pytest.mark.attack("slow retrieval", "sends nothing more, another mirror is honest")
def test_stalled_mirror_is_left_for_the_next(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from composer.net.network import Limits

    patient = Limits(stall_rate=1000, stall_seconds=1, attempts=1)
    monkeypatch.setattr("composer.net.trust._LIMITS", patient)
    with LyingMirror(scene.publisher.directory) as honest:
        scene.add_remote(scene.mirror.url, honest.url)
        scene.mirror.stall(after=10)
        assert scene.believes(1)["mirror"] == honest.url


@pytest.mark.attack("fast forward", "stole the key of the timestamp, says version two milliard")
def test_timestamp_from_the_future_is_got_over_by_rotation(scene: Scene) -> None:
    scene.point(1, timestamp=_HUGE)
    scene.believes(1)
    scene.publish(entry(2))
    scene.refuses("timestamp", "older than what this machine has seen")
    scene.publisher.rotate("timestamp")
    scene.sync()
    scene.believes(2)


@pytest.mark.attack("fast forward", "stole timestamp and snapshot, says version two milliard")
def test_snapshot_from_the_future_is_got_over_by_rotation(scene: Scene) -> None:
    scene.vouch(snapshot=_HUGE, timestamp=_HUGE)
    scene.believes(1)
    scene.publish(entry(2))
    scene.refuses("older than what this machine has seen")
    scene.publisher.rotate("timestamp")
    scene.publisher.rotate("snapshot")
    scene.sync()
    scene.believes(2)


@pytest.mark.attack("key compromise", "stole timestamp and snapshot, names a set of its own")
def test_keys_that_are_online_cannot_name_another_set(scene: Scene) -> None:
    def change(signed: Any) -> None:
        signed["version"] += 1
        [target] = signed["targets"].values()
        target["custom"]["jigdo"]["commit"] = "0" * 64

    scene.believes(1)
    scene.forge(f"1.{ROLE}", change, "timestamp-1", "snapshot-1", into=f"2.{ROLE}")
    scene.vouch()
    scene.refuses(ROLE, "not signed by enough")


@pytest.mark.attack("key compromise", "goes on with a key that the publisher has replaced")
@pytest.mark.parametrize("name", ["timestamp", "snapshot", "targets", "sets"])
def test_replaced_key_does_not_count(scene: Scene, name: str) -> None:
    scene.believes(1)
    stolen = scene.saved()
    scene.publisher.rotate(name)
    scene.publish(entry(2))
    scene.believes(2)
    scene.restore({"timestamp.json": stolen["timestamp.json"]})
    scene.refuses("timestamp")


@pytest.mark.attack("key compromise", "signs the newest timestamp with a key that was replaced")
def test_revoked_key_cannot_sign(scene: Scene) -> None:
    scene.publisher.rotate("timestamp")
    scene.sync()
    scene.point(1, timestamp=50)
    scene.refuses("timestamp", "not signed by enough")


@pytest.mark.attack("key compromise", "stole one of two keys that must both sign for a ref")
def test_one_of_two_keys_is_not_enough(tmp_path: Path) -> None:
    with Scene.play(tmp_path, {**DEFAULT_TERMS, "sets": Terms(threshold=2, keys=2)}) as scene:
        scene.believes(1)
        scene.forge(
            f"1.{ROLE}", lambda signed: signed.update(version=2), "sets-1", into=f"2.{ROLE}"
        )
        scene.vouch()
        scene.refuses(ROLE, "not signed by enough")


@pytest.mark.attack("key compromise", "stole one of three root keys, of which two must sign")
def test_root_with_too_few_signatures_is_refused(tmp_path: Path) -> None:
    with Scene.play(tmp_path, {**DEFAULT_TERMS, "root": Terms(threshold=2, keys=3)}) as scene:
        scene.forge("1.root", lambda signed: signed.update(version=2), "root-1", into="2.root")
        scene.refuses("root", "not signed by enough")


@pytest.mark.attack("key compromise", "signs one root twice with one key, under two names")
def test_signature_counts_once(tmp_path: Path) -> None:
    with Scene.play(tmp_path, {**DEFAULT_TERMS, "root": Terms(threshold=2, keys=3)}) as scene:
        scene.forge("1.root", lambda signed: signed.update(version=2), "root-1", into="2.root")
        document = scene.read("2.root")
        [signature] = document["signatures"]
        keys = document["signed"]["roles"]["root"]["keyids"]
        document["signatures"] = [{**signature, "keyid": key} for key in keys]
        (scene.tuf / "2.root.json").write_text(json.dumps(document))
        scene.refuses("root", "not signed by enough")


@pytest.mark.attack("rollback", "serves an old root as the next one")
def test_root_that_does_not_follow_is_refused(scene: Scene) -> None:
    shutil.copy(scene.tuf / "1.root.json", scene.tuf / "2.root.json")
    scene.refuses("root", "older than what this machine has seen")


@pytest.mark.attack("wrong ref", "stole a ref's key, gives another ref's set out as its own")
@pytest.mark.parametrize("which", ["custom", "path", "size", "two", "none"])
def test_statement_about_another_ref_is_refused(scene: Scene, which: str) -> None:
    changes: dict[str, Callable[[Any], object]] = {
        "custom": lambda targets: next(iter(targets.values()))["custom"]["jigdo"].update(ref=OTHER),
        "path": lambda targets: targets.update({"Packages/a.rpm": targets.popitem()[1]}),
        "size": lambda targets: next(iter(targets.values())).update(length=1),
        "two": lambda targets: targets.update({"jigdo/b.rpm": dict(next(iter(targets.values())))}),
        "none": lambda targets: next(iter(targets.values())).pop("custom"),
    }

    def change(signed: Any) -> None:
        signed["version"] = 2
        changes[which](signed["targets"])

    scene.forge(f"1.{ROLE}", change, "sets-1", into=f"2.{ROLE}")
    scene.vouch()
    # What a statement says beside TUF's fields is ours to check; with another path it says
    # nothing of the set that the reference asks for.
    scene.refuses(ROLE, stricter=which != "path")


@pytest.mark.attack("wrong ref", "serves the statement about another ref under this one's name")
def test_statement_of_another_refs_role_is_refused(tmp_path: Path) -> None:
    with Scene.play(tmp_path) as scene:
        scene.publisher.rotate(OTHER)
        scene.sync()
        scene.forge(
            scene.newest(role_of(OTHER)),
            lambda signed: signed.update(version=2),
            "os~x86_64~testing-1",
            into=f"2.{ROLE}",
        )
        scene.vouch()
        scene.refuses(ROLE, "not signed by enough")


@pytest.mark.attack("garbage", "serves something else instead of a statement")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"\xff\xfe",
        b"[" * 8000,
        b'{"signed":' + b"9" * 8000 + b"}",
        b'{"signatures": [], "signed": {"_type": "root"}}',
        b'{"signatures": [], "signed": {"_type": "timestamp", "version": 1e400}}',
        b"<html>",
    ],
    ids=["empty", "nothing", "null", "not-utf8", "deep", "number", "type", "infinite", "html"],
)
@pytest.mark.parametrize("name", ["2.root", "timestamp"])
def test_garbage_is_refused(scene: Scene, name: str, data: bytes) -> None:
    (scene.tuf / f"{name}.json").write_bytes(data)
    scene.refuses(name.split(".")[-1])


@pytest.mark.attack("withholding", "has no signed statements at all")
def test_mirror_without_statements_is_told(scene: Scene) -> None:
    shutil.rmtree(scene.tuf)
    scene.refuses("no signed statements", "mirror keys init", status=1)


@pytest.mark.attack("withholding", "has no signed statements, another mirror has them")
def test_statements_come_from_whichever_mirror_has_them(scene: Scene) -> None:
    with LyingMirror(scene.publisher.directory) as origin:
        scene.add_remote(scene.mirror.url, origin.url)
        shutil.rmtree(scene.tuf)
        assert scene.believes(1)["mirror"] == origin.url


@pytest.mark.attack("rollback", "one mirror is stale, another one is not")
def test_stale_mirror_means_the_next(scene: Scene) -> None:
    old = scene.saved()
    scene.publish(entry(2))
    scene.believes(2)
    scene.restore(old)
    with LyingMirror(scene.publisher.directory) as honest:
        scene.add_remote(scene.mirror.url, honest.url)
        scene.publisher.publish(entry(3))
        assert scene.believes(3)["mirror"] == honest.url


@pytest.mark.attack("rollback", "all mirrors are stale")
def test_all_stale_mirrors_are_named(scene: Scene) -> None:
    old = scene.saved()
    scene.publish(entry(2))
    scene.believes(2)
    scene.restore(old)
    with LyingMirror(scene.mirror.directory) as another:
        scene.add_remote(scene.mirror.url, another.url)
        scene.refuses(scene.mirror.url, another.url, "older than what this machine has seen")


def test_remote_of_another_root_starts_anew(scene: Scene, tmp_path: Path) -> None:
    """The publisher lost the keys and began again; a person brings the new root."""
    scene.publish(*[entry(number) for number in range(2, 6)])
    scene.believes(5)
    again = Publisher(tmp_path / "again")
    again.publish(entry(6))
    with LyingMirror(again.directory) as mirror:
        scene.add_remote(mirror.url)
        scene.refuses("not signed by enough", "remote add --replace --tuf-root")
        scene.add_remote(mirror.url, root=again.root)
        scene.believes(6)


def test_withdrawn_ref_is_told(scene: Scene) -> None:
    from composer.jigdo.pointer import Pointer

    scene.publisher.pointer = Pointer((entry(1, OTHER),))
    scene.publish()
    scene.refuses("withdrawn", status=1)
    scene.believes(1, ref=OTHER)


def test_unknown_ref_is_told(scene: Scene) -> None:
    done = scene.check(ref="os/x86_64/stabel")
    assert done.status == 1
    assert f"there are: {REF}, {OTHER}" in done.err


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_nothing_new_has_a_status_of_its_own_and_costs_one_small_file(scene: Scene) -> None:
    commit = scene.commit(1_760_000_002)
    scene.publish(replace(entry(2), commit=ObjectChecksum.parse(commit)))
    scene.check()
    asked = len(scene.mirror.log)
    check = ["check", f"demo:{REF}", "--repo", scene.repo, "--config-dir", scene.config]
    seconds = []
    for _ in range(3):
        # Not the time on the wall: other tests run beside this one.
        began = _seconds_of_children()
        done = jigdo(*check, "--json", status=77)
        seconds.append(_seconds_of_children() - began)
    assert not done.document["new"]
    assert done.document["here"] == commit
    assert done.document["moved"]["bytes"] < 2000
    log = [(one.path, one.status) for one in scene.mirror.log[asked:]]
    assert log == [("tuf/2.root.json", 404), ("tuf/timestamp.json", 200)] * 3
    assert min(seconds) < 0.8  # 0.5 s are asked of a quiet machine, and 0.38 s were taken
    assert f"{REF}: nothing newer than 2 {commit}" in jigdo(*check, status=77).out


def test_something_new_is_status_zero(scene: Scene) -> None:
    check = ["check", f"demo:{REF}", "--repo", scene.repo, "--config-dir", scene.config]
    assert f"{REF}: new: 1 of 2025-10-09, {entry(1).commit}" in jigdo(*check).out


@pytest.mark.attack("rollback", "stole every key but the root's, says an older commit is newest")
def test_older_commit_is_refused_whoever_signs(scene: Scene) -> None:
    scene.commit(1_760_000_009)
    scene.refuses("older than the one that is here", "--allow-downgrade", stricter=True)
    scene.believes(1, "--allow-downgrade")
