"""SHA-256 values, as two types that are never mixed.

A :class:`ContentDigest` is over bytes.  An :class:`ObjectChecksum` is OSTree's,
over a header (owner, mode, extended attributes) *and* bytes, so equal content
under another header has another object checksum.  Both are kept as 32 raw
bytes: half the memory of hexadecimal, and a tree has a great many of them.
"""

from __future__ import annotations

import hashlib
import re
from typing import BinaryIO, Self

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_CHUNK = 1 << 20


class Sha256(bytes):
    """32 bytes of a SHA-256; prints as lower-case hexadecimal."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> Self:
        if len(raw) != 32:
            raise ValueError(f"a SHA-256 has 32 bytes, not {len(raw)}")
        return super().__new__(cls, raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read 64 lower-case hexadecimal digits; raises ValueError for anything else."""
        if not _HEX.match(text):
            raise ValueError(f"expected 64 lower-case hexadecimal digits, got {text[:80]!r}")
        return cls(bytes.fromhex(text))

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"


class ContentDigest(Sha256):
    """SHA-256 of the bytes of something: a file's content, a frame, a whole RPM (its pkgid)."""

    __slots__ = ()

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Self:
        return cls(hashlib.sha256(data).digest())

    @classmethod
    def of_stream(cls, stream: BinaryIO) -> Self:
        """Digest everything that is left in ``stream``, a piece at a time."""
        state = hashlib.sha256()
        while piece := stream.read(_CHUNK):
            state.update(piece)
        return cls(state.digest())


class ObjectChecksum(Sha256):
    """OSTree's checksum of an object: header and bytes for content, the variant for metadata."""

    __slots__ = ()
