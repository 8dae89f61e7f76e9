"""A prefix of an S3 bucket: objects listed, read, put and removed; and a lease on all of it.

Requests go through s3fs, which takes credentials, region and endpoint from where all AWS
programs do.  Throttling (503 SlowDown), errors of the server and broken connections are tried
again with growing pauses; what is left ends in BucketFailed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

from composer.checksum import ContentDigest
from composer.errors import EXIT_BUSY, ChecksumMismatch, ComposerError, UsageError, missing_library
from composer.system.files import write_bytes

#: Files up to this size are put in one request; larger ones in parts of it.  Five threads may
#: each hold one.
PART = 16 << 20
_MOST_PARTS = 10_000
_ATTEMPTS = 6
_LEASE_SECONDS = 600
_LOCK = ".jigdo-lock"
_MOST_DELETED = 1000
_SHA256 = "sha256"


class BucketFailed(ComposerError):
    """Object storage that refuses, or fails again and again."""


class BucketBusy(ComposerError):
    """Another publisher is at work in the bucket."""

    exit_status = EXIT_BUSY


@dataclass(frozen=True, slots=True)
class Stored:
    """An object that is there."""

    size: int
    etag: str


def is_bucket(text: str) -> bool:
    """Tell whether a person means object storage."""
    return text.startswith("s3://")


def http_base(url: str) -> str:
    """Return the base URL by which HTTP clients read what is at ``s3://BUCKET/PREFIX``."""
    bucket, prefix = _parse(url)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = _endpoint() or f"https://s3.{region}.amazonaws.com"
    return f"{endpoint.rstrip('/')}/{bucket}/{quote(prefix)}"


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _parse(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    wrong = parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc
    if wrong or parts.query or parts.fragment or "//" in parts.path:
        raise UsageError(f"{url}: expected s3://BUCKET/PREFIX")
    prefix = parts.path.strip("/")
    return parts.netloc, f"{prefix}/" if prefix else ""


class Bucket:
    """The objects below one prefix; locations are relative to it.  For several threads."""

    def __init__(self, url: str, files: Any) -> None:
        self.url, self._files = url.rstrip("/"), files
        self._bucket, self._prefix = _parse(url)

    @classmethod
    def of(cls, url: str) -> Self:
        """Connect to ``s3://BUCKET/PREFIX``; raises UsageError and MissingRequirement."""
        _parse(url)
        try:
            s3fs: Any = import_module("s3fs")
        except ImportError:
            raise missing_library("s3fs") from None
        files = s3fs.S3FileSystem(
            endpoint_url=_endpoint(),
            skip_instance_cache=True,
            use_listings_cache=False,
            config_kwargs={
                "retries": {"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                "connect_timeout": 15,
                "read_timeout": 60,
                "s3": {"addressing_style": "path"} if _endpoint() else {},
            },
        )
        files.retries = 1  # botocore's are enough
        return cls(url, files)

    def list(self) -> dict[str, Stored]:
        """Return all objects."""
        found: dict[str, Stored] = {}
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Bucket=self._bucket, Prefix=self._prefix, **token)
            for one in page.get("Contents", ()):
                location = one["Key"].removeprefix(self._prefix)
                found[location] = Stored(int(one["Size"]), one["ETag"])
            if not page.get("IsTruncated"):
                return found
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, location: str, *, limit: int) -> tuple[bytes, str] | None:
        """Return a small object and its tag, None where it is not there."""
        asyn: Any = import_module("fsspec.asyn")

        async def get() -> tuple[bytes, str]:
            found = await self._files._call_s3("get_object", **self._key(location))
            async with found["Body"] as body:
                if found["ContentLength"] > limit:
                    raise BucketFailed(f"{self.url}/{location}: more than {limit} bytes")
                return await body.read(), found["ETag"]

        try:
            with self._told(location):
                done: tuple[bytes, str] = asyn.sync(self._files.loop, get)
        except BucketFailed as error:
            if _code(error) in _MISSING:
                return None
            raise
        return done

    def digest(self, location: str) -> str | None:
        """Return the SHA-256 that was put with an object, None where none was."""
        found = self._find("head_object", **self._key(location))
        return None if found is None else found.get("Metadata", {}).get(_SHA256)

    def put_bytes(
        self, location: str, data: bytes, *, only_new: bool = False, instead_of: str = ""
    ) -> str | None:
        """Put an object in one request; returns its tag.

        None where one is there already (``only_new``), or another than that of the tag
        ``instead_of``.
        """
        only = {"IfNoneMatch": "*"} if only_new else {}
        only |= {"IfMatch": instead_of} if instead_of else {}
        digest = hashlib.sha256(data)
        try:
            done = self._call(
                "put_object",
                Body=data,
                Metadata={_SHA256: digest.hexdigest()},
                # The store compares it with what has come.
                ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
                ContentType=_type_of(location),
                **self._key(location),
                **only,
            )
        except BucketFailed as error:
            if only and _code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                return None
            raise
        return str(done["ETag"])

    def put(self, path: Path, location: str, digest: ContentDigest, uploads: Uploads) -> str:
        """Put a file whose digest is ``digest``, in parts if it is large; returns its tag.

        It is there whole or not at all.  ``uploads`` remembers parts that have come, for the
        next run.  Raises ChecksumMismatch when the file is another one.
        """
        if path.stat().st_size > PART:
            return self._put_parts(path, location, digest, uploads)
        data = path.read_bytes()
        _require(path, digest, hashlib.sha256(data).digest())
        tag = self.put_bytes(location, data)
        assert tag is not None
        return tag

    def _put_parts(self, path: Path, location: str, digest: ContentDigest, uploads: Uploads) -> str:
        key = self._key(location)
        size = max(PART, -(-path.stat().st_size // _MOST_PARTS))
        upload, come = uploads.known(location, digest), {}
        if upload:
            come = self._parts(location, upload)
        if not come:
            begun = self._call(
                "create_multipart_upload",
                Metadata={_SHA256: str(digest)},
                ChecksumAlgorithm="SHA256",
                ContentType=_type_of(location),
                **key,
            )
            upload = str(begun["UploadId"])
            uploads.begin(location, digest, upload)
        parts, state = [], hashlib.sha256()
        with path.open("rb") as stream:
            for number in range(1, _MOST_PARTS + 1):
                piece = stream.read(size)
                if not piece:
                    break
                state.update(piece)
                part = come.get(number)
                if part is None or part["ETag"].strip('"') != _md5(piece):
                    part = self._call(
                        "upload_part",
                        UploadId=upload,
                        PartNumber=number,
                        Body=piece,
                        ChecksumSHA256=_checksum(piece),
                        **key,
                    )
                parts.append(
                    {
                        "PartNumber": number,
                        "ETag": part["ETag"],
                        "ChecksumSHA256": _checksum(piece),
                    }
                )
        try:
            _require(path, digest, state.digest())
        except ChecksumMismatch:
            self._call("abort_multipart_upload", UploadId=upload, **key)
            uploads.end(location)
            raise
        done = self._call(
            "complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": parts}, **key
        )
        uploads.end(location)
        return str(done["ETag"])

    def _parts(self, location: str, upload: str) -> dict[int, Any]:
        """Return the parts that have come; none where the upload is gone."""
        found: dict[int, Any] = {}
        marker: dict[str, int] = {}
        while True:
            page = self._find("list_parts", UploadId=upload, **marker, **self._key(location))
            if page is None:
                return {}
            found |= {int(part["PartNumber"]): part for part in page.get("Parts", ())}
            if not page.get("IsTruncated"):
                return found
            marker = {"PartNumberMarker": page["NextPartNumberMarker"]}

    def delete(self, locations: Iterable[str]) -> None:
        """Remove objects."""
        keys = [{"Key": f"{self._prefix}{location}"} for location in locations]
        for at in range(0, len(keys), _MOST_DELETED):
            wanted = {"Objects": keys[at : at + _MOST_DELETED], "Quiet": True}
            done = self._call("delete_objects", Bucket=self._bucket, Delete=wanted)
            for error in done.get("Errors", ()):
                raise BucketFailed(f"{self.url}: {error['Key']} stays: {error['Message']}")

    def _key(self, location: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{location}"}

    def _call(self, method: str, **words: Any) -> Any:
        with self._told(str(words.get("Key", "")).removeprefix(self._prefix)):
            return self._files.call_s3(method, **words)

    def _find(self, method: str, **words: Any) -> Any:
        """Call a method that asks for something; None where it is not there."""
        try:
            return self._call(method, **words)
        except BucketFailed as error:
            if _code(error) in _MISSING:
                return None
            raise

    @contextmanager
    def _told(self, location: str) -> Iterator[None]:
        """Turn what s3fs and botocore raise into BucketFailed."""
        try:
            yield
        except ComposerError:
            raise
        except Exception as error:
            code = _code(error)
            told = str(error).strip() or type(error).__name__
            raise BucketFailed(
                f"{self.url}/{location}: {told}",
                details=[f"{code}, after {_ATTEMPTS} attempts"] if code in _AGAIN else [],
                hint=""
                if code in _AGAIN
                else "are credentials, region and AWS_ENDPOINT_URL right "
                "(docs/object-storage.md), and is the bucket there?",
            ) from error


_AGAIN = ("SlowDown", "503", "500", "InternalError", "ServiceUnavailable", "RequestTimeout")


_MISSING = ("404", "NoSuchKey", "NoSuchUpload", "NotFound")


class Lease:
    """The right to change what is in a bucket, for a while: one object, put only if none is there.

    One that its owner has not renewed in time may be taken over.
    """

    def __init__(self, bucket: Bucket, *, seconds: int = _LEASE_SECONDS) -> None:
        self._bucket, self._seconds = bucket, seconds
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        self._tag, self._due = "", 0.0

    def __enter__(self) -> Self:
        """Take it; raises BucketBusy where another has it."""
        tag = self._bucket.put_bytes(_LOCK, self._said(), only_new=True)
        if tag is None:
            there = self._bucket.read(_LOCK, limit=1 << 16)
            owner, left = _lease_of(there[0]) if there else ("", 0.0)
            if there and owner == self._owner:
                tag = there[1]  # the answer to an attempt before was lost
            elif there and left > 0:
                raise BucketBusy(
                    f"{self._bucket.url}: {owner} is at work there",
                    hint=f"wait; if that process is gone, its lease ends in {int(left) + 1} s",
                )
            elif there:
                tag = self._bucket.put_bytes(_LOCK, self._said(), instead_of=there[1])
            else:
                tag = self._bucket.put_bytes(_LOCK, self._said(), only_new=True)
            if tag is None:
                raise BucketBusy(f"{self._bucket.url}: another publisher has just begun there")
        self._tag = tag
        self._due = time.monotonic() + self._seconds / 3
        return self

    def renew(self) -> None:
        """Renew it, if it is time to; raises BucketBusy where it has been taken over."""
        if time.monotonic() < self._due:
            return
        tag = self._bucket.put_bytes(_LOCK, self._said(), instead_of=self._tag)
        if tag is None:
            there = self._bucket.read(_LOCK, limit=1 << 16)
            if there is None or _lease_of(there[0])[0] != self._owner:
                raise BucketBusy(
                    f"{self._bucket.url}: this took too long, another publisher has begun there"
                )
            tag = there[1]
        self._tag = tag
        self._due = time.monotonic() + self._seconds / 3

    def __exit__(self, *_: object) -> None:
        """Give it back, if it is still ours."""
        with suppress(BucketFailed):
            there = self._bucket.read(_LOCK, limit=1 << 16)
            if there is not None and _lease_of(there[0])[0] == self._owner:
                self._bucket.delete([_LOCK])

    def _said(self) -> bytes:
        until = time.time() + self._seconds
        return json.dumps({"owner": self._owner, "until": round(until, 1)}).encode()


def _lease_of(data: bytes) -> tuple[str, float]:
    """Return whose a lease is, and how many seconds are left of it."""
    try:
        document = json.loads(data)
        return str(document["owner"]), float(document["until"]) - time.time()
    except (ValueError, KeyError, TypeError):
        return "something that is no lease", 0.0


class Uploads:
    """Uploads in parts that have begun, in a file beside the directory's other state."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._all: dict[str, list[str]] = {}
        with suppress(OSError, ValueError):
            document = json.loads(path.read_bytes())
            if isinstance(document, dict):
                self._all = document

    def known(self, location: str, digest: ContentDigest) -> str:
        """Return the upload of this content to this place, or nothing."""
        found = self._all.get(location)
        is_it = isinstance(found, list) and len(found) == 2 and found[0] == str(digest)
        return str(found[1]) if found and is_it else ""

    def begin(self, location: str, digest: ContentDigest, upload: str) -> None:
        """Remember one."""
        with self._lock:
            self._write({**self._all, location: [str(digest), upload]})

    def end(self, location: str) -> None:
        """Forget it."""
        with self._lock:
            self._write({key: value for key, value in self._all.items() if key != location})

    def _write(self, document: dict[str, list[str]]) -> None:
        self._all = document
        write_bytes(self._path, json.dumps(document, sort_keys=True).encode())


def _code(error: BaseException | None) -> str:
    """Return the code that the store gave, through all that wrapped it."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return str(response["Error"].get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""


def _require(path: Path, expected: ContentDigest, actual: bytes) -> None:
    if actual != expected:
        raise ChecksumMismatch(
            what=str(path),
            expected=str(expected),
            actual=actual.hex(),
            hint="it changed while it was read: run this again",
        )


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _type_of(location: str) -> str:
    """Return the media type, for browsers that look at what is there."""
    types = {
        "atom": "application/atom+xml",
        "css": "text/css",
        "html": "text/html; charset=utf-8",
        "js": "text/javascript",
        "json": "application/json",
        "png": "image/png",
        "rpm": "application/x-rpm",
        "svg": "image/svg+xml",
        "txt": "text/plain; charset=utf-8",
        "xml": "application/xml",
    }
    return types.get(location.rpartition(".")[2], "application/octet-stream")
