"""The S3 driver, on a real S3 server; a recording proxy in front of it counts requests, and breaks them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from mirror.drivers import breaker, pace, s3client, s3listing, s3opening, s3session
from mirror.drivers.base import (
    DeniedError,
    DriverError,
    PathNotFoundError,
    StorageDriver,
    ThrottledError,
    UnreachableError,
)
from mirror.drivers.s3 import S3Driver
from mirror.drivers.slice import Slice
from tests.drivers.conformance import MIB, DriverConformance, content, walk
from tests.drivers.kit import fetch, size
from tests.support.buckets import Bucket
from tests.support.procs import free_port
from tests.support.recorder import Recorder, Rule
from tests.support.waiting import until

PART = 5 * MIB  # bytes; no server takes smaller parts

VERBS: dict[str, Callable[[StorageDriver, Path], Awaitable[object]]] = {
    "get": lambda driver, _: driver.get("a/b", 10),
    "put": lambda driver, _: driver.put("a/b", b"new"),
    "open": lambda driver, _: driver.open("a/b"),
    "stat": lambda driver, _: driver.stat("a/b"),
    "list": lambda driver, _: driver.list("a/b"),
    "walk": lambda driver, _: walk(driver, "a/b"),
    "delete": lambda driver, _: driver.delete("a/b"),
    "move_in": lambda driver, source: driver.move_in(source, "a/b"),
    "elsewhere": lambda driver, _: driver.elsewhere("a/b"),
}


class TestConformance(DriverConformance):
    # Each request takes ten milliseconds or more. The server lists a hundred keys at once.
    often, walked, many = 10, 107, 205

    @pytest.fixture
    async def driver(self, bucket: Bucket) -> AsyncIterator[StorageDriver]:
        driver = S3Driver(bucket.settings(part_size=PART))
        yield driver
        await driver.close()


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Recorder]:
    """In front of the server."""
    recorder = Recorder(bucket.server.url)
    yield recorder
    recorder.stop()


@pytest.fixture
async def driver(bucket: Bucket, proxy: Recorder) -> AsyncIterator[S3Driver]:
    """By way of the proxy."""
    driver = S3Driver(bucket.settings(proxy.url, part_size=PART))
    yield driver
    await driver.close()


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two looks at a file that grows a minute goes by."""
    monkeypatch.setattr(pace, "monotonic", itertools.count(0.0, 60.0).__next__)


@pytest.fixture
def data() -> bytes:
    """Three parts, of which the last is short."""
    return os.urandom(2 * PART + 12_345)


@pytest.fixture
def source(tmp_path: Path, data: bytes) -> Path:
    """A file of that."""
    path = tmp_path / "source"
    path.write_bytes(data)
    return path


async def rest(chunks: AsyncGenerator[bytes, None]) -> None:
    """Read to the end."""
    async for _ in chunks:
        pass


async def test_each_operation_is_one_request(driver: S3Driver, proxy: Recorder) -> None:
    """Of what is there. Reading from the place where a file was opened costs no second one."""
    await driver.put("a/file", b"0123456789")
    for work, methods in (
        (driver.put("a/other", b"x"), ["PUT"]),
        (driver.get("a/file", 10), ["GET"]),
        (driver.stat("a/file"), ["HEAD"]),
        (driver.list("a"), ["GET"]),
        (content(driver, "a/file"), ["GET"]),
        (driver.delete("a/file"), ["HEAD", "DELETE"]),
    ):
        proxy.clear()
        await work
        assert [exchange.method for exchange in proxy.exchanges] == methods, proxy.trace()
    await driver.put("a/file", b"0123456789")
    proxy.clear()
    file = await driver.open("a/file", 4)
    assert [chunk async for chunk in file.chunks(4, 10)] == [b"456789"]
    assert file.size == 10
    await file.close()
    assert [exchange.request_headers["range"] for exchange in proxy.exchanges] == ["bytes=4-"]


@pytest.mark.parametrize("start", [10, 11, 1000])
async def test_a_file_can_be_opened_behind_its_end(driver: S3Driver, start: int) -> None:
    await driver.put("file", b"0123456789")
    file = await driver.open("file", start)
    assert file.size == 10
    assert [chunk async for chunk in file.chunks(2, 10)] == [b"23456789"]
    await file.close()


async def test_a_listing_is_one_request_for_a_thousand_keys(driver: S3Driver, proxy: Recorder) -> None:
    names = [f"r/{index:03}/_leaf/link" for index in range(30)]
    await asyncio.gather(*(driver.put(name, b"") for name in names))
    proxy.clear()
    assert [entry.path for entry in await walk(driver, "r")] == names
    assert [entry.path for entry in await walk(driver, "r", ["_leaf"])] == [name[:-5] for name in names]
    assert len(proxy.exchanges) == 2, proxy.trace()


async def test_what_is_not_wanted_is_not_listed_where_that_saves_requests(
    driver: S3Driver, proxy: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that ends inside a leaf is followed by what is behind the leaf, not by the rest of it."""
    monkeypatch.setattr(s3listing, "PAGE", 10)
    leaf = [f"r/a/_leaf/{index:03}" for index in range(50)]
    await asyncio.gather(*(driver.put(path, b"") for path in [*leaf, "r/a/_leaf-not", "r/b", "r/a/z"]))
    proxy.clear()
    found = {entry.path: entry.is_folder for entry in await walk(driver, "r", ["_leaf"])}
    assert found == {"r/a/_leaf": True, "r/a/_leaf-not": False, "r/a/z": False, "r/b": False}
    assert len(proxy.exchanges) == 2, proxy.trace()


async def test_keys_are_those_of_distribution_and_others_are_passed_over(
    bucket: Bucket, driver: S3Driver
) -> None:
    await driver.put("docker/registry/v2/file", b"x")
    assert await bucket.keys() == ["docker/registry/v2/file"]
    client = s3client.S3Client(bucket.settings())
    for key in ("docker/registry/v2/not ours", "docker//double", "docker/folder/"):
        await client.call("", "put_object", Key=f"{bucket.root}/{key}", Body=b"")
    await client.close()
    assert [entry.path for entry in await walk(driver, "")] == ["docker/registry/v2/file"]
    assert await driver.list("docker/registry/v2") == ["file"]


async def test_a_bucket_without_a_root_has_its_keys_at_the_top(bucket: Bucket) -> None:
    bucket.server.make_bucket("rootless")
    driver = S3Driver(bucket.settings(bucket="rootless", root=""))
    await driver.put("docker/file", b"x")
    assert await driver.list("") == ["docker"]
    assert [entry.path for entry in await walk(driver, "")] == ["docker/file"]
    assert await driver.get("docker/file", 1) == b"x"
    await driver.delete("docker")
    assert await driver.list("") == []
    await driver.close()


# Uploads.


async def test_a_large_file_goes_in_parts_each_with_its_checksum(
    bucket: Bucket, driver: S3Driver, proxy: Recorder, source: Path, data: bytes
) -> None:
    await driver.move_in(source, "a/blob")
    parts = proxy.select("PUT", "partNumber=")
    assert sorted(exchange.target.partition("partNumber=")[2][0] for exchange in parts) == ["1", "2", "3"]
    assert all(exchange.request_headers["content-md5"] for exchange in parts)
    assert size(source) is None
    assert await content(driver, "a/blob") == data
    assert (await driver.stat("a/blob")).size == len(data)
    assert await bucket.keys() == ["a/blob"]


async def test_the_parts_go_several_at_once(driver: S3Driver, proxy: Recorder, source: Path) -> None:
    proxy.clear(Rule("partNumber=1", wait=True))
    moving = asyncio.create_task(driver.move_in(source, "blob"))
    await until(
        lambda: sum(exchange.end is not None for exchange in proxy.select("PUT", "partNumber=[23]")) == 2
    )
    assert not any(exchange.end for exchange in proxy.select("PUT", "partNumber=1"))
    proxy.release()
    await moving


@pytest.mark.parametrize("step", ["uploads", "partNumber=2", "uploadId=[^&]*$"])
async def test_an_upload_that_fails_leaves_nothing_and_keeps_the_source(
    bucket: Bucket, driver: S3Driver, proxy: Recorder, source: Path, step: str
) -> None:
    await driver.put("blob", b"old")
    proxy.clear(Rule(step, "PUT|POST", status=400))
    with pytest.raises(DriverError, match=r"blob: .* 400"):
        await driver.move_in(source, "blob")
    proxy.clear()
    await driver.close()  # what is being aborted is waited for
    assert size(source) == 2 * PART + 12_345
    assert await bucket.keys() == ["blob"]


async def test_a_part_that_breaks_is_sent_again(
    driver: S3Driver, proxy: Recorder, source: Path, data: bytes
) -> None:
    proxy.clear(Rule("partNumber=2", reset=True, times=1), Rule("partNumber=3", status=503, times=1))
    await driver.move_in(source, "blob")
    assert len(proxy.select("PUT", "partNumber=")) == 5
    assert await content(driver, "blob") == data


async def test_an_upload_that_is_cancelled_is_aborted(
    bucket: Bucket, driver: S3Driver, proxy: Recorder, source: Path
) -> None:
    moving = asyncio.create_task(driver.move_in(source, "blob"))
    await until(lambda: bool(proxy.select("PUT", "partNumber=3")))
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    await driver.close()
    assert size(source) is not None
    assert await bucket.keys() == []


async def test_a_completion_whose_answer_is_lost_is_found_done(
    driver: S3Driver, proxy: Recorder, source: Path, data: bytes
) -> None:
    proxy.clear(Rule("uploadId=", "POST", truncate=1, times=1))
    await driver.move_in(source, "blob")
    assert await content(driver, "blob") == data
    assert size(source) is None


@pytest.mark.usefixtures("slowly")
async def test_a_file_is_sent_while_it_grows_and_is_there_only_once_it_is_moved_in(
    bucket: Bucket, driver: S3Driver, proxy: Recorder, tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "growing"
    path.write_bytes(data[: PART + 1000])
    incoming = driver.incoming(path, "blob", len(data))
    assert incoming is not None
    incoming.reached(PART - 1)
    assert not proxy.exchanges
    incoming.reached(PART + 1000)
    await until(lambda: any(exchange.end for exchange in proxy.select("PUT", "partNumber=1")))
    assert await driver.list("") == []
    path.write_bytes(data)
    incoming.reached(len(data))
    await driver.move_in(path, "blob", incoming)
    incoming.end()
    assert len(proxy.select("PUT", "partNumber=")) == 3
    assert await content(driver, "blob") == data
    assert size(path) is None
    await driver.close()
    assert await bucket.keys() == ["blob"]


async def test_a_file_that_grows_quickly_is_sent_once_it_is_whole(
    driver: S3Driver, proxy: Recorder, source: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who wait for its bytes have the processors till then."""
    monkeypatch.setattr(pace, "monotonic", itertools.count(0.0, 0.3).__next__)
    incoming = driver.incoming(source, "blob", len(data))
    assert incoming is not None
    for count in (0, PART, 2 * PART, len(data) - 1):
        incoming.reached(count)
    await asyncio.sleep(0)
    assert not proxy.exchanges
    await driver.move_in(source, "blob", incoming)
    incoming.end()
    assert len(proxy.select("PUT", "partNumber=")) == 3
    assert await content(driver, "blob") == data


@pytest.mark.usefixtures("slowly")
async def test_what_was_sent_of_a_file_that_is_not_wanted_goes(
    bucket: Bucket, driver: S3Driver, proxy: Recorder, source: Path, data: bytes
) -> None:
    incoming = driver.incoming(source, "blob", len(data))
    assert incoming is not None
    incoming.reached(0)
    incoming.reached(PART)
    await until(lambda: any(exchange.end for exchange in proxy.select("PUT", "partNumber=1")))
    incoming.reached(len(data))
    incoming.end()
    incoming.end()
    incoming.reached(len(data))
    await driver.close()
    assert await bucket.keys() == []


@pytest.mark.usefixtures("slowly")
async def test_what_could_not_be_sent_meanwhile_is_sent_at_the_end(
    driver: S3Driver, proxy: Recorder, source: Path, data: bytes
) -> None:
    proxy.clear(Rule("partNumber=1", status=400, times=1))
    incoming = driver.incoming(source, "blob", len(data))
    assert incoming is not None
    incoming.reached(0)
    incoming.reached(PART)
    await until(lambda: any(exchange.end for exchange in proxy.select("PUT", "partNumber=1")))
    await driver.move_in(source, "blob", incoming)
    incoming.end()
    assert await content(driver, "blob") == data


@pytest.mark.parametrize("times", [1, 100])
@pytest.mark.usefixtures("slowly")
async def test_a_disk_that_does_not_give_a_part_is_a_failure_as_any(
    driver: S3Driver, source: Path, data: bytes, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Sent again at the end; where it cannot be read even then, the caller is told, and has the file."""
    real, left = Slice.md5, times

    def md5(self: Slice) -> str:
        nonlocal left
        if left:
            left -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self)

    monkeypatch.setattr(Slice, "md5", md5)
    incoming = driver.incoming(source, "blob", len(data))
    assert incoming is not None
    incoming.reached(0)
    incoming.reached(PART)
    await until(lambda: left < times)
    try:
        if times == 1:
            await driver.move_in(source, "blob", incoming)
            assert await content(driver, "blob") == data
        else:
            with pytest.raises(DriverError, match="cannot read the file"):
                await driver.move_in(source, "blob", incoming)
            assert size(source) == len(data)
    finally:
        incoming.end()


async def test_a_small_file_is_not_worth_it(driver: S3Driver, tmp_path: Path) -> None:
    assert driver.incoming(tmp_path / "small", "blob", PART) is None


async def test_a_sweep_aborts_what_was_left_and_nothing_else(bucket: Bucket) -> None:
    """Neither what another program, nor what registry:2, is just putting into the same bucket."""
    client = s3client.S3Client(bucket.settings())
    for key in ("blobs/left", "blobs/parts", "r/_uploads/theirs", "blobs2/theirs"):
        made = await client.call("", "create_multipart_upload", Key=f"{bucket.root}/{key}")
        if key == "blobs/parts":
            of = {"Key": f"{bucket.root}/{key}", "UploadId": made["UploadId"]}
            await client.call("", "upload_part", PartNumber=1, Body=b"x", **of)
    driver = S3Driver(bucket.settings(), own="blobs")
    await driver.put("kept", b"x")
    assert await driver.sweep(time.time() - 3600) == 0
    assert await driver.sweep(time.time() + 3600) == 2
    root = f"upload of {bucket.root}"
    assert await bucket.keys() == ["kept", f"{root}/blobs2/theirs", f"{root}/r/_uploads/theirs"]
    await client.close()
    await driver.close()


async def test_a_sweep_leaves_what_this_driver_is_sending(
    driver: S3Driver, source: Path, proxy: Recorder
) -> None:
    incoming = driver.incoming(source, "blob", 2 * PART + 12_345)
    assert incoming is not None
    incoming.reached(PART)
    await until(lambda: any(e.outcome == "ok" for e in proxy.select("PUT", "partNumber=1")))
    assert await driver.sweep(time.time() + 3600) == 0
    await driver.move_in(source, "blob", incoming)
    incoming.end()
    assert len(proxy.select("PUT", "partNumber=1")) == 1


async def test_a_sweep_that_may_not_abort_says_so(driver: S3Driver, bucket: Bucket, proxy: Recorder) -> None:
    client = s3client.S3Client(bucket.settings())
    await client.call("", "create_multipart_upload", Key=f"{bucket.root}/left")
    await client.close()
    proxy.clear(Rule(method="DELETE", status=403))
    with pytest.raises(DeniedError, match="left: the storage answers 403"):
        await driver.sweep(time.time() + 3600)


# Deletes.


async def test_many_files_are_deleted_with_few_requests(driver: S3Driver, proxy: Recorder) -> None:
    paths = [f"tree/{index}" for index in range(40)]
    await asyncio.gather(*(driver.put(path, b"") for path in paths))
    proxy.clear()
    await driver.delete("tree")
    assert [exchange.method for exchange in proxy.exchanges] == ["HEAD", "GET", "POST"], proxy.trace()
    await asyncio.gather(*(driver.put(path, b"") for path in paths))
    proxy.clear()
    assert all(await driver.remove([*paths, *paths[:1]], "", durable=True))
    (batch,) = proxy.select("POST")
    assert batch.request_headers["content-md5"], "old servers want that"
    assert await driver.list("") == []


@pytest.mark.parametrize("status", [400, 411, 501])
async def test_where_the_server_takes_no_batches_files_are_deleted_one_by_one(
    driver: S3Driver, proxy: Recorder, status: int
) -> None:
    paths = [f"tree/{index}" for index in range(20)]
    await asyncio.gather(*(driver.put(path, b"") for path in [*paths, "other/a", "other/b"]))
    proxy.clear(Rule(r"\?delete", "POST", status=status))
    await driver.delete("tree")
    await driver.delete("other")
    assert len(proxy.select("POST")) == 1, "it is not tried again"
    assert len(proxy.select("DELETE")) == 22
    assert await driver.list("") == []


# Failures.


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, DeniedError), (429, ThrottledError), (500, UnreachableError), (400, DriverError)],
)
async def test_a_refusal_is_a_failure_of_its_kind_with_path_and_cause(
    driver: S3Driver,
    proxy: Recorder,
    tmp_path: Path,
    verb: Callable[[StorageDriver, Path], Awaitable[object]],
    status: int,
    kind: type[DriverError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3session, "ATTEMPTS", 1)
    (tmp_path / "source").write_bytes(b"x")
    proxy.clear(Rule(status=status))
    with pytest.raises(DriverError) as caught:
        await verb(driver, tmp_path / "source")
    assert type(caught.value) is kind
    assert caught.value.path == "a/b"
    assert str(status) in caught.value.cause
    assert (tmp_path / "source").exists()


@pytest.mark.parametrize(
    "wrong", [{"secret_key": "wrong"}, {"access_key": "test:nobody"}, {"bucket": "no-such-bucket"}]
)
async def test_wrong_logins_and_buckets_are_denied_and_nothing_secret_is_told(
    bucket: Bucket, wrong: dict[str, str]
) -> None:
    driver = S3Driver(bucket.settings(**wrong))
    for work in (driver.put("a/b", b"x"), driver.list("a/b")):
        with pytest.raises(DeniedError, match=r"^a/b: the storage answers 40[34] ") as caught:
            await work
        assert "wrong" not in str(caught.value)
        assert "test:" not in str(caught.value)
    await driver.close()


async def test_no_credentials_at_all_are_denied(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    driver = S3Driver(bucket.settings(access_key="", secret_key=""))
    with pytest.raises(DeniedError, match="file: no credentials were found"):
        await driver.get("file", 1)
    with pytest.raises(DeniedError, match="file: no credentials were found"):
        await driver.elsewhere("file")
    await driver.close()


async def test_a_login_that_comes_later_is_found(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a machine whose role cannot be asked for when it starts."""
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    driver = S3Driver(bucket.settings(access_key="", secret_key=""))
    with pytest.raises(DeniedError, match="no credentials were found"):
        await driver.start()
    login = bucket.settings()
    file.write_text(
        f"[default]\naws_access_key_id = {login.access_key}\naws_secret_access_key = {login.secret_key}\n"
    )
    with pytest.raises(DeniedError, match="file: no credentials were found"):
        await driver.put("file", b"x")  # it is not looked for again at once
    monkeypatch.setattr(s3opening, "OPENING", 0.0)
    driver._client._opening._unopened = None
    await driver.put("file", b"x")
    assert await driver.get("file", 1) == b"x"
    await driver.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"endpoint": "http://my_minio:9000"},
            "no client can be made: Invalid endpoint: http://my_minio:9000",
        ),
        ({"region": "a-"}, "no client can be made: Provided region_name 'a-' doesn't match"),
    ],
)
async def test_a_setting_that_cannot_be_used_is_named(
    bucket: Bucket, settings: dict[str, str], said: str
) -> None:
    driver = S3Driver(bucket.settings(**settings))
    for work in (driver.start(), driver.get("file", 1)):
        with pytest.raises(DriverError, match=said) as caught:
            await work
        assert type(caught.value) is DriverError
    await driver.close()


def test_a_profile_that_is_not_there_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "elsewhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(ValueError, match="elsewhere"):
        S3Driver(bucket.settings(access_key="", secret_key=""))


async def test_credentials_come_from_the_aws_chain_where_none_are_configured(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = bucket.settings()
    file = tmp_path / "credentials"
    file.write_text(
        f"[default]\naws_access_key_id = {login.access_key}\naws_secret_access_key = {login.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    driver = S3Driver(bucket.settings(access_key="", secret_key=""))
    await driver.put("file", b"x")
    assert await driver.get("file", 1) == b"x"
    await driver.close()


async def test_a_storage_that_is_away_is_unreachable_and_left_alone_for_a_while(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(s3session, "ATTEMPTS", 1)
    monkeypatch.setattr(s3client, "Breaker", lambda: breaker.Breaker(lambda: now[0]))
    port = free_port()
    driver = S3Driver(bucket.settings(f"http://127.0.0.1:{port}"))
    for _ in range(breaker.FAILURES):
        with pytest.raises(UnreachableError, match="a/b: the storage cannot be connected to"):
            await driver.get("a/b", 1)
    with pytest.raises(UnreachableError, match="a/b: not asked now: the storage cannot be connected to"):
        await driver.get("a/b", 1)
    recorder = Recorder(bucket.server.url, port)
    try:
        with pytest.raises(UnreachableError, match="not asked now"):
            await driver.put("a/b", b"x")
        assert not recorder.exchanges
        now[0] += breaker.PAUSE
        await driver.put("a/b", b"x")
        assert await driver.get("a/b", 1) == b"x"
    finally:
        await driver.close()
        recorder.stop()


async def test_nobody_is_sent_to_a_storage_that_is_away(
    driver: S3Driver, proxy: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(s3session, "ATTEMPTS", 1)
    driver._client._breaker._clock = lambda: now[0]
    await driver.put("file", b"x")
    assert await driver.elsewhere("file") is not None
    proxy.clear(Rule(reset=True))
    for _ in range(breaker.FAILURES):
        with pytest.raises(UnreachableError):
            await driver.get("file", 1)
    with pytest.raises(UnreachableError, match="file: not asked now"):
        await driver.elsewhere("file")
    proxy.clear()
    now[0] += breaker.PAUSE
    assert await driver.elsewhere("file") is not None
    assert driver.trouble() == ""


async def test_a_storage_that_says_nothing_is_given_up(
    driver: S3Driver, proxy: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3session, "SILENCE", 0.2)
    monkeypatch.setattr(s3session, "ATTEMPTS", 2)
    await driver.put("file", b"x" * 1000)
    proxy.clear(Rule(hold=100))
    with pytest.raises(UnreachableError, match="file: the storage does not answer in time"):
        await driver.get("file", 1000)
    proxy.release()


async def test_a_slow_storage_is_waited_for_no_longer_than_a_call_may_take(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts and says nothing, to a driver whose limit is short."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()
        await writer.wait_closed()
        gone.set()

    gone = asyncio.Event()
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(s3client.S3Client.call, "__kwdefaults__", {"limit": 0.2})
    driver = S3Driver(bucket.settings(f"http://127.0.0.1:{port}"))
    with pytest.raises(UnreachableError, match=r"file: no answer from the storage within 0\.2 s"):
        await driver.stat("file")
    await driver.close()
    await gone.wait()
    server.close()


async def test_what_an_old_server_leaves_behind_a_head_is_no_answer_to_the_next_request(
    bucket: Bucket,
) -> None:
    """Swift 2.30 ends the body that a HEAD's 404 does not have: `0`, where the next answer should begin."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if asked and asked[-1].startswith(b"HEAD"):
                    writer.write(b"0\r\n\r\n")
                asked.append(head)
                if head.startswith(b"HEAD"):
                    writer.write(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n")
                else:
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = s3client.S3Client(bucket.settings(f"http://127.0.0.1:{port}"))
    with pytest.raises(PathNotFoundError):
        await client.call("file", "head_object", Key="file")
    await client.call("file", "delete_object", Key="file")
    assert [head.split(b" ")[0] for head in asked] == [b"HEAD", b"DELETE", b"DELETE"]
    await client.close()
    server.close()


async def test_a_body_that_breaks_off_is_read_on_from_there(driver: S3Driver, proxy: Recorder) -> None:
    data = os.urandom(3 * MIB)
    await driver.put("file", data)
    proxy.clear(
        Rule(method="GET", truncate=MIB, times=1), Rule(method="GET", truncate=1000, reset=True, times=1)
    )
    assert await content(driver, "file") == data
    ranges = [exchange.request_headers.get("range", "") for exchange in proxy.select("GET")]
    assert [bool(each) for each in ranges] == [False, True, True]
    assert all(e.request_headers["if-match"] for e in proxy.select("GET")[1:])


async def test_a_body_that_breaks_off_again_and_again_fails(driver: S3Driver, proxy: Recorder) -> None:
    await driver.put("file", os.urandom(MIB))
    proxy.clear(Rule(method="GET", truncate=1000, times=1), Rule(method="GET", status=500))
    with pytest.raises(UnreachableError, match="file: the storage answers 500"):
        await content(driver, "file")


async def test_what_changes_or_goes_while_it_is_read_is_noticed(driver: S3Driver, proxy: Recorder) -> None:
    data = os.urandom(3 * MIB)
    for change in (driver.put("file", os.urandom(3 * MIB)), driver.delete("file")):
        await driver.put("file", data)
        proxy.clear(Rule(method="GET", truncate=MIB, times=1))
        file = await driver.open("file")
        chunks = file.chunks(0, file.size)
        got = await anext(chunks)
        await change
        with pytest.raises(DriverError, match="file: "):
            await rest(chunks)
        assert data.startswith(got)
        await file.close()


async def test_after_its_close_a_driver_refuses(bucket: Bucket) -> None:
    driver = S3Driver(bucket.settings())
    await driver.put("file", b"x")
    await driver.close()
    await driver.close()
    with pytest.raises(DriverError, match="file: the driver is closed"):
        await driver.get("file", 1)


# What clients fetch themselves.


async def test_a_url_gives_the_file_to_whoever_has_it(driver: S3Driver) -> None:
    await driver.put("a/file", b"0123456789")
    place = await driver.elsewhere("a/file")
    assert place is not None
    assert place.size == 10
    assert fetch(place.url) == (200, b"0123456789")
    assert fetch(place.url, Range="bytes=2-4") == (206, b"234")
    assert fetch(place.url.replace("/file", "/other"))[0] == 403


async def test_a_url_is_given_again_and_costs_nothing_then(driver: S3Driver, proxy: Recorder) -> None:
    await driver.put("file", b"x")
    proxy.clear()
    first = await driver.elsewhere("file")
    assert await driver.elsewhere("file") == first
    assert [exchange.method for exchange in proxy.exchanges] == ["HEAD"]
    await driver.put("file", b"longer")
    second = await driver.elsewhere("file")
    assert second is not None
    assert second.size == 6
    await driver.delete("file")
    with pytest.raises(PathNotFoundError):
        await driver.elsewhere("file")


async def test_what_was_deleted_with_its_folder_is_nowhere(driver: S3Driver) -> None:
    await driver.put("a/b/file", b"x")
    assert await driver.elsewhere("a/b/file") is not None
    await driver.remove(["a/b"], "a", durable=True)
    with pytest.raises(PathNotFoundError):
        await driver.elsewhere("a/b/file")


async def test_a_deletion_behind_our_back_is_noticed_and_a_url_renewed_in_time(bucket: Bucket) -> None:
    driver = S3Driver(bucket.settings())
    clock, monotonic = [1e9], [0.0]
    driver._urls._clock, driver._urls._monotonic = lambda: clock[0], lambda: monotonic[0]
    await driver.put("file", b"x")
    first = await driver.elsewhere("file")
    assert first is not None
    assert first.until == 1e9 + 600
    clock[0] = first.until
    second = await driver.elsewhere("file")
    assert second is not None
    assert second.until == first.until + 600
    other = S3Driver(bucket.settings())
    await other.delete("file")
    await other.close()
    assert await driver.elsewhere("file") is not None
    monotonic[0] += 60
    with pytest.raises(PathNotFoundError):
        await driver.elsewhere("file")
    await driver.close()


async def test_clients_can_be_given_another_endpoint(bucket: Bucket, proxy: Recorder) -> None:
    driver = S3Driver(bucket.settings(redirect_endpoint=proxy.url))
    await driver.put("file", b"x")
    place = await driver.elsewhere("file")
    assert place is not None
    assert place.url.startswith(f"{proxy.url}/{bucket.name}/{bucket.root}/file?")
    assert not proxy.exchanges
    assert fetch(place.url) == (200, b"x")
    await driver.close()


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_bucket_in_another_region_than_configured_is_told_and_urls_are_signed_for_its_own(
    bucket: Bucket, proxy: Recorder, elsewhere: bool
) -> None:
    """Its server says which that is, and botocore asks there from then on; but signs URLs as it was told."""
    settings = bucket.settings(region="eu-central-9", redirect_endpoint=proxy.url if elsewhere else "")
    driver = S3Driver(settings)
    with capture_logs() as logs:
        for name in ("a", "b"):
            await driver.put(name, b"there")
            place = await driver.elsewhere(name)
            assert place is not None
            assert fetch(place.url) == (200, b"there")
            assert await driver.get(name, 10) == b"there"
    assert [(each["event"], each["region"], each["see"]) for each in logs] == [
        ("storage.region", "us-east-1", "storage.s3.region")
    ]
    await driver.close()


async def test_no_url_is_given_for_longer_than_the_login_it_was_signed_with_lasts(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a container's or a machine's role, by a server of such logins."""
    login = bucket.settings()
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=12)

    async def give(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "AccessKeyId": login.access_key,
                "SecretAccessKey": login.secret_key,
                "Token": "t",
                "Expiration": ends.isoformat().replace("+00:00", "Z"),
            }
        )

    app = web.Application()
    app.router.add_get("/", give)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{runner.addresses[0][1]}/")
    driver = S3Driver(bucket.settings(access_key="", secret_key="", presigned=3600.0))
    await driver.put("file", b"x")
    place = await driver.elsewhere("file")
    assert place is not None
    # In its second half, that of the login, a client has time to begin.
    assert time.time() < place.until <= time.time() + 12 * 60 / 2
    await driver.close()
    await runner.cleanup()


async def test_without_redirects_nothing_is_elsewhere(bucket: Bucket) -> None:
    driver = S3Driver(bucket.settings(redirect=False))
    await driver.put("file", b"x")
    assert await driver.elsewhere("file") is None
    await driver.close()


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({}, {}),
        ({"encrypt": True}, {"x-amz-server-side-encryption": "AES256"}),
        (
            {"encrypt": True, "kms_key": "k"},
            {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": "k"},
        ),
        ({"storage_class": "STANDARD_IA"}, {"x-amz-storage-class": "STANDARD_IA"}),
        ({"acl": "bucket-owner-full-control"}, {"x-amz-acl": "bucket-owner-full-control"}),
        ({"session_token": "t"}, {"x-amz-security-token": "t"}),
    ],
)
async def test_objects_are_stored_as_the_settings_say(
    bucket: Bucket, proxy: Recorder, source: Path, settings: dict[str, Any], headers: dict[str, str]
) -> None:
    """As far as the requests say so: this server knows no encryption."""
    driver = S3Driver(bucket.settings(proxy.url, part_size=PART, **settings))
    proxy.clear(Rule(status=400))
    for work in (driver.put("small", b"x"), driver.move_in(source, "large")):
        with pytest.raises(DriverError):
            await work
    await driver.close()
    for exchange in (*proxy.select("PUT"), *proxy.select("POST")):
        sent = {name: value for name, value in exchange.request_headers.items() if name.startswith("x-amz-")}
        for name in ("x-amz-date", "x-amz-content-sha256"):
            del sent[name]
        assert sent == headers
    assert len(proxy.exchanges) >= 2
