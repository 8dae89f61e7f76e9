"""Pairs of contents that are alike, as strategies and as files of a known shape."""

from __future__ import annotations

import random

from hypothesis import strategies as st


def revised(seed: int, size: int) -> tuple[bytes, bytes]:
    """Return content and a later version of it: moved parts, changed bytes, new bytes."""
    random_bytes = random.Random(seed)
    base = random_bytes.randbytes(size)
    target = bytearray(base)
    for _ in range(max(1, size // 2000)):
        at = random_bytes.randrange(size)
        target[at : at + 4] = random_bytes.randbytes(2)
    for at in range(size // 2, size // 2 + size // 8, 24):
        if at < len(target):
            target[at] = (target[at] + 64) % 256
    moved = target[: size // 4]
    return base, bytes(target[size // 4 :] + random_bytes.randbytes(100) + moved)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a base and a target that shares stretches of it."""
    base = draw(st.binary(max_size=400)) * draw(st.integers(1, 6))
    target = b""
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()) or not base:
            target += draw(st.binary(max_size=60))
        else:
            start = draw(st.integers(0, len(base) - 1))
            target += base[start : start + draw(st.integers(1, 300))]
    changed = bytearray(target)
    for _ in range(draw(st.integers(0, 8)) if target else 0):
        changed[draw(st.integers(0, len(target) - 1))] = draw(st.integers(0, 255))
    return base, bytes(changed)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a damaged version of ``data``: bytes changed, cut out, put in, or cut off."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(out)))
        # Most of what matters stands at the front: counts, sizes, offsets.
        at = min(at, draw(st.sampled_from([8, 40, len(out)])))
        kind = draw(st.sampled_from(["set", "flip", "insert", "delete", "cut"]))
        if kind == "set":
            out[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "flip" and at < len(out):
            out[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            out[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "delete":
            del out[at : at + draw(st.integers(1, 9))]
        elif kind == "cut" and draw(st.integers(0, 3)) == 0:
            del out[at:]
    return bytes(out)
