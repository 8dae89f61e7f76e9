"""Fuzz the readers with atheris: ``python -m tests.fuzz [NAME...] [--seconds N]``.

Each harness runs in a process of its own, from the seeds in ``tests/fuzz/seeds`` and what
earlier runs found (``.cache/fuzz``).  An input that breaks one is left there, by its path;
put it into ``tests/fuzz/seeds/NAME`` with the fix, and every ``make test`` replays it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(path.name for path in (HERE / "seeds").iterdir())
FOUND = HERE.parent.parent / ".cache" / "fuzz"


def main() -> int:
    """Run the named harnesses (all without names), one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=int, default=60, help="per harness")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if arguments.here:
        return _fuzz(arguments.names[0], arguments.seconds)
    failed = []
    for name in arguments.names or NAMES:
        argv = [sys.executable, "-m", "tests.fuzz", "--here", name]
        argv.append(f"--seconds={arguments.seconds}")
        if subprocess.run(argv, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"broken: {', '.join(failed)}: see above for the inputs", file=sys.stderr)
    return bool(failed)


def _fuzz(name: str, seconds: int) -> int:
    try:
        import atheris
    except ImportError:
        print("atheris is not here: .venv/bin/pip install '.[fuzz]'", file=sys.stderr)
        return 2
    corpus = FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    # Ours only: numpy and pydantic as they are, which is what runs.
    with atheris.instrument_imports(include=["composer"]):
        from tests.fuzz.harnesses import HARNESSES
    harness = HARNESSES[name]
    argv = [
        *(name, str(corpus), str(HERE / "seeds" / name), f"-max_total_time={seconds}"),
        *("-max_len=65536", "-timeout=30", "-rss_limit_mb=1024", "-print_final_stats=1"),
        f"-artifact_prefix={corpus}-",
    ]
    atheris.Setup(argv, lambda data: harness(bytes(data)) and None)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
