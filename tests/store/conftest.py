"""Both drivers, and a store on each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mirror.drivers.base import StorageDriver
from mirror.drivers.filesystem import FilesystemDriver
from mirror.drivers.inmemory import InMemoryDriver
from mirror.store.content import ContentStore
from tests.support.memory import memory_folder


@pytest.fixture(params=["filesystem", "inmemory"])
async def driver(request: pytest.FixtureRequest) -> AsyncIterator[StorageDriver]:
    """An empty driver."""
    with memory_folder() as folder:
        driver: StorageDriver
        driver = FilesystemDriver(folder / "root", 4) if request.param == "filesystem" else InMemoryDriver()
        yield driver
        await driver.close()


@pytest.fixture
def store(driver: StorageDriver) -> ContentStore:
    """An empty store."""
    return ContentStore(driver)
