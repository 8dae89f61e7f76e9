"""The process that commands are forked from: it has imported what they need.

Reads one JSON document a line from standard input, runs the command that it has, and writes its
wait status.  Ends with its input.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import sys
from typing import Any

_MODULES = (
    "composer.cli.console",
    "composer.cli.deploy",
    "composer.cli.mirror",
    "composer.cli.pull",
    "composer.cli.repo",
    "composer.client.pulling",
    "composer.client.repairing",
    "composer.mirror.publishing",
    "composer.sysroot.deploying",
    "composer.sysroot.ordering",
    "createrepo_c",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "gi.repository.Gio",
    "gi.repository.GLib",
    "pycurl",
    "rpm",
    "tuf.api.metadata",
)
_PID = 8  # the field of faults.c's struct


def _run(request: dict[str, Any]) -> None:
    from composer.cli.main import main

    nothing = os.open(os.devnull, os.O_RDONLY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for target, source in (
        (0, nothing),
        (1, os.open(request["out"], flags, 0o600)),
        (2, os.open(request["err"], flags, 0o600)),
    ):
        os.dup2(source, target)
    for name, value in request["setting"].items():
        module, _, attribute = name.partition(":")
        setattr(importlib.import_module(module), attribute, value)
    sys.argv = ["jigdo-composer", *request["words"]]
    main()


def serve() -> None:
    """Run what is asked for, one after the other."""
    from composer.ostree.library import library

    for name in _MODULES:
        importlib.import_module(name)
    library()
    with open(os.environ["CRASH_STATE"], "r+b") as stream:
        state = mmap.mmap(stream.fileno(), 0)
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for line in requests:
        if not (pid := os.fork()):
            state[_PID * 4 : _PID * 4 + 4] = os.getpid().to_bytes(4, sys.byteorder)
            _run(json.loads(line))
            raise AssertionError("main() returned")
        _, status = os.waitpid(pid, 0)
        answers.write(f"{status}\n")
        answers.flush()


if __name__ == "__main__":
    serve()
