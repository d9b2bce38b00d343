"""Work behind the answers comes back after a failure, and collections come once a day."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from mirror.cache import housekeeping, pace
from mirror.cache.pace import Pace
from tests.cache.kit import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AGAIN", "FIRST", "DAILY"):
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


class Clocks:
    """What a piece of work takes, as told."""

    def __init__(self) -> None:
        self.at = self.cpu = 0.0

    def work(self, seconds: float, cpu: float) -> None:
        self.at += seconds
        self.cpu += cpu

    def pace(self) -> Pace:
        return Pace(lambda: self.at, lambda: self.cpu)


@pytest.mark.parametrize(
    ("seconds", "cpu", "rest"),
    [
        (0.1, 0.1, 0.2),
        (0.1, 0.05, 0.1),  # it has waited for the disk
        (0.1, 0.4, 0.2),  # answers have kept both cores busy
        (0.004, 0.004, 0.0),
        (9.0, 9.0, pace.MOST),
    ],
)
def test_after_a_piece_of_work_there_is_a_rest_of_twice_its_time(
    seconds: float, cpu: float, rest: float
) -> None:
    clocks = Clocks()
    paced = clocks.pace()
    clocks.work(seconds, cpu)
    assert paced.due() == pytest.approx(rest)


def test_small_pieces_of_work_are_made_up_for_together() -> None:
    clocks = Clocks()
    paced = clocks.pace()
    dues = []
    for _ in range(3):
        clocks.work(0.002, 0.002)
        dues.append(paced.due())
    assert dues == [0.0, 0.0, pytest.approx(0.012)]


async def test_what_was_rested_for_is_not_rested_for_again() -> None:
    clocks = Clocks()
    paced = clocks.pace()
    clocks.work(0.02, 0.02)
    await paced.rest()
    assert paced.due() == 0.0
