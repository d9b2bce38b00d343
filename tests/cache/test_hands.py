"""Work in threads, and who is told of its end."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest

from mirror.cache.hands import Hands


@pytest.mark.parametrize("ended", [False, True])
async def test_who_is_told_of_the_end_knows_of_it_when_a_cancelled_caller_goes_on(ended: bool) -> None:
    """Also where the thread has ended, and a cancellation comes before that is told: a file that was opened
    would be nobody's.
    """
    hands, may_end, told = Hands(1), Event(), list[str]()

    async def call() -> None:
        try:
            await hands.run(may_end.wait, then=lambda done: told.append(f"told {done.result()}"))
        finally:
            told.append("goes on")

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    if ended:
        may_end.set()
        hands.shutdown()  # NB: the loop stands still
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert told == ["told True", "goes on"]
    hands.shutdown()
