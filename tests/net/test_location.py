"""Locations lead below a base, base URLs are what they seem."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.errors import FormatError
from composer.net.location import Mirrors, parse_base, safe_location


@pytest.mark.parametrize(
    ("location", "quoted"),
    [
        ("Packages/a/a-1-1.x86_64.rpm", "Packages/a/a-1-1.x86_64.rpm"),
        ("a b+c~1^2.rpm", "a%20b%2Bc~1%5E2.rpm"),
        ("ü/漢.rpm", "%C3%BC/%E6%BC%A2.rpm"),
        ("./a//b", "a/b"),
        ("50%.rpm", "50%25.rpm"),
        ("a?b#c", "a%3Fb%23c"),
        ("pkg-1:2.rpm", "pkg-1%3A2.rpm"),
    ],
)
def test_location_is_quoted(location: str, quoted: str) -> None:
    assert safe_location(location) == quoted


@pytest.mark.parametrize(
    "location",
    [
        "",
        ".",
        "/",
        "..",
        "a/../b",
        "../a",
        "/etc/passwd",
        "//host/a",
        "http://elsewhere/a",
        "file:///etc/passwd",
        "a\\..\\b",
        "a\nb",
        "a\0",
        "a\x7f",
        "a" * 4097,
        "a\udc80",
    ],
)
def test_location_that_could_lead_elsewhere_is_refused(location: str) -> None:
    with pytest.raises(FormatError):
        safe_location(location)


@given(st.text("a./\\%~+ ü:\x00\x1f", max_size=12))
def test_safe_location_never_leaves(location: str) -> None:
    try:
        quoted = safe_location(location)
    except FormatError:
        return
    segments = unquote(quoted).split("/")
    assert all(segment not in ("", ".", "..") for segment in segments)
    assert quoted.isascii()
    assert not set(quoted) & set(" \\:\x00\x1f")


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("http://host/a", "http://host/a/"),
        ("https://host:8443/a/", "https://host:8443/a/"),
        ("file:///srv/a%20b", "file:///srv/a%20b/"),
    ],
)
def test_base_ends_with_a_slash(text: str, base: str) -> None:
    assert parse_base(text) == base


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/srv/mirror",
        "ftp://host/a",
        "http:///a",
        "http://host/a?b",
        "http://host/#a",
        "http://user:secret@host/",
        "http://host/a b",
        "file://host/a",
        "file:a",
    ],
)
def test_base_that_cannot_be_one_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_base(text)
    assert "secret" not in str(caught.value)


def test_mirrors_keep_their_order_and_no_doubles() -> None:
    mirrors = Mirrors.parse("http://b", "http://a/", "http://b/")
    assert mirrors.bases == ("http://b/", "http://a/")
    with pytest.raises(ValueError):
        Mirrors.parse()
