"""The S3 driver and servers that answer oddly: scripted, for the real one does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from mirror.drivers import s3session
from mirror.drivers.base import DeniedError, DriverError, PathNotFoundError, UnreachableError
from mirror.drivers.s3 import S3Driver
from mirror.drivers.s3settings import S3Settings
from tests.drivers.conformance import MIB, walk
from tests.drivers.kit import tls_server
from tests.support.certificates import self_signed

DATA = bytes(range(256)) * 8
PART = 5 * MIB
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handle], Awaitable[S3Driver]]


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """A driver of a server that answers so."""
    monkeypatch.setattr(s3session, "ATTEMPTS", 1)
    made: list[S3Driver] = []
    runners: list[web.AppRunner] = []

    async def begin(handle: Handle) -> S3Driver:
        app = web.Application(client_max_size=4 * PART)
        app.router.add_route("*", "/{key:.*}", handle)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        settings = S3Settings("images", endpoint=url, path_style=True, access_key="k", secret_key="s")
        made.append(S3Driver(settings))
        return made[-1]

    yield begin
    for driver in made:
        await driver.close()
    for runner in runners:
        await runner.cleanup()


def xml(name: str, inside: str, namespace: str = NAMESPACE) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} {namespace}>{inside}</{name}>'
    return web.Response(text=text, content_type="application/xml")


def listed(key: str) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>2023-01-01T00:00:00.000Z</LastModified>"
        "<ETag>&quot;e&quot;</ETag><Size>1</Size></Contents>"
    )


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("pinned", [False, True])
async def test_a_server_whose_authority_this_machine_knows_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool, pinned: bool
) -> None:
    """As by registry:2; botocore has a list of its own. `pinned`: another alone is to be believed."""
    with tls_server(tmp_path, 200, DATA) as (url, certificate):
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name, raising=False)
        if pinned:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(self_signed(tmp_path, "another")[0]))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate if known else tmp_path / "none"))
        driver = S3Driver(S3Settings("images", endpoint=url, path_style=True, access_key="k", secret_key="s"))
        if known and not pinned:
            assert await driver.get("a", MIB) == DATA
        else:
            with pytest.raises(UnreachableError, match="no trusted TLS connection"):
                await driver.get("a", MIB)
        await driver.close()


@pytest.mark.parametrize("verb", ["walk", "list"])
async def test_a_listing_that_breaks_off_without_saying_where_to_go_on_is_no_whole_one(
    serve: Serve, verb: str
) -> None:
    """Of a server that knows only the older listing: what is not seen would be taken for gone."""

    async def handle(_: web.Request) -> web.Response:
        return xml("ListBucketResult", f"<IsTruncated>true</IsTruncated>{listed('a/b')}")

    driver = await serve(handle)
    with pytest.raises(DriverError, match="does not say how its listing goes on"):
        await (walk(driver, "a") if verb == "walk" else driver.list("a"))


@pytest.mark.parametrize("verb", ["walk", "list"])
async def test_a_listing_that_goes_in_circles_ends(serve: Serve, verb: str) -> None:
    async def handle(_: web.Request) -> web.Response:
        token = "<NextContinuationToken>again</NextContinuationToken>"
        return xml("ListBucketResult", f"<IsTruncated>true</IsTruncated>{token}{listed('a/b')}")

    driver = await serve(handle)
    async with asyncio.timeout(20):
        with pytest.raises(DriverError, match="does not say how its listing goes on"):
            await (walk(driver, "a") if verb == "walk" else driver.list("a"))


@pytest.mark.parametrize(
    "answer",
    [
        (200, None),
        (206, f"bytes 0-{len(DATA) - 1}/{len(DATA)}"),
        (206, "bytes 100-199/*"),
        (206, None),
    ],
    ids=str,
)
async def test_other_bytes_than_were_asked_for_are_not_taken_for_them(
    serve: Serve, answer: tuple[int, str | None]
) -> None:
    """As from a cache in between that passes no Range on."""

    async def handle(request: web.Request) -> web.Response:
        if "Range" not in request.headers:
            return web.Response(body=DATA, headers={"ETag": '"e"'})
        headers = {"ETag": '"e"', **({"Content-Range": answer[1]} if answer[1] else {})}
        return web.Response(status=answer[0], body=DATA, headers=headers)

    driver = await serve(handle)
    said = "file: the storage answered with another range"
    with pytest.raises(DriverError, match=said):
        await driver.open("file", 100)
    file = await driver.open("file")
    with pytest.raises(DriverError, match=said):
        await anext(file.chunks(100, len(DATA)))
    await file.close()


@pytest.mark.parametrize(
    ("namespace", "said"),
    [("", "the storage answers 500 InternalError"), (NAMESPACE, "the upload is gone")],
    ids=["Amazon", "another"],
)
async def test_a_completion_that_fails_with_200_is_a_failure(
    serve: Serve, tmp_path: Path, namespace: str, said: str
) -> None:
    """Amazon says 200 before it knows (its API reference, CompleteMultipartUpload)."""
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        asked.append(f"{request.method} {request.query_string.partition('=')[0]}")
        if request.method == "POST" and "uploads" in request.query:
            return xml("InitiateMultipartUploadResult", "<UploadId>u</UploadId>")
        if request.method == "POST":
            inside = "<Code>InternalError</Code><Message>We erred.</Message>"
            return xml("Error", inside, namespace=namespace)
        if request.method == "PUT":
            return web.Response(headers={"ETag": '"e"'})
        return web.Response(status=404 if request.method == "HEAD" else 204)

    driver = await serve(handle)
    source = tmp_path / "source"
    source.write_bytes(bytes(PART * 2 + 1))
    with pytest.raises(DriverError, match=f"blob: {said}"):
        await driver.move_in(source, "blob")
    await driver.close()
    assert source.exists()
    assert asked[-1] == "DELETE uploadId"


async def test_a_sweep_leaves_an_upload_that_had_a_part_sent_lately(serve: Serve) -> None:
    """However long ago it began: another mirror's, of a large blob from a slow upstream."""
    aborted: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        if request.method == "DELETE":
            aborted.append(request.path)
            return web.Response(status=204)
        if "uploads" in request.query:
            return xml("ListMultipartUploadsResult", begun("new") + begun("old") + begun("none"))
        if request.path.endswith("/none"):
            return xml("ListPartsResult", "")
        if request.query["part-number-marker"] == "0":
            more = "<IsTruncated>true</IsTruncated><NextPartNumberMarker>1</NextPartNumberMarker>"
            return xml("ListPartsResult", more + part(1, "2023-01-01"))
        day = "2023-01-01" if request.path.endswith("/old") else "2024-01-01"
        return xml("ListPartsResult", part(2, day))

    def begun(key: str) -> str:
        began = "<Initiated>2023-01-01T00:00:00.000Z</Initiated>"
        return f"<Upload><Key>blobs/{key}</Key><UploadId>u</UploadId>{began}</Upload>"

    def part(number: int, day: str) -> str:
        modified = f"<LastModified>{day}T00:00:00.000Z</LastModified>"
        return f"<Part><PartNumber>{number}</PartNumber>{modified}<ETag>e</ETag><Size>1</Size></Part>"

    driver = await serve(handle)
    assert await driver.sweep(datetime(2023, 6, 1, tzinfo=UTC).timestamp()) == 2
    assert sorted(aborted) == ["/images/blobs/none", "/images/blobs/old"]


async def test_a_listing_of_uploads_that_goes_in_circles_ends(serve: Serve) -> None:
    async def handle(_: web.Request) -> web.Response:
        more = "<IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>"
        return xml("ListMultipartUploadsResult", f"{more}<NextUploadIdMarker>u</NextUploadIdMarker>")

    driver = await serve(handle)
    async with asyncio.timeout(20):
        with pytest.raises(DriverError, match="does not say how its listing of uploads goes on"):
            await driver.sweep(0.0)


@pytest.mark.parametrize("status", [301, 307])
async def test_who_is_redirected_to_nowhere_asks_for_the_buckets_region_once(
    serve: Serve, status: int
) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.Response(status=status)

    driver = await serve(answer)
    with pytest.raises(DriverError, match=rf"^a: the storage answers {status} "):
        await driver.list("a")
    assert asked == ["GET", "HEAD"]


async def test_a_time_that_is_none_is_an_error_of_the_driver(serve: Serve) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(headers={"Last-Modified": "9" * 30})  # botocore raises a RuntimeError

    driver = await serve(answer)
    with pytest.raises(DriverError, match=r"^a/b: the storage answers with something that is no answer"):
        await driver.stat("a/b")


async def test_what_a_server_says_is_one_printable_line_and_no_path_of_its_own(serve: Serve) -> None:
    said = "<Key>images\x7f</Key><Code>Odd\x7fCode</Code><Message>one\ntwo\u202e\x7f</Message>"

    async def answer(request: web.Request) -> web.Response:
        if request.method == "POST":
            return xml("DeleteResult", f"<Error>{said}</Error>")
        return web.Response(status=400, text=f"<Error>{said}</Error>", content_type="application/xml")

    driver = await serve(answer)
    with pytest.raises(DriverError) as caught:
        await driver.get("a/b", 100)
    assert str(caught.value) == "a/b: the storage answers 400 Odd?Code: one two??"
    with pytest.raises(DriverError) as caught:
        await driver.remove(["a/b", "a/c"], "", durable=True, listed=True)
    assert str(caught.value) == "a/b: cannot be deleted: Odd?Code: one two??"


PAGES = {
    "a page": ("<html><body>Welcome</body></html>", "text/html"),
    "a page that is no XML": ("<!doctype html><p>Welcome<br>", "text/html"),
    "JSON": ('{"hello": "there"}', "application/json"),
    "nothing": ("", "text/plain"),
    "another document": ("<ServiceDocument/>", "application/xml"),
}


@pytest.mark.parametrize("page", PAGES)
async def test_a_server_that_says_200_to_everything_has_no_empty_bucket(serve: Serve, page: str) -> None:
    """MinIO's console, a portal, a proxy: what a listing does not have is taken for gone, and forgotten."""
    text, media = PAGES[page]
    said = f"what answers is no S3 server: 200 with {media}"

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type=media)

    driver = await serve(answer)
    looks = [driver.stat(""), driver.list("a"), driver.list(""), walk(driver, "a")]
    for look in looks:
        with pytest.raises(DeniedError, match=f"{said} where a listing was asked for"):
            await look
    with pytest.raises(DeniedError, match=rf"^a/b: {said}, and no ETag, where a file was put"):
        await driver.put("a/b", DATA)
    assert driver.denials() == len(looks) + 1
    assert not driver.trouble()


async def test_a_put_that_another_writer_overtook_has_no_etag_and_is_one_of_the_storages_own(
    serve: Serve,
) -> None:
    """As Swift's S3 API answers it."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(content_type="text/html", headers={"x-amz-request-id": "tx1"})

    await (await serve(answer)).put("a/b", DATA)


@pytest.mark.parametrize("is_page", [True, False])
async def test_a_page_is_no_file_unless_a_storage_keeps_it(serve: Serve, is_page: bool) -> None:
    deleted: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        if request.method == "DELETE":
            deleted.append(request.path)
        # Some proxies write names in small letters.
        headers = {} if is_page else {"etag": '"e"', "Last-Modified": "Sun, 01 Jan 2023 00:00:00 GMT"}
        return web.Response(text="<html/>", content_type="text/html", headers=headers)

    driver = await serve(answer)
    if not is_page:
        assert await driver.get("a/b", 100) == b"<html/>"
        assert (await driver.stat("a/b")).size == len(b"<html/>")
        await driver.put("a/b", b"<html/>")
        return
    said = "what answers is no S3 server: 200 with text/html where a file was asked for"
    for look in (driver.get("a/b", 100), driver.open("a/b"), driver.stat("a/b")):
        with pytest.raises(DeniedError, match=f"^a/b: {said}"):
            await look
    with pytest.raises(DeniedError, match="where DeleteObject was asked for"):
        await driver.remove(["a/b"], "", durable=True, listed=True)
    with pytest.raises(DeniedError, match="where DeleteObjects was asked for"):
        await driver.remove(["a/b", "a/c"], "", durable=True, listed=True)
    assert deleted == ["/images/a/b"]


class Overwritten:
    """An object whose writes take until `end`; `misses`: how many looks for it are answered 404."""

    def __init__(self, misses: int) -> None:
        self.misses = misses
        self.looks: list[str] = []
        self.begun = asyncio.Event()
        self.end = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        if request.method in ("GET", "HEAD"):
            self.looks.append(request.method)
            if len(self.looks) <= self.misses:
                return web.Response(status=404)
            return web.Response(
                body=DATA, headers={"ETag": '"e"', "Last-Modified": "Sun, 01 Jan 2023 00:00:00 GMT"}
            )
        await request.read()
        if request.method == "POST" and "uploads" in request.query:
            return xml("InitiateMultipartUploadResult", "<UploadId>u</UploadId>")
        if request.method == "DELETE":
            return web.Response(status=204)
        if "partNumber" not in request.query:
            self.begun.set()
            await self.end.wait()
        if request.method == "POST":
            return xml("CompleteMultipartUploadResult", "<ETag>e</ETag>")
        return web.Response(headers={"ETag": '"e"'})


@pytest.fixture
def overwritten(serve: Serve) -> Iterator[Overwritten]:
    """Two looks miss it; what is still being written at the end of the test ends."""
    server = Overwritten(misses=2)
    yield server
    server.end.set()


@pytest.mark.parametrize("size", [None, 10, PART * 2 + 1], ids=["put", "moved in", "in parts"])
@pytest.mark.parametrize("verb", ["get", "open", "stat", "elsewhere"])
async def test_a_file_that_is_overwritten_is_looked_for_again(
    serve: Serve, overwritten: Overwritten, tmp_path: Path, verb: str, size: int | None
) -> None:
    """Swift 2.30 answers 404 where it was about to open what a write has replaced."""
    driver = await serve(overwritten.handle)
    source = tmp_path / "source"
    source.write_bytes(bytes(size or 0))
    writing = driver.put("a/b", DATA) if size is None else driver.move_in(source, "a/b")
    write = asyncio.create_task(writing)
    await overwritten.begun.wait()
    if verb == "get":
        assert await driver.get("a/b", MIB) == DATA
    elif verb == "open":
        file = await driver.open("a/b")
        assert file.size == len(DATA)
        await file.close()
    elif verb == "stat":
        assert (await driver.stat("a/b")).size == len(DATA)
    else:
        place = await driver.elsewhere("a/b")
        assert place is not None
        assert place.size == len(DATA)
    assert len(overwritten.looks) == 3
    overwritten.end.set()
    await write


async def test_a_write_that_begins_or_ends_during_a_look_counts_too(
    serve: Serve, overwritten: Overwritten
) -> None:
    writes = list[asyncio.Task[None]]()

    async def handle(request: web.Request) -> web.Response:
        if request.method == "GET" and not writes:  # a whole write while this one is not answered
            writes.append(asyncio.create_task(driver.put("a/b", DATA)))
            overwritten.end.set()
            await writes[0]
        return await overwritten.handle(request)

    driver = await serve(handle)
    with pytest.raises(PathNotFoundError):  # the second look met no write
        await driver.get("a/b", MIB)
    assert len(overwritten.looks) == 2
    assert await driver.get("a/b", MIB) == DATA


async def test_what_is_never_found_is_looked_for_a_few_times_while_it_is_written(
    serve: Serve, overwritten: Overwritten
) -> None:
    overwritten.misses = 1000
    driver = await serve(overwritten.handle)
    with pytest.raises(PathNotFoundError):
        await driver.get("a/b", MIB)
    assert len(overwritten.looks) == 1
    write = asyncio.create_task(driver.put("a/b", DATA))
    await overwritten.begun.wait()
    with pytest.raises(PathNotFoundError):
        await driver.get("a/other", MIB)
    assert len(overwritten.looks) == 2
    with pytest.raises(PathNotFoundError):
        await driver.get("a/b", MIB)
    assert len(overwritten.looks) == 5
    overwritten.end.set()
    await write
    with pytest.raises(PathNotFoundError):
        await driver.get("a/b", MIB)
    assert len(overwritten.looks) == 6
