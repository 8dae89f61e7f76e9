"""How mirrors are reached, and what each of them moved: options and lines of several commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from composer.cli.text import human_bytes
from composer.errors import UsageError

if TYPE_CHECKING:
    from composer.client.remote import Remote
    from composer.net.standing import WrongBytes
    from composer.net.traffic import Moved

_LEAST_SERVED = 1

limit_rate_option = click.option(
    "--limit-rate",
    metavar="RATE",
    help="Fetch at most so many bytes per second over all connections, as 500k or 2M; 0: no limit.",
)


def limited(remote: Remote, rate: str | None) -> Remote:
    """Return ``remote`` with what ``--limit-rate`` says, if it says anything."""
    from composer.client.remote_file import parse_rate

    if rate is None:
        return remote
    try:
        return replace(remote, way=replace(remote.way, limit_rate=parse_rate(rate)))
    except ValueError as error:
        raise UsageError(f"--limit-rate: {error}") from None


_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path)
_CONNECTION_OPTIONS = (
    click.option(
        "--proxy",
        metavar="URL",
        help="Reach mirrors through this proxy, http, https or socks5, instead of the one that the "
        "environment names; none: through no proxy.",
    ),
    click.option(
        "--tls-client-cert", type=_FILE, metavar="FILE", help="Certificate to show to mirrors, PEM."
    ),
    click.option("--tls-client-key", type=_FILE, metavar="FILE", help="Its key, PEM."),
    click.option(
        "--tls-ca-cert",
        type=_FILE,
        metavar="FILE",
        help="Who vouches for mirrors, PEM, instead of the system's authorities.",
    ),
    limit_rate_option,
)


def connection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add options that become keys of a remote; the command gets ``connection`` of them."""

    @wraps(command)
    def with_connection(
        *args: object,
        proxy: str | None,
        tls_client_cert: Path | None,
        tls_client_key: Path | None,
        tls_ca_cert: Path | None,
        limit_rate: str | None,
        **others: object,
    ) -> None:
        files = {
            "tls-client-cert": tls_client_cert,
            "tls-client-key": tls_client_key,
            "tls-ca-cert": tls_ca_cert,
        }
        connection: dict[str, object] = {key: str(path) for key, path in files.items() if path}
        connection |= {"proxy": proxy, "limit-rate": limit_rate}
        command(*args, connection=connection, **others)

    wrapped: Callable[..., None] = with_connection
    for option in reversed(_CONNECTION_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def mirror_rows(rows: Sequence[Moved]) -> list[dict[str, Any]]:
    """Say by mirror what it moved, for ``--json``; ``kinds`` has bytes."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = found.setdefault(
            row.mirror, {"mirror": row.mirror, "bytes": 0, "requests": 0, "kinds": {}}
        )
        one["bytes"] += row.bytes
        one["requests"] += row.requests
        one["kinds"][row.kind] = row.bytes
    return list(found.values())


def mirror_lines(rows: Sequence[Moved], *, all_of_them: bool) -> list[str]:
    """Say by mirror what it moved, where several served or it is wanted."""
    served = [row for row in mirror_rows(rows) if row["bytes"] >= _LEAST_SERVED]
    if len(served) < 2 and not all_of_them:
        return []
    return [
        f"  from {row['mirror']}: {human_bytes(row['bytes'])} in {row['requests']} requests"
        for row in sorted(served, key=lambda row: -row["bytes"])
    ]


def wrong_rows(wrong: Sequence[WrongBytes]) -> list[dict[str, str]]:
    """Name the mirrors that served wrong bytes, for ``--json``."""
    return [{"mirror": one.mirror, "what": one.what, "reason": one.reason} for one in wrong]


def wrong_lines(wrong: Sequence[WrongBytes]) -> list[str]:
    """Name the mirrors that served wrong bytes."""
    return [
        f"{one.mirror} served wrong bytes and was left: {one.what}: {one.reason}" for one in wrong
    ]
