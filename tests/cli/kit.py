"""A data folder, and a control socket that answers with what a test says."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mirror.server.control import Explain, control
from mirror.server.operations import Operate

Event = dict[str, Any]


class Script:
    """An operation that tells these events, and notes what it was asked for."""

    def __init__(self, *events: Event | Exception) -> None:
        self.events = events
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.closed = 0

    async def __call__(self, operation: str, options: Mapping[str, str]) -> AsyncGenerator[Event, None]:
        self.asked.append((operation, dict(options)))
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed += 1


@contextmanager
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Below the working directory, named by the variable, with a path short enough for a socket."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("REGISTRY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", f"/proc/self/fd/{descriptor}/root")
    yield Path(f"/proc/self/fd/{descriptor}/root")
    os.close(descriptor)


async def no_facts(_image: str) -> Event:
    return {}


@contextmanager
def listening(path: Path, explain: Explain = no_facts, operate: Operate | None = None) -> Iterator[None]:
    """A mirror's control socket, in a thread."""

    async def serve() -> None:
        async with control(path, explain, operate):
            ready.set()
            await stop.wait()

    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(20)
    try:
        with capture_logs():  # this process' standard output is the command's
            yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
