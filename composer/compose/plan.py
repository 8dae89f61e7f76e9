"""What is known of a compose before anything is fetched: version, time, input digest."""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass, field

from composer.compose.commit import Previous
from composer.compose.depsolve import Solution
from composer.compose.layers import Layer
from composer.compose.metadata import Origin
from composer.compose.rpmdb import Database
from composer.compose.treefile import Treefile
from composer.compose.version import next_version
from composer.errors import UsageError

# Part of the input digest: another number where the same input gives another tree.
_FORMAT = 3
_SECONDS = re.compile(r"[0-9]{1,10}\Z")
# rpm's times have 32 bits.
_NO_TIME = 1 << 32


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known before anything is fetched.  ``before`` is the ref's current commit."""

    treefile: Treefile
    before: Previous
    version: str
    input_digest: str
    timestamp: int
    layers: tuple[Layer, ...]
    database: Database
    origin: Origin = field(default_factory=Origin)


def make_plan(
    treefile: Treefile,
    before: Previous,
    solution: Solution,
    layers: tuple[Layer, ...],
    database: Database,
) -> Plan:
    """Make it of a solution; raises UsageError for a SOURCE_DATE_EPOCH that is no time."""
    state = hashlib.sha256(f"{_FORMAT} {treefile.digest()}\n".encode())
    for package in solution.packages:
        state.update(f"{package.nevra} {package.algorithm}:{package.checksum}\n".encode())
    for layer in layers:
        state.update(f"{layer.described()}\n".encode())
    return Plan(
        treefile=treefile,
        before=before,
        layers=layers,
        database=database,
        version=_version(treefile, before),
        input_digest=state.hexdigest(),
        timestamp=_given_time(solution.newest_build_time),
    )


def _version(treefile: Treefile, before: Previous) -> str:
    if isinstance(given := treefile.add_commit_metadata.get("version"), str):
        return given
    return next_version(
        treefile.automatic_version_prefix,
        before.version,
        suffix=treefile.automatic_version_suffix,
        now=_given_time(int(time.time())),
    )


def _given_time(otherwise: int) -> int:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return otherwise
    if not _SECONDS.match(given) or int(given) >= _NO_TIME:
        raise UsageError(
            f"SOURCE_DATE_EPOCH: expected seconds since 1970, of 32 bits, got {given[:80]!r}"
        )
    return int(given)
