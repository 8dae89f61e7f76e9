"""What an attacker would make of a seed: every field with every value that hurts somewhere."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from composer.jigdo.encoding import uvarint

NUMBERS = (0, 1, 127, 128, 255, (1 << 16) - 1, 1 << 20, (1 << 27) + 1, (1 << 31) - 1, 1 << 31,
           (1 << 32) - 1, 1 << 40, (1 << 62) - 1, 1 << 62, (1 << 63) - 1)  # fmt: skip
_INTEGERS = (
    *(uvarint(number) for number in NUMBERS),
    b"\x80\x00",  # not the shortest form
    b"\xff" * 9 + b"\x01",  # 2^64 - 1
    b"\xff" * 40,  # without an end
)
_FIXED = tuple(
    number.to_bytes(width, order, signed=signed)
    for width in (2, 4, 8)
    for order in ("little", "big")
    for number, signed in ((0, False), (1, False), (-1, True), ((1 << 8 * width - 1) - 1, False))
)
VALUES: tuple[Any, ...] = (
    None, True, "", "0", "..", "/etc/passwd", "a/../../b", "x" * 5000, "\0", "\n", "é", "f" * 64,
    "F" * 64, -1, 0, 1, *NUMBERS, 1 << 64, 10**400, 1.5, [], [[]], {}, [None], {"": 0},
)  # fmt: skip


def hostile(data: bytes, *, most: int) -> Iterator[bytes]:
    """Yield hostile versions of ``data``, the same each time, at most ``most`` of them."""
    versions = _documents if data[:1] == b"{" else _binary
    count = sum(1 for _ in versions(data))
    chosen = set(random.Random(len(data)).sample(range(count), min(most, count)))
    # Not kept: what they take would count as the reader's.
    return (version for number, version in enumerate(versions(data)) if number in chosen)


def _binary(data: bytes) -> Iterator[bytes]:
    step = max(1, len(data) // 600)
    for at in range(0, len(data), step):
        yield data[:at]
        end = at + 1
        while end < len(data) and data[end - 1] & 0x80 and end - at < 10:
            end += 1  # an integer as it may be written here
        for value in _INTEGERS:
            yield data[:at] + value + data[end:]
        for fixed in _FIXED:
            yield data[:at] + fixed + data[at + len(fixed) :]
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        yield data[:at] + data[at + 1 :]
        yield data[:at] + data[at : at + 64] + data[at:]  # a part twice
        yield data[:at] + data[-64:] + data[at:]  # a part from elsewhere
    for more in (b"\0", b"\xff", bytes(4096), data):
        yield data + more
        yield more + data


def _documents(data: bytes) -> Iterator[bytes]:
    """Yield a JSON document with each of its values replaced, left out, or named twice."""
    document = json.loads(data)
    for path in _paths(document):
        for value in VALUES:
            yield json.dumps(_with(document, path, value)).encode()
        for item in (b"\xff", b'"\\ud800"', b"1e999", b"NaN", b"-0", b"[" * 5000):
            yield json.dumps(_with(document, path, "@")).encode().replace(b'"@"', item)
    for at in range(0, len(data), max(1, len(data) // 200)):
        yield data[:at]
        yield data[:at] + b"\0" + data[at:]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, below in (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list) else ()
    ):  # fmt: skip
        yield from _paths(below, (*path, key))


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _with(value[path[0]], path[1:], new)
    return copy
