"""The in-memory driver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.drivers.base import DriverError, NoSpaceError, PathNotFoundError, StorageDriver
from mirror.drivers.inmemory import InMemoryDriver
from tests.drivers.conformance import DriverConformance


class TestConformance(DriverConformance):
    @pytest.fixture
    async def driver(self) -> AsyncIterator[StorageDriver]:
        driver = InMemoryDriver()
        yield driver
        await driver.close()


async def test_more_than_the_limit_is_no_space_and_keeps_what_was_there(tmp_path: Path) -> None:
    driver = InMemoryDriver(limit=10)
    await driver.put("a", b"12345")
    with pytest.raises(NoSpaceError, match="b: more than 10 bytes"):
        await driver.put("b", b"123456")
    source = tmp_path / "source"
    source.write_bytes(b"1" * 1000)
    with pytest.raises(NoSpaceError):
        await driver.move_in(source, "a")
    assert source.stat().st_size == 1000
    assert await driver.get("a", 10) == b"12345"
    assert await driver.list("") == ["a"]


async def test_room_comes_back_with_a_delete_or_a_smaller_file() -> None:
    driver = InMemoryDriver(limit=10)
    await driver.put("a/b", b"1234567890")
    await driver.put("a/b", b"1")
    await driver.put("a/c", b"123456789")
    await driver.delete("a")
    await driver.put("d", b"1234567890")
    assert await driver.get("d", 10) == b"1234567890"


async def test_a_folder_without_files_is_gone() -> None:
    driver = InMemoryDriver()
    await driver.put("a/b/c", b"x")
    await driver.delete("a/b/c")
    with pytest.raises(PathNotFoundError):
        await driver.stat("a")


@pytest.mark.parametrize("path", ["folder", "folder/file/below", ""])
async def test_a_file_where_a_folder_is_or_the_other_way_round_is_refused(path: str, tmp_path: Path) -> None:
    driver = InMemoryDriver()
    await driver.put("folder/file", b"x")
    source = tmp_path / "source"
    source.write_bytes(b"y")
    with pytest.raises(DriverError):
        await driver.put(path, b"y")
    with pytest.raises(DriverError):
        await driver.move_in(source, path)
    assert source.exists()
    assert await driver.list("folder") == ["file"]
