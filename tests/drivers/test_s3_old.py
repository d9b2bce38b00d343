"""The S3 driver on an older server, the system's own: of 2022 where that is Debian 12.

It has no conditional puts, knows no checksum but a Content-MD5, which it wants for DeleteObjects, and says a
stray byte behind a HEAD's 404.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.drivers.base import PathNotFoundError, StorageDriver
from mirror.drivers.s3 import S3Driver
from tests.drivers.conformance import MIB, DriverConformance, content
from tests.support.buckets import Bucket
from tests.support.recorder import Recorder
from tests.support.swift import SwiftServer

PART = 5 * MIB  # bytes; no server takes smaller parts


@pytest.fixture
def old(old_swift: SwiftServer) -> Bucket:
    """A place in it where nothing is yet."""
    return Bucket(old_swift)


class TestConformance(DriverConformance):
    often, walked, many = 10, 107, 205  # as on the newer one

    @pytest.fixture
    async def driver(self, old: Bucket) -> AsyncIterator[StorageDriver]:
        driver = S3Driver(old.settings(part_size=PART))
        yield driver
        await driver.close()


async def test_many_files_go_with_one_request(old: Bucket) -> None:
    recorder = Recorder(old.server.url)
    driver = S3Driver(old.settings(recorder.url))
    names = [f"a/{number}" for number in range(20)]
    for name in names:
        await driver.put(name, b"x")
    recorder.clear()
    await driver.remove(names, "", durable=True, listed=True)
    assert [exchange.method for exchange in recorder.exchanges] == ["POST"], recorder.trace()
    assert "content-md5" in recorder.exchanges[0].request_headers
    assert await old.keys() == []
    await driver.close()
    recorder.stop()


async def test_what_is_not_there_leaves_the_connection_usable(old: Bucket) -> None:
    driver = S3Driver(old.settings())
    for _ in range(30):
        with pytest.raises(PathNotFoundError):
            await driver.stat("nothing")
    await driver.put("there", b"x")
    assert await driver.get("there", 1) == b"x"
    await driver.close()


async def test_a_file_in_parts_is_whole_and_leaves_no_upload(old: Bucket, tmp_path: Path) -> None:
    driver = S3Driver(old.settings(part_size=PART))
    data = os.urandom(2 * PART + 12_345)
    (tmp_path / "source").write_bytes(data)
    await driver.move_in(tmp_path / "source", "a/blob")
    assert await content(driver, "a/blob") == data
    assert await old.keys() == ["a/blob"]
    await driver.close()
