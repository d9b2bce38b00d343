"""The pull-through registry answers as any registry does, cold and warm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.drivers.inmemory import InMemoryDriver
from mirror.registry import Registry
from tests.cache.kit import Remote, joined
from tests.store.conformance import RegistryConformance
from tests.store.samples import SOME, stock
from tests.support.images import Catalog
from tests.support.memory import memory_folder


class TestColdConformance(RegistryConformance):
    @pytest.fixture
    async def registry(self, catalog: Catalog, tmp_path: Path) -> AsyncIterator[Registry]:
        """Nothing is kept yet; the upstream is a store in memory."""
        upstream = Remote(InMemoryDriver())
        await stock(upstream, catalog, SOME, tmp_path)
        with memory_folder() as folder:
            async with joined(folder / "root", upstream) as parts:
                yield parts.registry


class TestWarmConformance(RegistryConformance):
    @pytest.fixture
    async def registry(self, catalog: Catalog, tmp_path: Path) -> AsyncIterator[Registry]:
        """All is kept, by an earlier process; the upstream has the same."""
        upstream = Remote(InMemoryDriver())
        await stock(upstream, catalog, SOME, tmp_path)
        with memory_folder() as folder:
            async with joined(folder / "root", upstream) as parts:
                await stock(parts.store, catalog, SOME, tmp_path)
            async with joined(folder / "root", upstream) as parts:
                yield parts.registry
