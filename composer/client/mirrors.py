"""Which mirrors a remote has just now: those it names, then those that its list names.

Lists are large beside what a check costs, so a list is asked for once a day.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

from composer.client.remote import Remote
from composer.errors import ComposerError
from composer.net.location import Mirrors
from composer.net.mirrorlist import fetch_mirrorlist
from composer.net.network import Network
from composer.system.files import write_bytes

_SECONDS = 86_400


def with_listed_mirrors(remote: Remote, network: Network) -> Remote:
    """Add the mirrors of the remote's list, if it has one, behind its own URLs.

    A list that cannot be had is no error as long as there is an older one, or a URL.
    """
    if not remote.mirrorlist:
        return remote
    path = remote.state / f"{remote.name}.mirrors.json"
    age, listed = _kept(path, remote.mirrorlist)
    if not listed or not 0 <= age < _SECONDS:
        try:
            listed = fetch_mirrorlist(remote.mirrorlist, network=network)
        except ComposerError:
            if not listed and not remote.urls:
                raise
        else:
            document = {"list": remote.mirrorlist, "mirrors": listed}
            write_bytes(path, json.dumps(document).encode(), durable=False)
    return replace(remote, urls=tuple(dict.fromkeys((*remote.urls, *listed))))


def _kept(path: Path, url: str) -> tuple[float, tuple[str, ...]]:
    """The age in seconds, and the mirrors, of what was kept of the list at ``url``."""
    try:
        document = json.loads(path.read_bytes())
        age = time.time() - path.stat().st_mtime
        if document["list"] != url:
            return 0, ()
        return age, Mirrors.parse(*document["mirrors"]).bases
    except (OSError, ValueError, KeyError, TypeError):
        return 0, ()
