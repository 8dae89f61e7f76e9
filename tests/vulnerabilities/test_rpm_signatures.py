"""CVE-2021-20271, -3421, -3521: a signature that holds, beside something that it does not cover."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from composer.compose.signatures import KeysUnusable, UntrustedPackage
from tests.compose.keys import Signer, signer
from tests.compose.rpms import File, Spec, build, index
from tests.compose.test_signatures import define, get

_STRING, _ARRAY = 6, 8
_PROVIDENAME, _POSTIN, _PAYLOADDIGEST, _SHA256HEADER = 1047, 1024, 5092, 273


@pytest.fixture(scope="module")
def keys() -> Iterator[Signer]:
    with signer() as made:
        made.make("good")
        made.make("evil")
        yield made


@pytest.fixture(scope="module")
def rpm(tmp_path_factory: pytest.TempPathFactory, keys: Signer) -> bytes:
    place = tmp_path_factory.mktemp("signed")
    path = build(Spec("one", files={"/usr/share/one": File("right")}), place)
    keys.sign(path, "good")
    return path.read_bytes()


def _offered(tmp_path: Path, data: bytes, key: bytes) -> None:
    place = tmp_path / "base"
    place.mkdir()
    (place / "one.rpm").write_bytes(data)
    index(place)
    (tmp_path / "key").write_bytes(key)
    define(tmp_path, place, "gpgcheck=1", "gpgkey=key")


def _signature(data: bytes) -> tuple[list[tuple[int, int, int, int]], bytes, int]:
    """Take the signature header apart: entries, store, where the header behind it begins."""
    count, size = struct.unpack(">II", data[104:112])
    entries = [struct.unpack(">IIiI", data[112 + 16 * n : 128 + 16 * n]) for n in range(count)]
    end = 112 + 16 * count + size
    return entries, data[112 + 16 * count : end], end + -end % 8


def _with_entries(data: bytes, added: Mapping[int, tuple[int, bytes]]) -> bytes:
    """Put entries into the signature header, behind its region, where nothing covers them."""
    entries, store, rest = _signature(data)
    for tag, (kind, value) in added.items():
        entries.append((tag, kind, len(store), 1))
        store += value
    packed = b"".join(struct.pack(">IIiI", *entry) for entry in entries)
    head = data[:104] + struct.pack(">II", len(entries), len(store)) + packed + store
    return head + bytes(-len(head) % 8) + data[rest:]


def test_signed_package_is_taken(tmp_path: Path, rpm: bytes, keys: Signer) -> None:
    """What the others change is the only thing that is wrong with them."""
    _offered(tmp_path, rpm, keys.gpg("--armor", "--export", "good@example.org"))
    assert get(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({_SHA256HEADER: (_STRING, b"0" * 64 + b"\0")}, id="another-digest"),
        pytest.param({_PAYLOADDIGEST: (_ARRAY, b"0" * 64 + b"\0")}, id="payload-digest"),
        pytest.param({_PROVIDENAME: (_ARRAY, b"glibc\0")}, id="provides"),
        pytest.param({_POSTIN: (_STRING, b"touch /usr/owned\0")}, id="scriptlet"),
    ],
)
def test_cve_2021_3421_tags_beside_the_signature_count_for_nothing(
    tmp_path: Path, rpm: bytes, keys: Signer, entry: Mapping[int, tuple[int, bytes]]
) -> None:
    """Unsigned tags of a header are smuggled in through the signature header."""
    _offered(tmp_path, _with_entries(rpm, entry), keys.gpg("--export", "good@example.org"))
    try:
        (package,) = get(tmp_path)
    except UntrustedPackage:  # by rpm itself
        return
    # rpm let it pass: then what it reads is what was signed.
    asked = ["rpm", "-qp", "--qf", "[%{PROVIDENAME} ]|%{POSTIN}|[%{PAYLOADDIGEST}]"]
    told = subprocess.run([*asked, package.path], check=True, capture_output=True, text=True)
    original = tmp_path / "original.rpm"
    original.write_bytes(rpm)
    right = subprocess.run([*asked, original], check=True, capture_output=True, text=True)
    assert told.stdout == right.stdout


def test_cve_2021_20271_payload_under_another_ones_header(
    tmp_path: Path, rpm: bytes, keys: Signer
) -> None:
    """The signed header stays, and another payload of the same length follows it."""
    changed = bytearray(rpm)
    changed[-40] ^= 1
    _offered(tmp_path, bytes(changed), keys.gpg("--export", "good@example.org"))
    with pytest.raises(UntrustedPackage, match=r"one-1-1\.noarch"):
        get(tmp_path)


def test_cve_2021_20271_signature_header_of_another_package(
    tmp_path: Path, rpm: bytes, keys: Signer
) -> None:
    """A good signature of one package is put before another package."""
    other = build(Spec("one", files={"/usr/share/one": File("wrong")}), tmp_path).read_bytes()
    _, _, signed_end = _signature(rpm)
    _, _, other_end = _signature(other)
    data = rpm[:signed_end] + other[other_end:]
    _offered(tmp_path, data, keys.gpg("--export", "good@example.org"))
    with pytest.raises(UntrustedPackage, match=r"one-1-1\.noarch"):
        get(tmp_path)


def _packets(key: bytes) -> Iterator[tuple[int, bytes]]:
    """Split a binary key into OpenPGP packets of the old format (RFC 4880 section 4.2.1)."""
    at = 0
    while at < len(key):
        assert key[at] & 0xC0 == 0x80, "gpg writes old packets"
        width = 1 << (key[at] & 3)
        length = int.from_bytes(key[at + 1 : at + 1 + width], "big")
        end = at + 1 + width + length
        yield key[at] >> 2 & 15, key[at + 1 + width : end]
        at = end


def _packet(tag: int, body: bytes) -> bytes:
    return bytes([0x80 | tag << 2 | 2]) + len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize("binding", ["none", "of-the-user-id"])
def test_cve_2021_3521_subkey_that_its_key_does_not_vouch_for(
    tmp_path: Path, rpm: bytes, keys: Signer, binding: str
) -> None:
    """The attacker's key hangs below the good one as a subkey, without its binding signature."""
    good = list(_packets(keys.gpg("--export", "good@example.org")))
    [(_, evil), *_] = _packets(keys.gpg("--export", "evil@example.org"))
    joined = [*good, (14, evil)]
    if binding != "none":
        joined.append(next(packet for packet in good if packet[0] == 2))
    key = b"".join(_packet(tag, body) for tag, body in joined)
    path = build(Spec("one"), tmp_path)
    keys.sign(path, "evil")
    _offered(tmp_path, path.read_bytes(), key)
    with pytest.raises((UntrustedPackage, KeysUnusable)):
        get(tmp_path)
    # The good key in the same file counts as ever, unless all of the file is refused.
    shutil.rmtree(tmp_path / "base")
    _offered(tmp_path, rpm, key)
    assert get(tmp_path)
