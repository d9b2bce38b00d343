"""What storages answer, by properties: whatever it is, a driver has a result or a DriverError, within bounds.

All of it comes over real connections, through the libraries that take it apart.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

import pytest
import requests
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.drivers import azureclient, breaker, gcsclient, s3session
from mirror.drivers.answers import MESSAGE_LIMIT
from mirror.drivers.azure import AzureObjects
from mirror.drivers.azureerrors import failure
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.base import DriverError, Entry, StorageDriver
from mirror.drivers.gcs import GcsObjects, size_told
from mirror.drivers.gcsclient import Reply
from mirror.drivers.gcserrors import refused
from mirror.drivers.gcssettings import GcsSettings
from mirror.drivers.gcsupload import taken
from mirror.drivers.objects import ObjectsDriver
from mirror.drivers.s3 import S3Driver
from mirror.drivers.s3settings import S3Settings
from mirror.drivers.swiftlogin import new_pair, pair_in
from tests.oci.strategies import bounded, texts
from tests.support.azurite import KEY
from tests.upstream.test_fuzz import values

WITHIN = 20.0  # seconds for one verb
DEEP = 100_000
# Each example is some requests over loopback.
over_http = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
STATUSES = st.sampled_from(
    [200, 200, 200, 204, 206, 301, 307, 308, 400, 401, 403, 404, 409, 412, 416, 429, 500]
)
WORDS = st.sampled_from(
    ["a/b", "r/a/b", "1", "-1", "²", "x", "9" * 30, "true", "", "2023-01-01T00:00:00.000Z"]
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["ETag", "Content-Range", "Last-Modified", "Range", "Location", "X-Goog-Stored-Content-Length"]
    ),
    st.one_of(
        WORDS.filter(str.isascii), st.sampled_from(["bytes 0-1/2", "bytes=0-9", "http://127.0.0.1:1/"])
    ),
    max_size=4,
)
NAMES = [
    *("ListBucketResult", "EnumerationResults", "Error", "Contents", "Blobs", "Blob", "Key", "Name", "Size"),
    *(
        "Properties",
        "Content-Length",
        "Last-Modified",
        "LastModified",
        "IsTruncated",
        "NextContinuationToken",
    ),
    *("NextMarker", "CommonPrefixes", "BlobPrefix", "Prefix", "Code", "Message", "Etag", "ETag", "UploadId"),
    *("ListMultipartUploadsResult", "Upload", "Initiated", "NextKeyMarker", "InitiateMultipartUploadResult"),
]


def element(inside: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda name, parts: f"<{name}>{''.join(parts)}</{name}>",
        st.sampled_from(NAMES),
        st.lists(inside, max_size=4),
    )


XML = st.recursive(st.one_of(WORDS, texts).map(escape), element, max_leaves=12)
XML_BODIES = st.one_of(
    st.binary(max_size=200),
    element(XML).map(lambda text: text.encode("utf-8", "replace")),
    st.integers(1, DEEP).map(lambda depth: b"<a>" * depth),
    st.integers(1, DEEP // 10).map(lambda depth: b"<a>" * depth + b"</a>" * depth),
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(WORDS, values),
        "size": st.one_of(WORDS, values),
        "updated": st.one_of(WORDS, values),
        "generation": values,
    },
)
JSON_BODIES = st.one_of(
    st.binary(max_size=200),
    values.map(lambda value: json.dumps(value).encode()),
    st.integers(1, DEEP).map(lambda depth: b"[" * depth),
    st.integers(1, DEEP).map(lambda depth: b'{"error":' * depth),
    st.fixed_dictionaries(
        {},
        optional={
            "items": st.one_of(st.lists(st.one_of(ENTRIES, values), max_size=3), values),
            "prefixes": st.one_of(st.lists(values, max_size=3), values),
            "nextPageToken": values,
            "error": values,
            "md5Hash": values,
            "size": st.one_of(WORDS, values),
            "updated": st.one_of(WORDS, values),
        },
    ).map(lambda value: json.dumps(value).encode()),
)


@dataclass
class Storage:
    """What answers everything with the same, and drivers on it."""

    runner: asyncio.Runner
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    drivers: dict[str, StorageDriver] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=self.status, body=self.body, headers=self.headers)

    def tried(self, name: str, verb: str) -> object:
        """What came of a verb; it raises nothing but a DriverError."""
        return self.runner.run(self._tried(self.drivers[name], VERBS[verb]))

    async def _tried(self, driver: StorageDriver, verb: Callable[[StorageDriver], Any]) -> object:
        async with asyncio.timeout(WITHIN):
            try:
                return await verb(driver)
            except DriverError as error:
                return error


async def walked(driver: StorageDriver) -> list[Entry]:
    found: list[Entry] = []
    async for batch in driver.walk(""):
        found += batch
    return found


async def opened(driver: StorageDriver) -> bytes:
    file = await driver.open("a/b", 1)
    try:
        return b"".join([chunk async for chunk in file.chunks(1, min(file.size, 1000))])
    finally:
        await file.close()


VERBS: dict[str, Callable[[StorageDriver], Any]] = {
    "walk": walked,
    "list": lambda driver: driver.list("a"),
    "root": lambda driver: driver.stat(""),
    "stat": lambda driver: driver.stat("a/b"),
    "get": lambda driver: driver.get("a/b", 100),
    "open": opened,
    "put": lambda driver: driver.put("a/b", b"x"),
    "remove": lambda driver: driver.remove(["a/b", "a/c"], "", durable=True, listed=True),
    "sweep": lambda driver: driver.sweep(1e10),
}


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    """One for all examples; a storage that fails is asked again at once, and once only."""
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(breaker, "FAILURES", 10**9)
        patch.setattr(s3session, "ATTEMPTS", 1)
        patch.setattr(gcsclient, "ATTEMPTS", 1)
        for client in (s3session, gcsclient, azureclient):
            patch.setattr(client, "SILENCE", 2.0)
        found = Storage(runner)
        server = runner.run(_begin(found))
        yield found
        runner.run(_end(found, server))


async def _begin(found: Storage) -> web.AppRunner:
    app = web.Application(client_max_size=1 << 20)
    app.router.add_route("*", "/{path:.*}", found.answer)
    server = web.AppRunner(app)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{server.addresses[0][1]}"
    s3 = S3Settings("images", endpoint=url, path_style=True, access_key="k", secret_key="s", root="r")
    azure = AzureSettings(container="images", account="a", endpoint=url, key=KEY, root="r", retries=0)
    found.drivers["s3"] = S3Driver(s3)
    found.drivers["azure"] = ObjectsDriver(AzureObjects(azure), 60.0)
    found.drivers["gcs"] = ObjectsDriver(
        GcsObjects(GcsSettings(bucket="images", endpoint=url, root="r")), 60.0
    )
    return server


async def _end(found: Storage, server: web.AppRunner) -> None:
    for driver in found.drivers.values():
        await driver.close()
    await server.cleanup()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["s3", "azure"])
@over_http
@given(status=STATUSES, body=XML_BODIES, headers=HEADERS)
def test_whatever_comes_as_xml_is_a_result_or_an_error_of_the_driver(
    storage: Storage, name: str, verb: str, status: int, body: bytes, headers: dict[str, str]
) -> None:
    storage.status, storage.body, storage.headers = status, body, headers
    _sound(storage.tried(name, verb))


@pytest.mark.parametrize("verb", VERBS)
@over_http
@given(status=STATUSES, body=JSON_BODIES, headers=HEADERS)
def test_whatever_comes_as_json_is_a_result_or_an_error_of_the_driver(
    storage: Storage, verb: str, status: int, body: bytes, headers: dict[str, str]
) -> None:
    storage.status, storage.body, storage.headers = status, body, headers
    _sound(storage.tried("gcs", verb))


def _sound(found: object) -> None:
    """A listing has only paths of ours, and sizes; an error says in one short line what is wrong."""
    if isinstance(found, DriverError):
        assert len(found.cause) < 600
        assert found.cause.isprintable()
    for each in found if isinstance(found, list) else ():
        if isinstance(each, Entry):
            assert each.size >= 0
            assert ".." not in each.path.split("/")


@bounded
@given(status=st.integers(300, 599), body=JSON_BODIES)
def test_a_refusal_of_googles_is_told_in_one_short_line(status: int, body: bytes) -> None:
    found = refused("a", status, body)
    assert len(found.cause) < MESSAGE_LIMIT + 50
    assert "\n" not in found.cause


@bounded
@given(texts, st.integers(0, 10))
def test_sizes_and_what_a_session_has_are_numbers_or_nothing(text: str, start: int) -> None:
    for headers in (
        {"Content-Range": text},
        {"Content-Length": text},
        {"X-Goog-Stored-Content-Length": text},
    ):
        size = size_told(headers, start)
        assert size is None or 0 <= size < 10**18
    assert taken(Reply(308, {"Range": text}, b"")) == 0 or text.startswith("bytes=0-")
    assert taken(Reply(308, {"Range": "bytes=0-²"}, b"")) == 0
    assert taken(Reply(308, {"Range": "bytes=0-41"}, b"")) == 42


@bounded
@given(st.one_of(texts, texts.map(lambda text: f"status code: 403 Forbidden: <Code>{text}</Code>")))
def test_a_failure_of_obstores_is_a_driver_error_whatever_its_text(text: str) -> None:
    assert isinstance(failure("a", ValueError(text)), DriverError)


KEYSTONES = st.one_of(
    JSON_BODIES,
    st.fixed_dictionaries(
        {},
        optional={
            "credentials": st.one_of(
                values,
                st.lists(
                    st.one_of(
                        values,
                        st.fixed_dictionaries({"tenant_id": st.just("p")}, optional={"access": values}),
                    ),
                    max_size=3,
                ),
            ),
            "credential": values,
        },
    ).map(lambda value: json.dumps(value).encode()),
)


@bounded
@given(KEYSTONES)
def test_whatever_keystone_says_is_a_pair_of_keys_or_an_error_of_the_driver(body: bytes) -> None:
    answer = requests.Response()
    answer._content = body  # requests has no other way to make one
    reads: list[Callable[[], tuple[str, str] | None]] = [
        lambda: pair_in(answer, "p", ""),
        lambda: new_pair(answer),
    ]
    for read in reads:
        cause, found = "", None
        try:
            found = read()
        except DriverError as error:
            cause = error.cause
        assert not cause or cause.startswith("no keys from Keystone")
        assert found is None or [type(each) for each in found] == [str, str]
