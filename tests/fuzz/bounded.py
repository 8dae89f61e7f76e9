"""Run one harness on its seeds and on hostile versions of them, and watch its memory.

``python -m tests.fuzz.bounded NAME [MOST]``: a process of its own, because the peak of a
process never falls, and because what a decoder in C takes, only the kernel sees.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from tests.fuzz.harnesses import HARNESSES
from tests.fuzz.hostile import hostile

SEEDS = Path(__file__).parent / "seeds"
# What the allocator and the first use of a library take, once.
_SLACK = 24 << 20


def seeds(name: str) -> dict[str, bytes]:
    """Return the seeds of a harness, by file name."""
    return {path.name: path.read_bytes() for path in sorted((SEEDS / name).iterdir())}


def main(name: str, most: int) -> int:
    """Read everything; returns 1 when it took more memory than the harness declares."""
    harness, own = HARNESSES[name], seeds(name)
    # First what is right, so that what is imported on the way does not count.
    read = sum(harness(data) for seed, data in own.items() if "bomb" not in seed)
    before = _peak()
    # Past twice the bound an allocation fails, which no harness takes for a refusal.
    limit = _data() + 2 * harness.memory + 4 * _SLACK + harness.untouched
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    tried = worst = 0
    for seed, data in own.items():
        for case in (data, *hostile(data, most=most // len(own) + 1)):
            try:
                read += harness(case)
            except BaseException:
                print(f"{name}: from seed {seed}: {case[:2000].hex()}", file=sys.stderr)
                raise
            tried += 1
            if _peak() - before > harness.memory + _SLACK and not worst:
                worst = _peak() - before
                print(f"{name}: {worst >> 20} MiB for {case[:500].hex()} ({seed})", file=sys.stderr)
    print(f"{name}: {tried} tried, {read} read, {(_peak() - before) >> 20} MiB")
    return 1 if worst or not read else 0


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _data() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000))
