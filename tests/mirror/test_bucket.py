"""A published directory in a bucket: in order, whole, resumed, alone, whatever the store does."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, ComposerError, UsageError, VerificationFailed
from composer.mirror import bucket as buckets
from composer.mirror.bucket import Bucket, BucketBusy, BucketFailed, Lease, Uploads
from composer.mirror.bucket_sync import UploadPlan, sync_to_bucket
from composer.rpm.rpmmd import REPOMD
from tests.client.published import MINIMAL, Published
from tests.client.pulling import run_here
from tests.object_store import BUCKET, ObjectStore, Request, object_store

URL = f"s3://{BUCKET}/os/40"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store(monkeypatch) as made:
        yield made


def _write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def _publish(directory: Path, number: int) -> None:
    """Make what a publisher leaves: the RPMs before are kept, metadata is new."""
    _write(directory / f"Packages/p{number}.rpm", os.urandom(5000))
    _write(directory / f"jigdo/set-{number}.rpm", os.urandom(5000))
    primary = f"primary {number}".encode()
    digest = ContentDigest.of(primary)
    for old in directory.glob("repodata/*-primary.xml"):
        old.unlink()
    _write(directory / f"repodata/{digest}-primary.xml", primary)
    _write(
        directory / REPOMD,
        '<repomd xmlns="http://linux.duke.edu/metadata/repo">'
        f'<revision>{number}</revision><data type="primary"><checksum type="sha256">{digest}'
        f'</checksum><location href="repodata/{digest}-primary.xml"/><size>{len(primary)}</size>'
        "</data></repomd>",
    )
    for role in ("targets", "snapshot"):
        _write(directory / f"tuf/{number}.{role}.json", "{}")
    _write(directory / "tuf/timestamp.json", json.dumps({"signed": {"version": number}}))
    _write(directory / f"tuf/{number}.root.json", "{}")
    _write(directory / ".jigdo-publish.lock", "")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    _publish(tmp_path / "tree", 1)
    return tmp_path / "tree"


def _sync(directory: Path, **words: object) -> UploadPlan:
    words = {"grace": timedelta(days=7), "now": NOW, **words}
    return sync_to_bucket(directory, URL, **words)  # type: ignore[arg-type]


def _here(directory: Path) -> dict[str, int]:
    return {
        f"os/40/{path.relative_to(directory)}": path.stat().st_size
        for path in directory.rglob("*")
        if path.is_file() and not str(path.relative_to(directory)).startswith(".")
    }


def _published(store: ObjectStore) -> dict[str, int]:
    return {key: size for key, size in store.objects().items() if "/." not in key}


def test_what_is_published_is_there_and_nothing_hidden(store: ObjectStore, directory: Path) -> None:
    _sync(directory)
    assert _published(store) == _here(directory)
    hidden = [key for key in store.objects() if "/." in key]
    assert hidden == ["os/40/.jigdo-sync/objects.json"]
    data = (directory / "Packages/p1.rpm").read_bytes()
    assert store.data("os/40/Packages/p1.rpm") == data
    head = store.client.head_object(Bucket=BUCKET, Key="os/40/Packages/p1.rpm")
    assert head["Metadata"]["sha256"] == str(ContentDigest.of(data))
    assert head["ContentType"] == "application/x-rpm"


def test_order_is_packages_then_metadata_then_repomd_then_statements(
    store: ObjectStore, directory: Path
) -> None:
    _sync(directory)
    _publish(directory, 2)
    _write(directory / "Packages/p1.rpm", b"signed anew")
    store.asked.clear()
    _sync(directory)
    order = [key.removeprefix("os/40/") for key in store.put_order() if "/." not in key]
    (primary,) = (one.name for one in directory.glob("repodata/*-primary.xml"))
    assert set(order[:2]) == {"Packages/p2.rpm", "jigdo/set-2.rpm"}
    assert order[2:5] == ["Packages/p1.rpm", f"repodata/{primary}", REPOMD]
    assert set(order[5:7]) == {"tuf/2.targets.json", "tuf/2.snapshot.json"}
    assert order[7:] == ["tuf/timestamp.json", "tuf/2.root.json"]


def test_nothing_new_puts_nothing(store: ObjectStore, directory: Path) -> None:
    _sync(directory)
    store.asked.clear()
    assert not _sync(directory).upload
    assert {one.rpartition("/")[2] for one in store.put_order()} == {".jigdo-lock"}


def test_dry_run_only_says(store: ObjectStore, directory: Path) -> None:
    plan = _sync(directory, dry_run=True)
    assert len(plan.upload) == len(_here(directory))
    assert not store.objects()


def test_lost_state_costs_questions_and_no_uploads(store: ObjectStore, directory: Path) -> None:
    _sync(directory)
    store.client.delete_object(Bucket=BUCKET, Key="os/40/.jigdo-sync/objects.json")
    assert not _sync(directory).upload


def test_object_that_others_changed_is_put_again(store: ObjectStore, directory: Path) -> None:
    _sync(directory)
    data = (directory / "Packages/p1.rpm").read_bytes()
    store.client.put_object(Bucket=BUCKET, Key="os/40/Packages/p1.rpm", Body=data[::-1])
    assert _sync(directory).upload == ["Packages/p1.rpm"]
    assert store.data("os/40/Packages/p1.rpm") == data


def test_what_is_gone_stays_for_the_grace_and_goes_then(
    store: ObjectStore, directory: Path
) -> None:
    store.client.put_object(Bucket=BUCKET, Key="os/40/others.txt", Body=b"not ours")
    store.client.put_object(Bucket=BUCKET, Key="os/4", Body=b"not below")
    _sync(directory)
    (directory / "Packages/p1.rpm").unlink()
    (directory / "jigdo/set-1.rpm").unlink()
    first = _sync(directory)
    assert (first.remove, first.waiting) == ((), 2)
    # Somebody has put another in its place meanwhile.
    store.client.put_object(Bucket=BUCKET, Key="os/40/jigdo/set-1.rpm", Body=b"other")
    _publish(directory, 2)
    _sync(directory, now=NOW + timedelta(days=6))
    assert "os/40/Packages/p1.rpm" in store.objects()
    done = _sync(directory, now=NOW + timedelta(days=8))
    assert done.remove == ("Packages/p1.rpm",)
    keys = store.objects()
    assert "os/40/Packages/p1.rpm" not in keys
    assert {"os/40/jigdo/set-1.rpm", "os/40/others.txt", "os/4"} <= keys.keys()


def test_older_directory_is_refused(store: ObjectStore, directory: Path, tmp_path: Path) -> None:
    _publish(directory, 2)
    _sync(directory)
    _publish(tmp_path / "old", 1)
    before = {key: store.data(key) for key in _published(store)}
    with pytest.raises(VerificationFailed, match=r"newer \(2\)"):
        _sync(tmp_path / "old")
    assert {key: store.data(key) for key in _published(store)} == before
    _sync(tmp_path / "old", allow_older=True)


def test_directory_that_is_not_whole_is_refused(store: ObjectStore, directory: Path) -> None:
    (primary,) = directory.glob("repodata/*-primary.xml")
    primary.write_bytes(primary.read_bytes()[::-1])
    with pytest.raises(VerificationFailed):
        _sync(directory)
    primary.unlink()
    with pytest.raises(VerificationFailed, match="not a repository that is whole"):
        _sync(directory)
    assert not store.objects()


def test_link_in_the_directory_is_named(store: ObjectStore, directory: Path) -> None:
    (directory / "latest").symlink_to("jigdo")
    with pytest.raises(ComposerError, match="latest: neither a file nor a directory"):
        _sync(directory)


# What the store does.


@pytest.mark.parametrize("fault", ["SlowDown", "InternalError", "reset"])
def test_passing_failures_are_tried_again(store: ObjectStore, directory: Path, fault: str) -> None:
    seen: set[tuple[str, str, str]] = set()

    def once(request: Request) -> str:
        key = (request.method, request.key, request.query)
        first = key not in seen and len(seen) % 3 == 0
        seen.add(key)
        return fault if first else ""

    store.fault = once
    _sync(directory)
    assert _published(store) == _here(directory)


def test_lasting_throttling_ends_in_words_and_the_old_state_is_whole(
    store: ObjectStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_ATTEMPTS", 2)
    _sync(directory)
    before = {key: store.data(key) for key in _published(store)}
    _publish(directory, 2)
    store.fault = lambda one: "SlowDown" if one.method == "PUT" and one.key.endswith(".xml") else ""
    with pytest.raises(BucketFailed, match=r"reduce your request rate") as caught:
        _sync(directory)
    assert caught.value.details == ("SlowDown, after 2 attempts",)
    store.fault = lambda one: ""
    assert {key: store.data(key) for key in before} == before
    # The lease was given back; what had come is not put again.
    store.asked.clear()
    _sync(directory)
    assert "os/40/Packages/p2.rpm" not in store.put_order()
    assert _published(store).keys() >= _here(directory).keys()


def test_end_at_any_put_leaves_the_old_state_or_the_new(
    store: ObjectStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader finds: repomd.xml, and all that it names; statements and theirs."""
    monkeypatch.setattr(buckets, "_ATTEMPTS", 1)
    _sync(directory)
    _publish(directory, 2)
    puts = len(_sync(directory, dry_run=True).upload)
    assert puts == 8
    for most in range(puts + 1):
        left = most

        def stop(request: Request) -> str:
            nonlocal left
            if request.method != "PUT" or "/." in request.key:
                return ""
            left -= 1
            return "InternalError" if left < 0 else ""

        store.fault = stop
        try:
            _sync(directory)
        except BucketFailed:
            store.fault = lambda one: ""
        number = json.loads(store.data("os/40/tuf/timestamp.json"))["signed"]["version"]
        keys = store.objects()
        repomd = store.data(f"os/40/{REPOMD}").decode()
        assert any(key.rpartition("/")[2] in repomd for key in keys if "-primary.xml" in key)
        revision = int(repomd.partition("<revision>")[2][0])
        assert number <= revision
        assert f"os/40/Packages/p{revision}.rpm" in keys
        assert f"os/40/tuf/{number}.snapshot.json" in keys
    assert number == 2


def test_bucket_that_is_not_there_is_told(store: ObjectStore, directory: Path) -> None:
    with pytest.raises(BucketFailed, match="nowhere") as caught:
        sync_to_bucket(directory, "s3://nowhere/os", grace=timedelta(0))
    assert "AWS_ENDPOINT_URL" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///x", "s3://key:secret@b/x", "s3://b/a//b", "s3://b?x"]
)
def test_urls_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        Bucket.of(url)


# Large objects.


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """S3 takes no smaller parts."""
    monkeypatch.setattr(buckets, "PART", 5 << 20)
    return 5 << 20


def test_large_file_goes_in_parts_and_an_interrupted_one_is_continued(
    store: ObjectStore, directory: Path, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_ATTEMPTS", 1)
    data = os.urandom(small_parts * 3 + 100)
    _write(directory / "Packages/large.rpm", data)
    store.fault = lambda one: "InternalError" if "partNumber=3" in one.query else ""
    with pytest.raises(BucketFailed):
        _sync(directory)
    assert "os/40/Packages/large.rpm" not in store.objects()
    store.fault = lambda one: ""
    store.asked.clear()
    _sync(directory)
    parts = [one for one in store.asked if one.method == "PUT" and "partNumber" in one.query]
    assert len(parts) == 2
    assert store.data("os/40/Packages/large.rpm") == data
    assert not json.loads((directory / ".jigdo-sync/uploads.json").read_text())


def test_interrupted_upload_of_other_content_begins_anew(
    store: ObjectStore, directory: Path, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_ATTEMPTS", 1)
    data = os.urandom(small_parts * 2)
    _write(directory / "Packages/large.rpm", data)
    store.fault = lambda one: "InternalError" if "partNumber=2" in one.query else ""
    with pytest.raises(BucketFailed):
        _sync(directory)
    store.fault = lambda one: ""
    _write(directory / "Packages/large.rpm", data[:-1] + b"?")
    _sync(directory)
    assert store.data("os/40/Packages/large.rpm") == data[:-1] + b"?"
    head = store.client.head_object(Bucket=BUCKET, Key="os/40/Packages/large.rpm")
    assert head["Metadata"]["sha256"] == str(ContentDigest.of(data[:-1] + b"?"))


@pytest.mark.parametrize("size", [1000, (5 << 20) + 1])
def test_file_that_changes_while_it_is_read_is_not_put(
    store: ObjectStore, tmp_path: Path, small_parts: int, size: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    uploads = Uploads(tmp_path / "uploads.json")
    with pytest.raises(ChecksumMismatch):
        Bucket.of(URL).put(path, "file", ContentDigest.of(b"before"), uploads)
    assert not store.objects()
    assert not store.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


# Two publishers.


def test_second_publisher_is_told_who_is_at_work(store: ObjectStore, directory: Path) -> None:
    with Lease(Bucket.of(URL)), pytest.raises(BucketBusy, match="is at work there") as caught:
        _sync(directory)
    assert f":{os.getpid()}:" in caught.value.message
    assert not store.objects()
    _sync(directory)


def test_lease_that_has_ended_is_taken_over_and_its_owner_stops(store: ObjectStore) -> None:
    bucket = Bucket.of(URL)
    with Lease(bucket, seconds=1) as old:
        time.sleep(1.2)
        with Lease(bucket) as new:
            with pytest.raises(BucketBusy, match="another publisher has begun"):
                old.renew()
            new.renew()
            old.__exit__()
            # It is not the old one's to give back.
            assert store.objects()
    assert not store.objects()


def test_of_two_that_take_over_one_gets_it(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket.of(URL)
    Lease(bucket, seconds=-1).__enter__()
    raced: list[Lease] = []

    def race(request: Request) -> None:
        # Both have read the lease that has ended; the other is quicker.
        if request.method == "GET" and not raced:
            raced.append(Lease(bucket))
            raced[0].__enter__()

    store.after = race
    with pytest.raises(BucketBusy):
        Lease(bucket).__enter__()
    raced[0].renew()


def test_long_work_renews_its_lease(store: ObjectStore) -> None:
    bucket = Bucket.of(URL)
    with Lease(bucket, seconds=2) as lease:
        for _ in range(4):
            time.sleep(0.8)
            lease.renew()
        with pytest.raises(BucketBusy):
            Lease(bucket).__enter__()


def test_answer_that_was_lost_is_no_other_publisher(store: ObjectStore) -> None:
    """The lease was put, the answer did not come, and the attempt after it finds it there."""
    lost = ["reset"]
    store.after = lambda request: lost.pop() if lost and request.method == "PUT" else ""
    with Lease(Bucket.of(URL)):
        assert not lost


# With what clients need, by the commands.


def test_published_sets_in_a_bucket_are_verified_synced_and_pulled(
    store: ObjectStore, published: Published, tmp_path: Path
) -> None:
    directory = published.mirror(1, tmp_path / "tree")
    assert run_here("mirror", "sync", directory, URL).status == 0
    shutil.rmtree(directory)
    published.mirror(2, directory)
    said = run_here("mirror", "sync", directory, URL, "--json")
    assert said.status == 0, said.err
    assert said.document["changed"]
    assert said.document["here"] > 10
    done = run_here("mirror", "verify", URL, "--full", "--all-packages", "--json")
    assert done.status == 0, done.out
    copy = tmp_path / "copy"
    done = run_here("mirror", "sync", URL, copy)
    assert done.status == 0, done.err
    assert run_here("mirror", "verify", copy, "--ref", MINIMAL).status == 0
    again = run_here("mirror", "sync", directory, URL)
    assert again.out == f"{URL}: nothing new\n"
    lost = next(key for key in store.objects() if key.endswith(".rpm") and "/jigdo/" in key)
    store.client.delete_object(Bucket=BUCKET, Key=lost)
    assert run_here("mirror", "verify", URL).status == 5
    assert run_here("mirror", "sync", directory, URL).status == 0
    assert run_here("mirror", "verify", URL).status == 0


def test_options_that_a_bucket_does_not_take_are_refused(tmp_path: Path) -> None:
    for words in ([tmp_path, URL, "--newest", "1"], ["http://x/", URL], [tmp_path / "no", URL]):
        assert run_here("mirror", "sync", *words).status == 2
    assert run_here("mirror", "sync", tmp_path, tmp_path / "x", "--grace", "1").status == 2
