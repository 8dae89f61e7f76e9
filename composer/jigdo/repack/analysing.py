"""Find what packs the streams of a container to the very same bytes, by trying."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

from composer.jigdo.delta.columns import Base
from composer.jigdo.repack.opening import INNER_LIMIT, joined, segments_of, verbatim
from composer.jigdo.repack.packers import pack_segment
from composer.jigdo.repack.programs import PacksDifferently
from composer.jigdo.repack.recipe import (
    EXTREME,
    MAX_HEADER,
    ZSTD_CHECKED,
    ZSTD_SIZED,
    ZSTD_THREADED,
    Kind,
    Packer,
    Recipe,
    Segment,
    is_sound,
    version_of,
    zstd_parameters,
)
from composer.jigdo.repack.streams import Decoder, chunks_of, xz_filters


def analyse(data: Base, *, inner_limit: int = INNER_LIMIT) -> Recipe | None:
    """Return how ``data`` opens and packs again to the very same bytes, or None.

    Each packer in the recipe was run and its output compared.  A stream that
    none reproduces stays closed; None when all do.  Cheap when ``data`` is no
    container: a few magic numbers are read.
    """
    segments, at = [], 0
    for segment in segments_of(data, inner_limit):
        end = at + segment.packed
        segments.append(_with_packer(segment, memoryview(bytes(data[at:end]))))
        at = end
    return joined(segments)


def reproduces(data: Base, recipe: Recipe) -> bool:
    """Tell whether the packers of ``recipe``, and of this machine, make ``data`` of what is inside.

    Its segments have to be those that :func:`analyse` finds.  Raises FormatError.
    """
    at = 0
    for segment in recipe.segments:
        packed = memoryview(bytes(data[at : at + segment.packed]))
        at += segment.packed
        if segment.kind == Kind.VERBATIM:
            continue
        inner = b"".join(
            Decoder(segment.kind, chunks_of(packed, 0, len(packed)), segment.window).pieces()
        )
        if segment.version != version_of(segment.packer) or len(inner) != segment.inner:
            return False
        if not _gives(segment, inner, packed):
            return False
    return at == len(data)


def _with_packer(segment: Segment, packed: memoryview) -> Segment:
    """Return the segment with what packs it to ``packed``, or as verbatim when nothing does."""
    if segment.kind == Kind.VERBATIM:
        return segment
    inner = b"".join(
        Decoder(segment.kind, chunks_of(packed, 0, len(packed)), segment.window).pieces()
    )
    for candidate in _candidates(segment, bytes(packed[:1100])):
        if _gives(candidate, inner, packed):
            return candidate
    return verbatim(segment.packed)


def _gives(segment: Segment, inner: bytes, packed: memoryview) -> bool:
    """Tell whether packing gives ``packed``; stops where it first differs."""
    at = 0
    packing = pack_segment(segment, chunks_of(inner, 0, len(inner)))
    try:
        for piece in packing:
            if packed[at : at + len(piece)] != piece:
                return False
            at += len(piece)
    except (PacksDifferently, MemoryError):
        return False
    finally:
        packing.close()
    return at == len(packed)


def _candidates(segment: Segment, head: bytes) -> Iterator[Segment]:
    """Yield packers to try, the likeliest first."""
    match segment.kind:
        case Kind.GZIP:
            yield from _gzip_candidates(segment, head)
        case Kind.XZ:
            yield from _xz_candidates(segment, head)
        case Kind.ZSTD:
            yield from _zstd_candidates(segment, head)
        case Kind.BZIP2:
            yield replace(segment, packer=Packer.LIBBZ2, level=head[3] - ord("0"))


def _gzip_candidates(segment: Segment, head: bytes) -> Iterator[Segment]:
    length = _gzip_header_length(head)
    if not length:
        return
    segment = replace(segment, header=head[:length])
    # The flags byte says 2 for the best level, 4 for the fastest.
    levels = {2: (9, 8, 7), 4: (1, 2, 3)}.get(head[8], (6, 9, 1, 5, 7, 8, 4, 3, 2))
    # GNU gzip's output has not changed since version 1.3; zlib's has, and zlib-ng's differs.
    if shutil.which("gzip") is not None:
        for level in levels:
            yield replace(segment, packer=Packer.GNU_GZIP, level=level)
    for level in (*levels, *(level for level in (9, 6, 1) if level not in levels)):
        for memory_level in (8, 9):
            yield replace(
                segment,
                packer=Packer.ZLIB,
                level=level,
                options=(memory_level,),
                version=version_of(Packer.ZLIB),
            )


def _gzip_header_length(head: bytes) -> int:
    """Return how long a gzip member's header is (RFC 1952), 0 when it is not all in ``head``."""
    flags, at = head[3], 10
    try:
        if flags & 4:
            at += 2 + int.from_bytes(head[at : at + 2], "little")
        for present in (8, 16):
            if flags & present:
                at = head.index(b"\0", at) + 1
    except ValueError:
        return 0
    at += 2 if flags & 2 else 0
    return at if at < min(len(head), MAX_HEADER) else 0


def _xz_candidates(segment: Segment, head: bytes) -> Iterator[Segment]:
    filters = xz_filters(head)
    if filters is None:
        return
    bcj, dictionary, properties = filters
    # Sizes in a block's header: the program wrote it, with threads.
    packer = Packer.XZ_PROGRAM if head[13] & 0xC0 else Packer.LIBLZMA
    for level in (6, 9 | EXTREME, 4, 3, 2, 1, 0, 5, 3 | EXTREME, 5 | EXTREME, 0 | EXTREME):
        candidate = replace(
            segment,
            packer=packer,
            level=level,
            options=(head[7], dictionary, bcj, properties),
        )
        if is_sound(candidate):
            yield candidate


def _zstd_candidates(segment: Segment, head: bytes) -> Iterator[Segment]:
    import zstandard

    claimed = zstandard.get_frame_parameters(head)
    if claimed.dict_id:
        return
    sized = claimed.content_size == segment.inner and (claimed.content_size or head[4] & 0x20)
    flags = (ZSTD_SIZED if sized else 0) | (ZSTD_CHECKED if claimed.has_checksum else 0)
    # One block that differs ends a trial, but with threads a whole job comes at once:
    # those levels only that somebody uses (dracut, kmod, the programs' defaults).
    for packer, threaded, levels in (
        (Packer.LIBZSTD, 0, (19, 3, 15, 22, *range(1, 19))),
        (Packer.ZSTD_PROGRAM, ZSTD_THREADED, (19, 3, 15, 22)),
        (Packer.LIBZSTD, ZSTD_THREADED, (19, 3, 15, 22)),
    ):
        version = version_of(packer)
        for level in levels:
            candidate = replace(
                segment,
                packer=packer,
                level=level,
                options=(flags | threaded,),
                version=version,
            )
            window = 1 << zstd_parameters(candidate).window_log
            if version and (sized or window == claimed.window_size):
                yield candidate
