"""Patches made on a farm: the same ones, proven here.

A task is a few pairs, their contents and codecs.  A worker makes the patches in its own process,
without the guards of :mod:`composer.jigdo.delta.making`: a codec that crashes takes the worker
with it, the cluster tries elsewhere, and in the end the pairs are made here, guarded.  So they
are when a codec fails there in any way, for limits differ from machine to machine, and when a
patch does not make the target: the outcome is that of a build without a farm.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from composer.jigdo.delta import codecs
from composer.jigdo.delta.codecs import PART, Codec, CodecNumber
from composer.jigdo.delta.columns import HeldFile
from composer.jigdo.delta.making import (
    Limits,
    Pair,
    Part,
    Patch,
    attempts,
    best_patches,
    estimated,
    prove,
    read,
)
from composer.progress import Report, Step, silent
from composer.system.executors import LARGEST, TASK_BYTES, TASK_PAIRS, Farm, Work, spread

# Bytes that applying a patch may take here, whatever it claims.
_MOST_MEMORY = 2 << 30

_Made = tuple[int, list[tuple[int, bytes]]]
"""A codec, and of each part of the target the length and the patch."""


def farmed_patches(
    pairs: Iterable[Pair],
    *,
    farm: Farm | None,
    effort: str = "normal",
    workers: int,
    report: Report = silent,
    total: int = 0,
    limits: Limits | None = None,
    makers: tuple[Codec, ...] = (),
) -> Iterator[Patch]:
    """Yield what :func:`composer.jigdo.delta.making.best_patches` does, made on ``farm``."""
    chosen = makers or codecs.available(codecs.EFFORTS[effort])
    if farm is None:
        yield from best_patches(
            pairs, workers=workers, report=report, total=total, limits=limits, makers=chosen
        )
        return
    large, done = threading.Lock(), 0

    def here(batch: _Batch) -> list[Patch]:
        with large if batch.is_large else nullcontext():
            return list(best_patches(batch.pairs, workers=1, limits=limits, makers=chosen))

    work = Work(make_patches, lambda batch: _load(batch, chosen), _judge, here)
    for patches in spread(farm, work, _batches(pairs), workers=workers):
        for patch in patches:
            done += 1
            report(Step("deltas", done, total, "objects", str(patch.key)))
            yield patch


@dataclass(frozen=True, slots=True)
class _Batch:
    """Pairs that are one task; they have one maker of their own, or none."""

    pairs: tuple[Pair, ...]
    maker: Codec | None

    @property
    def is_large(self) -> bool:
        return any(sum(pair.sizes) > LARGEST for pair in self.pairs)


def _batches(pairs: Iterable[Pair]) -> Iterator[_Batch]:
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        own = sum(pair.sizes)
        full = len(batch) == TASK_PAIRS or size + own > TASK_BYTES
        if batch and (full or pair.maker != batch[0].maker):
            yield _Batch(tuple(batch), batch[0].maker)
            batch, size = [], 0
        batch.append(pair)
        size += own
    if batch:
        yield _Batch(tuple(batch), batch[0].maker)


def _load(batch: _Batch, chosen: Sequence[Codec]) -> tuple[tuple[Any, ...], int] | None:
    if batch.is_large:
        return None
    contents, size = [], 0
    for pair in batch.pairs:
        try:
            both = read(pair.base), read(pair.target)
        except Exception:
            return None  # it is told where it is read next
        held = [bytes(one[0 : len(one)]) if len(one) <= LARGEST else None for one in both]
        for one in both:
            if isinstance(one, HeldFile):
                one.close()
        base, target = held
        if base is None or target is None or len(base) + len(target) > LARGEST:
            return None
        contents.append((base, target))
        size += len(base) + len(target)
    makers = [*([batch.maker] if batch.maker else []), *chosen, codecs.Full()]
    return (makers, contents), size


def make_patches(
    makers: Sequence[Codec], contents: Sequence[tuple[bytes, bytes]]
) -> list[_Made | None]:
    """Make the smallest patch for each base and target; None where a codec failed.

    What a worker of the farm calls.
    """
    return [_smallest(makers, base, target) for base, target in contents]


def _smallest(makers: Sequence[Codec], base: bytes, target: bytes) -> _Made | None:
    made = []
    for kind, value in attempts(base, target, makers, before=lambda: None):
        if kind == "failed":
            return None
        if kind == "made":
            made.append(value)
    _, codec, parts = min(made, key=lambda one: one[:2])
    return codec, [(part.length, part.data) for part in parts]


def _judge(batch: _Batch, args: tuple[Any, ...], result: Any) -> list[Patch]:
    """Prove each patch; raises anything when one is not right."""
    makers, contents = args
    allowed = {int(maker.number) for maker in makers}
    patches = []
    for pair, (base, target), made in zip(batch.pairs, contents, result, strict=True):
        if made is None:
            raise ValueError("a codec failed there")
        codec, rows = made
        parts = tuple(Part(length, data) for length, data in rows)
        _require(codec, parts, allowed, base, target)
        patches.append(Patch(pair.key, codec, parts, estimated(codec, parts)))
    return patches


def _require(
    codec: int, parts: tuple[Part, ...], allowed: set[int], base: bytes, target: bytes
) -> None:
    if codec not in allowed:
        raise ValueError("a result with a codec that was not asked for")
    at = 0
    for part in parts:
        piece = target[at : at + PART]
        if type(part.data) is not bytes or part.length != len(piece):
            raise ValueError("a result with parts of another length")
        if codec == CodecNumber.FULL:
            if part.data != piece:
                raise ValueError("a result with other content")
        else:
            prove(codec, base, part.data, piece, max_memory=_MOST_MEMORY)
        at += len(piece)
    if at != len(target) or len(parts) != max(1, -(-len(target) // PART)):
        raise ValueError("a result that does not make all of the target")
