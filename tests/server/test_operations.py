"""Long operations over the control socket: what is told, who may ask, and what stops them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mirror.oci.errors import ErrorCode
from mirror.oci.reference import ImageError
from mirror.registry import RegistryError
from mirror.server import operations
from mirror.server.control import control
from tests.server.events import Events
from tests.server.raw import PATIENCE, Answer, parse

Event = dict[str, Any]
SUMMARY = {"event": "summary", "blobs": 1}


class Fake:
    """An operation in steps that the test lets happen: `ready` events, then `last`."""

    def __init__(self, *ready: Event | Exception, last: Event | None = SUMMARY) -> None:
        self.ready, self.last = ready, last
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.gate = asyncio.Event()  # what happens behind the events that are ready
        self.gate.set()
        self.waiting = asyncio.Event()
        self.told: list[str] = []

    async def __call__(self, operation: str, options: Mapping[str, str]) -> AsyncGenerator[Event, None]:
        self.asked.append((operation, dict(options)))
        try:
            for event in self.ready:
                if isinstance(event, Exception):
                    raise event
                yield event
            self.waiting.set()
            await self.gate.wait()
            self.told.append("step done")
            yield {"event": "progress"}
            self.told.append("next step")
            if self.last is not None:
                yield self.last
        finally:
            self.told.append("closed")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """In a folder whose name is short enough for a socket, wherever the tests run."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield Path(f"/proc/self/fd/{descriptor}/mirror/control.sock")
    os.close(descriptor)


async def explain(_image: str) -> Event:
    return {}


class Client:
    """Somebody who asked, and reads line by line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def lines(self) -> list[Event]:
        """All that is told until the connection ends."""
        return [event async for event in self]

    async def next(self) -> Event:
        """The next event."""
        return await anext(aiter(self))

    async def __aiter__(self) -> AsyncIterator[Event]:
        async with asyncio.timeout(PATIENCE):
            while line := await self._reader.readline():
                if line.startswith(b"{"):  # neither the head nor a chunk's length
                    yield json.loads(line)

    def leave(self) -> None:
        """Close without a word."""
        self._writer.transport.abort()


@asynccontextmanager
async def asking(path: Path, target: str) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(f"POST {target} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode())
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def ask(path: Path, target: str, method: str = "POST") -> Answer:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            return parse(await reader.read())
    finally:
        writer.close()


async def events_of(path: Path, target: str = "/verify") -> list[Event]:
    async with asking(path, target) as client:
        return await client.lines()


@pytest.mark.parametrize(
    ("target", "operation", "options"),
    [
        ("/garbage-collect", "garbage-collect", {"dry_run": "false", "delete_untagged": "false"}),
        ("/garbage-collect?dry_run=true", "garbage-collect", {"dry_run": "true", "delete_untagged": "false"}),
        (
            "/garbage-collect?delete_untagged=true&dry_run=false",
            "garbage-collect",
            {"dry_run": "false", "delete_untagged": "true"},
        ),
        ("/verify", "verify", {}),
        ("/purge?what=quay.io%2Fa%3A1", "purge", {"what": "quay.io/a:1"}),
    ],
)
async def test_what_is_asked_for_is_done_and_told(
    target: str, operation: str, options: dict[str, str], path: Path, events: Events
) -> None:
    fake = Fake({"event": "removed", "kind": "blob", "name": "sha256:a", "size": 5})
    async with control(path, explain, fake):
        told = await events_of(path, target)
    assert told == [*fake.ready, {"event": "progress"}, SUMMARY]
    assert (fake.asked, fake.told) == ([(operation, options)], ["step done", "next step", "closed"])
    [started], [ended] = events.named("operation.started"), events.named("operation.ended")
    assert (started["operation"], started["options"]) == (operation, options)
    assert (ended["operation"], ended["outcome"], ended["result"]) == (operation, "summary", {"blobs": 1})


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("/garbage-collect?dry-run=true", "the running mirror knows no option 'dry-run' of garbage-collect"),
        ("/garbage-collect?dry_run=yes", "dry_run: got 'yes', wanted true or false"),
        ("/garbage-collect?dry_run=", "dry_run: got '', wanted true or false"),
        ("/garbage-collect?dry_run=true&dry_run=false", "dry_run: given twice"),
        ("/verify?what=a", "the running mirror knows no option 'what' of verify"),
        ("/purge", "what: wanted a value of at most 1024 characters"),
        ("/purge?what=", "what: wanted a value of at most 1024 characters"),
        ("/purge?what=" + "a" * 1025, "what: wanted a value of at most 1024 characters"),
    ],
)
async def test_what_is_not_understood_whole_is_not_done(target: str, text: str, path: Path) -> None:
    """A `dry_run` that is overlooked would delete."""
    fake = Fake()
    async with control(path, explain, fake):
        answer = await ask(path, target)
    assert (answer.status, json.loads(answer.body), fake.asked) == (400, {"error": text}, [])


@pytest.mark.parametrize(("method", "target", "status"), [("GET", "/verify", 405), ("POST", "/verify/", 404)])
async def test_only_these_requests_are_operations(method: str, target: str, status: int, path: Path) -> None:
    fake = Fake()
    async with control(path, explain, fake):
        assert (await ask(path, target, method)).status == status
    assert fake.asked == []


async def test_there_is_one_operation_at_a_time(path: Path) -> None:
    fake = Fake()
    fake.gate.clear()
    async with control(path, explain, fake):
        async with asking(path, "/verify") as first:
            await fake.waiting.wait()
            second = await ask(path, "/garbage-collect")
            fake.gate.set()
            assert (await first.lines())[-1] == SUMMARY
        assert (await events_of(path))[-1] == SUMMARY
    assert second.status == 409
    assert json.loads(second.body) == {"error": "verify is under way already: try again when it has ended"}
    assert [operation for operation, _ in fake.asked] == ["verify", "verify"]


async def test_a_purge_goes_on_beside_what_takes_long_but_not_beside_another(path: Path) -> None:
    fake = Fake()
    fake.gate.clear()
    async with control(path, explain, fake), asking(path, "/verify") as first:
        await fake.waiting.wait()
        fake.waiting.clear()
        async with asking(path, "/purge?what=a") as purge:
            await fake.waiting.wait()
            assert (await ask(path, "/purge?what=b")).status == 409
            assert (await ask(path, "/garbage-collect")).status == 409
            fake.gate.set()
            assert (await purge.lines())[-1] == SUMMARY
        assert (await first.lines())[-1] == SUMMARY
    assert fake.asked == [("verify", {}), ("purge", {"what": "a"})]


async def test_the_step_under_way_ends_when_the_asker_has_left_and_no_other_begins(
    path: Path, events: Events
) -> None:
    fake = Fake({"event": "progress", "done": 1})
    fake.gate.clear()
    async with control(path, explain, fake):
        async with asking(path, "/verify") as client:
            assert await client.next() == fake.ready[0]
            await fake.waiting.wait()
        await _refusing(path)
        fake.gate.set()
        assert (await events.wait("operation.ended"))["outcome"] == "left"
        assert fake.told == ["step done", "closed"]
        assert (await events_of(path))[-1] == SUMMARY


async def _refusing(path: Path) -> None:
    """Returns when the socket has taken one more request: by then it has seen who left before."""
    assert (await ask(path, "/garbage-collect")).status == 409


async def test_a_step_that_does_not_end_is_cancelled(
    path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "GRACE", 0.01)
    fake = Fake()
    fake.gate.clear()
    async with control(path, explain, fake):
        async with asking(path, "/verify"):
            await fake.waiting.wait()
        await events.wait("operation.ended")
        assert fake.told == ["closed"]


async def test_a_silent_operation_says_that_it_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "HEARTBEAT", 0.01)
    fake = Fake()
    fake.gate.clear()
    async with control(path, explain, fake), asking(path, "/verify") as client:
        for _ in range(3):
            assert await client.next() == {"event": "heartbeat"}
        fake.gate.set()
        assert [event for event in await client.lines() if event["event"] != "heartbeat"] == [
            {"event": "progress"},
            SUMMARY,
        ]


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (ImageError("no image"), "no image"),
        (RegistryError(ErrorCode.NAME_UNKNOWN, "not served here"), "not served here"),
        (OSError(5, "Input/output error", "/data"), "[Errno 5] Input/output error: '/data'"),
        (ZeroDivisionError("secret"), "internal error, see the log of the mirror"),
    ],
)
async def test_a_failure_is_the_last_that_is_told(
    failure: Exception, text: str, path: Path, events: Events
) -> None:
    async with control(path, explain, Fake({"event": "progress"}, failure)):
        told = await events_of(path)
    assert told == [{"event": "progress"}, {"event": "error", "error": text}]
    assert events.named("operation.ended")[0]["outcome"] == "error"
    assert len(events.named("operation.failed")) == isinstance(failure, ZeroDivisionError)


async def test_an_operation_without_a_result_has_failed(path: Path) -> None:
    async with control(path, explain, Fake(last=None)):
        told = await events_of(path)
    assert told[-1] == {"event": "error", "error": "it ended without a result: see the log of the mirror"}


async def test_the_result_is_told_when_all_is_let_go_of(path: Path) -> None:
    """Whoever asks for the next one then finds no lock of this one."""

    class Slow(Fake):
        async def __call__(self, operation: str, options: Mapping[str, str]) -> AsyncGenerator[Event, None]:
            yield SUMMARY
            self.waiting.set()
            await self.gate.wait()
            self.told.append("closed")

    fake = Slow()
    fake.gate.clear()
    async with control(path, explain, fake), asking(path, "/verify") as client:
        reading = asyncio.create_task(client.lines())
        await fake.waiting.wait()
        assert (await ask(path, "/verify")).status == 409
        assert not reading.done()
        fake.gate.set()
        assert await reading == [SUMMARY]
    assert fake.told == ["closed"]


async def test_the_end_of_the_mirror_ends_an_operation_and_says_so(path: Path, events: Events) -> None:
    fake = Fake()
    fake.gate.clear()
    async with asyncio.timeout(PATIENCE):
        async with control(path, explain, fake):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"POST /verify HTTP/1.1\r\nHost: m\r\n\r\n")
            await fake.waiting.wait()
            asyncio.get_running_loop().call_soon(fake.gate.set)
        told = await Client(reader, writer).lines()
        writer.close()
    assert told == [{"event": "error", "error": "the mirror is stopping; what was done so far stays done"}]
    assert fake.told == ["step done", "closed"]
    assert events.named("operation.ended")[0]["outcome"] == "stopped"


async def test_who_takes_nothing_stops_the_operation_after_a_time(
    path: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "TAKE_TIMEOUT", 0.05)

    class Endless(Fake):
        async def __call__(self, operation: str, options: Mapping[str, str]) -> AsyncGenerator[Event, None]:
            try:
                while True:
                    yield {"event": "removed", "name": "x" * 60000}
            finally:
                self.told.append("closed")

    fake = Endless()
    async with control(path, explain, fake), asking(path, "/verify"):
        assert (await events.wait("operation.not_taken"))["reason"] == "time-out"
        assert (await events.wait("operation.ended"))["outcome"] == "left"
        assert fake.told == ["closed"]


async def test_what_is_too_long_to_be_told_ends_it(path: Path) -> None:
    async with control(path, explain, Fake({"event": "removed", "name": "x" * operations.LINE_LIMIT})):
        told = await events_of(path)
    assert told == [{"event": "error", "error": "what there is to tell is too long"}]


async def test_a_mirror_without_operations_says_that_they_are_not_there(path: Path) -> None:
    async with control(path, explain):
        assert (await ask(path, "/verify")).status == 404


async def test_what_is_found_damaged_stands_in_the_log_too(path: Path, events: Events) -> None:
    """Who asked may be a cron job that nobody reads."""
    bad = {"event": "bad", "kind": "blob", "name": "sha256:a", "repositories": ["a"], "moved_to": "/q"}
    async with control(path, explain, Fake(bad)):
        assert (await events_of(path))[0] == bad
    [line] = events.named("scrub.bad")
    assert (line["log_level"], line["digest"], line["repositories"]) == ("error", "sha256:a", ["a"])
