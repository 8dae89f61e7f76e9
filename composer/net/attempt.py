"""One request to one mirror: how libcurl is told, and what its callbacks saw."""

from __future__ import annotations

import re
from typing import Any

from composer import __version__
from composer.net.body import AttemptFailed, Body, Verdict
from composer.net.job import Job
from composer.net.location import safe_location

_REDIRECTS = 5
# curl.h has it, pycurl 7.45 not; a proxy's answer to CONNECT is not the mirror's.
_SUPPRESS_CONNECT_HEADERS = 265
_STATUS_LINE = re.compile(r"HTTP/[0-9.]+ ([0-9]{3})(?: |\Z)")
_MAX_HEADERS = 256 << 10
_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
_BUFFER = 256 << 10


def make_handle(*, connect_seconds: float, stall_rate: int, stall_seconds: int) -> Any:
    """Make a libcurl handle with what all requests have in common."""
    import pycurl

    handle = pycurl.Curl()
    handle.setopt(pycurl.USERAGENT, f"jigdo-composer/{__version__}")
    handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.BUFFERSIZE, _BUFFER)
    handle.setopt(pycurl.FOLLOWLOCATION, 1)
    handle.setopt(pycurl.MAXREDIRS, _REDIRECTS)
    handle.setopt(_SUPPRESS_CONNECT_HEADERS, 1)
    handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(connect_seconds * 1000))
    handle.setopt(pycurl.LOW_SPEED_LIMIT, stall_rate)
    handle.setopt(pycurl.LOW_SPEED_TIME, stall_seconds)
    return handle


class Attempt:
    """One request of a job to the mirror at ``base``; ``received`` counts body bytes."""

    def __init__(self, job: Job, base: str) -> None:
        self.job, self.base = job, base
        self.url = base + safe_location(job.location) if job.location else base
        self.body = Body(job.span.after(job.done), job.what)
        self.received = 0
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._status = 0
        self._stopped_by: BaseException | None = None

    def configure(self, handle: Any) -> None:
        """Point ``handle`` at the URL, the range and the callbacks."""
        import pycurl

        web = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
        scheme = self.url.partition(":")[0]
        own = {"http": web, "https": pycurl.PROTO_HTTPS, "file": pycurl.PROTO_FILE}[scheme]
        handle.setopt(pycurl.URL, self.url)
        handle.setopt(pycurl.PROTOCOLS, own)
        handle.setopt(pycurl.REDIR_PROTOCOLS, own & web)
        handle.setopt(pycurl.HEADERFUNCTION, self._header)
        handle.setopt(pycurl.WRITEFUNCTION, self._write)
        if self.body.span.header:
            handle.setopt(pycurl.RANGE, self.body.span.header)
        else:
            handle.unsetopt(pycurl.RANGE)

    def _header(self, line: bytes) -> int:
        try:
            self._header_bytes += len(line)
            text = line.decode("latin-1").strip()
            if self._header_bytes > _MAX_HEADERS:
                raise AttemptFailed("headers without end", Verdict.LIED)
            if match := _STATUS_LINE.match(text):
                self._status, self._headers = int(match[1]), {}
            elif text:
                name, _, value = text.partition(":")
                self._headers[name.strip().lower()] = value.strip()
            elif self._status >= 200 and not self._redirected():
                self.body.begin(self._status, self._headers)
                self._status = 0  # what follows the body are trailers
        except BaseException as error:
            self._stopped_by = error
            return -1
        return len(line)

    def _redirected(self) -> bool:
        return self._status in _REDIRECT_STATUS and "location" in self._headers

    def _write(self, piece: bytes) -> int:
        try:
            self.received += len(piece)
            kept = self.body.take(piece)
            if kept:
                self.job.sink.write(kept)
            return -1 if self.body.complete else len(piece)
        except BaseException as error:
            self._stopped_by = error
            return -1

    def failure(self, code: int, reason: str) -> AttemptFailed | None:
        """Why this attempt did not bring all, or None; raises what a callback had to swallow."""
        if isinstance(self._stopped_by, AttemptFailed):
            return self._stopped_by
        if self._stopped_by is not None:
            raise self._stopped_by
        if self.body.complete:
            return None
        if self.body.fault is not None:
            return self.body.fault
        return self._explained(code, reason) if code else self.body.end()

    def _explained(self, code: int, reason: str) -> AttemptFailed:
        import pycurl

        if code == pycurl.E_WRITE_ERROR:
            # Python ran a signal handler before the callback's first line: Ctrl-C.
            raise KeyboardInterrupt
        if code == pycurl.E_FILE_COULDNT_READ_FILE:
            return AttemptFailed("no such file", Verdict.MISSING)
        if code in (pycurl.E_BAD_DOWNLOAD_RESUME, pycurl.E_HTTP_RANGE_ERROR):
            return AttemptFailed("the file there is shorter than declared", Verdict.LIED)
        if code == pycurl.E_TOO_MANY_REDIRECTS:
            return AttemptFailed(f"more than {_REDIRECTS} redirects", Verdict.REFUSED)
        if code == pycurl.E_UNSUPPORTED_PROTOCOL:
            return AttemptFailed("redirects to a less trusted kind of URL", Verdict.REFUSED)
        if code == pycurl.E_PEER_FAILED_VERIFICATION:
            return AttemptFailed(f"TLS: {reason}", Verdict.REFUSED)
        if code == pycurl.E_OPERATION_TIMEDOUT and self.received:
            reason = f"stalled after {self.received} bytes"
        if code == pycurl.E_PARTIAL_FILE:
            reason = f"closed the connection after {self.received} bytes"
        return AttemptFailed(reason or f"libcurl error {code}", Verdict.TRANSIENT)
