"""What the drivers for Azure and Google have in common: uploads, failures, URLs for clients."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from mirror.drivers import azureclient, breaker, gcsclient, pace
from mirror.drivers.base import (
    DeniedError,
    DriverError,
    PathNotFoundError,
    Remote,
    StorageDriver,
    ThrottledError,
    UnreachableError,
)
from mirror.drivers.objects import DENIED, ObjectsDriver, Signer
from mirror.drivers.objectstore import ObjectStore
from mirror.drivers.urls import Urls
from tests.drivers.conformance import MIB, content, walk
from tests.drivers.kit import fetch, size
from tests.support.clouds import PART, Cloud
from tests.support.procs import free_port
from tests.support.recorder import Rule
from tests.support.waiting import until

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


@pytest.fixture(autouse=True)
def _once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is not tried again, unless a test says so."""
    monkeypatch.setattr(gcsclient, "ATTEMPTS", 1)


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two looks at a file that grows a minute goes by."""
    monkeypatch.setattr(pace, "monotonic", itertools.count(0.0, 60.0).__next__)


@pytest.fixture
async def driver(cloud: Cloud) -> AsyncIterator[ObjectsDriver]:
    """By way of the proxy."""
    driver = cloud.make()
    yield driver
    await driver.close()


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


def headers_sum(headers: dict[str, str]) -> str:
    """The checksum that goes with what is sent; "": none."""
    return headers.get("content-md5", "") or headers.get("x-goog-hash", "")


async def test_each_operation_is_one_request(cloud: Cloud, driver: ObjectsDriver) -> None:
    """Of what is there."""
    await driver.put("a/file", b"0123456789")
    works: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: driver.put("a/other", b"x"),
        lambda: driver.get("a/file", 10),
        lambda: driver.stat("a/file"),
        lambda: driver.list("a"),
        lambda: content(driver, "a/file"),
        lambda: driver.delete("a/file"),
    )
    for work in works:
        cloud.proxy.clear()
        await work()
        assert len(cloud.proxy.exchanges) == 1, cloud.proxy.trace()
    await driver.put("a/file", b"0123456789")
    cloud.proxy.clear()
    file = await driver.open("a/file", 4)
    assert [chunk async for chunk in file.chunks(4, 10)] == [b"456789"]
    assert file.size == 10
    await file.close()
    assert [exchange.request_headers["range"] for exchange in cloud.proxy.exchanges] == ["bytes=4-"]


async def test_the_root_is_a_folder_also_where_nothing_is_yet(driver: ObjectsDriver) -> None:
    info = await driver.stat("")
    assert (info.size, info.is_folder) == (0, True)
    assert await driver.list("") == []


@pytest.mark.parametrize("start", [10, 1000])
async def test_a_file_can_be_opened_behind_its_end(driver: ObjectsDriver, start: int) -> None:
    await driver.put("file", b"0123456789")
    file = await driver.open("file", start)
    assert file.size == 10
    assert [chunk async for chunk in file.chunks(2, 10)] == [b"23456789"]
    await file.close()


async def test_many_files_are_deleted_with_few_requests_or_many_at_once(
    cloud: Cloud, driver: ObjectsDriver
) -> None:
    paths = [f"tree/{index}" for index in range(40)]
    await asyncio.gather(*(driver.put(path, b"") for path in [*paths, "other"]))
    cloud.proxy.clear()
    await driver.delete("tree")
    assert len(cloud.proxy.exchanges) == (3 if cloud.name == "azure" else 42), cloud.proxy.trace()
    assert await driver.list("") == ["other"]
    await asyncio.gather(*(driver.put(path, b"") for path in paths))
    removed = await driver.remove([*paths, paths[0], "none"], "", durable=True)
    assert removed[:40] == [True] * 40
    assert removed[41] is False
    assert await driver.list("") == ["other"]


# Uploads.


async def test_a_large_file_goes_in_parts(
    cloud: Cloud, driver: ObjectsDriver, source: Path, data: bytes
) -> None:
    await driver.move_in(source, "a/blob")
    assert len(cloud.proxy.select("PUT", cloud.part)) == 3, cloud.proxy.trace()
    assert size(source) is None
    assert await content(driver, "a/blob") == data
    assert (await driver.stat("a/blob")).size == len(data)


@pytest.mark.usefixtures("slowly")
async def test_a_file_is_sent_while_it_grows_and_is_there_only_once_it_is_moved_in(
    cloud: Cloud, driver: ObjectsDriver, tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "growing"
    path.write_bytes(data[: PART + 1000])
    incoming = driver.incoming(path, "blob", len(data))
    assert incoming is not None
    incoming.reached(PART - 1)
    await asyncio.sleep(0)
    assert not cloud.proxy.exchanges
    incoming.reached(PART + 1000)
    await until(lambda: any(exchange.end for exchange in cloud.proxy.select("PUT", cloud.part)))
    path.write_bytes(data)
    incoming.reached(len(data))
    assert await driver.list("") == []
    await driver.move_in(path, "blob", incoming)
    incoming.end()
    assert len(cloud.proxy.select("PUT", cloud.part)) == 3, "none was sent twice"
    assert await content(driver, "blob") == data
    assert size(path) is None


@pytest.mark.usefixtures("slowly")
async def test_what_was_sent_of_a_file_that_is_not_wanted_is_never_there(
    cloud: Cloud, driver: ObjectsDriver, source: Path, data: bytes
) -> None:
    incoming = driver.incoming(source, "blob", len(data))
    assert incoming is not None
    incoming.reached(0)
    incoming.reached(PART)
    incoming.reached(len(data))
    await until(lambda: any(exchange.end for exchange in cloud.proxy.select("PUT", cloud.part)))
    incoming.end()
    incoming.end()
    incoming.reached(len(data))
    await driver.close()
    again = cloud.make()
    assert await again.list("") == []
    await again.close()


@pytest.mark.usefixtures("slowly")
async def test_what_could_not_be_sent_meanwhile_is_sent_at_the_end(
    cloud: Cloud, driver: ObjectsDriver, source: Path, data: bytes
) -> None:
    cloud.proxy.clear(Rule(cloud.part, status=400, times=1))
    incoming = driver.incoming(source, "blob", len(data))
    assert incoming is not None
    incoming.reached(0)
    incoming.reached(2 * PART)
    await until(lambda: any(exchange.end for exchange in cloud.proxy.select("PUT", cloud.part)))
    await driver.move_in(source, "blob", incoming)
    incoming.end()
    assert await content(driver, "blob") == data


async def test_only_few_files_are_sent_while_they_grow(
    driver: ObjectsDriver, source: Path, data: bytes
) -> None:
    begun = [driver.incoming(source, f"blob{number}", len(data)) for number in range(5)]
    assert [each is not None for each in begun] == [True] * 3 + [False] * 2
    for each in begun:
        if each is not None:
            each.end()
    assert driver.incoming(source, "blob", len(data)) is not None
    assert driver.incoming(source, "small", PART) is None


async def test_an_upload_that_fails_leaves_nothing_and_keeps_the_source(
    cloud: Cloud, driver: ObjectsDriver, source: Path
) -> None:
    await driver.put("blob", b"old")
    cloud.proxy.clear(Rule(cloud.part, "PUT", status=400))
    with pytest.raises(DriverError, match=r"blob: .* 400"):
        await driver.move_in(source, "blob")
    cloud.proxy.clear()
    assert size(source) == 2 * PART + 12_345
    assert await driver.get("blob", 10) == b"old"
    assert await driver.list("") == ["blob"]


@pytest.mark.parametrize("size", [700, PART - 1, PART + 1000], ids=["small", "one part", "two parts"])
async def test_what_is_damaged_on_its_way_is_refused_and_not_kept_and_can_be_sent_again(
    cloud: Cloud, driver: ObjectsDriver, tmp_path: Path, size: int
) -> None:
    """Google's emulator checks nothing: there it is the driver that finds it, and deletes it."""
    source, data = tmp_path / "source", os.urandom(size)
    source.write_bytes(data)
    kind = "POST" if cloud.name == "gcs" and size < PART else "PUT"
    cloud.proxy.clear(Rule(method=kind, damage=123, times=1))
    with pytest.raises(DriverError, match=r"blob: the storage (answers 400|has stored something else)"):
        await driver.move_in(source, "blob")
    assert source.exists()
    assert await driver.list("") == []
    await driver.move_in(source, "blob")
    assert await content(driver, "blob") == data
    sums = [headers_sum(exchange.request_headers) for exchange in cloud.proxy.select("PUT|POST")]
    assert all(sums) if cloud.name == "azure" else sums[-1], cloud.proxy.trace()


@pytest.mark.usefixtures("slowly")
async def test_a_part_that_is_damaged_while_the_file_grows_is_sent_again_at_the_end(
    cloud: Cloud, driver: ObjectsDriver, source: Path, data: bytes
) -> None:
    cloud.proxy.clear(Rule(cloud.part, "PUT", damage=1000, times=1))
    incoming = driver.incoming(source, "blob", len(data))
    assert incoming is not None
    incoming.reached(0)
    incoming.reached(2 * PART)
    await until(lambda: any(exchange.end for exchange in cloud.proxy.select("PUT", cloud.part)))
    await driver.move_in(source, "blob", incoming)
    incoming.end()
    assert await content(driver, "blob") == data
    assert len(cloud.proxy.select("PUT", cloud.part)) > 3, cloud.proxy.trace()


async def test_an_upload_that_is_cancelled_ends_with_the_driver_whole_or_not_at_all(
    cloud: Cloud, driver: ObjectsDriver, source: Path, data: bytes
) -> None:
    cloud.proxy.clear(Rule(cloud.part, wait=True))
    moving = asyncio.create_task(driver.move_in(source, "blob"))
    await until(lambda: bool(cloud.proxy.select("PUT", cloud.part)))
    moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    cloud.proxy.release()
    await driver.close()
    assert size(source) is not None
    again = cloud.make()
    if await again.list(""):  # all had been handed over
        assert await content(again, "blob") == data
    await again.close()
    # The proxy hears of a connection's end a moment later.
    await until(lambda: all(exchange.end is not None for exchange in cloud.proxy.exchanges))


async def test_a_part_that_breaks_is_sent_again(
    cloud: Cloud, source: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcsclient, "ATTEMPTS", 3)
    monkeypatch.setattr(gcsclient, "FIRST_WAIT", 0.01)
    driver = cloud.make(**({"retries": 2} if cloud.name == "azure" else {}))
    cloud.proxy.clear(Rule(cloud.part, reset=True, times=1), Rule(cloud.part, status=503, times=1))
    await driver.move_in(source, "blob")
    assert len(cloud.proxy.select("PUT", cloud.part)) == 5, cloud.proxy.trace()
    assert await content(driver, "blob") == data
    await driver.close()


# Failures.


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, DeniedError), (429, ThrottledError), (500, UnreachableError), (400, DriverError)],
)
async def test_a_refusal_is_a_failure_of_its_kind_with_path_and_cause(
    cloud: Cloud,
    driver: ObjectsDriver,
    tmp_path: Path,
    verb: Callable[[StorageDriver, Path], Awaitable[object]],
    status: int,
    kind: type[DriverError],
) -> None:
    (tmp_path / "source").write_bytes(b"x")
    cloud.proxy.clear(Rule(status=status))
    with pytest.raises(DriverError) as caught:
        await verb(driver, tmp_path / "source")
    assert type(caught.value) is kind
    assert caught.value.path == "a/b"
    assert str(status) in caught.value.cause
    assert "http" not in caught.value.cause
    assert (tmp_path / "source").exists()


async def test_a_storage_that_is_away_is_left_alone_for_a_while(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    for module in (azureclient, gcsclient):
        monkeypatch.setattr(module, "Breaker", lambda: breaker.Breaker(lambda: now[0]))
    driver = cloud.make(url=f"http://127.0.0.1:{free_port()}")
    for _ in range(breaker.FAILURES):
        with pytest.raises(UnreachableError, match="a/b: the storage cannot be connected to"):
            await driver.get("a/b", 1)
    with pytest.raises(UnreachableError, match="a/b: not asked now: the storage cannot be connected to"):
        await driver.put("a/b", b"x")
    assert isinstance(driver, Remote)
    assert driver.trouble() == "the storage cannot be connected to"
    now[0] += breaker.PAUSE
    with pytest.raises(UnreachableError, match="a/b: the storage cannot be connected to"):
        await driver.put("a/b", b"x")
    await driver.close()


async def test_nobody_is_sent_to_a_storage_that_is_away(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcsclient, "ATTEMPTS", 1)
    driver = cloud.make()
    await driver.put("file", b"x")
    assert await driver.elsewhere("file") is not None
    cloud.proxy.clear(Rule(status=500))
    for _ in range(breaker.FAILURES):
        with pytest.raises(UnreachableError):
            await driver.get("file", 1)
    with pytest.raises(UnreachableError, match="file: not asked now"):
        await driver.elsewhere("file")
    await driver.close()


async def test_a_storage_that_says_nothing_is_given_up(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (azureclient, gcsclient):
        monkeypatch.setattr(module, "SILENCE", 0.3)
    driver = cloud.make()
    await driver.put("file", b"x" * 1000)
    cloud.proxy.clear(Rule(wait=True))
    with pytest.raises(UnreachableError, match="file: the storage does not answer in time"):
        await driver.get("file", 1000)
    cloud.proxy.release()
    await driver.close()


async def test_a_body_that_breaks_off_is_read_on_from_there(cloud: Cloud, driver: ObjectsDriver) -> None:
    data = os.urandom(3 * MIB)
    await driver.put("file", data)
    cloud.proxy.clear(
        Rule(method="GET", truncate=MIB, times=1), Rule(method="GET", truncate=1000, reset=True, times=1)
    )
    assert await content(driver, "file") == data
    ranges = [exchange.request_headers.get("range", "") for exchange in cloud.proxy.select("GET")]
    assert [bool(each) for each in ranges] == [False, True, True]


async def test_a_body_that_breaks_off_again_and_again_fails(cloud: Cloud, driver: ObjectsDriver) -> None:
    await driver.put("file", os.urandom(MIB))
    cloud.proxy.clear(Rule(method="GET", truncate=1000, times=1), Rule(method="GET", status=500))
    with pytest.raises(UnreachableError, match="file: the storage "):
        await content(driver, "file")


async def test_after_its_close_a_driver_refuses(cloud: Cloud) -> None:
    driver = cloud.make()
    await driver.put("file", b"x")
    await driver.close()
    await driver.close()
    with pytest.raises(DriverError, match="file: the driver is closed"):
        await driver.get("file", 1)


# What clients fetch themselves.


async def test_a_url_gives_the_file_to_whoever_has_it(cloud: Cloud, driver: ObjectsDriver) -> None:
    await driver.put("a/file", b"0123456789")
    place = await driver.elsewhere("a/file")
    assert place is not None
    assert place.size == 10
    assert fetch(place.url) == (200, b"0123456789")
    assert fetch(place.url, Range="bytes=2-4") == (206, b"234")
    if cloud.name == "azure":  # the other emulator checks no signature
        assert fetch(place.url.replace("/file", "/other"))[0] == 403


async def test_a_url_is_given_again_and_costs_nothing_then(cloud: Cloud, driver: ObjectsDriver) -> None:
    await driver.put("file", b"x")
    cloud.proxy.clear()
    first = await driver.elsewhere("file")
    assert await driver.elsewhere("file") == first
    assert len(cloud.proxy.exchanges) == 1, cloud.proxy.trace()
    await driver.put("file", b"longer")
    second = await driver.elsewhere("file")
    assert second is not None
    assert second.size == 6
    await driver.delete("file")
    with pytest.raises(PathNotFoundError):
        await driver.elsewhere("file")


async def test_what_was_found_while_it_was_deleted_is_not_believed_afterwards(
    cloud: Cloud, driver: ObjectsDriver
) -> None:
    await driver.put("file", b"x")
    cloud.proxy.clear(Rule(method="DELETE|POST", wait=True))
    removing = asyncio.create_task(driver.remove(["file"], "", durable=True))
    await until(lambda: bool(cloud.proxy.select("DELETE|POST")))
    assert await driver.elsewhere("file") is not None
    cloud.proxy.release()
    assert await removing == [True]
    with pytest.raises(PathNotFoundError):
        await driver.elsewhere("file")


async def test_a_look_that_began_before_a_deletion_is_not_believed_after_it() -> None:
    looks = 0
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        async def size_of(self, _path: str) -> int:
            nonlocal looks
            looks += 1
            begun.set()
            await go_on.wait()
            return 1

        async def life(self, _path: str, seconds: float) -> float:
            return seconds

        async def presign(self, path: str, _seconds: float) -> str:
            return f"http://{path}"

    urls = Urls(Slow(), 60.0)
    look = asyncio.create_task(urls.get("a/file"))
    await begun.wait()
    urls.forget_each(["a"])
    go_on.set()
    await look
    await urls.get("a/file")
    await urls.get("a/file")
    assert looks == 2


async def test_without_redirects_nothing_is_elsewhere(cloud: Cloud) -> None:
    driver = cloud.make(life=0.0)
    await driver.put("file", b"x")
    assert await driver.elsewhere("file") is None
    await driver.close()


async def test_where_no_url_can_be_signed_there_is_none_and_it_is_not_tried_again_at_once() -> None:
    tried: list[str] = []

    class Denying:
        async def presign(self, path: str, seconds: float) -> str:
            tried.append(path)
            raise DeniedError(path, "no right to sign")

    now = [0.0]
    signer = Signer(cast("ObjectStore", Denying()), lambda: now[0])
    assert [await signer.presign(path, 60) for path in "ab"] == ["", ""]
    now[0] = DENIED
    assert await signer.presign("c", 60) == ""
    assert tried == ["a", "c"]
