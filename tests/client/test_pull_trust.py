"""Whose commits are accepted: those that a key of this remote signed, and no others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from composer.jigdo.container import Kind
from tests.client.published import MINIMAL, Gpg, Published, SetRpm, build_set, copy_of, put
from tests.client.pulling import Client, rpm_requests
from tests.commands import jigdo, ostree
from tests.net.lying_mirror import LyingMirror


@dataclass(frozen=True, slots=True)
class Signers:
    """Keys of people who are not the publisher, and their GPG home."""

    gpg: Gpg
    stranger: str
    expired: str
    stranger_file: Path


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signers]:
    with Gpg.home() as gpg:
        stranger = gpg.make_key("stranger", algorithm="rsa2048")
        # Its day is over; in this home it is always that day.
        (gpg.directory / "gpg.conf").write_text("faked-system-time 20200101T000000\n")
        expired = gpg.make_key("expired", expire="1d")
        (gpg.directory / "gpg.conf").unlink()
        file = gpg.export(stranger, tmp_path_factory.mktemp("keys") / "stranger.gpg")
        yield Signers(gpg, stranger, expired, file)


@dataclass(frozen=True, slots=True)
class Forge:
    """Publishes the second generation again, with another signature or another commit."""

    published: Published
    signers: Signers
    place: Path

    @property
    def repo(self) -> Path:
        return self.place / "forge"

    @property
    def commit(self) -> str:
        return ostree(self.repo, "rev-parse", MINIMAL)

    def unsign(self) -> None:
        """Take the publisher's signature away."""
        self._meta().unlink()

    def sign(self, key: str, *, home: Path | None = None) -> None:
        """Add a signature."""
        words = [f"--gpg-homedir={home or self.signers.gpg.directory}", self.commit, key]
        ostree(self.repo, "gpg-sign", *words)

    def sign_in_the_past(self, key: str) -> None:
        """Add a signature of the first of January 2020."""
        configuration = self.signers.gpg.directory / "gpg.conf"
        configuration.write_text("faked-system-time 20200101T000100\n")
        try:
            self.sign(key)
        finally:
            configuration.unlink()

    def replace_commit(self) -> None:
        """Put another commit under the publisher's signature."""
        signatures = self._meta().read_bytes()
        words = [f"--branch={MINIMAL}", f"--tree=ref={MINIMAL}", "--subject=forged"]
        ostree(self.repo, "commit", *words, "--parent=none")
        put(self._meta(), signatures)

    def spoil_signature(self) -> None:
        """Flip a bit in the middle of the publisher's signature."""
        data = bytearray(self._meta().read_bytes())
        data[len(data) // 2] ^= 1
        put(self._meta(), bytes(data))

    def garble_signature(self) -> None:
        """Put something that is no signature at all in its place."""
        data = self._meta().read_bytes()
        head = data.index(b"\x88")  # an OpenPGP signature packet
        put(self._meta(), data[:head] + bytes(40) + data[head + 40 :])

    def _meta(self) -> Path:
        checksum = self.commit
        return self.repo / "objects" / checksum[:2] / f"{checksum[2:]}.commitmeta"

    def publish(self) -> Path:
        """Build and publish the set; returns the mirror's directory."""
        mirror = self.published.mirror(2, self.place / "forged-mirror")
        build_set(self.repo, MINIMAL, self.published.packages(2), mirror, self.place / "cache")
        return mirror


@pytest.fixture
def forge(published: Published, signers: Signers, tmp_path: Path) -> Iterator[Forge]:
    made = Forge(published, signers, tmp_path)
    copy_of(published.repo, made.repo)
    yield made
    shutil.rmtree(made.repo)


def _unsigned(forge: Forge) -> None:
    forge.unsign()


def _signed_by_a_stranger(forge: Forge) -> None:
    forge.unsign()
    forge.sign(forge.signers.stranger)


def _signed_with_an_expired_key(forge: Forge) -> None:
    forge.unsign()
    forge.sign_in_the_past(forge.signers.expired)


def _another_commit(forge: Forge) -> None:
    forge.replace_commit()


def _spoiled_signature(forge: Forge) -> None:
    forge.spoil_signature()


def _garbled_signature(forge: Forge) -> None:
    forge.garble_signature()


_FORGERIES = [
    (_unsigned, "not signed"),
    (_signed_by_a_stranger, "not one of the remote's keys"),
    (_signed_with_an_expired_key, "signature"),
    (_another_commit, "signature"),
    (_spoiled_signature, "signature"),
    (_garbled_signature, "signature"),
]


@pytest.mark.attack("arbitrary software", "without TUF: serves a commit whose GPG signature is bad")
@pytest.mark.parametrize(
    ("forgery", "words"), _FORGERIES, ids=[f.__name__[1:] for f, _ in _FORGERIES]
)
def test_forged_commit_is_refused_before_anything_large_moved(
    forgery: Callable[[Forge], None], words: str, forge: Forge, updatable: Client
) -> None:
    forgery(forge)
    with LyingMirror(forge.publish()) as mirror:
        updatable.add_remote(mirror.url)
        updatable.refused(words, status=3)
        log = mirror.log
        rpm = SetRpm.of(mirror.directory, MINIMAL)
        assert not rpm_requests(log)
        # Index, head, commit and small tables; neither the tree nor content.
        sections = {kind: [f.size for f in rpm.jigdo.index.of(kind)] for kind in Kind}
        large = sum(sections[Kind.TREE] + sections[Kind.DATA])
        assert mirror.sent(rpm.location) < rpm.path.stat().st_size - large


def test_one_signature_of_several_by_the_pinned_key_is_enough(
    forge: Forge, updatable: Client
) -> None:
    forge.sign(forge.signers.stranger)
    updatable.add_remote(forge.publish())
    updatable.completes()


def test_expired_key_is_refused_also_when_it_is_pinned(
    forge: Forge, updatable: Client, tmp_path: Path
) -> None:
    _signed_with_an_expired_key(forge)
    key = forge.signers.gpg.export(forge.signers.expired, tmp_path / "expired.gpg")
    updatable.add_remote(forge.publish(), key=key)
    updatable.refused("expired", status=3)


@pytest.mark.attack("arbitrary software", "signs with a key that is trusted for other things")
def test_keys_that_ostree_has_in_the_repository_do_not_count(
    forge: Forge, updatable: Client
) -> None:
    _signed_by_a_stranger(forge)
    words = ["--set=gpg-verify=true", f"--gpg-import={forge.signers.stranger_file}"]
    ostree(updatable.repo, "remote", "add", *words, "other", "http://127.0.0.1:9/")
    updatable.add_remote(forge.publish())
    updatable.refused("not one of the remote's keys", status=3)


@pytest.mark.attack("arbitrary software", "signs with the key of another remote")
def test_key_of_another_remote_does_not_count(forge: Forge, updatable: Client) -> None:
    _signed_by_a_stranger(forge)
    mirror = forge.publish()
    updatable.add_remote(mirror, key=forge.signers.stranger_file, name="strangers")
    updatable.add_remote(mirror)
    updatable.refused("not one of the remote's keys", status=3)


def test_key_added_to_a_remote_counts(forge: Forge, updatable: Client, tmp_path: Path) -> None:
    _signed_by_a_stranger(forge)
    both = tmp_path / "both.gpg"
    both.write_bytes(forge.published.key.read_bytes() + forge.signers.stranger_file.read_bytes())
    updatable.add_remote(forge.publish(), key=both)
    updatable.completes()


@pytest.mark.parametrize("forgery", [_unsigned, _signed_by_a_stranger], ids=["unsigned", "other"])
def test_remote_that_trusts_none_takes_any_commit(
    forgery: Callable[[Forge], None], forge: Forge, updatable: Client
) -> None:
    forgery(forge)
    words = ["remote", "add", "demo", forge.publish(), "--trust", "none"]
    jigdo(*words, env=updatable.env)
    updatable.completes()


def test_commit_that_is_here_already_must_be_signed_too(forge: Forge, updatable: Client) -> None:
    """What another remote, or another program, put under the ref is not what was asked for."""
    forge.unsign()
    mirror = forge.publish()
    jigdo("remote", "add", "demo", mirror, "--trust", "none", env=updatable.env)
    commit = updatable.completes()["commit"]
    updatable.add_remote(mirror)
    updatable.refused("not signed", status=3)
    assert updatable.head() == commit


def test_keys_that_are_lost_are_an_error_and_not_trust(
    published: Published, updatable: Client
) -> None:
    updatable.add_remote(published.root / "mirror2")
    (updatable.place / "config/remotes.d/demo.gpg").unlink()
    updatable.refused("demo.toml", "no key", status=3)
