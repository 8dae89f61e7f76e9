"""What the TOML file of a remote may hold (docs/remotes.md): read, checked, written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from composer.errors import ComposerError
from composer.net.archive import Archive
from composer.net.location import Mirrors, parse_base
from composer.net.network import Limits, Way

_ID = r"^[A-Za-z0-9][A-Za-z0-9_.:+-]{0,199}$"
# 32 bytes in base64, as `ostree sign` writes a public key.
_ED25519 = r"^[A-Za-z0-9+/]{43}=$"
_DIGEST = r"^[0-9a-f]{64}$"
_FINGERPRINT = r"^[0-9A-F]{40}([0-9A-F]{24})?$"
_RATE = re.compile(r"([0-9]{1,12})([kMG]?)\Z")
_LEAST_RATE = 1000
_PROXIES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")

Trust = Literal["tuf+gpg", "tuf", "gpg", "none"]


def shown_proxy(proxy: str) -> str:
    """Return the URL of a proxy with its password hidden."""
    place, at, host = proxy.rpartition("@")
    if not at:
        return proxy
    scheme, _, user = place.partition("://")
    return f"{scheme}://{user.partition(':')[0]}:***@{host}"


def parse_rate(text: str) -> int:
    """Read bytes per second, as ``500k`` or ``2M`` (decimal); raises ValueError."""
    match = _RATE.match(text)
    if match is None:
        raise ValueError(f"{text}: expected bytes per second, such as 500k or 2M")
    rate = int(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[2]]
    if rate and rate < _LEAST_RATE:
        raise ValueError(f"{text}: less than {_LEAST_RATE} bytes per second moves nothing in time")
    return rate


def _parse_proxy(text: str) -> str:
    if text == "none":
        return text
    try:
        parts = urlsplit(text)
        usable = parts.scheme in _PROXIES and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable or parts.path.strip("/") or any(c <= " " for c in text):
        # Not the text itself: it may hold a password.
        raise ValueError(
            f"expected none, or SCHEME://[USER:PASSWORD@]HOST[:PORT] with a scheme of "
            f"{', '.join(_PROXIES)}"
        )
    return text


class Document(BaseModel):
    """What a TOML file of a remote may hold."""

    model_config = ConfigDict(extra="forbid", strict=True)

    urls: list[str]
    trust: Trust
    fingerprints: list[Annotated[str, Field(pattern=_FINGERPRINT)]] = []
    ed25519_keys: Annotated[
        list[Annotated[str, Field(pattern=_ED25519)]], Field(alias="ed25519-keys")
    ] = []
    archives: list[str] = []
    mirrorlist: str | None = None
    tuf_root: Annotated[str, Field(pattern=_DIGEST)] | None = None
    proxy: str | None = None
    tls_client_cert: Annotated[str | None, Field(alias="tls-client-cert")] = None
    tls_client_key: Annotated[str | None, Field(alias="tls-client-key")] = None
    tls_ca_cert: Annotated[str | None, Field(alias="tls-ca-cert")] = None
    limit_rate: Annotated[str | None, Field(alias="limit-rate")] = None
    connect_timeout: Annotated[int | None, Field(alias="connect-timeout", ge=1, le=600)] = None
    stall_time: Annotated[int | None, Field(alias="stall-time", ge=1, le=3600)] = None
    stall_rate: Annotated[int | None, Field(alias="stall-rate", ge=1)] = None
    attempts: Annotated[int | None, Field(ge=1, le=100)] = None
    connections: Annotated[int | None, Field(ge=1, le=32)] = None
    repositories: dict[
        Annotated[str, Field(pattern=_ID)], Annotated[list[str], Field(min_length=1)]
    ] = {}

    @field_validator("urls")
    @classmethod
    def _urls(cls, urls: list[str]) -> list[str]:
        return list(Mirrors.parse(*urls).bases) if urls else []

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not self.urls and not self.mirrorlist:
            raise ValueError("urls: at least one is needed, or a mirrorlist")
        if self.tls_client_key and not self.tls_client_cert:
            raise ValueError("tls-client-key: it needs a tls-client-cert")
        return self

    @field_validator("archives")
    @classmethod
    def _archives(cls, archives: list[str]) -> list[str]:
        return list(dict.fromkeys(str(Archive.parse(text)) for text in archives))

    @field_validator("mirrorlist")
    @classmethod
    def _mirrorlist(cls, url: str | None) -> str | None:
        # The query after a "?" is what lists are asked by.
        if url is not None:
            parse_base(url.partition("?")[0])
        return url

    @field_validator("proxy")
    @classmethod
    def _proxy(cls, url: str | None) -> str | None:
        return url and _parse_proxy(url)

    @field_validator("limit_rate")
    @classmethod
    def _limit_rate(cls, text: str | None) -> str | None:
        if text is not None:
            parse_rate(text)
        return text

    @field_validator("tls_client_cert", "tls_client_key", "tls_ca_cert")
    @classmethod
    def _files(cls, path: str | None) -> str | None:
        if path is not None and not Path(path).is_absolute():
            raise ValueError("expected an absolute path")
        if path is not None and not Path(path).is_file():
            raise ValueError(f"{path}: there is no such file")
        return path

    @field_validator("repositories")
    @classmethod
    def _repositories(cls, repositories: dict[str, list[str]]) -> dict[str, list[str]]:
        return {key: list(Mirrors.parse(*urls).bases) for key, urls in repositories.items()}

    @property
    def has_password(self) -> bool:
        """Tell whether others must not read it."""
        return "@" in (self.proxy or "")

    @property
    def way(self) -> Way:
        """By what way the mirrors are reached."""
        return Way(
            proxy=self.proxy or "",
            client_cert=_path(self.tls_client_cert),
            client_key=_path(self.tls_client_key),
            ca_cert=_path(self.tls_ca_cert),
            limit_rate=parse_rate(self.limit_rate or "0"),
        )

    @property
    def limits(self) -> Limits:
        """How patient to be with them."""
        usual = Limits()
        return replace(
            usual,
            connect_seconds=self.connect_timeout or usual.connect_seconds,
            stall_seconds=self.stall_time or usual.stall_seconds,
            stall_rate=self.stall_rate or usual.stall_rate,
            attempts=self.attempts or usual.attempts,
            parallel=self.connections or usual.parallel,
        )

    def to_toml(self) -> str:
        """Write it, without what is as by default."""
        values = self.model_dump(by_alias=True, exclude={"repositories"}, exclude_defaults=True)
        lines = [f"{key} = {_value(value)}" for key, value in values.items()]
        if self.repositories:
            lines += ["", "[repositories]"]
            pairs = sorted(self.repositories.items())
            lines += [f"{json.dumps(key)} = {_value(urls)}" for key, urls in pairs]
        return "\n".join([*lines, ""])


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _value(value: object) -> str:
    # For numbers, and the characters that URLs, paths and fingerprints have, JSON is TOML.
    return json.dumps(value, ensure_ascii=False)


def validated(values: Mapping[str, object], explain: Callable[[str], ComposerError]) -> Document:
    """Check what is given; raises what ``explain`` makes of the first problem."""
    try:
        return Document.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            keys = (field.alias or name for name, field in Document.model_fields.items())
            text = f"unknown key; there are {', '.join(keys)}"
        raise explain(f"{where}: {text}") from None
