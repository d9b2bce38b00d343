"""Work behind the answers comes back after a failure, and collections come once a day."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from mirror.cache import housekeeping
from tests.cache.kit import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AGAIN", "FIRST", "DAILY", "REST"):
        monkeypatch.setattr(housekeeping, name, 0.001)


async def test_work_that_fails_is_begun_again_and_told() -> None:
    runs: list[int] = []

    async def work() -> None:
        runs.append(1)
        raise RuntimeError("a defect")

    task = asyncio.create_task(housekeeping.steadily("work", work))
    await until(lambda: len(runs) >= 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "last", [{"event": "summary", "removed": 1, "bytes": 2}, {"event": "error", "error": "busy"}]
)
async def test_a_collection_is_made_again_after_its_rest_however_it_went(last: dict[str, Any]) -> None:
    made: list[int] = []

    async def collect() -> AsyncGenerator[dict[str, Any], None]:
        made.append(1)
        yield {"event": "removed"}
        yield last

    task = asyncio.create_task(housekeeping.daily(collect))
    await until(lambda: len(made) >= 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
