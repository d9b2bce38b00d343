"""A registry in memory, and events as they are logged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.server.memory import MemoryRegistry


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    """Empty but for the name `library/x`."""
    made = MemoryRegistry()
    yield made
    made.close()


@pytest.fixture
def events() -> Iterator[list[structlog.typing.EventDict]]:
    """What is logged during the test, in order."""
    with structlog.testing.capture_logs() as captured:
        yield captured
