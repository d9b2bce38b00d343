"""The driver for Google Cloud Storage, on an emulator; a recording proxy in front of it breaks requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from mirror.drivers.base import StorageDriver
from mirror.drivers.gcs import GcsObjects
from mirror.drivers.gcssettings import GcsSettings
from mirror.drivers.objects import ObjectsDriver
from tests.drivers.conformance import DriverConformance
from tests.support.gcs import BUCKET, GcsBucket, key

LIFE = 1200.0  # seconds that URLs work


def settings(place: GcsBucket, url: str | None = None, **others: Any) -> GcsSettings:
    """By way of the proxy; `url`: by way of this."""
    return GcsSettings(
        **{
            "bucket": BUCKET,
            "key": key(),
            "endpoint": url or place.server.url,
            "root": place.root,
            **others,
        }
    )


class TestConformance(DriverConformance):
    often, batches = 10, 1  # each request takes a millisecond or more

    @pytest.fixture
    async def driver(self, gcs_bucket: GcsBucket) -> AsyncIterator[StorageDriver]:
        driver = ObjectsDriver(GcsObjects(settings(gcs_bucket, gcs_bucket.server.direct)), LIFE)
        yield driver
        await driver.close()
