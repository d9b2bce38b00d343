"""Pulling with nothing but HTTP: for exact statuses, ranges, and many at once."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.support.images import MANIFEST_TYPES, Catalog, Image
from tests.support.layers import sha256

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; `complete` says whether as many bytes came as it promised."""

    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes
    complete: bool
    seconds: float

    @property
    def digest(self) -> str:
        """Of the body."""
        return sha256(self.body)


def fetch(
    url: str,
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    leave_at: int | None = None,
    watch: Callable[[int], None] | None = None,
) -> Answer:
    """One request on a connection of its own.

    `watch` is called with the number of bytes of the body so far, first with 0 after the headers. With
    `leave_at` the connection is closed after so many bytes: all that is in `body` then.
    """
    address = urlsplit(url)
    target = address.path + (f"?{address.query}" if address.query else "")
    began = time.monotonic()
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=TIMEOUT)
    try:
        connection.request(method, target, headers=headers or {})
        with connection.getresponse() as response:
            body, whole = _read(response, leave_at, watch or _nobody)
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, body, whole, time.monotonic() - began)
    finally:
        connection.close()


def _nobody(_count: int) -> None:
    """Watches nothing."""


def _read(
    response: http.client.HTTPResponse, leave_at: int | None, watch: Callable[[int], None]
) -> tuple[bytes, bool]:
    """The body, and whether it is as long as was promised."""
    body = b""
    watch(0)
    promised = response.length  # None: chunked; 0 for HEAD
    try:
        while data := response.read1(CHUNK):
            body += data
            watch(len(body))
            if leave_at is not None and len(body) >= leave_at:
                return body[:leave_at], False
    except (http.client.IncompleteRead, ConnectionError):
        return body, False
    return body, promised is None or len(body) == promised


def manifest_url(registry: str, image: Image, reference: str | None = None) -> str:
    """Where a registry has the image's manifest, by its tag unless a reference is given."""
    return f"{registry}/v2/{image.name}/manifests/{reference or image.tag}"


def blob_url(registry: str, image: Image, digest: str) -> str:
    """Where a registry has one of the image's blobs."""
    return f"{registry}/v2/{image.name}/blobs/{digest}"


def pull(registry: str, catalog: Catalog, image: Image) -> None:
    """Fetch everything below the image's tag. Raises AssertionError unless every byte is right."""
    manifests, blobs = catalog.objects(image)
    accept = ", ".join(MANIFEST_TYPES)
    urls = {manifest_url(registry, image, digest): digest for digest in manifests}
    urls |= {blob_url(registry, image, digest): digest for digest in blobs}
    for url, digest in {manifest_url(registry, image): image.digest, **urls}.items():
        answer = fetch(url, {"Accept": accept})
        assert (answer.status, answer.digest) == (200, digest), (
            f"{url}: {answer.status} {answer.body[:300]!r}"
        )
