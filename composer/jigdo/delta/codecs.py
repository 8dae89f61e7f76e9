"""Ways to make the content of one object from another's, behind one interface.

A codec's number is part of the format (docs/format/delta.md section 1).  The
three that search for matches write one patch format, that of
``composer.jigdo.delta.columns``, and are applied alike; the number says who made
the patch.  Making trusts its input and may crash or hang in somebody's C code:
``composer.jigdo.delta.making`` runs it in processes of its own.  Applying trusts
nothing: a damaged or hostile patch ends in FormatError, within :func:`memory`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import io
import struct
from collections.abc import Iterator
from enum import IntEnum
from functools import cache
from typing import Any, Protocol

from composer.errors import BoundExceeded, ComposerError, FormatError, MissingRequirement
from composer.jigdo import memory as figures
from composer.jigdo.delta import columns, moving
from composer.jigdo.delta.columns import Base, Copy


class CodecNumber(IntEnum):
    """Codecs as a patch names them; docs/format/delta.md section 1."""

    FULL = 0
    HDIFF = 1
    ZSTD = 2
    BSDIFF = 3
    LIBRSYNC = 4
    LINKED = 5


#: Larger targets are made part by part, each with a patch of its own.
PART = 64 << 20
#: Beyond base and target of this size together, the zstd codec is not tried: it
#: is the one whose memory grows with its base.
ZSTD_LIMIT = 48 << 20
_ZSTD_LEVEL = 19
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LIBRSYNC_BLOCK = 512


class CannotMake(ComposerError):
    """A codec has no patch for this pair; another codec may."""


class Codec(Protocol):
    """What makes patches of one number; picklable, for it runs in a worker process."""

    @property
    def number(self) -> int: ...
    def make(self, base: bytes, target: bytes) -> bytes:
        """Return the patch; raises CannotMake when the codec is not for this pair."""
        ...


class Full:
    """No base: the content itself."""

    number = CodecNumber.FULL

    def make(self, base: bytes, target: bytes) -> bytes:
        return target


class HDiff:
    """Matches found by HDiffPatch: fast, and the smallest for nearly all content."""

    number = CodecNumber.HDIFF

    def make(self, base: bytes, target: bytes) -> bytes:
        return columns.encode(base, target, hdiff_copies(base, target))


class BsDiff:
    """Matches found by bsdiff: slower by a factor of four, at times a little smaller."""

    number = CodecNumber.BSDIFF

    def make(self, base: bytes, target: bytes) -> bytes:
        import bsdiff4.core

        control: bytes = bsdiff4.core.diff(base, target)[0]
        return columns.encode(base, target, _bsdiff_copies(control))


class Zstd:
    """zstd with the base as its dictionary; a compressed patch, so pooling gains nothing."""

    number = CodecNumber.ZSTD

    def make(self, base: bytes, target: bytes) -> bytes:
        import zstandard

        if len(base) + len(target) > ZSTD_LIMIT:
            raise CannotMake("zstd: too large for its memory")
        parameters = zstandard.ZstdCompressionParameters.from_level(
            _ZSTD_LEVEL,
            source_size=len(base) + len(target),
            dict_size=len(base),
            window_log=_window_log(len(base) + len(target)),
            write_content_size=1,
            write_dict_id=0,
            enable_ldm=len(base) + len(target) > 8 << 20,
        )
        return zstandard.ZstdCompressor(
            compression_params=parameters, dict_data=_dictionary(base)
        ).compress(target)


class Librsync:
    """Matches found by librsync in blocks of 512 bytes, as balena makes its deltas.

    For comparison: needs the distribution's librsync, and no effort includes it.
    """

    number = CodecNumber.LIBRSYNC

    def make(self, base: bytes, target: bytes) -> bytes:
        delta = _rdiff(base, target)
        return columns.encode(base, target, _librsync_copies(delta))


def available(numbers: tuple[CodecNumber, ...]) -> tuple[Codec, ...]:
    """Return these codecs; raises MissingRequirement for one whose library is not here."""
    import importlib.util

    codecs: list[Codec] = []
    for number in numbers:
        needs = {CodecNumber.HDIFF: "hdiffpatch", CodecNumber.BSDIFF: "bsdiff4"}.get(number)
        if needs and importlib.util.find_spec(needs) is None:
            raise MissingRequirement(
                f"the Python package {needs} is not here", hint=f"pip install {needs}"
            )
        codecs.append(_CODECS[number]())
    return tuple(codecs)


_CODECS: dict[CodecNumber, type[Codec]] = {
    CodecNumber.FULL: Full,
    CodecNumber.HDIFF: HDiff,
    CodecNumber.ZSTD: Zstd,
    CodecNumber.BSDIFF: BsDiff,
    CodecNumber.LIBRSYNC: Librsync,
}

#: Codecs by effort; the smallest result is taken, the lower number where two are equal.
EFFORTS: dict[str, tuple[CodecNumber, ...]] = {
    "low": (CodecNumber.HDIFF,),
    "normal": (CodecNumber.HDIFF,),
    "high": (CodecNumber.HDIFF, CodecNumber.ZSTD, CodecNumber.BSDIFF),
}


def memory(codec: int, base_size: int, size: int, patch_size: int) -> int:
    """Return the bytes of working memory that :func:`apply` needs at most.

    The patch itself is counted, and so is the base where the codec has to hold it.
    Raises FormatError for a number that is no codec's.
    """
    if codec == CodecNumber.FULL:
        return figures.full(patch_size)
    if codec == CodecNumber.ZSTD:
        return figures.zstd(base_size, 1 << _window_log(base_size + size), patch_size)
    if codec == CodecNumber.LINKED:
        return figures.linked(base_size, patch_size)
    _require_known(codec)
    return figures.columns(patch_size)


def apply(codec: int, base: Base, patch: bytes, *, size: int, max_memory: int) -> Iterator[bytes]:
    """Yield the ``size`` bytes that ``patch`` makes of ``base``, in pieces of about a MiB.

    Raises FormatError when the patch does not follow its format or makes another
    number of bytes, BoundExceeded when it would need more than ``max_memory``.
    The caller compares the digest: a wrong base gives wrong bytes, not an error.
    """
    if memory(codec, len(base), size, len(patch)) > max_memory:
        raise BoundExceeded(
            what="memory to apply a delta",
            bound=max_memory,
            hint="allow more with --max-memory, or fetch the content whole",
        )
    if codec == CodecNumber.FULL:
        return _apply_full(patch, size)
    if codec == CodecNumber.ZSTD:
        return _apply_zstd(base, patch, size)
    if codec == CodecNumber.LINKED:
        return _apply_linked(base, patch, size)
    return columns.apply(base, patch, size=size)


def _require_known(codec: int) -> None:
    if codec not in CodecNumber.__members__.values():
        raise FormatError(
            f"delta: unknown codec {codec}", hint="a newer version of this program may know it"
        )


def _apply_full(patch: bytes, size: int) -> Iterator[bytes]:
    if len(patch) != size:
        raise FormatError(f"delta: holds {len(patch)} bytes where {size} were declared")
    for at in range(0, size, columns.PIECE):
        yield patch[at : at + columns.PIECE]


def _apply_linked(base: Base, patch: bytes, size: int) -> Iterator[bytes]:
    if len(base) > figures.LARGEST_MOVED:
        raise FormatError("delta: its base is too large to be moved")
    shared, moves, patch = moving.split_linked(patch)
    streams = columns.Streams.split(patch)
    control = columns.read_control(streams, len(base), size, moving.MOST_COPIES)
    own = bytearray(len(base))
    for at in range(0, len(base), columns.PIECE):
        own[at : at + columns.PIECE] = base[at : at + columns.PIECE]
    moving.move(own, columns.copies(control), shared, moves)
    yield from columns.applied(own, streams, (control,), size=size)


def _apply_zstd(base: Base, patch: bytes, size: int) -> Iterator[bytes]:
    import zstandard

    window = 1 << _window_log(len(base) + size)
    try:
        if not patch.startswith(_ZSTD_MAGIC):
            raise FormatError("delta: not a zstd frame")
        claimed = zstandard.get_frame_parameters(patch)
        if claimed.content_size != size or claimed.window_size > window or claimed.dict_id:
            raise FormatError("delta: its zstd frame does not declare what it should")
        decoder = zstandard.ZstdDecompressor(
            dict_data=_dictionary(bytes(base[0 : len(base)])), max_window_size=window
        )
        made = 0
        with decoder.stream_reader(io.BytesIO(patch), read_across_frames=False) as reader:
            while piece := reader.read(min(columns.PIECE, size + 1 - made)):
                made += len(piece)
                if made > size:
                    raise FormatError("delta: makes more than the declared size")
                yield piece
    except zstandard.ZstdError as error:
        raise FormatError(f"delta: {error}") from None
    if made != size:
        raise FormatError(f"delta: makes {made} bytes where {size} were declared")


def _dictionary(base: bytes) -> Any:
    import zstandard

    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _window_log(size: int) -> int:
    return max(10, (size - 1).bit_length())


def hdiff_copies(base: bytes, target: bytes) -> Iterator[Copy]:
    """Find matches with HDiffPatch: read them out of its uncompressed patch, "HDIFF13"."""
    import hdiffpatch

    # The cache is a byte per byte of the base, and spares a tenth of the time for large ones.
    patch: bytes = hdiffpatch.diff(
        base, target, compression=None, validate=False, big_cache_match=True
    )
    if not patch.startswith(b"HDIFF13&\0"):
        raise CannotMake("hdiff: this version of the library writes another format")
    at = 9
    header = []
    for _ in range(11):
        value, at = _big_endian_varint(patch, at, 0)
        header.append(value)
    previous = 0
    for _ in range(header[2]):
        backward = patch[at] & 0x80
        step, at = _big_endian_varint(patch, at, 1)
        literal, at = _big_endian_varint(patch, at, 0)
        length, at = _big_endian_varint(patch, at, 0)
        start = previous - step if backward else previous + step
        yield Copy(literal=literal, length=length, base=start)
        previous = start + length


def _big_endian_varint(data: bytes, at: int, tag_bits: int) -> tuple[int, int]:
    """Read HDiffPatch's integer whose first byte has ``tag_bits`` taken."""
    byte, more = data[at], 0x80 >> tag_bits
    at += 1
    value = byte & (more - 1)
    while byte & more:
        byte, more = data[at], 0x80
        at += 1
        value = value << 7 | byte & 0x7F
    return value, at


def _bsdiff_copies(control: bytes) -> Iterator[Copy]:
    """Read bsdiff's triples: bytes to copy, literal bytes after them, then a seek in the base."""
    position = literal = 0
    for length, extra, seek in struct.iter_unpack("<QQQ", control):
        length, extra = _sign_magnitude(length), _sign_magnitude(extra)
        if length:
            yield Copy(literal=literal, length=length, base=position)
            literal = 0
        literal += extra
        position += length + _sign_magnitude(seek)


def _sign_magnitude(value: int) -> int:
    return value if value < 1 << 63 else -(value & ((1 << 63) - 1))


def _librsync_copies(delta: bytes) -> Iterator[Copy]:
    """Read the commands of a librsync delta (magic 0x72730236)."""
    if delta[:4] != b"rs\x026":
        raise CannotMake("librsync: this version of the library writes another format")
    at, literal = 4, 0
    while command := delta[at]:
        at += 1
        if command <= 64:
            length = command
            at += length
        elif command <= 68:
            width = 1 << (command - 65)
            length = int.from_bytes(delta[at : at + width], "big")
            at += width + length
        elif command <= 84:
            where, width = (1 << divmod(command - 69, 4)[0]), (1 << divmod(command - 69, 4)[1])
            start = int.from_bytes(delta[at : at + where], "big")
            length = int.from_bytes(delta[at + where : at + where + width], "big")
            at += where + width
            yield Copy(literal=literal, length=length, base=start)
            literal = 0
            continue
        else:
            raise CannotMake(f"librsync: unknown command {command}")
        literal += length


class _Buffers(ctypes.Structure):
    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_size_t),
        ("eof_in", ctypes.c_int),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_size_t),
    )


@cache
def _librsync() -> Any:
    name = ctypes.util.find_library("rsync")
    if name is None:
        raise MissingRequirement(
            "librsync is not here", hint="apt install librsync2, or dnf install librsync"
        )
    library = ctypes.CDLL(name)
    for function in ("rs_sig_begin", "rs_loadsig_begin", "rs_delta_begin"):
        getattr(library, function).restype = ctypes.c_void_p
    library.rs_sig_begin.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
    library.rs_loadsig_begin.argtypes = (ctypes.POINTER(ctypes.c_void_p),)
    library.rs_delta_begin.argtypes = library.rs_build_hash_table.argtypes = (ctypes.c_void_p,)
    library.rs_job_iter.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Buffers))
    library.rs_job_free.argtypes = library.rs_free_sumset.argtypes = (ctypes.c_void_p,)
    return library


def _rdiff(base: bytes, target: bytes) -> bytes:
    """Return librsync's delta of ``target`` against ``base``."""
    library = _librsync()
    blake2 = 0x72730137
    signature = _run_job(library.rs_sig_begin(_LIBRSYNC_BLOCK, 0, blake2), base)
    sums = ctypes.c_void_p()
    _run_job(library.rs_loadsig_begin(ctypes.byref(sums)), signature)
    try:
        if library.rs_build_hash_table(sums):
            raise CannotMake("librsync: no table of signatures")
        return _run_job(library.rs_delta_begin(sums), target)
    finally:
        library.rs_free_sumset(sums)


def _run_job(job: int, data: bytes) -> bytes:
    library = _librsync()
    room = ctypes.create_string_buffer(1 << 20)
    source = ctypes.c_char_p(data)
    buffers = _Buffers(ctypes.cast(source, ctypes.c_void_p).value, len(data), 1)
    out = bytearray()
    try:
        while True:
            buffers.next_out, buffers.avail_out = ctypes.addressof(room), len(room)
            status = library.rs_job_iter(job, ctypes.byref(buffers))
            out += room.raw[: len(room) - buffers.avail_out]
            if status == 0:
                return bytes(out)
            if status != 1:  # 1 is RS_BLOCKED: it wants more room
                raise CannotMake(f"librsync: status {status}")
    finally:
        library.rs_job_free(job)
