"""A registry in memory, and events as they are logged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.server.events import Events
from tests.server.memory import MemoryRegistry


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    """Empty but for the name `library/x`."""
    made = MemoryRegistry()
    yield made
    made.close()


@pytest.fixture
def events() -> Iterator[Events]:
    """What is logged during the test, in order."""
    before = structlog.get_config()
    captured = Events()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, captured.take],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )
    yield captured
    structlog.configure(**before)
