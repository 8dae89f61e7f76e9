"""Files of a directory: there, as long as they should be, and of their digests.

Two threads hash, for hashlib lets go of Python's lock: both cores at the rate of OpenSSL.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from composer.checksum import ContentDigest
from composer.errors import ChecksumMismatch, ComposerError, FormatError, NotFound
from composer.net.probing import Probe, Probed

_WORKERS = 2
_AHEAD = 256
_BUFFER = 1 << 20


def look(files: Iterable[Probe], directory: Path, *, whole: bool) -> Iterator[Probed]:
    """Yield each of ``files`` with what is wrong with it below ``directory``, None for nothing."""
    if not whole:
        yield from ((one, _wrong_size(directory, one)) for one in files)
        return
    with ThreadPoolExecutor(_WORKERS, "hash") as pool:
        coming: deque[tuple[Probe, Future[ComposerError | None]]] = deque()
        try:
            for one in files:
                coming.append((one, pool.submit(_wrong, directory, one)))
                if len(coming) >= _AHEAD:
                    first, result = coming.popleft()
                    yield first, result.result()
            while coming:
                first, result = coming.popleft()
                yield first, result.result()
        finally:
            for _, result in coming:
                result.cancel()


def _wrong_size(directory: Path, file: Probe) -> ComposerError | None:
    path = f"{directory}/{file.location}"
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return NotFound(f"{file.location}: no such file")
    except OSError as error:
        return ComposerError(f"{file.location}: {error.strerror}")
    if not stat.S_ISREG(found.st_mode):
        return FormatError(f"{file.location}: not a file")
    if found.st_size != file.size:
        return FormatError(
            f"{file.location}: the file there has {found.st_size} bytes, {file.size} are needed"
        )
    return None


def _wrong(directory: Path, file: Probe) -> ComposerError | None:
    if wrong := _wrong_size(directory, file):
        return wrong
    try:
        actual = digest_of(directory / file.location)
    except OSError as error:
        return ComposerError(f"{file.location}: {error.strerror}")
    if actual != file.digest:
        return ChecksumMismatch(
            what=file.location,
            expected=str(ContentDigest(file.digest)),
            actual=str(actual),
        )
    return None


def digest_of(path: Path) -> ContentDigest:
    """Return the SHA-256 of a file."""
    state, buffer = hashlib.sha256(), bytearray(_BUFFER)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            state.update(view[:size])
    return ContentDigest(state.digest())
