"""Who is answered next: rounds of the clients, and one request of a connection after the other."""

from __future__ import annotations

import asyncio
from contextlib import closing

from mirror.server import connections
from mirror.server.routes import Settings
from mirror.server.turns import Turns
from tests.server.memory import MemoryRegistry
from tests.server.raw import PATIENCE, running


async def _until_empty(turns: Turns) -> int:
    """How many turns of the loop that takes; each begins one at most."""
    count = 0
    while len(turns):
        await asyncio.sleep(0)
        count += 1
    return count


async def test_one_of_a_client_begins_at_once_and_the_others_one_a_turn() -> None:
    turns, begun = Turns(), list[str]()
    assert turns.takes("a")
    assert not turns.takes("a")
    assert turns.takes("b")
    for name in "123":
        turns.wait("a", lambda name=name: begun.append(name))  # type: ignore[misc]
    assert await _until_empty(turns) >= 3
    assert begun == ["1", "2", "3"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turns.takes("a")


async def test_clients_take_rounds_and_who_is_new_goes_before_them() -> None:
    turns, begun = Turns(), list[str]()

    def wait(client: str) -> None:
        turns.wait(client, lambda: begun.append(client))

    for client in "aaaabbbb":
        wait(client)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert begun == ["a", "b"]
    wait("c")
    wait("c")
    await _until_empty(turns)
    assert begun == ["a", "b", "c", "a", "b", "c", "a", "b", "a", "b"]


async def test_who_has_a_request_waiting_gets_none_by_the_way() -> None:
    """Else a second one would be answered before the first."""
    turns = Turns()
    assert turns.takes("a")
    turns.wait("a", lambda: None)
    turns.wait("a", lambda: None)
    await asyncio.sleep(0)
    assert not turns.takes("a")
    await _until_empty(turns)


async def test_a_turn_that_nobody_waits_for_any_more_is_harmless() -> None:
    turns = Turns()
    assert turns.takes("a")
    task = asyncio.ensure_future(turns.turn("a"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await _until_empty(turns)
    await turns.turn("b")


async def test_who_sends_many_requests_at_once_has_one_answered_after_the_other(
    registry: MemoryRegistry,
) -> None:
    """All are answered, however many wait, and so is somebody who comes later."""
    many = 300
    async with running(registry, Settings(access_log=False)) as runner:
        made = connections.Site(runner, "127.0.0.1", 0)
        await made.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
        other_reader, other = await asyncio.open_connection("127.0.0.1", made.port)
        with closing(writer), closing(other):
            async with asyncio.timeout(PATIENCE):
                writer.write(b"".join(b"GET /v2/%d HTTP/1.1\r\nHost: m\r\n\r\n" % n for n in range(many)))
                await reader.readuntil(b"\r\n\r\n")
                other.write(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n")
                first = asyncio.create_task(other_reader.readuntil(b"{}"))
                for _ in range(many - 1):
                    await reader.readuntil(b"HTTP/1.1 404")
                assert (await first).startswith(b"HTTP/1.1 200")
