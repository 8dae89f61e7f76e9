"""Find the streams in a container, and open them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from composer.errors import FormatError
from composer.jigdo.delta.columns import Base
from composer.jigdo.repack.recipe import MAX_SEGMENTS, MAX_WINDOW, Kind, Recipe, Segment
from composer.jigdo.repack.streams import Decoder, chunks_of, window_of

#: What analyse() opens at most, unless told otherwise.
INNER_LIMIT = 1 << 30


def opened(
    data: Base, *, inner_limit: int = INNER_LIMIT, window_limit: int = MAX_WINDOW
) -> Recipe | None:
    """Return how ``data`` opens, without packers; None when it is no container that is known.

    A stream that is damaged, that would take what is inside past ``inner_limit``, or
    that asks for more memory than ``window_limit``, stays closed.
    """
    return joined(segments_of(data, inner_limit, window_limit))


def may_open(data: Base) -> bool:
    """Tell whether ``data`` looks like a container; cheap, and never wrong when it says no."""
    at = _kernel_payload(data)
    while at < len(data):
        magic = bytes(data[at : at + 6])
        if any(magic.startswith(start) for start, _ in _MAGICS):
            return True
        length = _plain(data, at)
        if not length:
            return False
        at += length
    return False


def joined(segments: Iterable[Segment]) -> Recipe | None:
    """Join verbatim neighbours; None when nothing else is there."""
    joined: list[Segment] = []
    for segment in segments:
        if joined and joined[-1].kind == segment.kind == Kind.VERBATIM:
            length = joined.pop().inner + segment.inner
            segment = Segment(Kind.VERBATIM, length, length)
        joined.append(segment)
    if len(joined) > MAX_SEGMENTS or all(s.kind == Kind.VERBATIM for s in joined):
        return None
    return Recipe(tuple(joined))


def verbatim(length: int) -> Segment:
    return Segment(Kind.VERBATIM, length, length)


def segments_of(data: Base, inner_limit: int, window_limit: int = MAX_WINDOW) -> Iterator[Segment]:
    """Walk over streams, cpio archives and padding; what else there is stays as it is."""
    size = len(data)
    at = _kernel_payload(data)
    if at:
        yield verbatim(at)
    while at < size:
        step = _stream(data, at, inner_limit, window_limit)
        if step is not None:
            inner_limit -= step.inner
        elif length := _plain(data, at):
            step = verbatim(length)
        else:
            step = verbatim(size - at)
        yield step
        at += step.packed


def _kernel_payload(data: Base) -> int:
    """Return where the compressed kernel begins in a bzImage or an EFI zboot image, or 0."""
    head = bytes(data[0:0x250])
    if len(head) == 0x250 and head[0x202:0x206] == b"HdrS" and head[0x1FE:0x200] == b"\x55\xaa":
        # Since protocol 2.08 the header says where the payload is.
        (version,) = struct.unpack_from("<H", head, 0x206)
        (offset,) = struct.unpack_from("<I", head, 0x248)
        if version >= 0x208:
            start = ((head[0x1F1] or 4) + 1) * 512 + offset
            return int(start) if start < len(data) else 0
    if head[0:2] == b"MZ" and head[4:8] == b"zimg":
        start = struct.unpack_from("<I", head, 8)[0]
        return int(start) if start < len(data) else 0
    return 0


def _plain(data: Base, at: int) -> int:
    """Return the length of the padding or of the uncompressed cpio archive at ``at``."""
    if bytes(data[at : at + 6]) in (b"070701", b"070702"):
        return _cpio_length(data, at)
    zeros = 0
    while piece := bytes(data[at + zeros : at + zeros + 4096]):
        rest = len(piece.lstrip(b"\0"))
        zeros += len(piece) - rest
        if rest:
            break
    return zeros


def _cpio_length(data: Base, start: int) -> int:
    """Return the length of an archive as the kernel reads it, up to its trailer; 0 if damaged."""
    at = start
    while True:
        header = bytes(data[at : at + 110])
        if len(header) < 110 or header[:6] not in (b"070701", b"070702"):
            return 0
        try:
            size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        except ValueError:
            return 0
        name = bytes(data[at + 110 : at + 110 + min(name_size, 16)])
        at += (110 + name_size + 3 & ~3) + (size + 3 & ~3)
        if at > len(data):
            return 0
        if name == b"TRAILER!!!\0":
            return at - start


_MAGICS = (
    (b"\x1f\x8b\x08", Kind.GZIP),
    (b"\xfd7zXZ\0", Kind.XZ),
    (b"\x28\xb5\x2f\xfd", Kind.ZSTD),
    (b"BZh", Kind.BZIP2),
)


def _stream(data: Base, at: int, inner_limit: int, window_limit: int) -> Segment | None:
    """Open the stream at ``at``; None when there is none, or it is damaged or too large."""
    magic = bytes(data[at : at + 6])
    kind = next((kind for start, kind in _MAGICS if magic.startswith(start)), None)
    if kind is None:
        return None
    window = window_of(kind, bytes(data[at : at + 1100]))
    if window is None or window > window_limit:
        return None
    inner = 0
    decoder = Decoder(kind, chunks_of(data, at, len(data)), window)
    try:
        for piece in decoder.pieces():
            inner += len(piece)
            if inner > inner_limit:
                return None
    except FormatError:
        return None
    return Segment(kind, inner, decoder.used, window)


def unpack(container: Base, recipe: Recipe) -> Iterator[bytes]:
    """Yield what is inside ``container``, ``recipe.inner_size`` bytes, a piece at a time.

    Raises FormatError when the container is not as the recipe says, after at
    most one piece more than declared.
    """
    if len(container) != recipe.size:
        raise FormatError(
            f"recipe: is for {recipe.size} bytes, the content has {len(container)}",
            hint="the set is damaged or not genuine",
        )
    at = 0
    for segment in recipe.segments:
        chunks = chunks_of(container, at, at + segment.packed)
        at += segment.packed
        if segment.kind == Kind.VERBATIM:
            yield from chunks
        else:
            yield from _open(segment, chunks)


def _open(segment: Segment, chunks: Iterator[bytes]) -> Iterator[bytes]:
    decoder, made = Decoder(segment.kind, chunks, segment.window), 0
    for piece in decoder.pieces():
        made += len(piece)
        if made > segment.inner:
            break
        yield piece
    if made != segment.inner or decoder.used != segment.packed:
        raise FormatError(
            "recipe: a compressed stream is not as long as it says",
            hint="the set is damaged or not genuine",
        )
