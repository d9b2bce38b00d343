"""The store as a Registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.drivers.base import StorageDriver
from mirror.registry import Registry
from mirror.store.content import ContentStore
from tests.store.conformance import RegistryConformance
from tests.store.samples import SOME, stock
from tests.support.images import Catalog


class TestConformance(RegistryConformance):
    @pytest.fixture
    async def registry(self, driver: StorageDriver, catalog: Catalog, tmp_path: Path) -> Registry:
        """A store that another one, of an earlier process, has filled."""
        await stock(ContentStore(driver), catalog, SOME, tmp_path)
        return ContentStore(driver)
