"""The driver for Azure, on Microsoft's emulator. What all clouds have in common: test_clouds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mirror.drivers.azure import AzureObjects
from mirror.drivers.azureerrors import failure
from mirror.drivers.base import DeniedError, StorageDriver
from mirror.drivers.objects import ObjectsDriver
from tests.drivers.conformance import DriverConformance
from tests.support.azurite import Container
from tests.support.clouds import LIFE, azure_settings


class TestConformance(DriverConformance):
    often, batches = 10, 1  # each request takes milliseconds

    @pytest.fixture
    async def driver(self, container: Container) -> AsyncIterator[StorageDriver]:
        driver = ObjectsDriver(AzureObjects(azure_settings(container, container.server.url)), LIFE)
        yield driver
        await driver.close()


@pytest.mark.parametrize(
    "wrong", [{"key": "d3Jvbmc="}, {"account": "nobody"}, {"container": "no-such"}], ids=str
)
async def test_without_a_right_the_storage_denies_and_nothing_secret_is_said(
    container: Container, wrong: dict[str, Any]
) -> None:
    settings = azure_settings(container, container.server.url, **wrong)
    driver = ObjectsDriver(AzureObjects(settings), LIFE)
    with pytest.raises(DeniedError) as caught:
        await driver.put("a/b", b"x")
    await driver.close()
    assert str(caught.value).startswith("a/b: the storage answers 40")
    for secret in (settings.key, "SharedKey", "http"):
        assert secret not in caught.value.cause


def test_a_login_that_cannot_be_had_is_a_denial() -> None:
    text = "Generic MicrosoftAzure error: Error performing token request: Error performing POST in 3s\nmore"
    assert isinstance(failure("a", ValueError(text)), DeniedError)
