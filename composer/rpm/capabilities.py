"""File capabilities: from RPM's text form to the extended attribute of the kernel.

libcap reads the text (cap_from_text(3)); the attribute is ``struct vfs_cap_data``
of linux/capability.h, revision 2: revision 3 would tie it to a user namespace.
"""

from __future__ import annotations

import ctypes
import struct
from functools import lru_cache

from composer.errors import FormatError, MissingRequirement

_REVISION_2, _EFFECTIVE = 0x02000000, 1
_FLAG_EFFECTIVE, _FLAG_PERMITTED, _FLAG_INHERITABLE = 0, 1, 2


@lru_cache(maxsize=1)
def _libcap() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcap.so.2", use_errno=True)
    except OSError as error:
        raise MissingRequirement(
            "the library libcap is not installed",
            hint="install it: apt-get install libcap2, or dnf install libcap",
        ) from error
    library.cap_from_text.restype = ctypes.c_void_p
    library.cap_from_text.argtypes = [ctypes.c_char_p]
    library.cap_get_flag.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_int),
    ]
    library.cap_free.argtypes = [ctypes.c_void_p]
    return library


@lru_cache(maxsize=256)
def capability_xattr(text: str) -> bytes:
    """Return the ``security.capability`` value for a text such as ``cap_net_raw=ep``.

    Raises FormatError for a text that libcap does not understand.
    """
    library = _libcap()
    state = library.cap_from_text(text.encode())
    if not state:
        raise FormatError(f"not file capabilities: {text[:200]!r}")
    try:
        permitted = _bits(library, state, _FLAG_PERMITTED)
        inheritable = _bits(library, state, _FLAG_INHERITABLE)
        effective = _bits(library, state, _FLAG_EFFECTIVE)
    finally:
        library.cap_free(state)
    low = 0xFFFFFFFF
    return struct.pack(
        "<5I",
        _REVISION_2 | (_EFFECTIVE if effective else 0),
        permitted & low,
        inheritable & low,
        permitted >> 32,
        inheritable >> 32,
    )


def _bits(library: ctypes.CDLL, state: int, flag: int) -> int:
    bits, value = 0, ctypes.c_int()
    for capability in range(64):
        if library.cap_get_flag(state, capability, flag, ctypes.byref(value)) != 0:
            break  # a capability that this libcap does not know
        bits |= bool(value.value) << capability
    return bits
