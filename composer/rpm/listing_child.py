"""Reads an rpmdb that nobody vouches for, in a process of its own.

This file is executed, not imported: ``python3 -I`` runs it, in the sandbox where there is
one, so it uses the standard library and the rpm module only.  The job is a JSON document
on standard input, the answer one JSON line per package on standard output.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from typing import Any

_MEMORY = 2 << 30
_SECONDS = 60
_WRITTEN = 64 << 20
# A line of the answer is at most 1 MiB; JSON makes up to six bytes of one.
_CHANGELOG_BYTES = 100 << 10
_NAME_LENGTH = 1000
_PATHS_LENGTH = 100 << 10


def main() -> None:
    """Answer the job: ``dbpath``, ``names`` (None: all), ``entries`` of each changelog.

    With ``files``, a list of names, the answer is the paths of these packages' files instead, in
    the order of the headers, some to a line.
    """
    job = json.load(sys.stdin)
    for kind, limit in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_FSIZE, _WRITTEN),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    import rpm

    rpm.addMacro("_dbpath", job["dbpath"])
    transaction = rpm.TransactionSet("/")
    # The digests of headers are checked, their signatures are not: no key is here.
    transaction.setVSFlags(rpm._RPMVSF_NOSIGNATURES)
    for header in _headers(transaction, job["names"]):
        if header["name"] == "gpg-pubkey":
            continue
        identity = [header[tag] for tag in ("name", "epoch", "version", "release", "arch")]
        if any(len(str(part)) > _NAME_LENGTH for part in identity):
            continue
        if job.get("files") is None:
            changelog = list(_changelog(header, job["entries"]))
            print(json.dumps({"package": identity, "changelog": changelog}))
        elif header["name"] in job["files"]:
            for paths in _paths(header):
                print(json.dumps({"package": identity, "paths": paths}))


def _headers(transaction: Any, names: list[str] | None) -> Iterator[Any]:
    if names is None:
        yield from transaction.dbMatch()
        return
    for name in names:
        yield from transaction.dbMatch("name", name)


def _paths(header: Any) -> Iterator[list[str]]:
    """Yield the paths in lists that make lines of bounded length."""
    found, length = [], 0
    for path in header["filenames"]:
        found.append(path)
        length += len(path)
        if length > _PATHS_LENGTH:
            yield found
            found, length = [], 0
    yield found


def _changelog(header: Any, most: int) -> Iterator[tuple[int, str, str]]:
    """Yield the newest entries: seconds since 1970, author, text."""
    left = _CHANGELOG_BYTES
    for _, time, author, text in zip(
        range(most),
        header["changelogtime"],
        header["changelogname"],
        header["changelogtext"],
        strict=False,
    ):
        left -= len(author) + len(text) + 100
        if left < 0:
            return
        yield time, author, text


if __name__ == "__main__":
    main()
