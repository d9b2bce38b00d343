"""A storage that does not let us: it is looked at when it has refused, and until it can be used."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from mirror.health import watch
from mirror.health.watch import Trouble, Watch
from tests.support.waiting import until


async def test_it_is_looked_at_once_and_again_only_when_something_was_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "INTERVAL", 0.001)
    monkeypatch.setattr(watch, "AGAIN", 0.001)
    error: list[str | None] = [None]
    looks, denials, turns = 0, 0, 0

    async def look() -> Trouble | None:
        nonlocal looks
        looks += 1
        return None if error[0] is None else Trouble(f"{error[0]} at h", error[0])

    def count() -> int:
        nonlocal turns
        turns += 1
        return denials

    made = Watch(look, count)
    with capture_logs() as logs:
        task = asyncio.create_task(made.run())
        await until(lambda: turns > 10)
        assert (looks, made.error) == (1, None)
        denials, error[0] = 1, "no such bucket"
        await until(lambda: made.error == "no such bucket")
        await until(lambda: looks > 5)  # nothing more is refused, and yet it is tried again
        error[0] = None
        await until(lambda: made.error is None)
        denials += 1  # of one thing only: the storage is well
        seen = looks
        await until(lambda: looks == seen + 1)
        assert made.error is None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [(entry["event"], entry.get("reason")) for entry in logs] == [
        ("storage.unusable", "no such bucket at h"),
        ("storage.usable", None),
    ]
