"""One request to one mirror: how libcurl is told, and what its callbacks saw."""

from __future__ import annotations

import re
import time
from typing import Any

from composer import __version__
from composer.net.body import AttemptFailed, Body, Verdict
from composer.net.job import Job
from composer.net.location import safe_location
from composer.net.network import Network, origin

_REDIRECTS = 5
# curl.h has it, pycurl 7.45 not; a proxy's answer to CONNECT is not the mirror's.
_SUPPRESS_CONNECT_HEADERS = 265
_STATUS_LINE = re.compile(r"HTTP/[0-9.]+ ([0-9]{3})(?: |\Z)")
_MAX_HEADERS = 256 << 10
_REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
_BUFFER = 256 << 10
_MOST_SECONDS = 7 * 86_400


class Attempt:
    """One request of a job to the mirror at ``base``; ``received`` counts body bytes."""

    def __init__(self, job: Job, base: str, network: Network) -> None:
        self.job, self.base, self._network = job, base, network
        self.url = base + safe_location(job.location) if job.location else base
        self.body = Body(job.span.after(job.done), job.what)
        self.received = self.kept = 0
        self.started = time.monotonic()
        self.is_first = job.requests == 0
        self._hops = 0
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._status = 0
        self._stopped_by: BaseException | None = None

    def make_handle(self) -> Any:
        """Make a libcurl handle for this request."""
        import pycurl

        limits, way = self._network.limits, self._network.way
        is_file = self.url.startswith("file:")
        most = min(limits.most_seconds(self.body.span.length), _MOST_SECONDS)
        handle = pycurl.Curl()
        url, wanted = self._place()
        handle.setopt(pycurl.URL, url)
        web = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_FILE if is_file else web)
        handle.setopt(pycurl.HEADERFUNCTION, self._header)
        handle.setopt(pycurl.WRITEFUNCTION, self._write)
        handle.setopt(pycurl.USERAGENT, f"jigdo-composer/{__version__}")
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.BUFFERSIZE, min(_BUFFER, self._network.throttle.piece or _BUFFER))
        handle.setopt(_SUPPRESS_CONNECT_HEADERS, 1)
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(limits.connect_seconds * 1000))
        handle.setopt(pycurl.LOW_SPEED_LIMIT, limits.stall_rate)
        handle.setopt(pycurl.LOW_SPEED_TIME, limits.stall_seconds)
        handle.setopt(pycurl.TIMEOUT_MS, int(most * 1000))
        handle.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        if wanted:
            handle.setopt(pycurl.RANGE, wanted)
        if self.url.startswith("https:"):
            # HTTP/2 carries all on one connection: wait for the first instead of making more.
            handle.setopt(pycurl.PIPEWAIT, 1)
        if way.ca_cert:
            handle.setopt(pycurl.CAINFO, str(way.ca_cert))
        if way.client_cert and origin(self.url) in way.own:
            handle.setopt(pycurl.SSLCERT, str(way.client_cert))
            handle.setopt(pycurl.SSLKEY, str(way.client_key or way.client_cert))
        if way.proxy:
            handle.setopt(pycurl.PROXY, "" if way.proxy == "none" else way.proxy)
        return handle

    def follow(self, handle: Any) -> bool:
        """Go where the answer, which has ended, redirects to; False when it does not.

        Here, and not in libcurl, because that would show the client's certificate anywhere.
        """
        import pycurl

        if not self._redirected() or self._stopped_by is not None:
            return False
        url = handle.getinfo(pycurl.REDIRECT_URL) or ""
        kinds = {"http": ("http", "https"), "https": ("https",)}
        self._hops += 1
        if self._hops > _REDIRECTS:
            reason = f"more than {_REDIRECTS} redirects"
        elif url.partition(":")[0] not in kinds.get(self.url.partition(":")[0], ()):
            reason = "redirects to a less trusted kind of URL"
        else:
            self.url, self._status = url, 0
            return True
        self._stopped_by = AttemptFailed(reason, Verdict.REFUSED)
        return False

    def _place(self) -> tuple[str, str]:
        """Return the URL, and the range to ask for, or "" for all."""
        span, container = self.body.span, self.job.mirrors.container
        if container is not None:
            length = span.length if span.exact else None
            if found := container.find(self.job.location, span.first, length):
                url, first, length = found
                return url, f"{first}-{first + length - 1}"
        return self.url, span.header

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
            self._network.throttle.take(len(piece))
            if self._redirected():
                if self.received > _MAX_HEADERS:
                    raise AttemptFailed("a redirect without end", Verdict.LIED)
                return len(piece)
            kept = self.body.take(piece)
            if kept:
                self.job.take(self.base, kept)
                self.kept += len(kept)
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
        if code in (
            pycurl.E_PEER_FAILED_VERIFICATION,
            pycurl.E_SSL_CERTPROBLEM,
            pycurl.E_SSL_CACERT_BADFILE,
        ):
            return AttemptFailed(f"TLS: {reason}", Verdict.REFUSED)
        if code == pycurl.E_OPERATION_TIMEDOUT and self.received:
            reason = f"stalled after {self.received} bytes"
        if code == pycurl.E_PARTIAL_FILE:
            reason = f"closed the connection after {self.received} bytes"
        return AttemptFailed(reason or f"libcurl error {code}", Verdict.TRANSIENT)
