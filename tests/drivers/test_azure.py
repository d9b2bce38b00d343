"""The driver for Azure, on Microsoft's emulator; a recording proxy in front of it breaks requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mirror.drivers.azure import AzureObjects
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.base import StorageDriver
from mirror.drivers.objects import ObjectsDriver
from tests.drivers.conformance import DriverConformance
from tests.support.azurite import ACCOUNT, CONTAINER, KEY, Container

LIFE = 1200.0  # seconds that URLs work


def settings(container: Container, url: str | None = None, **others: Any) -> AzureSettings:
    """By way of `url` where that is given."""
    return AzureSettings(
        **{
            "container": CONTAINER,
            "account": ACCOUNT,
            "endpoint": f"{url or container.server.url}/{ACCOUNT}",
            "key": KEY,
            "root": container.root,
            **others,
        }
    )


class TestConformance(DriverConformance):
    often, batches = 10, 1  # each request takes milliseconds

    @pytest.fixture
    async def driver(self, container: Container) -> AsyncIterator[StorageDriver]:
        driver = ObjectsDriver(AzureObjects(settings(container)), LIFE)
        yield driver
        await driver.close()
