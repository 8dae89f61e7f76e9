"""An S3 server for tests, on loopback, that fails when it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("moto", reason="moto is not installed")
pytest.importorskip("s3fs", reason="s3fs is not installed")

BUCKET = "mirror"
_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>%s</Code><Message>Please reduce your request rate."
    b"</Message></Error>"
)


@dataclass(slots=True)
class Request:
    """What a client asked."""

    method: str
    key: str
    query: str


@dataclass(slots=True)
class ObjectStore:
    """``fault`` says of each request how it fails: "SlowDown", "InternalError", "reset", or not.

    ``asked`` has every request; ``after`` is called when one was done, and may still say "reset".
    """

    port: int = 0
    asked: list[Request] = field(default_factory=list)
    fault: Callable[[Request], str] = lambda request: ""
    after: Callable[[Request], object] = lambda request: None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        """A client of another make, to look at what is there."""
        boto3: Any = pytest.importorskip("boto3")
        return boto3.client("s3", endpoint_url=self.endpoint)

    def objects(self) -> dict[str, int]:
        """Return all objects with their sizes."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", ())}

    def data(self, key: str) -> bytes:
        """Return an object."""
        found: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return found

    def put_order(self) -> list[str]:
        """Return the keys of objects in the order in which they were there whole."""
        return [
            one.key
            for one in self.asked
            if (one.method == "PUT" and "partNumber" not in one.query)
            or (one.method == "POST" and "uploadId" in one.query)
        ]


@contextmanager
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """Run one with an empty bucket that all may read; AWS programs of this process talk to it."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    store = ObjectStore()
    application: Any = DomainDispatcherApplication(create_backend_app)

    def hang_up(environ: dict[str, Any]) -> list[bytes]:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError

    def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"].removeprefix(f"/{BUCKET}").removeprefix("/")
        request = Request(environ["REQUEST_METHOD"], path, environ.get("QUERY_STRING", ""))
        store.asked.append(request)
        fault = store.fault(request)
        if fault == "reset":
            return hang_up(environ)
        if fault:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status = "500 Internal Server Error" if fault == "InternalError" else "503 Slow Down"
            start(status, [("Content-Type", "application/xml")])
            return [_SLOW_DOWN % fault.encode()]
        body = list(application(environ, start))
        return hang_up(environ) if store.after(request) == "reset" else body

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    store.port = server.port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": store.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    try:
        store.client.create_bucket(Bucket=BUCKET, ACL="public-read")
        store.asked.clear()
        yield store
    finally:
        from moto.s3.models import s3_backends

        for account in s3_backends.values():
            for backend in account.values():
                backend.reset()
        server.shutdown()
        thread.join(10)
