"""Loaded by a Dask worker with --preload: its results are wrong, as LIE says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from composer.jigdo.delta import farming
from composer.jigdo.delta.codecs import Codec

_honest = farming.make_patches


def _lying(makers: Sequence[Codec], contents: Sequence[tuple[bytes, bytes]]) -> Any:
    made = _honest(makers, contents)
    match os.environ["LIE"]:
        case "bytes":  # a good patch, of something else
            flipped = [(base, target[:-1] + bytes([target[-1] ^ 1])) for base, target in contents]
            return _honest(makers, flipped)
        case "length":
            return [_honest(makers, [(base, target[:-9])])[0] for base, target in contents]
        case "codec":
            return [(99, parts) for _, parts in filter(None, made)]
        case "shape":
            return {"made": 1}
    raise RuntimeError("as told")


def dask_setup(worker: object) -> None:
    """Replace what tasks call."""
    farming.make_patches = _lying
