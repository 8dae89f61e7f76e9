"""gpgcheck: packages of a repository are signed by its own keys, or the compose stops."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.compose.depsolve import solving
from composer.compose.packages import ComposedPackage, fetch
from composer.compose.repositories import RepositoryUnusable
from composer.compose.signatures import KeysUnusable, UntrustedPackage
from composer.compose.treefile import load
from composer.progress import Step, silent
from tests.compose.http_server import served
from tests.compose.keys import Signer, signer
from tests.compose.rpms import Spec, build, index


@pytest.fixture(scope="module")
def keys() -> Iterator[Signer]:
    with signer() as made:
        made.make("good")
        made.make("other")
        made.make("old", expires="10d", time="20200101T000000")
        yield made


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(Spec("one"), tmp_path_factory.mktemp("plain"))


def offer(tmp_path: Path, plain: Path, keys: Signer, name: str = "", ident: str = "base") -> Path:
    """Make the repository ``ident`` with one package, signed by ``name``."""
    place = tmp_path / ident
    place.mkdir(exist_ok=True)
    rpm = Path(shutil.copy(plain, place / f"{ident}.rpm"))
    if name:
        keys.sign(rpm, name)
    index(place)
    return place


def define(tmp_path: Path, place: Path, *lines: str) -> None:
    text = [f"[{place.name}]", "name=x", f"baseurl={place.as_uri()}", *lines]
    (tmp_path / f"{place.name}.repo").write_text("\n".join(text) + "\n")


def get(tmp_path: Path, packages: str = "[one]", repos: str = "[base]") -> list[ComposedPackage]:
    path = tmp_path / "treefile.yaml"
    path.write_text(f"ref: a\nrepos: {repos}\npackages: {packages}\n")
    scratch = tmp_path / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    with solving(
        load(path, basearch="x86_64"), overrides={}, cachedir=tmp_path / "cache", scratch=scratch
    ) as (solution, base):
        return list(fetch(solution, base, silent))


def test_package_signed_by_a_key_of_its_repository_is_taken(
    tmp_path: Path, plain: Path, keys: Signer
) -> None:
    keys.export("good", tmp_path / "RPM-GPG-KEY")
    # A path is looked for beside the .repo file, whatever the working directory.
    define(tmp_path, offer(tmp_path, plain, keys, "good"), "gpgcheck=1", "gpgkey=RPM-GPG-KEY")
    (package,) = get(tmp_path)
    assert str(package.ref.nevra) == "one-1-1.noarch"


def test_one_of_several_keys_is_enough_and_keys_may_come_over_http(
    tmp_path: Path, plain: Path, keys: Signer
) -> None:
    (tmp_path / "web").mkdir()
    both = keys.gpg("--armor", "--export")
    (tmp_path / "web" / "key").write_bytes(both)
    keys.export("old", tmp_path / "old")
    with served(tmp_path / "web", tmp_path / "log") as url:
        place = offer(tmp_path, plain, keys, "other")
        define(tmp_path, place, "gpgcheck=1", f"gpgkey=old {url}key")
        assert get(tmp_path)


def test_wrong_key_is_told_with_package_repository_and_ids(
    tmp_path: Path, plain: Path, keys: Signer
) -> None:
    keys.export("good", tmp_path / "key")
    define(tmp_path, offer(tmp_path, plain, keys, "other"), "gpgcheck=1", "gpgkey=key")
    with pytest.raises(UntrustedPackage) as caught:
        get(tmp_path)
    (detail,) = caught.value.details
    other = keys.gpg("--with-colons", "--list-keys", "other@example.org").decode()
    ident = next(line for line in other.splitlines() if line.startswith("fpr")).split(":")[9]
    assert detail.startswith("one-1-1.noarch: repository base: signed by key ")
    assert ident[-8:] in detail
    assert "good <good@example.org>" in detail


def test_package_without_signature_is_told(tmp_path: Path, plain: Path, keys: Signer) -> None:
    keys.export("good", tmp_path / "key")
    define(tmp_path, offer(tmp_path, plain, keys), "gpgcheck=1", "gpgkey=key")
    with pytest.raises(UntrustedPackage, match=r"one-1-1\.noarch: it is not signed") as caught:
        get(tmp_path)
    assert "repository base: not signed; expected a signature by" in caught.value.details[0]


def test_expired_key_trusts_nothing(tmp_path: Path, plain: Path, keys: Signer) -> None:
    place = offer(tmp_path, plain, keys)
    keys.export("old", tmp_path / "old")
    define(tmp_path, place, "gpgcheck=1", "gpgkey=old")
    with pytest.raises(KeysUnusable, match="none of its keys can be trusted") as caught:
        get(tmp_path)
    assert "(old <old@example.org>), which has expired on 2020-01-11" in caught.value.details[0]


def test_package_signed_by_an_expired_key_names_it(
    tmp_path: Path, plain: Path, keys: Signer
) -> None:
    place = offer(tmp_path, plain, keys)
    (rpm,) = place.glob("*.rpm")
    sign_in_the_past(keys, rpm)
    index(place)
    keys.export("old", tmp_path / "old")
    keys.export("good", tmp_path / "good")
    define(tmp_path, place, "gpgcheck=1", "gpgkey=old good")
    with pytest.raises(UntrustedPackage) as caught:
        get(tmp_path)
    assert "which has expired on 2020-01-11" in caught.value.details[0]


def sign_in_the_past(keys: Signer, rpm: Path) -> None:
    config = keys.home / "gpg.conf"
    config.write_text("faked-system-time 20200102T000000\n")
    try:
        keys.sign(rpm, "old")
    finally:
        config.unlink()


def test_signatures_by_other_kinds_of_keys_and_by_subkeys_count(
    tmp_path: Path, plain: Path, keys: Signer
) -> None:
    keys.make("edwards", kind="ed25519")
    main = keys.make("parent", kind="rsa2048", usage="cert")
    keys.gpg("--quick-add-key", main, "rsa2048", "sign", "never")
    for name in ("edwards", "parent"):
        keys.export(name, tmp_path / "key")
        define(tmp_path, offer(tmp_path, plain, keys, name), "gpgcheck=1", "gpgkey=key")
        assert get(tmp_path)


def test_revoked_key_trusts_nothing(tmp_path: Path, plain: Path, keys: Signer) -> None:
    main = keys.make("lost")
    place = offer(tmp_path, plain, keys, "lost")
    revocation = (keys.home / f"openpgp-revocs.d/{main}.rev").read_text()
    (tmp_path / "revocation").write_text(revocation.replace(":-----BEGIN", "-----BEGIN"))
    keys.gpg("--import", str(tmp_path / "revocation"))
    keys.export("lost", tmp_path / "key")
    define(tmp_path, place, "gpgcheck=1", "gpgkey=key")
    with pytest.raises(KeysUnusable) as caught:
        get(tmp_path)
    assert "(lost <lost@example.org>), which was revoked" in caught.value.details[0]


def test_key_of_another_repository_does_not_count(
    tmp_path: Path, plain: Path, keys: Signer
) -> None:
    keys.export("good", tmp_path / "good")
    keys.export("other", tmp_path / "other")
    define(tmp_path, offer(tmp_path, plain, keys, "other"), "gpgcheck=1", "gpgkey=good")
    two = build(Spec("two"), tmp_path)
    more = offer(tmp_path, two, keys, "other", ident="more")
    define(tmp_path, more, "gpgcheck=1", "gpgkey=other")
    with pytest.raises(UntrustedPackage) as caught:
        get(tmp_path, "[one, two]", "[base, more]")
    assert [detail.split(":")[0] for detail in caught.value.details] == ["one-1-1.noarch"]


@pytest.mark.parametrize("where", ["payload", "header"])
def test_signature_covers_header_and_payload(
    tmp_path: Path, plain: Path, keys: Signer, where: str
) -> None:
    keys.export("good", tmp_path / "key")
    place = offer(tmp_path, plain, keys, "good")
    (rpm,) = place.glob("*.rpm")
    data = bytearray(rpm.read_bytes())
    position = len(data) - 10 if where == "payload" else data.rindex(b"test.invalid")
    data[position] ^= 1
    rpm.write_bytes(data)
    index(place)  # the repository vouches for what it now has
    define(tmp_path, place, "gpgcheck=1", "gpgkey=key")
    with pytest.raises(UntrustedPackage) as caught:
        get(tmp_path)
    assert "BAD" in caught.value.details[0]


@pytest.mark.parametrize(
    ("gpgkey", "message"),
    [
        ("", "it names no key"),
        ("gpgkey=nowhere", "gpgkey file:///.*/nowhere: No such file"),
        ("gpgkey=garbage", "garbage: not a public GPG key"),
        ("gpgkey=http://127.0.0.1:9/key", "cannot be fetched"),
    ],
)
def test_missing_or_unreadable_key_stops_before_anything_moves(
    tmp_path: Path, plain: Path, keys: Signer, gpgkey: str, message: str
) -> None:
    (tmp_path / "garbage").write_bytes(bytes(range(256)) * 10)
    define(tmp_path, offer(tmp_path, plain, keys, "good"), "gpgcheck=1", gpgkey)
    with pytest.raises(KeysUnusable, match=message):
        get(tmp_path)


def test_gpgcheck_off_takes_unsigned_packages(tmp_path: Path, plain: Path, keys: Signer) -> None:
    define(tmp_path, offer(tmp_path, plain, keys), "gpgcheck=0", "gpgkey=nowhere")
    assert get(tmp_path)


def test_repo_gpgcheck_pins_the_keys_that_are_named_now(
    tmp_path: Path, plain: Path, keys: Signer
) -> None:
    place = offer(tmp_path, plain, keys)
    keys.export("good", tmp_path / "good")
    keys.export("other", tmp_path / "other")
    define(tmp_path, place, "repo_gpgcheck=1", "gpgkey=good")
    with pytest.raises(RepositoryUnusable, match="base"):
        get(tmp_path)
    keys.sign_file(place / "repodata/repomd.xml", "good")
    assert get(tmp_path)
    # What was fetched under one key is not good enough under another.
    define(tmp_path, place, "repo_gpgcheck=1", "gpgkey=other")
    with pytest.raises(RepositoryUnusable, match="GPG"):
        get(tmp_path)


def test_checking_reports_its_progress(tmp_path: Path, plain: Path, keys: Signer) -> None:
    keys.export("good", tmp_path / "key")
    define(tmp_path, offer(tmp_path, plain, keys, "good"), "gpgcheck=1", "gpgkey=key")
    path = tmp_path / "treefile.yaml"
    path.write_text("ref: a\nrepos: [base]\npackages: [one]\n")
    steps: list[Step] = []
    with solving(
        load(path, basearch="x86_64"),
        overrides={},
        cachedir=tmp_path / "cache",
        scratch=tmp_path / "scratch",
    ) as (solution, base):
        fetch(solution, base, steps.append)
    assert Step("signatures", 1, 1, "packages") in steps
