"""What is kept of an answer, judged without a socket."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.net.body import AttemptFailed, Body, Span, Verdict

_FILE = bytes(range(256)) * 4


def _run(span: Span, status: int, headers: dict[str, str], pieces: list[bytes]) -> bytes:
    body = Body(span, "thing")
    kept = bytearray()
    body.begin(status, headers)
    for piece in pieces:
        kept += body.take(piece)
        if body.complete:
            return bytes(kept)
    if (failure := body.end()) is not None:
        raise failure
    return bytes(kept)


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(1, 300), st.booleans())
def test_whole_file_in_answer_to_a_range_serves(
    first: int, length: int, size: int, declared: bool
) -> None:
    length = min(length, len(_FILE) - first)
    headers = {"content-length": str(len(_FILE))} if declared else {}
    got = _run(Span(first, length), 200, headers, _pieces(_FILE, size))
    assert got == _FILE[first : first + length]


@given(
    st.sampled_from([Span(3, 5), Span(0, 8), Span(0, 8, exact=False), Span(4, 4, whole=True)]),
    st.sampled_from([0, 200, 206, 301, 404, 416, 503]),
    st.dictionaries(
        st.sampled_from(["content-range", "content-length", "content-type", "retry-after"]),
        st.sampled_from(
            ["bytes 3-7/20", "bytes 0-7/8", "bytes 4-7/*", "8", "-1", "²", "text/html"]
        ),
    ),
    st.lists(st.binary(max_size=9), max_size=5),
)
def test_no_answer_gives_more_than_was_asked_for(
    span: Span, status: int, headers: dict[str, str], pieces: list[bytes]
) -> None:
    with suppress(AttemptFailed):
        kept = _run(span, status, headers, pieces)
        assert len(kept) <= span.length
        assert not span.exact or len(kept) == span.length


@pytest.mark.parametrize(
    ("span", "status", "headers", "verdict"),
    [
        (Span(3, 5), 206, {"content-range": "bytes 4-8/20"}, Verdict.LIED),
        (Span(3, 5), 206, {"content-range": "bytes 3-8/20"}, Verdict.LIED),
        (Span(3, 5), 206, {"content-range": "bytes 3-6/7"}, Verdict.LIED),
        (Span(3, 5), 206, {}, Verdict.LIED),
        (Span(3, 5), 206, {"content-type": "multipart/byteranges"}, Verdict.LIED),
        (Span(0, 5, whole=True), 206, {"content-range": "bytes 0-4/5"}, Verdict.LIED),
        (Span(3, 5, whole=True), 206, {"content-range": "bytes 3-7/9"}, Verdict.LIED),
        (Span(0, 5, whole=True), 200, {"content-length": "6"}, Verdict.LIED),
        (Span(3, 5), 200, {"content-length": "7"}, Verdict.LIED),
        (Span(0, 5, exact=False), 200, {"content-length": "6"}, Verdict.LIED),
        (Span(3, 5), 200, {"content-type": "text/html; charset=utf-8"}, Verdict.LIED),
    ],
)
def test_wrong_head_is_refused_before_any_byte(
    span: Span, status: int, headers: dict[str, str], verdict: Verdict
) -> None:
    with pytest.raises(AttemptFailed) as caught:
        Body(span, "thing").begin(status, headers)
    assert caught.value.verdict is verdict


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (404, Verdict.MISSING),
        (410, Verdict.MISSING),
        (403, Verdict.REFUSED),
        (416, Verdict.LIED),
        (429, Verdict.TRANSIENT),
        (503, Verdict.TRANSIENT),
    ],
)
def test_error_page_is_never_content(status: int, verdict: Verdict) -> None:
    with pytest.raises(AttemptFailed) as caught:
        _run(Span(0, 5), status, {"retry-after": "7"}, [b"<html>"])
    assert caught.value.verdict is verdict
    assert caught.value.wait == (7 if verdict is Verdict.TRANSIENT else 0)


def test_error_page_without_end_is_cut() -> None:
    body = Body(Span(0, 5), "thing")
    body.begin(500, {})
    body.take(b"x" * (64 << 10))
    with pytest.raises(AttemptFailed):
        body.take(b"x")


def test_one_byte_more_is_refused() -> None:
    for span in (Span(0, 5, whole=True), Span(0, 5, exact=False)):
        with pytest.raises(AttemptFailed, match="declared 5 bytes"):
            _run(span, 200, {}, [b"12345", b"6"])
    with pytest.raises(AttemptFailed, match="declared 5 bytes"):
        _run(Span(3, 5), 206, {"content-range": "bytes 3-7/20"}, [b"123456"])
